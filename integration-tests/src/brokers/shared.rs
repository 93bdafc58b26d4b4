//! One broker of each kind per process.

use anyhow::Result;
use tokio::sync::OnceCell;

use super::broker::Broker;
use super::kind::BrokerKind;

static KAFKA: OnceCell<Broker> = OnceCell::const_new();
static RABBITMQ: OnceCell<Broker> = OnceCell::const_new();
static REDIS: OnceCell<Broker> = OnceCell::const_new();

/// Returns this process' broker of a kind, and starts it at the first call.
///
/// Where `MQ_TEST_KAFKA_URL`, `MQ_TEST_RABBITMQ_URL` or `MQ_TEST_REDIS_URL` is set, that broker is
/// returned instead; it cannot be stopped, killed or paused. Tests must not do so with any shared
/// broker.
///
/// # Errors
///
/// As [`kafka`](super::kafka).
pub async fn shared(kind: BrokerKind) -> Result<&'static Broker> {
    let cell = match kind {
        BrokerKind::Kafka => &KAFKA,
        BrokerKind::RabbitMq => &RABBITMQ,
        BrokerKind::Redis => &REDIS,
    };
    cell.get_or_try_init(|| async move {
        match std::env::var(kind.url_variable()) {
            Ok(url) => Broker::external(kind, url),
            Err(_) => Broker::builder(kind).start().await,
        }
    })
    .await
}

/// Returns this process' Kafka broker; see [`shared`].
///
/// # Errors
///
/// As [`kafka`](super::kafka).
pub async fn shared_kafka() -> Result<&'static Broker> {
    shared(BrokerKind::Kafka).await
}

/// Returns this process' RabbitMQ broker; see [`shared`].
///
/// # Errors
///
/// As [`kafka`](super::kafka).
pub async fn shared_rabbitmq() -> Result<&'static Broker> {
    shared(BrokerKind::RabbitMq).await
}

/// Returns this process' Redis server; see [`shared`].
///
/// # Errors
///
/// As [`kafka`](super::kafka).
pub async fn shared_redis() -> Result<&'static Broker> {
    shared(BrokerKind::Redis).await
}

//! Real brokers in containers, one line each.
//!
//! ```no_run
//! # async fn example() -> anyhow::Result<()> {
//! let redis = mq_integration_tests::brokers::redis().await?;
//! println!("{}", redis.url());
//! redis.restart().await?;
//! # Ok(())
//! # }
//! ```
//!
//! [`redis()`], [`rabbitmq()`] and [`kafka()`] start a broker of the test's own, to stop, kill or pause
//! at will; it is removed when the [`Broker`] is dropped. The `shared_` functions return one broker
//! per process, for tests that keep to names of their own and leave the broker alone.
//!
//! A broker keeps its port, and so its URL, over a restart; it keeps its data, too. When a function
//! returns, the broker serves clients. Containers are removed after the process even when it is
//! killed. The images come from `cargo xtask setup`; without them, or without a container engine,
//! every function fails and says so.

mod broker;
mod container;
mod kind;
mod ports;
mod reaper;
mod shared;

pub use broker::{Broker, BrokerBuilder};
pub use kind::BrokerKind;
pub use ports::free_port;
pub use reaper::{RUN_LABEL, Sweep, current_run, spawn_reaper, sweep};
pub use shared::{shared, shared_kafka, shared_rabbitmq, shared_redis};

/// Starts a Kafka broker of the caller's own.
///
/// # Errors
///
/// When there is no container engine or image (run `cargo xtask setup`), or when the broker does
/// not serve within 90 s.
pub async fn kafka() -> anyhow::Result<Broker> {
    Broker::builder(BrokerKind::Kafka).start().await
}

/// Starts a RabbitMQ broker of the caller's own.
///
/// # Errors
///
/// As [`kafka`].
pub async fn rabbitmq() -> anyhow::Result<Broker> {
    Broker::builder(BrokerKind::RabbitMq).start().await
}

/// Starts a Redis server of the caller's own.
///
/// # Errors
///
/// As [`kafka`].
pub async fn redis() -> anyhow::Result<Broker> {
    Broker::builder(BrokerKind::Redis).start().await
}

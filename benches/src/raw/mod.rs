//! The side of the native clients, each the strongest set-up known.
//!
//! They write the same bytes as `mq` at the same durability, read the same parts back as values
//! that a handler could keep, and acknowledge as exactly. What was tried and was slower stands
//! beside what is used. Find a stronger one, and it becomes the baseline.

mod kafka;
mod kafka_consume;
mod rabbitmq;
mod redis;

use anyhow::{Result, bail};

use crate::load::Load;
use crate::meter::Report;
use crate::spec::{Backend, Mode, Spec};

/// Does a run.
pub(crate) async fn run(spec: Spec) -> Result<Report> {
    let load = Load::new(spec.bytes);
    match (spec.backend, spec.mode) {
        (Backend::Kafka, Mode::Publish) => blocking(move || kafka::publish(&spec, &load)).await,
        (Backend::Kafka, Mode::Latency) => blocking(move || kafka::latency(&spec, &load)).await,
        (Backend::Kafka, Mode::Consume) => blocking(move || kafka_consume::consume(&spec)).await,
        (Backend::Kafka, Mode::Delivery) => blocking(move || kafka_consume::delivery(&spec, load)).await,
        (Backend::Rabbitmq, Mode::Publish) => rabbitmq::publish(&spec, load).await,
        (Backend::Rabbitmq, Mode::Latency) => rabbitmq::latency(&spec, &load).await,
        (Backend::Rabbitmq, Mode::Consume) => rabbitmq::consume(&spec).await,
        (Backend::Rabbitmq, Mode::Delivery) => rabbitmq::delivery(&spec, load).await,
        (Backend::Redis, Mode::Publish) => redis::publish(&spec, &load).await,
        (Backend::Redis, Mode::Latency) => redis::latency(&spec, &load).await,
        (Backend::Redis, Mode::Consume) => redis::consume(&spec).await,
        (Backend::Redis, Mode::Delivery) => redis::delivery(&spec, load).await,
        (Backend::Memory, _) | (_, Mode::Worker) => bail!("there is no native client to compare with"),
    }
}

async fn blocking(work: impl FnOnce() -> Result<Report> + Send + 'static) -> Result<Report> {
    tokio::task::spawn_blocking(work).await?
}

/// Writes the text of a fresh id on the stack, and hands it on.
fn with_id<R>(read: impl FnOnce(&str) -> R) -> R {
    read(uuid::Uuid::now_v7().hyphenated().encode_lower(&mut uuid::Uuid::encode_buffer()))
}

/// Returns the milliseconds since the Unix epoch.
fn now_millis() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

//! One message contract on Kafka, RabbitMQ, Redis Streams and in process.
//!
//! A service is written once; a URL and a feature flag choose the broker, and the program behaves
//! the same on all of them, under failure too.
//!
//! ```
//! # async fn example() -> mq::Result<()> {
//! use std::time::Duration;
//! use mq::Message;
//!
//! let client = mq::connect("memory://").await?; // or kafka://, amqp://, redis://
//!
//! let inbox = client.subscriber("orders", "billing").open().await?;
//! let orders = client.publisher("orders").await?;
//! orders.send(Message::new("one book").key("customer-1")).await?; // Ok: confirmed by the broker
//!
//! let delivery = inbox.receive().await?;
//! assert_eq!(delivery.payload().as_ref(), b"one book");
//! delivery.ack().await?; // or retry(after), dead_letter(reason), defer(after)
//!
//! client.close(Duration::from_secs(5)).await?;
//! # Ok(())
//! # }
//! # tokio::runtime::Runtime::new().unwrap().block_on(example()).unwrap();
//! ```
//!
//! | feature | scheme | backend |
//! |---|---|---|
//! | `memory` (default) | `memory://` | in process |
//! | `kafka` | `kafka://`, `kafkas://` | Apache Kafka |
//! | `rabbitmq` | `amqp://`, `amqps://` | RabbitMQ |
//! | `redis-stream` | `redis://`, `rediss://` | Redis Streams |
//!
//! The feature `worker` (default) is [`mq::worker`](worker): handlers as async functions, with retries, layers
//! and draining around them.
//!
//! The feature `codec` (default) is [`mq::codec`](codec): formats chosen by the content type, and versions of messages. JSON is
//! always there; `protobuf`, `msgpack`, `avro`, `schema-registry` and `compression` add what they say.
//!
//! The feature `observe` is [`mq::observe`](observe): metrics, traces and health.

mod connect;
#[cfg(all(feature = "memory", feature = "worker"))]
pub mod testing;

pub use mq_core::*;

pub use connect::{backend, backends, connect, connect_with};

/// The in-memory backend.
#[cfg(feature = "memory")]
pub use mq_memory as memory;

/// The Kafka backend.
#[cfg(feature = "kafka")]
pub use mq_kafka as kafka;

/// The RabbitMQ backend.
#[cfg(feature = "rabbitmq")]
pub use mq_rabbitmq as rabbitmq;

/// The Redis Streams backend.
#[cfg(feature = "redis-stream")]
pub use mq_redis_stream as redis_stream;

/// Handlers, policies and layers on any backend.
#[cfg(feature = "worker")]
pub use mq_worker as worker;

/// Formats, compression and versions of messages.
#[cfg(feature = "codec")]
pub use mq_codec as codec;

/// Metrics, traces and health.
#[cfg(feature = "observe")]
pub use mq_observe as observe;

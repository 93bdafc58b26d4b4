//! Real brokers for tests, and the tests that every backend of `mq` must pass.
//!
//! [`brokers`] starts Kafka, RabbitMQ and Redis in containers, one line each:
//!
//! ```no_run
//! # async fn example() -> anyhow::Result<()> {
//! let rabbitmq = mq_integration_tests::brokers::rabbitmq().await?;
//! println!("{}", rabbitmq.url());
//! # Ok(())
//! # }
//! ```
//!
//! [`faults`] puts a TCP proxy in front of one, which cuts, refuses, stalls and delays on command.

pub mod brokers;
pub mod faults;
pub mod suite;

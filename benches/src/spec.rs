//! What is measured, and what a child is told.

use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// A broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Backend {
    /// Apache Kafka.
    Kafka,
    /// RabbitMQ.
    Rabbitmq,
    /// Redis Streams.
    Redis,
    /// In process; only for [`Mode::Worker`].
    Memory,
}

impl Backend {
    /// Returns its name in arguments and results.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Kafka => "kafka",
            Self::Rabbitmq => "rabbitmq",
            Self::Redis => "redis",
            Self::Memory => "memory",
        }
    }
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Mode {
    /// Confirmed messages a second.
    Publish,
    /// Messages a second, from the first handled to the last acked and flushed.
    Consume,
    /// From a send to its confirmation, one at a time.
    Latency,
    /// From a send to the handler, at 500 messages a second.
    Delivery,
    /// Messages a second through a worker with an empty handler, beside a bare loop of `mq`'s receive and ack.
    Worker,
}

impl Mode {
    /// Returns its name in arguments and results.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Consume => "consume",
            Self::Latency => "latency",
            Self::Delivery => "delivery",
            Self::Worker => "worker",
        }
    }

    /// Returns whether the figure is a time, of which less is better.
    pub(crate) fn is_time(self) -> bool {
        matches!(self, Self::Latency | Self::Delivery)
    }
}

/// Who does the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Side {
    /// The native client.
    Raw,
    /// This library.
    Mq,
}

/// A run, as a child is told it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Spec {
    /// Who does the work.
    pub(crate) side: Side,
    /// Where.
    pub(crate) backend: Backend,
    /// What.
    pub(crate) mode: Mode,
    /// Bytes of a payload.
    pub(crate) bytes: usize,
    /// Messages before the clock runs.
    pub(crate) warm_up: usize,
    /// Messages while it runs, where a rate is measured.
    pub(crate) count: usize,
    /// How long to measure times.
    pub(crate) within: Duration,
    /// The broker.
    pub(crate) url: String,
    /// The topic, declared.
    pub(crate) topic: String,
    /// The group, declared.
    pub(crate) group: String,
    /// Whether Kafka's raw side of [`Mode::Delivery`] may hand out what it has not written down.
    pub(crate) uncounted: bool,
    /// The program that does the work, if it is another version of this one.
    #[serde(skip)]
    pub(crate) program: Option<PathBuf>,
}

/// How many sends a second there are in [`Mode::Delivery`].
pub(crate) const PACE: u32 = 500;
/// Messages that are sent and not confirmed on Kafka and Redis, on both sides at most.
pub(crate) const WINDOW: usize = 16_384;

//! The command line.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};

use crate::spec::{Backend, Mode};

/// Compares mq with the native clients, or with an older mq, in one run and interleaved.
#[derive(Debug, Parser)]
#[command(name = "mq-benches")]
pub(crate) struct Args {
    /// The Kafka to measure on.
    #[arg(long, value_name = "URL")]
    kafka: Option<String>,
    /// The RabbitMQ to measure on.
    #[arg(long, value_name = "URL")]
    rabbitmq: Option<String>,
    /// The Redis to measure on.
    #[arg(long, value_name = "URL")]
    redis: Option<String>,
    /// Only these brokers.
    #[arg(long, value_delimiter = ',')]
    pub(crate) backend: Vec<Backend>,
    /// Only these modes; unless said, all but `delivery`.
    #[arg(long, value_delimiter = ',')]
    pub(crate) mode: Vec<Mode>,
    /// Payload sizes.
    #[arg(long, value_delimiter = ',', default_values_t = [100, 1024])]
    pub(crate) bytes: Vec<usize>,
    /// Paired rounds; 7 unless --quick.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: Option<u32>,
    /// Few and short rounds, for a look: at most 4 minutes for all, and without `worker`.
    #[arg(long)]
    pub(crate) quick: bool,
    /// Lets Kafka's raw side of `delivery` hand out messages without writing down first that it
    /// does: faster, and a message that kills its process is never counted.
    #[arg(long)]
    pub(crate) uncounted: bool,
    /// Compares with the `mq` of an older build of this program in place of the native clients.
    #[arg(long, value_name = "PROGRAM")]
    pub(crate) before: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

/// What the program runs itself with.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// One run of one side.
    #[command(hide = true)]
    Child {
        /// What to do, as JSON.
        spec: String,
    },
}

impl Args {
    /// Returns where a broker is.
    pub(crate) fn url(&self, backend: Backend) -> Result<&str> {
        let url = match backend {
            Backend::Memory => return Ok("memory://"),
            Backend::Kafka => &self.kafka,
            Backend::Rabbitmq => &self.rabbitmq,
            Backend::Redis => &self.redis,
        };
        let name = backend.name();
        url.as_deref().with_context(|| format!("--{name} URL is missing; `cargo xtask bench` gives it"))
    }

    /// Returns the modes asked for.
    pub(crate) fn modes(&self) -> Vec<Mode> {
        match (self.mode.as_slice(), self.quick) {
            ([], true) => vec![Mode::Publish, Mode::Consume, Mode::Latency],
            ([], false) => vec![Mode::Publish, Mode::Consume, Mode::Latency, Mode::Worker],
            (modes, _) => modes.to_vec(),
        }
    }

    /// Returns the brokers asked for.
    pub(crate) fn backends(&self) -> Vec<Backend> {
        match self.backend.as_slice() {
            [] => vec![Backend::Kafka, Backend::Rabbitmq, Backend::Redis, Backend::Memory],
            backends => backends.to_vec(),
        }
    }
}

/// How long and how often to measure.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effort {
    /// Paired rounds.
    pub(crate) rounds: usize,
    /// Work of one run, at least.
    pub(crate) work: Duration,
    /// Time for everything.
    limit: Option<Duration>,
}

/// Leaves some of the 4 minutes for starting, stopping and the slowest machine's last run.
const QUICK: Duration = Duration::from_secs(215);

impl Effort {
    /// Reads it from the arguments.
    pub(crate) fn of(args: &Args) -> Self {
        let rounds = args.rounds.map(|rounds| rounds as usize);
        if args.quick {
            return Self {
                rounds: rounds.unwrap_or(3),
                work: Duration::from_millis(400),
                limit: Some(QUICK),
            };
        }
        Self { rounds: rounds.unwrap_or(7), work: Duration::from_secs(3), limit: None }
    }

    /// Returns the time one of the `left` measurements may take.
    pub(crate) fn share(&self, elapsed: Duration, left: usize) -> Option<Duration> {
        let left = u32::try_from(left.max(1)).unwrap_or(u32::MAX);
        self.limit.map(|limit| limit.saturating_sub(elapsed) / left)
    }
}

impl fmt::Display for Effort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rounds, work, limit } = self;
        match limit {
            Some(_) => {
                write!(f, "quick: at most {rounds} rounds of {work:?} each; for a look, not for a record")
            }
            None => write!(f, "{rounds} rounds, at least {work:?} of work in each run"),
        }
    }
}

//! The command line.

use clap::{Parser, Subcommand, ValueEnum};

use crate::{bench, completions, consume, dead, group, peek, publish, stats, topic};

const AFTER: &str = "\
Exit codes: 0 done; 1 failed; 2 wrong usage; 3 stopped before --count was reached;
130 stopped by Ctrl-C or SIGTERM, after a clean close (a second one stops at once).

Durations are written like 250ms, 30s, 5m or 36h, times like 2026-03-01T12:00:00Z.
MQ_LOG=debug shows what the library does, on stderr; with --log-format json as JSON lines.";

/// One message contract on Kafka, RabbitMQ, Redis Streams and in process.
#[derive(Debug, Parser)]
#[command(name = "mq", version, after_help = AFTER, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options of every command.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Global {
    /// The broker: `kafka://host:port,host:port`, `amqp://user:pass@host:port/vhost`, `redis://host:port/db` or `memory://`
    #[arg(long, global = true, env = "MQ_URL", hide_env_values = true, value_name = "URL")]
    pub(crate) url: Option<String>,
    /// Print one JSON object a line on stdout, and nothing else there
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// How the library's log, asked for with `MQ_LOG`, is written to stderr
    #[arg(long, global = true, value_name = "FORMAT", default_value = "text", hide_possible_values = true)]
    pub(crate) log_format: LogFormat,
}

/// How the log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// A line for people
    Text,
    /// A JSON object a line
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Publish(publish::Args),
    Consume(consume::Args),
    #[command(subcommand)]
    Topic(topic::Command),
    #[command(subcommand)]
    Group(group::Command),
    Stats(stats::Args),
    Peek(peek::Args),
    #[command(subcommand)]
    Dead(dead::Command),
    Bench(bench::Args),
    Completions(completions::Args),
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_shows_an_example() {
        fn check(command: &clap::Command) {
            let children: Vec<_> = command.get_subcommands().collect();
            if children.is_empty() {
                let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
                assert!(help.contains("mq "), "{} has no example", command.get_name());
            }
            children.into_iter().for_each(check);
        }
        Cli::command().get_subcommands().for_each(check);
    }
}

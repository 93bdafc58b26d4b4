//! `mq consume`.

mod command;
mod exec;
mod limits;
mod plain;
mod report;

use std::num::NonZeroUsize;
use std::time::Duration;

use clap::ValueEnum;
use mq::{Client, ErrorKind, GroupName, GroupSettings, PREFETCH, Start, Subscriber, TopicName};

use crate::end::End;
use crate::session::{self, CLOSE, Session};
use crate::values;
use limits::{Ending, Limits};
use report::Report;

const EXAMPLES: &str = "\
Examples:
  mq consume orders --group billing --json
  mq consume orders --group audit --start earliest --count 100 --idle-exit 5s
  mq consume orders --group billing --concurrency 8 --exec './charge.sh \"$MQ_KEY\"'

A command gets the body on stdin, and MQ_ID, MQ_KEY, MQ_SUBJECT, MQ_ATTEMPT, MQ_TOPIC,
MQ_GROUP and MQ_HEADER_* in its environment. It ends with 0 for ack, 65 for dead-letter, 75
for retry; with any other code the message is retried until its attempts run out. The lease
is renewed while it runs.

Without --exec a message is printed first and settled then. A setting of the group that is
not given is taken as the group was declared, or is its default: --lease 30s, --max-attempts 5.";

/// Receive messages and settle them
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
#[command(group(clap::ArgGroup::new("who").required(true).args(["group", "broadcast"])))]
pub(crate) struct Args {
    /// The topic; made if it is not there
    topic: TopicName,
    /// Receive as a member of this group; made if it is not there
    #[arg(long, value_name = "G")]
    group: Option<GroupName>,
    /// Receive everything that is sent from now on, as a group of one
    #[arg(long)]
    broadcast: bool,
    #[command(flatten)]
    settings: Settings,
    #[command(flatten)]
    bounds: Bounds,
    /// Have at most this many messages in hand at once [default: with --exec 1, else --prefetch]
    #[arg(long, value_name = "N")]
    concurrency: Option<NonZeroUsize>,
    /// Hold at most this many unsettled messages [default: 1000, or what --count or --exec need]
    #[arg(long, value_name = "N")]
    prefetch: Option<NonZeroUsize>,
    #[command(flatten)]
    outcome: Outcome,
    /// Run this shell command for each message
    #[arg(long, value_name = "CMD")]
    exec: Option<String>,
}

/// Settings of a group; those not given are taken as the group was declared.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct Settings {
    /// Where the group begins, if it is new [default: latest]
    #[arg(long, value_name = "earliest|latest|TIME", value_parser = values::start)]
    start: Option<Start>,
    /// Keep the order of each key
    #[arg(long)]
    ordered: bool,
    /// How long a message is its consumer's
    #[arg(long, value_name = "D", value_parser = values::duration)]
    lease: Option<Duration>,
    /// After how many attempts a message is dead-lettered
    #[arg(long, value_name = "N")]
    max_attempts: Option<u32>,
}

impl Settings {
    /// Puts what was given over `declared`.
    pub(crate) fn over(&self, mut declared: GroupSettings) -> mq::Result<GroupSettings> {
        declared.start = self.start.unwrap_or_default();
        declared.ordered |= self.ordered;
        declared.lease = self.lease.unwrap_or(declared.lease);
        declared.max_attempts = self.max_attempts.unwrap_or(declared.max_attempts);
        declared.validate().map(|()| declared)
    }
}

/// When to end.
#[derive(Clone, Debug, clap::Args)]
struct Bounds {
    /// End after this many messages
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// End when nothing came for this long
    #[arg(long, value_name = "D", value_parser = values::duration)]
    idle_exit: Option<Duration>,
    /// End after this long
    #[arg(long, value_name = "D", value_parser = values::duration)]
    timeout: Option<Duration>,
}

/// What becomes of messages.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Outcome {
    /// What to do with each message; `none` holds them until the command ends
    #[arg(long, value_enum, default_value_t = Settle::Ack, conflicts_with = "exec")]
    settle: Settle,
    /// How long a retried or deferred message waits
    #[arg(long, value_name = "D", value_parser = values::duration, default_value = "0s")]
    retry_delay: Duration,
    /// Why messages are dead-lettered or retried
    #[arg(long, value_name = "R")]
    reason: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Settle {
    Ack,
    Retry,
    Defer,
    DeadLetter,
    None,
}

/// A consumer, ready to run.
#[derive(Debug)]
pub(crate) struct Job<'a> {
    session: &'a Session,
    client: Client,
    subscriber: Subscriber,
    lease: Duration,
    limits: Limits,
    concurrency: usize,
    outcome: Outcome,
}

pub(crate) async fn run(session: &Session, args: Args) -> anyhow::Result<End> {
    if args.outcome.reason.is_some() && args.exec.is_none() {
        let settle = args.outcome.settle;
        if !matches!(settle, Settle::DeadLetter | Settle::Retry) {
            let text = "--reason needs --settle dead-letter, --settle retry or --exec";
            return Err(crate::end::Usage(text.into()).into());
        }
    }
    let exec = args.exec.clone();
    let opening = async { open(session, session.connect().await?, args).await };
    let Some(job) = session.stop.or(opening).await else { return Ok(End::Stopped) };
    consume(job?, exec).await
}

async fn consume(job: Job<'_>, exec: Option<String>) -> anyhow::Result<End> {
    session::watch(&job.client);
    let mut report = Report::new(&job);
    let mut held = Vec::new();
    let ran = match &exec {
        Some(command) => exec::run(&job, command, &mut report).await,
        None => plain::run(&job, &mut report, &mut held).await,
    };
    // What is held is given back where it is, by the close, and not counted.
    let deadline = if held.is_empty() { CLOSE } else { Duration::ZERO };
    let closed = session::close(&job.client, deadline).await;
    drop(held);
    report.summary();
    let ending = ran?;
    closed?;
    let failed = report.failed();
    Ok(match ending {
        Ending::Stopped => End::Stopped,
        _ if failed => End::Failed,
        Ending::Counted => End::Done,
        Ending::Idle | Ending::TimedOut if job.limits.count.is_some() => End::Short,
        Ending::Idle | Ending::TimedOut => End::Done,
    })
}

async fn open(session: &Session, client: Client, args: Args) -> anyhow::Result<Job<'_>> {
    let (settings, builder) = match &args.group {
        Some(group) => {
            let settings = args.settings.over(declared(&client, &args.topic, group).await?)?;
            (settings.clone(), client.subscriber(&args.topic, group).settings(settings))
        }
        None => {
            let mut settings = args.settings.over(GroupSettings::default())?;
            settings.ephemeral = true;
            (settings.clone(), client.broadcast(&args.topic).settings(settings))
        }
    };
    let exec = args.exec.is_some();
    let prefetch = args.prefetch.map_or_else(|| prefetch(&args, exec), NonZeroUsize::get);
    let concurrency = args.concurrency.map_or(if exec { 1 } else { prefetch }, NonZeroUsize::get);
    let subscriber = builder.prefetch(prefetch).open().await?;
    let limits = Limits::new(args.bounds.count, args.bounds.idle_exit, args.bounds.timeout);
    let outcome = args.outcome;
    Ok(Job { session, client, subscriber, lease: settings.lease, limits, concurrency, outcome })
}

/// What nobody is going to handle soon is left to others.
fn prefetch(args: &Args, exec: bool) -> usize {
    let asked = args.concurrency.map_or(1, NonZeroUsize::get);
    let useful = if exec { asked.saturating_mul(2) } else { PREFETCH.messages.max(asked) };
    let count = args.bounds.count.and_then(|count| usize::try_from(count).ok());
    count.map_or(useful, |count| useful.min(count))
}

/// Returns a group's settings as declared, or the defaults for one that is new.
pub(crate) async fn declared(
    client: &Client,
    topic: &TopicName,
    group: &GroupName,
) -> mq::Result<GroupSettings> {
    match client.admin().group_settings(topic, group).await {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Unsupported) => {
            Ok(GroupSettings::default())
        }
        declared => declared,
    }
}

#[cfg(test)]
mod tests;

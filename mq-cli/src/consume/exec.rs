//! Runs a command for each message and settles it as the command's end says.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use mq::{Delivery, Settled};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::command::{self, Template, Verdict};
use super::limits::Ending;
use super::report::Report;
use super::{Job, Outcome};
use crate::line::Received;
use crate::output::many;
use crate::stop::Commands;

/// What a command needs beside its message.
struct Setting {
    template: Template,
    outcome: Outcome,
    commands: Commands,
    lease: Duration,
}

/// A message whose command ended.
struct Handled {
    received: Received,
    settled: &'static str,
    verdict: mq::Result<()>,
    /// The reason not to start another command.
    broken: Option<io::Error>,
}

/// Receives until a limit or a stop, then waits for the commands under way.
pub(crate) async fn run(job: &Job<'_>, command: &str, report: &mut Report<'_>) -> anyhow::Result<Ending> {
    let setting = Arc::new(setting(job, command));
    let mut running = JoinSet::new();
    let ended = receive(job, &setting, report, &mut running).await;
    if !running.is_empty() {
        eprintln!("waiting for {} under way", many(running.len(), "command"));
    }
    let mut failure = None;
    while let Some(handled) = running.join_next().await {
        failure = failure.or(finish(handled?, report).err());
    }
    failure.map_or(ended, Err)
}

fn setting(job: &Job<'_>, command: &str) -> Setting {
    let template = Template {
        command: command.to_owned(),
        topic: job.subscriber.topics()[0].clone(),
        group: job.subscriber.group().clone(),
        json: job.session.output.json,
    };
    let commands = job.session.stop.commands().clone();
    Setting { template, outcome: job.outcome.clone(), commands, lease: job.lease }
}

async fn receive(
    job: &Job<'_>,
    setting: &Arc<Setting>,
    report: &mut Report<'_>,
    running: &mut JoinSet<Handled>,
) -> anyhow::Result<Ending> {
    let mut last = Instant::now();
    loop {
        let reached = job.limits.reached(report.received());
        if reached && running.is_empty() {
            return Ok(Ending::Counted);
        }
        tokio::select! {
            biased;
            () = job.session.stop.requested() => return Ok(Ending::Stopped),
            () = job.limits.timed_out() => return Ok(Ending::TimedOut),
            Some(handled) = running.join_next() => finish(handled?, report)?,
            delivery = job.subscriber.receive(), if !reached && running.len() < job.concurrency => {
                report.count_received(1);
                running.spawn(handle(setting.clone(), delivery?));
            }
            () = job.limits.idle(last), if running.is_empty() => return Ok(Ending::Idle),
        }
        last = Instant::now();
    }
}

fn finish(handled: Handled, report: &mut Report<'_>) -> anyhow::Result<()> {
    let Handled { received, settled, verdict, broken } = handled;
    let stale = verdict.as_ref().is_err_and(|error| error.kind() == mq::ErrorKind::StaleDelivery);
    let held = report.settled(&received.message.id, settled, verdict);
    let shown = match (held, stale) {
        (true, _) => settled,
        (false, true) => "stale",
        (false, false) => "unknown",
    };
    report.handled(&received, shown)?;
    match broken {
        Some(error) => Err(anyhow::Error::new(error).context("cannot run the command with sh")),
        None => Ok(()),
    }
}

async fn handle(setting: Arc<Setting>, delivery: Delivery) -> Handled {
    let received = Received::from(&delivery);
    let command = command::run(&setting.template, &received.message, received.attempt, &setting.commands);
    let ended = tokio::select! {
        ended = command => ended,
        never = renew(&delivery, setting.lease) => never,
    };
    let mut broken = None;
    let (settled, answer) = match ended {
        Ok(verdict) => settle(delivery, verdict, &setting.outcome),
        // This message's own fault: it does not fit what a process may be started with.
        Err(error) if error.kind() == io::ErrorKind::ArgumentListTooLong => {
            let verdict =
                Verdict::DeadLetter(format!("its headers do not fit a command's environment: {error}"));
            settle(delivery, verdict, &setting.outcome)
        }
        Err(error) => {
            broken = Some(error);
            ("defer", delivery.defer(Duration::ZERO))
        }
    };
    Handled { received, settled, verdict: answer.await, broken }
}

fn settle(delivery: Delivery, verdict: Verdict, outcome: &Outcome) -> (&'static str, Settled) {
    let reason = |said| outcome.reason.clone().unwrap_or(said);
    match verdict {
        Verdict::Ack => ("ack", delivery.ack()),
        Verdict::Retry(said) => ("retry", delivery.retry_because(outcome.retry_delay, reason(said))),
        Verdict::DeadLetter(said) => ("dead-letter", delivery.dead_letter(reason(said))),
    }
}

/// Renews the lease for as long as it is polled. Once it is lost there is nothing to renew, and
/// the settlement will say so.
async fn renew(delivery: &Delivery, lease: Duration) -> io::Result<Verdict> {
    let every = lease / 3;
    let mut ticks = interval_at(Instant::now() + every, every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if delivery.extend().is_err() {
            return std::future::pending().await;
        }
    }
}

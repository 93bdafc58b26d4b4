//! Shows messages and settles them all alike.

use std::collections::VecDeque;
use std::time::Duration;

use futures_util::FutureExt as _;
use mq::{Delivery, MessageId, Settled, SettledAll, ack_all};

use super::limits::Ending;
use super::report::Report;
use super::{Job, Outcome, Settle};

/// The most messages received, shown and settled in one step.
const BATCH: usize = 256;
/// How long answers are waited for at the end.
const ANSWERS: Duration = Duration::from_secs(10);

impl Settle {
    fn name(self) -> &'static str {
        match self {
            Self::Ack => "ack",
            Self::Retry => "retry",
            Self::Defer => "defer",
            Self::DeadLetter => "dead-letter",
            Self::None => "none",
        }
    }
}

/// Receives until a limit or a stop. What ends up in `held` was not settled.
pub(crate) async fn run(
    job: &Job<'_>,
    report: &mut Report<'_>,
    held: &mut Vec<Delivery>,
) -> anyhow::Result<Ending> {
    let settle = job.outcome.settle;
    let mut pending = Pending { name: settle.name(), ..Pending::default() };
    let ending = loop {
        pending.take_ready(report);
        let received = report.received();
        if job.limits.reached(received) {
            break Ok(Ending::Counted);
        }
        let room = job.concurrency.saturating_sub(pending.messages + held.len());
        let batch = tokio::select! {
            biased;
            () = job.session.stop.requested() => break Ok(Ending::Stopped),
            () = job.limits.timed_out() => break Ok(Ending::TimedOut),
            batch = receive(job, received, room) => batch,
            () = pending.take_first(report), if pending.messages > 0 => continue,
        };
        let batch = match batch {
            Ok(Some(batch)) => batch,
            Ok(None) => break Ok(Ending::Idle),
            Err(error) => break Err(error.into()),
        };
        report.count_received(batch.len());
        let shown = report.show(&batch, settle.name());
        if settle == Settle::None || shown.is_err() {
            held.extend(batch);
        } else {
            pending.add(batch, &job.outcome);
        }
        if let Err(error) = shown {
            break Err(error);
        }
    };
    pending.finish(report).await;
    ending
}

/// Waits for messages; `None` means that none came for too long.
async fn receive(job: &Job<'_>, received: u64, room: usize) -> mq::Result<Option<Vec<Delivery>>> {
    let room = job.limits.room(received, room.min(BATCH));
    let received = async {
        if room == 0 {
            return std::future::pending().await;
        }
        loop {
            let batch = job.subscriber.receive_batch(room, Duration::from_secs(3600)).await?;
            if !batch.is_empty() {
                return Ok(Some(batch));
            }
        }
    };
    tokio::select! {
        biased;
        received = received => received,
        () = job.limits.idle(tokio::time::Instant::now()) => Ok(None),
    }
}

/// Settlements that are not answered yet, oldest first.
#[derive(Default)]
struct Pending {
    name: &'static str,
    answers: VecDeque<Answer>,
    messages: usize,
}

enum Answer {
    One(MessageId, Settled),
    Many(Vec<MessageId>, SettledAll),
}

impl Pending {
    fn add(&mut self, batch: Vec<Delivery>, outcome: &Outcome) {
        self.messages += batch.len();
        if outcome.settle == Settle::Ack {
            let ids = batch.iter().map(|delivery| delivery.message().id.clone()).collect();
            self.answers.push_back(Answer::Many(ids, ack_all(batch)));
            return;
        }
        for delivery in batch {
            let id = delivery.message().id.clone();
            self.answers.push_back(Answer::One(id, settle(delivery, outcome)));
        }
    }

    /// Takes the answers that are there.
    fn take_ready(&mut self, report: &mut Report<'_>) {
        while !self.answers.is_empty() && self.take_first(report).now_or_never().is_some() {}
    }

    /// Waits for the oldest answer and takes it.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    async fn take_first(&mut self, report: &mut Report<'_>) {
        let Some(first) = self.answers.front_mut() else { return };
        match first {
            Answer::One(id, answer) => {
                let verdict = answer.await;
                report.settled(id, self.name, verdict);
                self.messages -= 1;
            }
            Answer::Many(ids, answer) => {
                let mut failures = answer.await.err().unwrap_or_default().into_iter().peekable();
                for (index, id) in ids.iter().enumerate() {
                    let failure = failures.next_if(|(failed, _)| *failed == index);
                    report.settled(id, self.name, failure.map_or(Ok(()), |(_, error)| Err(error)));
                }
                self.messages -= ids.len();
            }
        }
        self.answers.pop_front();
    }

    async fn finish(&mut self, report: &mut Report<'_>) {
        let all = async {
            while !self.answers.is_empty() {
                self.take_first(report).await;
            }
        };
        // What is not answered is reported by the close.
        let _ = tokio::time::timeout(ANSWERS, all).await;
    }
}

fn settle(delivery: Delivery, outcome: &Outcome) -> Settled {
    let after = outcome.retry_delay;
    match (outcome.settle, &outcome.reason) {
        (Settle::Retry, Some(reason)) => delivery.retry_because(after, reason),
        (Settle::Retry, None) => delivery.retry(after),
        (Settle::Defer, _) => delivery.defer(after),
        (Settle::DeadLetter, reason) => {
            delivery.dead_letter(reason.clone().unwrap_or_else(|| "dead-lettered by hand".into()))
        }
        (Settle::Ack | Settle::None, _) => delivery.ack(),
    }
}

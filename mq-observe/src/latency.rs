//! How long handlers take, and how long messages are on their way.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use mq_core::{GroupName, LABELS, Table, Timestamp, TopicName};
use mq_worker::{Context, Layer, Next, Outcome, Verdict};
use tokio::time::Instant;

use crate::histogram::Histogram;

/// What came of an attempt, as a label says it.
pub(crate) const OUTCOMES: [&str; 5] = ["handled", "skipped", "failed", "rejected", "deferred"];

/// The histograms of one handler.
#[derive(Debug, Default)]
pub(crate) struct Times {
    /// By [`OUTCOMES`].
    pub(crate) handler: [Histogram; OUTCOMES.len()],
    pub(crate) end_to_end: Histogram,
}

/// A layer that measures: time in the handler, by outcome, and time from the first send to the end of the
/// attempt that handled the message. Made by [`Observer::latency`](crate::Observer::latency); clones
/// measure together.
///
/// Time in the handler is that of the layers inside, too, and of publishing what the handler returned. The
/// time from the send has in it delays that were asked for, retries, and what clocks of two
/// machines differ by; it is measured where the message says when it was sent.
#[derive(Clone, Debug)]
pub struct Latency {
    times: Arc<Table<(TopicName, GroupName), Times>>,
}

impl Default for Latency {
    fn default() -> Self {
        Self { times: Arc::new(Table::new(LABELS)) }
    }
}

impl Latency {
    /// Returns the histograms by topic and group.
    pub(crate) fn read(&self) -> impl Iterator<Item = (Option<&(TopicName, GroupName)>, &Times)> {
        self.times.iter().map(|(_, key, times)| (key, times))
    }

    fn of(&self, topic: &TopicName, group: &GroupName) -> &Times {
        let is = |known: &(TopicName, GroupName)| known.0 == *topic && known.1 == *group;
        self.times.get(self.times.label(is, || (topic.clone(), group.clone())))
    }
}

/// Returns the index of an outcome among [`OUTCOMES`].
pub(crate) fn index(outcome: &Outcome) -> usize {
    match outcome {
        Ok(done) if done.skipped => 1,
        Ok(_) => 0,
        Err(failure) => match failure.verdict() {
            Verdict::Policy | Verdict::Retry(_) => 2,
            Verdict::Reject => 3,
            Verdict::Defer(_) => 4,
        },
    }
}

impl Layer for Latency {
    async fn call(&self, context: &mut Context<'_>, next: Next<'_>) -> Outcome {
        let start = Instant::now();
        let outcome = next.run(context).await;
        let times = self.of(context.topic(), context.group());
        let index = index(&outcome);
        times.handler[index].observe(start.elapsed());
        if index == 0
            && let Some(sent) = context.delivery().message().published_at
        {
            times.end_to_end.observe(since(sent));
        }
        outcome
    }
}

fn since(sent: Timestamp) -> Duration {
    Timestamp::from(SystemTime::now()).since(sent)
}

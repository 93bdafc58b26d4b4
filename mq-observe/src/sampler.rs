//! What the broker says of groups, asked from time to time.

use std::collections::BTreeSet;
use std::sync::Weak;
use std::time::Duration;

use mq_core::{BROADCAST, ErrorKind, GroupName, OTHER, Stats, Timestamp, TopicName};
use tokio::time::MissedTickBehavior;

use crate::observer::Inner;

/// What the broker said when it was last asked.
#[derive(Clone, Debug, Default)]
pub(crate) struct Samples {
    /// Only of groups on which it answered.
    pub(crate) groups: Vec<Sampled>,
    /// Whether it answered; `None` before there was anything to ask.
    pub(crate) up: Option<bool>,
    pub(crate) failures: u64,
}

/// What the broker said of a group.
#[derive(Clone, Debug)]
pub(crate) struct Sampled {
    pub(crate) topic: TopicName,
    pub(crate) group: GroupName,
    pub(crate) stats: Stats,
    pub(crate) at: Timestamp,
}

/// Asks again and again, until the last observer is gone.
pub(crate) async fn run(observed: Weak<Inner>, every: Duration) {
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(observed) = observed.upgrade() else { return };
        sample(&observed).await;
    }
}

/// Asks once about every group.
pub(crate) async fn sample(observed: &Inner) {
    let admin = observed.client.admin();
    let mut groups = Vec::new();
    let (mut answered, mut failures) = (None, 0);
    for (topic, group) in asked(observed) {
        match admin.stats(&topic, &group).await {
            Ok(stats) => {
                answered = Some(true);
                groups.push(Sampled { topic, group, stats, at: observed.now() });
            }
            Err(error) => {
                failures += 1;
                answered = Some(answered == Some(true) || is_answer(error.kind()));
                tracing::debug!(target: "mq", %topic, %group, %error, "a group was not sampled");
            }
        }
    }
    if answered.is_none()
        && let Some(topic) = published_topic(observed)
    {
        let looked = admin.topic(&topic).await;
        answered = Some(looked.map_or_else(|error| is_answer(error.kind()), |_| true));
    }
    let mut samples = observed.samples.lock();
    let failures = samples.failures + failures;
    *samples = Samples { groups, up: answered.or(samples.up), failures };
}

/// Whether an error is the broker's word, not its silence.
fn is_answer(kind: ErrorKind) -> bool {
    !matches!(kind, ErrorKind::Unavailable | ErrorKind::Timeout | ErrorKind::Closed | ErrorKind::Unauthorized)
}

/// The groups that the client is a member of, and those that were asked for.
fn asked(observed: &Inner) -> BTreeSet<(TopicName, GroupName)> {
    let mut asked: BTreeSet<_> = observed.watched.lock().iter().cloned().collect();
    let named = |name: &str| name != OTHER && name != BROADCAST;
    for counts in observed.client.activity().groups {
        if named(&counts.group)
            && let (Ok(topic), Ok(group)) = (TopicName::new(&counts.topic), GroupName::new(&counts.group))
        {
            asked.insert((topic, group));
        }
    }
    asked
}

fn published_topic(observed: &Inner) -> Option<TopicName> {
    observed.client.activity().topics.iter().find_map(|counts| TopicName::new(&counts.topic).ok())
}

//! Counts of what a client did, by topic and group.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::event::EventCounts;
use crate::name::{GroupName, TopicName};
use crate::table::{LABELS, Label, Table};

/// The name that topics and groups beyond the first [`LABELS`] are counted under; no topic can have it.
pub const OTHER: &str = "(other)";
/// The name that the private groups of [`Client::broadcast`](crate::Client::broadcast) are counted under.
pub const BROADCAST: &str = "(broadcast)";

/// Running counts, shared by all handles of a client. Changed once a batch, as far as there are batches.
#[derive(Debug)]
pub(crate) struct Counters {
    topics: Table<TopicName, Sends>,
    /// Private groups have no name here.
    groups: Table<(TopicName, Option<GroupName>), Deliveries>,
}

impl Default for Counters {
    fn default() -> Self {
        Self { topics: Table::new(LABELS), groups: Table::new(LABELS) }
    }
}

/// Of one topic. Aligned, so that counting on one topic does not slow down another.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Sends {
    sent: AtomicU64,
    rejected: AtomicU64,
    unknown: AtomicU64,
}

/// Of one group on one topic.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Deliveries {
    received: AtomicU64,
    acked: AtomicU64,
    retried: AtomicU64,
    deferred: AtomicU64,
    dead: AtomicU64,
    stale: AtomicU64,
    expired: AtomicU64,
    renewed: AtomicU64,
}

/// Counts of what a client did since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// Messages confirmed.
    pub sent: u64,
    /// Messages that the broker refused, stored nowhere.
    pub rejected: u64,
    /// Messages whose outcome is unknown.
    pub unknown: u64,
    /// Deliveries handed out.
    pub received: u64,
    /// Deliveries acked.
    pub acked: u64,
    /// Deliveries given another attempt.
    pub retried: u64,
    /// Deliveries given back uncounted.
    pub deferred: u64,
    /// Messages dead-lettered: by choice, after their last attempt, or because crashes used up their attempts.
    pub dead: u64,
    /// Settlements that the broker refused because they came too late.
    pub stale: u64,
    /// Leases that ran out.
    pub expired: u64,
    /// Leases started anew.
    pub renewed: u64,
}

impl Counts {
    fn add(&mut self, other: &Self) {
        self.sent += other.sent;
        self.rejected += other.rejected;
        self.unknown += other.unknown;
        self.received += other.received;
        self.acked += other.acked;
        self.retried += other.retried;
        self.deferred += other.deferred;
        self.dead += other.dead;
        self.stale += other.stale;
        self.expired += other.expired;
        self.renewed += other.renewed;
    }
}

/// What a client sent to one topic.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TopicCounts {
    /// The topic, or [`OTHER`].
    pub topic: String,
    /// What became of its messages: `sent`, `rejected`, `unknown`.
    pub counts: Counts,
}

/// What a client did as a member of one group on one topic.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupCounts {
    /// The topic, or [`OTHER`].
    pub topic: String,
    /// The group, [`BROADCAST`], or [`OTHER`].
    pub group: String,
    /// What became of its deliveries: all but what concerns sending.
    pub counts: Counts,
    /// Deliveries in hand or being settled, now.
    pub in_hand: u64,
}

/// What a client did and has under way, by label.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Activity {
    /// The backend.
    pub backend: &'static str,
    /// By topic sent to; at most [`LABELS`] and one for the rest.
    pub topics: Vec<TopicCounts>,
    /// By topic and group subscribed to; at most [`LABELS`] and one for the rest.
    pub groups: Vec<GroupCounts>,
    /// Sends that are not answered, now.
    pub sending: u64,
    /// What happened behind the handles.
    pub events: EventCounts,
}

impl Counters {
    /// Returns where a topic's sends are counted.
    pub(crate) fn topic(&self, topic: &TopicName) -> Label {
        self.topics.label(|known| known == topic, || topic.clone())
    }

    /// Returns where a group's deliveries are counted.
    pub(crate) fn group(&self, topic: &TopicName, group: &GroupName, ephemeral: bool) -> Label {
        let group = (!ephemeral).then_some(group);
        let is = |known: &(TopicName, Option<GroupName>)| known.0 == *topic && known.1.as_ref() == group;
        self.groups.label(is, || (topic.clone(), group.cloned()))
    }

    /// Adds verdicts on sends to one topic.
    pub(crate) fn add_sent(&self, topic: Label, sent: u64, unknown: u64, rejected: u64) {
        let sends = self.topics.get(topic);
        add(&[(&sends.sent, sent), (&sends.unknown, unknown), (&sends.rejected, rejected)]);
    }

    /// Adds what came of a group's deliveries.
    pub(crate) fn add_delivered(&self, group: Label, counts: &Counts) {
        let deliveries = self.groups.get(group);
        add(&[
            (&deliveries.received, counts.received),
            (&deliveries.acked, counts.acked),
            (&deliveries.retried, counts.retried),
            (&deliveries.deferred, counts.deferred),
            (&deliveries.dead, counts.dead),
            (&deliveries.stale, counts.stale),
            (&deliveries.expired, counts.expired),
        ]);
    }

    /// Adds messages that were handed out.
    pub(crate) fn add_received(&self, group: Label, count: usize) {
        self.groups.get(group).received.fetch_add(count as u64, Ordering::Relaxed);
    }

    /// Adds a lease that was started anew.
    pub(crate) fn add_renewed(&self, group: Label) {
        self.groups.get(group).renewed.fetch_add(1, Ordering::Relaxed);
    }

    /// Reads the topics' counts.
    pub(crate) fn topics(&self) -> Vec<TopicCounts> {
        let counts = |topic: Option<&TopicName>, sends: &Sends| TopicCounts {
            topic: topic.map_or(OTHER, TopicName::as_str).to_owned(),
            counts: sends.read(),
        };
        self.topics.iter().map(|(_, topic, sends)| counts(topic, sends)).collect()
    }

    /// Reads the groups' counts; `in_hand` is what their consumers hold now.
    pub(crate) fn groups(&self, in_hand: &[(Label, u64)]) -> Vec<GroupCounts> {
        let held = |label| in_hand.iter().filter(|held| held.0 == label).map(|held| held.1).sum();
        let mut groups = Vec::new();
        for (label, key, deliveries) in self.groups.iter() {
            let (topic, group) = match key {
                Some((topic, group)) => (topic.as_str(), group.as_ref().map_or(BROADCAST, GroupName::as_str)),
                None => (OTHER, OTHER),
            };
            let (topic, group) = (topic.to_owned(), group.to_owned());
            groups.push(GroupCounts { topic, group, counts: deliveries.read(), in_hand: held(label) });
        }
        groups
    }

    /// Reads the sum.
    pub(crate) fn read(&self) -> Counts {
        let mut sum = Counts::default();
        self.topics.iter().for_each(|(.., sends)| sum.add(&sends.read()));
        self.groups.iter().for_each(|(.., deliveries)| sum.add(&deliveries.read()));
        sum
    }
}

/// Leaves alone what does not change: a write takes the cache line from who counts elsewhere.
fn add(counts: &[(&AtomicU64, u64)]) {
    for (counter, count) in counts.iter().filter(|(_, count)| *count > 0) {
        counter.fetch_add(*count, Ordering::Relaxed);
    }
}

fn value(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

impl Sends {
    fn read(&self) -> Counts {
        Counts {
            sent: value(&self.sent),
            rejected: value(&self.rejected),
            unknown: value(&self.unknown),
            ..Counts::default()
        }
    }
}

impl Deliveries {
    fn read(&self) -> Counts {
        Counts {
            received: value(&self.received),
            acked: value(&self.acked),
            retried: value(&self.retried),
            deferred: value(&self.deferred),
            dead: value(&self.dead),
            stale: value(&self.stale),
            expired: value(&self.expired),
            renewed: value(&self.renewed),
            ..Counts::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_beyond_the_limit_are_counted_together() {
        let counters = Counters::default();
        for number in 0..LABELS + 5 {
            let topic = counters.topic(&TopicName::new(format!("t-{number}")).unwrap());
            counters.add_sent(topic, 2, 0, 1);
        }
        let topics = counters.topics();
        assert_eq!((topics.len(), topics[0].topic.as_str()), (LABELS + 1, "t-0"));
        let rest = &topics[LABELS];
        assert_eq!((rest.topic.as_str(), rest.counts.sent, rest.counts.rejected), (OTHER, 10, 5));
        assert_eq!(counters.read().sent, 2 * (LABELS as u64 + 5));
    }

    #[test]
    fn private_groups_share_a_label() {
        let (counters, topic) = (Counters::default(), TopicName::new("t").unwrap());
        for (name, ephemeral) in [("one", true), ("two", true), ("three", false)] {
            let group = counters.group(&topic, &GroupName::new(name).unwrap(), ephemeral);
            counters.add_received(group, 3);
        }
        let label = counters.group(&topic, &GroupName::new("three").unwrap(), false);
        let seen = |counts: &GroupCounts| (counts.group.clone(), counts.counts.received, counts.in_hand);
        let groups: Vec<_> = counters.groups(&[(label, 1), (label, 2)]).iter().map(seen).collect();
        assert_eq!(groups, [(BROADCAST.to_owned(), 6, 0), ("three".to_owned(), 3, 3)]);
    }
}

//! Counts of a group, from what it committed and where its partitions end. All of it blocks.

use mq_core::driver::Stats;
use mq_core::{Error, ErrorKind, GroupName, Result, Start, Timestamp, TopicName, derived};
use rdkafka::Message as _;
use rdkafka::producer::Producer as _;
use rdkafka::topic_partition_list::Offset;
use std::collections::HashMap;
use std::ops::ControlFlow;

use crate::codec;
use crate::connection::{ANSWER, Inner};
use crate::consumer::group_id;
use crate::dead;
use crate::error::from_native;
use crate::metadata::Progress;

/// One partition's counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    ready: u64,
    in_flight: u64,
    /// The first offset that is ready.
    first: Option<i64>,
}

/// Counts what of `from..end` is waiting and what is held.
fn count(from: i64, end: i64, progress: &Progress, alive: bool) -> Counts {
    let total = u64::try_from(end - from).unwrap_or(0);
    let within = |bound: u64| -> u64 {
        let bound = bound.min(total);
        let done: u64 =
            progress.done.iter().map(|run| run.end.min(bound).saturating_sub(run.start.min(bound))).sum();
        bound - done
    };
    let held = if alive { progress.reserved.min(total) } else { 0 };
    let in_flight = within(held);
    let ready = within(total) - in_flight;
    let mut first = held;
    for run in progress.done.iter().filter(|run| run.end > held) {
        if run.start > first {
            break;
        }
        first = run.end;
    }
    Counts { ready, in_flight, first: (ready > 0).then(|| from.saturating_add_unsigned(first)) }
}

/// How a group stands in a partition.
#[derive(Debug)]
pub(crate) struct Standing {
    pub(crate) partition: i32,
    /// All below is done or gone.
    pub(crate) from: i64,
    pub(crate) end: i64,
    pub(crate) progress: Progress,
}

/// How a group stands.
#[derive(Debug)]
pub(crate) struct Standings {
    /// Its name at the broker.
    pub(crate) id: String,
    /// By topic and partition: the topic itself, then the inbox.
    pub(crate) topics: [(String, Vec<Standing>); 2],
}

/// Reads where a group stands.
pub(crate) fn standings(inner: &Inner, topic: &TopicName, group: &GroupName) -> Result<Standings> {
    let missing = || Error::new(ErrorKind::NotFound, format!("there is no group {group} on {topic}"));
    let (inbox, dead) = (derived::inbox(topic, group), derived::dead(topic, group));
    if inner.partitions(&dead)?.is_none() {
        return Err(missing());
    }
    let declared = inner.readers.declaration(&dead)?.ok_or_else(missing)?;
    let sizes = [
        (topic.as_str(), inner.partitions(topic.as_str())?.ok_or_else(missing)?),
        (inbox.as_str(), inner.partitions(&inbox)?.ok_or_else(missing)?),
    ];
    let id = group_id(group, declared.settings.ordered);
    let mut committed = inner.readers.committed(&id, &sizes)?.into_iter();
    let mut of_topic = |(name, partitions): (&str, i32)| {
        let ends = inner.readers.offsets(name, partitions, Start::Latest)?;
        let beginnings = inner.readers.offsets(name, partitions, Start::Earliest)?;
        let mut standings = Vec::new();
        for (partition, (end, beginning)) in (0..partitions).zip(ends.into_iter().zip(beginnings)) {
            let (offset, metadata) = committed.next().unwrap_or_default();
            let start = || {
                declared
                    .start
                    .get(usize::try_from(partition).ok()?)
                    .copied()
                    .filter(|_| name == topic.as_str())
            };
            let from = offset.or_else(start).unwrap_or(beginning).max(beginning);
            // Where retention overtook the group, its metadata speaks of what is gone.
            let known = offset.is_none_or(|offset| offset >= beginning);
            let progress = Progress::decode(&metadata).filter(|_| known).unwrap_or_default();
            standings.push(Standing { partition, from, end, progress });
        }
        Ok::<_, Error>((name.to_owned(), standings))
    };
    let topics = [of_topic(sizes[0])?, of_topic(sizes[1])?];
    Ok(Standings { id, topics })
}

pub(crate) fn of_group(inner: &Inner, topic: &TopicName, group: &GroupName) -> Result<Stats> {
    let Standings { id, topics } = standings(inner, topic, group)?;
    let consumers = members(inner, &id, topic.as_str())?;
    let mut stats = Stats::default();
    (stats.ready, stats.in_flight) = (Some(0), Some(0));
    for (name, standings) in topics {
        let mut heads = Vec::new();
        let mut tally = Tally::default();
        for Standing { partition, from, end, progress } in standings {
            let counts = count(from, end, &progress, consumers > 0);
            stats.ready = stats.ready.map(|ready| ready + counts.ready);
            stats.in_flight = stats.in_flight.map(|held| held + counts.in_flight);
            if let Some(first) = counts.first {
                heads.push((partition, Offset::Offset(first)));
                tally.expect(partition, from, progress, counts.ready);
            }
        }
        tally.look(inner, &name, &heads)?;
        stats.ready = stats.ready.map(|ready| ready - tally.absent());
        stats.oldest_ready_at = [stats.oldest_ready_at, tally.oldest].into_iter().flatten().min();
    }
    stats.consumers = Some(consumers);
    stats.dead = Some(dead::count(&inner.readers, &derived::dead(topic, group))?);
    Ok(stats)
}

/// So much is read to tell messages from offsets that have none: the ends of transactions, and what
/// compaction removed. Of what is behind, each offset is taken for a message.
const LOOK: (u64, usize) = (2000, 4 << 20);

/// What is found where messages are said to wait.
#[derive(Debug, Default)]
struct Tally {
    waiting: HashMap<i32, Waiting>,
    /// When the oldest was sent.
    oldest: Option<Timestamp>,
    /// Whether all there is was read.
    complete: bool,
}

/// What waits in a partition.
#[derive(Debug)]
struct Waiting {
    from: i64,
    progress: Progress,
    /// Offsets that may have a message.
    offsets: u64,
    /// Messages found.
    found: u64,
}

impl Tally {
    fn expect(&mut self, partition: i32, from: i64, progress: Progress, offsets: u64) {
        self.waiting.insert(partition, Waiting { from, progress, offsets, found: 0 });
    }

    /// Reads from the first message of each partition on.
    fn look(&mut self, inner: &Inner, topic: &str, heads: &[(i32, Offset)]) -> Result<()> {
        let (mut arena, mut first, mut read) = (codec::Arena::default(), heads.len(), (0, 0));
        self.complete = self.waiting.values().map(|waiting| waiting.offsets).sum::<u64>() <= LOOK.0;
        inner.readers.scan(topic, heads, |record| {
            read = (read.0 + 1, read.1 + record.payload_len());
            if self.note(record.partition(), record.offset()) == 1 {
                first -= 1;
                let sent = codec::decode(record, topic, &mut arena).message.published_at;
                self.oldest = [self.oldest, sent].into_iter().flatten().min();
            }
            self.complete &= read.1 <= LOOK.1;
            // Without all there is, the first of each partition is enough.
            let enough = !self.complete && (first == 0 || read.0 > LOOK.0);
            if enough { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
    }

    /// Counts a message, unless it is done; returns which one of its partition it is.
    fn note(&mut self, partition: i32, offset: i64) -> u64 {
        let Some(waiting) = self.waiting.get_mut(&partition) else { return 0 };
        let relative = u64::try_from(offset - waiting.from).unwrap_or(0);
        if waiting.progress.done.iter().any(|run| run.contains(&relative)) {
            return 0;
        }
        waiting.found += 1;
        waiting.found
    }

    /// Returns how many offsets have no message, as far as that is known.
    fn absent(&self) -> u64 {
        let absent = |waiting: &Waiting| waiting.offsets.saturating_sub(waiting.found);
        if self.complete { self.waiting.values().map(absent).sum() } else { 0 }
    }
}

/// Returns how many members of a Kafka group are subscribed to a topic.
pub(crate) fn members(inner: &Inner, id: &str, topic: &str) -> Result<u64> {
    let list = inner
        .sender
        .native()
        .client()
        .fetch_group_list(Some(id), ANSWER)
        .map_err(|error| from_native(&error))?;
    let group = list.groups().iter().find(|group| group.name() == id);
    let members = group.map(rdkafka::groups::GroupInfo::members).unwrap_or_default();
    Ok(members.iter().filter(|member| member.metadata().is_none_or(|bytes| subscribes(bytes, topic))).count()
        as u64)
}

/// Reads a member's subscription: a version, then a list of topics. What can't be read counts.
fn subscribes(mut bytes: &[u8], topic: &str) -> bool {
    fn take<'a>(bytes: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
        let (head, tail) = bytes.split_at_checked(len)?;
        *bytes = tail;
        Some(head)
    }
    let mut read = || -> Option<bool> {
        take(&mut bytes, 2)?;
        let topics = u32::from_be_bytes(take(&mut bytes, 4)?.try_into().ok()?);
        for _ in 0..topics {
            let len = u16::from_be_bytes(take(&mut bytes, 2)?.try_into().ok()?);
            if take(&mut bytes, len.into())? == topic.as_bytes() {
                return Some(true);
            }
        }
        Some(false)
    };
    read().unwrap_or(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_are_not_ready_and_reservations_are_in_flight_while_somebody_lives() {
        let progress = Progress { reserved: 6, done: vec![2..4, 8..9], ..Progress::default() };
        assert_eq!(count(100, 110, &progress, true), Counts { ready: 3, in_flight: 4, first: Some(106) });
        assert_eq!(count(100, 110, &progress, false), Counts { ready: 7, in_flight: 0, first: Some(100) });
        assert_eq!(count(100, 100, &Progress::default(), true), Counts::default());
        let done = Progress { reserved: 1, done: std::iter::once(1..3).collect(), ..Progress::default() };
        assert_eq!(count(0, 4, &done, true), Counts { ready: 1, in_flight: 1, first: Some(3) });
    }

    #[test]
    fn offsets_without_a_message_are_not_ready() {
        let mut tally = Tally { complete: true, ..Tally::default() };
        let done = Progress { done: std::iter::once(2..3).collect(), ..Progress::default() };
        tally.expect(0, 100, done, 4);
        assert_eq!([101, 102, 103].map(|offset| tally.note(0, offset)), [1, 0, 2]);
        assert_eq!((tally.absent(), tally.note(9, 1)), (2, 0));
        tally.complete = false;
        assert_eq!(tally.absent(), 0);
    }

    #[test]
    fn subscriptions_are_read() {
        let bytes = [&[0, 3, 0, 0, 0, 2, 0, 1][..], b"a", &[0, 2], b"bc", &[0, 0, 0, 0]].concat();
        assert!(subscribes(&bytes, "a") && subscribes(&bytes, "bc") && !subscribes(&bytes, "b"));
        assert!(subscribes(&[], "a"));
    }
}

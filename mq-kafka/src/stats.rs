//! Counts of a group, from what it committed and where its partitions end. All of it blocks.

use mq_core::driver::Stats;
use mq_core::{Error, ErrorKind, GroupName, Result, Start, Timestamp, TopicName, derived};
use rdkafka::Message as _;
use rdkafka::producer::Producer as _;
use rdkafka::topic_partition_list::Offset;
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

pub(crate) fn of_group(inner: &Inner, topic: &TopicName, group: &GroupName) -> Result<Stats> {
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
    let consumers = members(inner, &id, topic.as_str())?;
    let mut committed = inner.readers.committed(&id, &sizes)?.into_iter();
    let mut stats = Stats::default();
    (stats.ready, stats.in_flight) = (Some(0), Some(0));
    for (name, partitions) in sizes {
        let ends = inner.readers.offsets(name, partitions, Start::Latest)?;
        let beginnings = inner.readers.offsets(name, partitions, Start::Earliest)?;
        let mut heads = Vec::new();
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
            let counts = count(from, end, &progress, consumers > 0);
            stats.ready = stats.ready.map(|ready| ready + counts.ready);
            stats.in_flight = stats.in_flight.map(|held| held + counts.in_flight);
            heads.extend(counts.first.map(|first| (partition, Offset::Offset(first))));
        }
        stats.oldest_ready_at =
            [stats.oldest_ready_at, oldest(inner, name, &heads)?].into_iter().flatten().min();
    }
    stats.consumers = Some(consumers);
    stats.dead = Some(dead::count(&inner.readers, &dead)?);
    Ok(stats)
}

/// Returns when the oldest of the messages at these places was sent.
fn oldest(inner: &Inner, topic: &str, heads: &[(i32, Offset)]) -> Result<Option<Timestamp>> {
    let mut oldest: Option<Timestamp> = None;
    let mut seen = Vec::with_capacity(heads.len());
    let mut arena = codec::Arena::default();
    inner.readers.scan(topic, heads, |record| {
        if !seen.contains(&record.partition()) {
            seen.push(record.partition());
            let sent = codec::decode(record, topic, &mut arena).message.published_at;
            oldest = [oldest, sent].into_iter().flatten().min();
        }
        if seen.len() == heads.len() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    Ok(oldest)
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
    fn subscriptions_are_read() {
        let bytes = [&[0, 3, 0, 0, 0, 2, 0, 1][..], b"a", &[0, 2], b"bc", &[0, 0, 0, 0]].concat();
        assert!(subscribes(&bytes, "a") && subscribes(&bytes, "bc") && !subscribes(&bytes, "b"));
        assert!(subscribes(&[], "a"));
    }
}

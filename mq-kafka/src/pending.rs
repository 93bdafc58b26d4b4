//! What members hold, as far as they committed: reserved, and not done. All of it blocks.

use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;

use mq_core::driver::{Page, Pending};
use mq_core::{GroupName, Result, Timestamp, TopicName};
use rdkafka::Message as _;
use rdkafka::producer::Producer as _;
use rdkafka::topic_partition_list::Offset;

use crate::codec;
use crate::connection::{ANSWER, Inner};
use crate::error::from_native;
use crate::producer::position;
use crate::stats::{Standing, standings};

/// A topic's partitions, each with the member that has it.
type Owners = HashMap<(String, i32), String>;

/// Where a message stands in the list: by the time of sending; which topic, partition and offset make it one order.
type Place = (Option<Timestamp>, usize, i32, i64);

/// Lists a page, oldest first.
pub(crate) fn list(inner: &Inner, topic: &TopicName, group: &GroupName, page: Page) -> Result<Vec<Pending>> {
    let standings = standings(inner, topic, group)?;
    let owners = owners(inner, &standings.id)?;
    let mut found: Vec<(Place, Pending)> = Vec::new();
    for (side, (name, standings)) in standings.topics.iter().enumerate() {
        let held: HashMap<i32, (&Standing, &String)> = standings
            .iter()
            .filter(|standing| held(standing).next().is_some())
            .filter_map(|standing| {
                let owner = owners.get(&(name.clone(), standing.partition))?;
                Some((standing.partition, (standing, owner)))
            })
            .collect();
        let heads: Vec<(i32, Offset)> = held
            .values()
            .filter_map(|(standing, _)| {
                Some((standing.partition, Offset::Offset(self::held(standing).next()?)))
            })
            .collect();
        // Partitions whose reserved part is not read to its end.
        let mut open: HashSet<i32> = held.keys().copied().collect();
        let mut arena = codec::Arena::default();
        inner.readers.scan(name, &heads, |record| {
            let Some((standing, owner)) = held.get(&record.partition()) else {
                return ControlFlow::Continue(());
            };
            if is_held(standing, record.offset()) {
                let decoded = codec::decode(record, name, &mut arena);
                let attempt = decoded.envelope.attempt + crashes(standing, record.offset());
                let pending = Pending::new(decoded.message.id, owner.as_str(), attempt);
                let place = position(record.partition(), record.offset());
                let sent = decoded.message.published_at;
                found.push(((sent, side, record.partition(), record.offset()), pending.at(place)));
            }
            if record.offset() + 1 >= reserved(standing) {
                open.remove(&record.partition());
            }
            if open.is_empty() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
    }
    found.sort_by_key(|(place, _)| *place);
    Ok(found.into_iter().map(|(_, pending)| pending).skip(page.offset).take(page.limit).collect())
}

/// Returns the offsets that were reserved and are not done.
fn held(standing: &Standing) -> impl Iterator<Item = i64> {
    (standing.from..reserved(standing)).filter(|offset| is_held(standing, *offset))
}

/// Returns the offset behind the last that was reserved.
fn reserved(standing: &Standing) -> i64 {
    standing.from.saturating_add_unsigned(standing.progress.reserved).min(standing.end)
}

fn is_held(standing: &Standing, offset: i64) -> bool {
    let done = |relative| standing.progress.done.iter().any(|run| run.contains(&relative));
    offset < reserved(standing) && u64::try_from(offset - standing.from).is_ok_and(|relative| !done(relative))
}

/// Returns how many members died with a message.
fn crashes(standing: &Standing, offset: i64) -> u32 {
    let mut from = standing.from;
    for (length, count) in &standing.progress.crashes {
        let end = from.saturating_add_unsigned(*length);
        if (from..end).contains(&offset) {
            return *count;
        }
        from = end;
    }
    0
}

/// Asks who has which partition.
fn owners(inner: &Inner, id: &str) -> Result<Owners> {
    let native = inner.sender.native();
    let list = native.client().fetch_group_list(Some(id), ANSWER).map_err(|error| from_native(&error))?;
    let mut owners = Owners::new();
    for member in
        list.groups().iter().filter(|group| group.name() == id).flat_map(rdkafka::groups::GroupInfo::members)
    {
        for place in assigned(member.assignment().unwrap_or_default()).unwrap_or_default() {
            owners.insert(place, member.id().to_owned());
        }
    }
    Ok(owners)
}

/// Reads a member's assignment: a version, then topics, each with its partitions.
fn assigned(mut bytes: &[u8]) -> Option<Vec<(String, i32)>> {
    fn take<'a>(bytes: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
        let (head, tail) = bytes.split_at_checked(count)?;
        *bytes = tail;
        Some(head)
    }
    fn number(bytes: &mut &[u8]) -> Option<i32> {
        Some(i32::from_be_bytes(take(bytes, 4)?.try_into().ok()?))
    }
    take(&mut bytes, 2)?;
    let mut places = Vec::new();
    for _ in 0..number(&mut bytes)? {
        let length = u16::from_be_bytes(take(&mut bytes, 2)?.try_into().ok()?);
        let topic = std::str::from_utf8(take(&mut bytes, length.into())?).ok()?.to_owned();
        for _ in 0..number(&mut bytes)? {
            places.push((topic.clone(), number(&mut bytes)?));
        }
    }
    Some(places)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::Progress;

    #[test]
    fn held_is_what_is_reserved_and_not_done() {
        let progress = Progress {
            reserved: 6,
            done: std::iter::once(2..4).collect(),
            crashes: vec![(1, 0), (2, 3)],
            ..Progress::default()
        };
        let standing = Standing { partition: 0, from: 100, end: 105, progress };
        assert_eq!(held(&standing).collect::<Vec<_>>(), [100, 101, 104]);
        assert_eq!([100, 101, 102, 103].map(|offset| crashes(&standing, offset)), [0, 3, 3, 0]);
    }

    #[test]
    fn assignments_are_read() {
        let bytes = [&[0, 1, 0, 0, 0, 1, 0, 2][..], b"ab", &[0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0]]
            .concat();
        assert_eq!(assigned(&bytes), Some(vec![("ab".into(), 0), ("ab".into(), 7)]));
        assert_eq!(assigned(&[0, 1, 0, 0]), None);
    }
}

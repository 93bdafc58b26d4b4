//! Dead letters: listed without consuming them, moved back, removed.
//!
//! A letter is a record with a key of its own in a compacted topic; a tombstone removes it. So a
//! listing reads the topic from its beginning, and what has a later record under its key is gone.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use mq_core::driver::{DeadLetter, Page, Selection};
use mq_core::{Error, ErrorKind, GroupName, GroupSettings, Result, TopicName, derived, policy};
use rdkafka::Message as _;
use rdkafka::message::BorrowedMessage;
use rdkafka::topic_partition_list::Offset;

use crate::codec::{self, Arena, Name, Record};
use crate::connection::Inner;
use crate::error::from_delivery;
use crate::groups::{self, SETTINGS_KEY, letter_partition};
use crate::producer::position;
use crate::reader::Readers;
use crate::verdicts::Verdict;

/// Letters that are moved or removed at a time.
const BATCH: usize = 500;

/// Returns how many letters there are. Blocks.
pub(crate) fn count(readers: &Readers, dead: &str) -> Result<u64> {
    Ok(live(readers, dead)?.len() as u64)
}

/// Returns the offsets of the letters, oldest first, each with its key.
fn live(readers: &Readers, dead: &str) -> Result<BTreeMap<i64, Bytes>> {
    let mut places: std::collections::HashMap<Bytes, i64> = std::collections::HashMap::new();
    readers.scan(dead, &[(0, Offset::Beginning)], |record| {
        if let Some(key) = record.key().filter(|key| *key != SETTINGS_KEY) {
            match record.payload() {
                Some(_) => places.insert(Bytes::copy_from_slice(key), record.offset()),
                None => places.remove(key),
            };
        }
        ControlFlow::Continue(())
    })?;
    Ok(places.into_iter().map(|(key, offset)| (offset, key)).collect())
}

/// Reads letters at these offsets, ascending.
fn read(readers: &Readers, dead: &str, offsets: &[i64]) -> Result<Vec<DeadLetter>> {
    let (Some(first), Some(last)) = (offsets.first(), offsets.last()) else { return Ok(Vec::new()) };
    let mut arena = Arena::default();
    let mut letters = Vec::with_capacity(offsets.len());
    readers.scan(dead, &[(0, Offset::Offset(*first))], |record| {
        if offsets.binary_search(&record.offset()).is_ok() {
            letters.push(letter(record, dead, &mut arena));
        }
        if record.offset() >= *last { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    Ok(letters)
}

fn letter(record: &BorrowedMessage<'_>, dead: &str, arena: &mut Arena) -> DeadLetter {
    let decoded = codec::decode_dead(record, dead, arena);
    DeadLetter::new(decoded.message, decoded.envelope, position(record.partition(), record.offset()))
}

/// Lists letters, oldest first.
pub(crate) async fn list(
    inner: &Arc<Inner>,
    topic: &TopicName,
    group: &GroupName,
    page: Page,
) -> Result<Vec<DeadLetter>> {
    let dead = existing(inner, topic, group).await?;
    inner
        .ask(move |inner| {
            let offsets: Vec<i64> =
                live(&inner.readers, &dead)?.into_keys().skip(page.offset).take(page.limit).collect();
            read(&inner.readers, &dead, &offsets)
        })
        .await
}

async fn existing(inner: &Arc<Inner>, topic: &TopicName, group: &GroupName) -> Result<String> {
    let dead = derived::dead(topic, group);
    match inner.partitions_of(&dead).await {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            Err(Error::new(ErrorKind::NotFound, format!("there is no group {group} on {topic}")))
        }
        Err(error) => Err(error),
        Ok(_) => Ok(dead),
    }
}

/// What to do with letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Removal {
    /// Back to the inbox, then away.
    Redrive,
    /// Away.
    Purge,
}

/// Removes the selected letters that are there when it starts; returns how many.
pub(crate) async fn remove(
    inner: &Arc<Inner>,
    topic: &TopicName,
    group: &GroupName,
    which: &Selection,
    removal: Removal,
) -> Result<u64> {
    let dead = existing(inner, topic, group).await?;
    let inbox = Name::from(derived::inbox(topic, group));
    let settings = groups::find(inner, &dead).await?.map(|declared| declared.settings).unwrap_or_default();
    let name = dead.clone();
    let letters: Vec<(i64, Bytes)> =
        inner.ask(move |inner| Ok(live(&inner.readers, &name)?.into_iter().collect())).await?;
    let mut removed = 0;
    for batch in letters.chunks(BATCH) {
        let (name, offsets) = (dead.clone(), batch.iter().map(|(offset, _)| *offset).collect::<Vec<_>>());
        let read = inner.ask(move |inner| read(&inner.readers, &name, &offsets)).await?;
        let mut selected = Vec::new();
        for letter in read.into_iter().filter(|letter| which.contains(&letter.message.id)) {
            let place = letter.position.and_then(|place| i64::try_from(place.offset).ok());
            if let Some((_, key)) = batch.iter().find(|(offset, _)| Some(*offset) == place) {
                selected.push((key.clone(), letter));
            }
        }
        if removal == Removal::Redrive {
            let copies = selected
                .iter()
                .map(|(key, letter)| redriven(inner, &inbox, &settings, key, letter))
                .collect();
            store(inner, copies).await?;
        }
        let now = inner.context.clock.now();
        let tombstones = selected
            .iter()
            .map(|(key, _)| codec::bare(Name::from(dead.as_str()), key.clone(), None, now))
            .collect();
        store(inner, tombstones).await?;
        removed += selected.len() as u64;
    }
    Ok(removed)
}

fn redriven(
    inner: &Inner,
    inbox: &Name,
    settings: &GroupSettings,
    key: &[u8],
    letter: &DeadLetter,
) -> Record {
    let (message, envelope) = policy::redriven(letter.message.clone(), &letter.envelope);
    let partition = letter_partition(key).map(|partition| groups::inbox_partition(settings, partition));
    codec::copy(inbox.clone(), partition, &message, &envelope, inner.context.clock.now())
}

async fn store(inner: &Inner, records: Vec<Record>) -> Result<()> {
    for verdict in inner.sender.send(records).await {
        if let Verdict::Failed(code) = verdict {
            return Err(from_delivery(code));
        }
    }
    Ok(())
}

//! Dead letters: a stream of their own, which nobody reads as a group.

use mq_core::Result;
use mq_core::driver::{DeadLetter, Page, Selection};
use mq_core::envelope::Envelope;
use mq_core::policy::redriven;
use redis::{Cmd, Pipeline};

use crate::codec;
use crate::connection::{Link, checked};
use crate::entry::{self, Entry, EntryId, array, integer};
use crate::names::{GroupKeys, Side};
use crate::partition::of_key;
use crate::scripts::Script;

/// How many are read or moved in one round trip.
const CHUNK: usize = 200;

/// Reads dead letters in chunks, oldest first, up to those that are there at the start.
struct Letters<'a> {
    link: &'a Link,
    stream: &'a str,
    from: Option<EntryId>,
    last: Option<EntryId>,
}

impl<'a> Letters<'a> {
    async fn open(link: &'a Link, stream: &'a str) -> Result<Self> {
        let mut cmd = redis::cmd("XREVRANGE");
        cmd.arg(stream).arg("+").arg("-").arg("COUNT").arg(1);
        let last = array(link.query(&cmd).await?).into_iter().find_map(entry::entry).map(|entry| entry.id);
        Ok(Self { link, stream, from: None, last })
    }

    async fn next(&mut self, count: usize) -> Result<Vec<Entry>> {
        let Some(last) = self.last else { return Ok(Vec::new()) };
        let from = self.from.map_or_else(|| "-".into(), |id| format!("({id}"));
        let mut cmd = redis::cmd("XRANGE");
        cmd.arg(self.stream).arg(from).arg(last.to_string()).arg("COUNT").arg(count.min(CHUNK));
        let found: Vec<Entry> =
            array(self.link.query(&cmd).await?).into_iter().filter_map(entry::entry).collect();
        match found.last() {
            Some(entry) => self.from = Some(entry.id),
            None => self.last = None,
        }
        Ok(found)
    }
}

/// Lists a page.
pub(crate) async fn list(link: &Link, keys: &GroupKeys, page: Page) -> Result<Vec<DeadLetter>> {
    let mut letters = Letters::open(link, &keys.dead).await?;
    let (mut skip, mut found) = (page.offset, Vec::new());
    while found.len() < page.limit {
        let entries = letters.next(skip.saturating_add(page.limit - found.len())).await?;
        if entries.is_empty() {
            break;
        }
        let skipped = skip.min(entries.len());
        skip -= skipped;
        for entry in entries.into_iter().skip(skipped) {
            let position = entry.id.position(0);
            let (message, envelope) = codec::decode_entry(&entry);
            found.push(DeadLetter::new(message, envelope, Some(position)));
        }
    }
    Ok(found)
}

/// Moves dead letters to the inbox of the partition of their key.
pub(crate) async fn redrive(link: &Link, keys: &GroupKeys, which: &Selection) -> Result<u64> {
    each(link, keys, which, |id, entry| {
        let (message, envelope) = codec::decode_entry(&entry);
        let (message, envelope): (_, Envelope) = redriven(message, &envelope);
        let partition = match &message.key {
            Some(key) => of_key(key, keys.topic.partitions),
            None => u32::try_from(id.seq.wrapping_add(id.ms) % u64::from(keys.topic.partitions)).unwrap_or(0),
        };
        let inbox = keys.stream(partition, Side::Inbox);
        let (arguments, size) = codec::room(&message);
        let mut cmd = Script::Move.call_sized(&[&keys.dead, &inbox], 1 + arguments, 64 + size);
        cmd.arg(id.to_string());
        codec::append(&mut cmd, &message, &envelope);
        cmd
    })
    .await
}

/// Removes dead letters.
pub(crate) async fn purge(link: &Link, keys: &GroupKeys, which: &Selection) -> Result<u64> {
    each(link, keys, which, |id, _| {
        let mut cmd = redis::cmd("XDEL");
        cmd.arg(&keys.dead).arg(id.to_string());
        cmd
    })
    .await
}

/// Runs a command for each that is selected; returns the sum of the replies.
async fn each(
    link: &Link,
    keys: &GroupKeys,
    which: &Selection,
    act: impl Fn(EntryId, Entry) -> Cmd,
) -> Result<u64> {
    let mut letters = Letters::open(link, &keys.dead).await?;
    let mut done = 0;
    loop {
        let entries = letters.next(CHUNK).await?;
        if entries.is_empty() {
            return Ok(done);
        }
        let mut pipeline = Pipeline::with_capacity(entries.len());
        for entry in entries {
            if selected(&entry, which) {
                pipeline.add_command(act(entry.id, entry));
            }
        }
        for reply in link.pipeline(&pipeline).await? {
            done += integer(&checked(reply)?).and_then(|moved| u64::try_from(moved).ok()).unwrap_or(0);
        }
    }
}

fn selected(entry: &Entry, which: &Selection) -> bool {
    match which {
        Selection::All => true,
        Selection::Ids(_) => which.contains(&codec::decode_entry(entry).0.id),
    }
}

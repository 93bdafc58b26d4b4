//! What consumers hold, read from the pending lists without touching them.

use mq_core::Result;
use mq_core::driver::{Page, Pending};
use redis::Pipeline;
use std::time::Duration;

use crate::codec;
use crate::connection::{Link, checked};
use crate::entry::{self, EntryId, array, integer, text};
use crate::names::{GroupKeys, Side};

/// A row of a pending list.
struct Row {
    id: EntryId,
    partition: u32,
    stream: String,
    owner: String,
    idle: Duration,
    /// Deliveries, that is one more than the deaths with it.
    count: u32,
}

/// Lists a page, oldest first.
pub(crate) async fn list(link: &Link, keys: &GroupKeys, page: Page) -> Result<Vec<Pending>> {
    let mut rows = rows(link, keys, page.offset.saturating_add(page.limit)).await?;
    rows.sort_by_key(|row| (row.id, row.partition));
    let rows: Vec<Row> = rows.into_iter().skip(page.offset).take(page.limit).collect();
    let mut pipeline = Pipeline::with_capacity(rows.len());
    for row in &rows {
        pipeline.cmd("XRANGE").arg(&row.stream).arg(row.id.to_string()).arg(row.id.to_string());
    }
    let mut found = Vec::with_capacity(rows.len());
    for (row, reply) in rows.into_iter().zip(link.pipeline(&pipeline).await?) {
        // Settled meanwhile.
        let Some(entry) = array(checked(reply)?).into_iter().find_map(entry::entry) else { continue };
        let (message, envelope) = codec::decode_entry(&entry);
        let attempt = envelope.attempt.saturating_add(row.count.saturating_sub(1));
        found.push(
            Pending::new(message.id, row.owner, attempt)
                .at(Some(row.id.position(row.partition)))
                .idle(row.idle),
        );
    }
    Ok(found)
}

/// Reads the first `limit` rows of each of the group's streams.
async fn rows(link: &Link, keys: &GroupKeys, limit: usize) -> Result<Vec<Row>> {
    let streams: Vec<(u32, String)> = (0..keys.topic.partitions)
        .flat_map(|partition| {
            [Side::Topic, Side::Inbox].map(|side| (partition, keys.stream(partition, side)))
        })
        .collect();
    let mut pipeline = Pipeline::with_capacity(streams.len());
    for (_, stream) in &streams {
        pipeline.cmd("XPENDING").arg(stream).arg(keys.group.as_str()).arg("-").arg("+").arg(limit);
    }
    let mut rows = Vec::new();
    for ((partition, stream), reply) in streams.into_iter().zip(link.pipeline(&pipeline).await?) {
        let read = |value| {
            let mut parts = array(value).into_iter();
            let id = entry::id(&parts.next()?)?;
            let owner = text(parts.next()?)?;
            let idle = Duration::from_millis(u64::try_from(integer(&parts.next()?)?).ok()?);
            let count = u32::try_from(integer(&parts.next()?)?).ok()?;
            Some(Row { id, partition, stream: stream.clone(), owner, idle, count })
        };
        rows.extend(array(checked(reply)?).into_iter().filter_map(read));
    }
    Ok(rows)
}

//! Reads a dead-letter queue without consuming it.
//!
//! Messages are taken on a channel of their own and go back unchanged, and in order, when it
//! closes; the queue has no limit of deliveries, so looking changes nothing.

use std::time::Duration;

use futures_util::StreamExt;
use lapin::Channel;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::{FieldTable, ShortString};
use mq_core::driver::{DeadLetter, Page, Selection};
use mq_core::{GroupName, Result, TopicName, derived};
use tokio::time::{Instant, timeout};

use crate::codec::{Received, decode};
use crate::error::from_native;
use crate::topology::{Topology, no_group};

/// How long to wait for a message that somebody else may be looking at.
const PATIENCE: Duration = Duration::from_millis(500);
/// Messages taken at once where they are settled one by one.
const WINDOW: u16 = 256;

/// A look into a dead-letter queue.
pub(crate) struct Look<'a> {
    topology: &'a Topology,
    queue: String,
    channel: Channel,
    stream: lapin::Consumer,
    /// How many were there, are still to be seen, and were removed.
    there: usize,
    left: usize,
    removed: usize,
}

impl<'a> Look<'a> {
    /// Opens a look at the messages that are there now, at most `most`; `keeps` says that they are
    /// held until the end rather than settled as they come.
    pub(crate) async fn open(
        topology: &'a Topology,
        topic: &TopicName,
        group: &GroupName,
        most: usize,
        keeps: bool,
    ) -> Result<Option<Self>> {
        let name = derived::dead(topic, group);
        let Some(queue) = topology.find_queue(&name).await? else { return Err(no_group()) };
        let there = usize::try_from(queue.message_count()).unwrap_or(usize::MAX);
        let left = most.min(there);
        if left == 0 {
            return Ok(None);
        }
        let window = if keeps { u16::try_from(left).unwrap_or(u16::MAX) } else { WINDOW };
        let channel = topology.channel().await?;
        let limited = channel.basic_qos(window, BasicQosOptions::default());
        topology.reply("limiting the prefetch", limited).await?;
        topology.reply("starting transactions", channel.tx_select()).await?;
        let (options, arguments) = (BasicConsumeOptions::default(), FieldTable::default());
        let queue = ShortString::from(name.as_str());
        let consumed = channel.basic_consume(queue, ShortString::default(), options, arguments);
        let stream = topology.reply("consuming a queue", consumed).await?;
        Ok(Some(Self { topology, queue: name, channel, stream, there, left, removed: 0 }))
    }

    /// Returns the next messages, at least one until all were seen.
    pub(crate) async fn next(&mut self) -> Result<Vec<Delivery>> {
        let mut batch: Vec<Delivery> = Vec::new();
        while self.left > 0 && batch.len() < usize::from(WINDOW) / 2 {
            let patience = if batch.is_empty() { PATIENCE } else { Duration::ZERO };
            match timeout(patience, self.stream.next()).await {
                Ok(Some(delivery)) => batch.push(delivery.map_err(from_native)?),
                Ok(None) => return Err(no_group()),
                Err(_) if batch.is_empty() => {
                    self.left = 0;
                    break;
                }
                Err(_) => break,
            }
            self.left -= 1;
        }
        Ok(batch)
    }

    /// Removes messages; the broker has seen it when this returns.
    pub(crate) async fn remove(&mut self, tags: &[u64]) -> Result<()> {
        if tags.is_empty() {
            return Ok(());
        }
        for tag in tags {
            self.channel.basic_ack(*tag, BasicAckOptions::default()).await.map_err(from_native)?;
        }
        self.removed += tags.len();
        self.topology.reply("removing dead letters", self.channel.tx_commit()).await
    }

    /// Gives back what was not removed, and waits until it is there again.
    pub(crate) async fn close(self) -> Result<()> {
        self.topology.leave(&self.channel).await;
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            let Some(queue) = self.topology.find_queue(&self.queue).await? else { return Ok(()) };
            let count = usize::try_from(queue.message_count()).unwrap_or(usize::MAX);
            if count >= self.there - self.removed {
                break;
            }
        }
        Ok(())
    }
}

/// Makes a dead letter of a delivery.
pub(crate) fn letter(delivery: Delivery) -> DeadLetter {
    let Received { message, mut envelope, .. } = decode(delivery);
    envelope.target = None;
    DeadLetter::new(message, envelope, None)
}

/// Lists a page.
pub(crate) async fn list(
    topology: &Topology,
    topic: &TopicName,
    group: &GroupName,
    page: Page,
) -> Result<Vec<DeadLetter>> {
    let most = page.offset.saturating_add(page.limit);
    let Some(mut look) = Look::open(topology, topic, group, most, true).await? else { return Ok(Vec::new()) };
    let mut letters = Vec::new();
    let mut seen = 0;
    loop {
        let batch = look.next().await?;
        if batch.is_empty() {
            break;
        }
        for delivery in batch {
            if seen >= page.offset {
                letters.push(letter(delivery));
            }
            seen += 1;
        }
    }
    look.close().await?;
    Ok(letters)
}

/// Returns whether the letters that are not selected must be held until the end.
pub(crate) fn keeps(which: &Selection) -> bool {
    matches!(which, Selection::Ids(_))
}

//! Kafka, receiving.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::message::{BorrowedMessage, Headers as _};
use rdkafka::{Message as _, Offset, TopicPartitionList};
use uuid::Uuid;

use super::kafka::{Sender, config};
use crate::load::{Handled, Load};
use crate::meter::{Latencies, Meter, Report};
use crate::spec::{PACE, Spec};
use crate::stamp;

/// Messages between two commits.
const COMMIT: usize = 1000;
/// How long nothing may come.
const SILENCE: Duration = Duration::from_secs(30);

/// A message as a handler could keep it: one block of key, payload and headers.
///
/// One allocation; a `Vec` for each part and each header (`detach` does that) was slower.
struct Owned {
    id: Option<Uuid>,
    block: Vec<u8>,
    key: usize,
    payload: usize,
    headers: usize,
    position: (i32, i64),
}

impl Owned {
    fn read(message: &BorrowedMessage<'_>) -> Self {
        let (key, payload) = (message.key().unwrap_or_default(), message.payload().unwrap_or_default());
        let mut block = Vec::with_capacity(key.len() + payload.len() + 64);
        block.extend_from_slice(key);
        block.extend_from_slice(payload);
        let (mut id, mut headers) = (None, 0);
        for header in message.headers().into_iter().flat_map(|headers| headers.iter()) {
            let value = header.value.unwrap_or_default();
            if header.key == "mq-id" {
                id = Uuid::try_parse_ascii(value).ok();
                continue;
            }
            headers += 1;
            for part in [header.key.as_bytes(), value] {
                block.extend_from_slice(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_ne_bytes());
                block.extend_from_slice(part);
            }
        }
        let position = (message.partition(), message.offset());
        Self { id, key: key.len(), payload: payload.len(), headers, position, block }
    }

    fn key(&self) -> &[u8] {
        &self.block[..self.key]
    }

    fn payload(&self) -> &[u8] {
        &self.block[self.key..self.key + self.payload]
    }
}

/// A consumer and how far it got.
struct Receiver {
    native: BaseConsumer,
    topic: String,
    /// The next offset of each partition; -1 where nothing came.
    next: Vec<i64>,
}

impl Receiver {
    /// Joins the group. The two settings of the queue make 2 to 4 times of it: by default a
    /// partition whose queue was full is not fetched from for a second.
    fn join(spec: &Spec) -> Result<Self> {
        let native: BaseConsumer = config(spec)
            .set("group.id", &spec.group)
            .set("auto.offset.reset", "earliest")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("fetch.queue.backoff.ms", "10")
            .set("queued.min.messages", "200000")
            .create()?;
        native.subscribe(&[&spec.topic])?;
        Ok(Self { native, topic: spec.topic.clone(), next: Vec::new() })
    }

    fn receive(&mut self) -> Result<Owned> {
        let start = Instant::now();
        while start.elapsed() < SILENCE {
            let Some(message) = self.native.poll(Duration::from_secs(1)) else { continue };
            let message = message?;
            let partition = usize::try_from(message.partition())?;
            if self.next.len() <= partition {
                self.next.resize(partition + 1, -1);
            }
            self.next[partition] = message.offset() + 1;
            return Ok(Owned::read(&message));
        }
        bail!("no message came for {SILENCE:?}")
    }

    /// Commits how far it got: everything before it was handled.
    fn commit(&self, mode: CommitMode) -> Result<()> {
        Ok(self.native.commit(&self.handled()?, mode)?)
    }

    /// Writes down, and waits until it is, that the last message is about to be handled and that
    /// all before it were.
    ///
    /// Whoever counts attempts has to, or a message that kills its process is never found.
    fn reserve(&self, last: (i32, i64)) -> Result<()> {
        let offsets = self.handled()?;
        let mut element = offsets.find_partition(&self.topic, last.0).context("it was handled")?;
        element.set_offset(Offset::Offset(last.1))?;
        element.set_metadata("1");
        Ok(self.native.commit(&offsets, CommitMode::Sync)?)
    }

    fn handled(&self) -> Result<TopicPartitionList> {
        let mut offsets = TopicPartitionList::with_capacity(self.next.len());
        for (partition, next) in (0..).zip(&self.next).filter(|(_, next)| **next >= 0) {
            offsets.add_partition_offset(&self.topic, partition, Offset::Offset(*next))?;
        }
        Ok(offsets)
    }
}

/// Messages a second, committed.
pub(super) fn consume(spec: &Spec) -> Result<Report> {
    let mut receiver = Receiver::join(spec)?;
    let total = spec.warm_up + spec.count;
    let mut handled = Handled::default();
    let mut meter = None;
    while handled.count < total {
        let message = receiver.receive()?;
        if handled.count == spec.warm_up {
            meter = Some(Meter::start());
        }
        handled.take(message.id.is_some(), message.key(), message.payload(), message.headers);
        if handled.count.is_multiple_of(COMMIT) {
            receiver.commit(CommitMode::Async)?;
        }
    }
    receiver.commit(CommitMode::Sync)?;
    let report = meter.context("nothing to measure")?.stop(spec.count);
    handled.check(spec.bytes)?;
    Ok(report)
}

/// From a send to the handler.
pub(super) fn delivery(spec: &Spec, load: Load) -> Result<Report> {
    let messages = spec.within.as_millis() as usize * PACE as usize / 1000;
    let total = spec.warm_up + messages;
    let mut sender = Sender::new(spec, "0", None)?;
    let sending = std::thread::spawn(move || {
        let start = Instant::now();
        for n in 0..total {
            let due = start + Duration::from_secs(1) / PACE * u32::try_from(n)?;
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            sender.send(load.key(n), &stamp::write(load.payload(n)))?;
        }
        sender.flush()
    });
    let mut receiver = Receiver::join(spec)?;
    let mut latencies = Latencies::start()?;
    for n in 0..total {
        let message = receiver.receive()?;
        if n == spec.warm_up {
            latencies = Latencies::start()?;
        }
        if !spec.uncounted {
            receiver.reserve(message.position)?;
        }
        latencies.add(stamp::age(message.payload()));
        // One commit a message is what exactness asks for where messages are few.
        receiver.commit(CommitMode::Async)?;
    }
    receiver.commit(CommitMode::Sync)?;
    let report = latencies.stop();
    sending.join().map_err(|_| anyhow::anyhow!("the sender panicked"))??;
    Ok(report)
}

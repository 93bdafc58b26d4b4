//! Sending: pipelines of XADD, several in flight on one connection.

mod chunk;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use mq_core::driver::{Context, Outgoing, Producer};
use mq_core::envelope::Envelope;
use mq_core::{Durability, Error, ErrorKind, Receipt, Result, Timestamp, TopicName};
use parking_lot::Mutex;
use redis::{Cmd, Pipeline};
use tokio::sync::OnceCell;

use crate::codec::{self, MAX_HEADERS};
use crate::connection::{Link, Live};
use crate::entry::unexpected;
use crate::names::TopicKeys;
use crate::order::Order;
use crate::partition::of_key;
use crate::scripts::Script;
use crate::synced;
use crate::topology::{self, Registry};
use chunk::Chunk;

/// The most commands and bytes of one round trip, of which the native client makes a copy at once.
const CHUNK: (usize, usize) = (500, 256 << 10);
/// How long before a due time the server's clock may still be behind ours.
const SKEW: Duration = Duration::from_secs(60);
/// How often what is settled is removed from topics that are written to.
const TRIM_EVERY: Duration = Duration::from_secs(30);

/// Sends messages.
pub(crate) struct StreamProducer {
    pub(crate) shared: Arc<Shared>,
    /// Who holds it hands messages to the connection; its queue is the order of the calls.
    pub(crate) gate: tokio::sync::Mutex<Gate>,
    trimmer: tokio::task::AbortHandle,
    /// Set once the server is known to tell when a write is on disk.
    can_sync: OnceCell<()>,
}

pub(crate) struct Shared {
    pub(crate) link: Link,
    pub(crate) registry: Arc<Registry>,
    pub(crate) context: Context,
    written: Mutex<HashSet<TopicName>>,
}

impl Shared {
    /// Has what is settled of these topics removed in a while.
    pub(crate) fn wrote<'t>(&self, topics: impl Iterator<Item = &'t TopicName>) {
        let mut written = self.written.lock();
        for topic in topics {
            if !written.contains(topic) {
                written.insert(topic.clone());
            }
        }
    }
}

/// What sends share in their order.
pub(crate) struct Gate {
    pub(crate) order: Order,
    turn: u32,
}

impl fmt::Debug for StreamProducer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamProducer").field("link", &self.shared.link).finish_non_exhaustive()
    }
}

/// Where the topics of a batch are.
type Topics<'b> = HashMap<&'b TopicName, Result<Arc<TopicKeys>>>;
impl StreamProducer {
    pub(crate) async fn open(link: Link, registry: Arc<Registry>, context: Context) -> Result<Self> {
        link.connect().await?;
        let shared = Arc::new(Shared { link, registry, context, written: Mutex::default() });
        let trimmer = tokio::spawn(trim(shared.clone())).abort_handle();
        let gate = tokio::sync::Mutex::new(Gate { order: Order::default(), turn: fastrand::u32(..) });
        Ok(Self { shared, gate, trimmer, can_sync: OnceCell::new() })
    }

    /// Sends what has no verdict yet.
    async fn attempt(&self, batch: &[Outgoing], verdicts: &mut [Option<Result<Receipt>>]) {
        let link = &self.shared.link;
        let deadline = link.deadline();
        let mut gate = match link.soon(deadline, self.gate.lock()).await {
            Ok(gate) => gate,
            Err(error) => return fill(verdicts, &error),
        };
        let live = match link.soon(deadline, link.live()).await.and_then(|live| live) {
            Ok(live) => live,
            Err(error) => return fill(verdicts, &error),
        };
        self.check_synced(batch, verdicts).await;
        let topics = self.topics(batch, verdicts).await;
        let mut chunks = self.hand_over(&mut gate, &live, batch, &topics, verdicts);
        for chunk in &mut chunks {
            chunk.poll_once().await;
        }
        drop(gate);
        for chunk in chunks {
            chunk.finish(batch, verdicts).await;
        }
    }

    /// Passes if the server can tell when a write is on disk.
    pub(crate) async fn can_sync(&self) -> Result<()> {
        self.can_sync.get_or_try_init(|| synced::check(&self.shared.link)).await.map(drop)
    }

    /// Refuses what is to be on disk if the server has none to tell of.
    async fn check_synced(&self, batch: &[Outgoing], verdicts: &mut [Option<Result<Receipt>>]) {
        if !batch.iter().any(is_synced) {
            return;
        }
        let Err(error) = self.can_sync().await else { return };
        for (outgoing, verdict) in batch.iter().zip(verdicts) {
            if is_synced(outgoing) && verdict.is_none() {
                *verdict = Some(Err(error.duplicate()));
            }
        }
    }

    /// Finds the topics of a batch.
    async fn topics<'b>(&self, batch: &'b [Outgoing], verdicts: &[Option<Result<Receipt>>]) -> Topics<'b> {
        let mut found = Topics::new();
        let mut last: Option<&TopicName> = None;
        for (outgoing, verdict) in batch.iter().zip(verdicts) {
            let topic = &outgoing.topic;
            if verdict.is_some() || last == Some(topic) || found.contains_key(topic) {
                continue;
            }
            found.insert(topic, self.topic(topic).await);
            last = Some(topic);
        }
        self.shared.wrote(found.keys().copied());
        found
    }

    pub(crate) async fn topic(&self, topic: &TopicName) -> Result<Arc<TopicKeys>> {
        let Shared { link, registry, context, .. } = &*self.shared;
        if let Some(keys) = topology::find_topic(link, registry, topic).await? {
            return Ok(keys);
        }
        if topology::restore(link, registry, &context.events, topic).await?
            && let Some(keys) = topology::find_topic(link, registry, topic).await?
        {
            return Ok(keys);
        }
        Err(topology::no_topic(topic))
    }

    fn hand_over<'a>(
        &'a self,
        gate: &mut Gate,
        live: &Live,
        batch: &[Outgoing],
        topics: &Topics<'_>,
        verdicts: &mut [Option<Result<Receipt>>],
    ) -> Vec<Chunk<'a>> {
        let now = self.shared.context.clock.now();
        let mut last: Option<(&TopicName, &Arc<TopicKeys>)> = None;
        let mut chunks = Vec::with_capacity(1 + batch.len() / CHUNK.0);
        let mut pipeline = Pipeline::with_capacity(batch.len().min(CHUNK.0));
        let (mut places, mut bytes) = (Vec::with_capacity(batch.len().min(CHUNK.0)), 0);
        let mut sync = false;
        for (place, (outgoing, verdict)) in batch.iter().zip(verdicts).enumerate() {
            if verdict.is_some() {
                continue;
            }
            let keys = match last {
                Some((topic, keys)) if *topic == outgoing.topic => keys,
                _ => match topics.get(&outgoing.topic) {
                    Some(Ok(keys)) => last.insert((&outgoing.topic, keys)).1,
                    Some(Err(error)) => {
                        *verdict = Some(Err(error.duplicate()));
                        continue;
                    }
                    None => continue,
                },
            };
            if outgoing.message.headers.len() > MAX_HEADERS {
                *verdict = Some(Err(too_many_headers(outgoing.message.headers.len())));
                continue;
            }
            let partition = gate.partition(outgoing, keys);
            pipeline.add_command(gate.command(outgoing, keys, partition, now));
            places.push((place, partition));
            bytes += outgoing.message.size();
            sync |= is_synced(outgoing);
            if places.len() == CHUNK.0 || bytes >= CHUNK.1 {
                let full = (std::mem::take(&mut pipeline), std::mem::take(&mut places));
                chunks.push(self.chunk(live, full.0, full.1, sync));
                (bytes, sync) = (0, false);
            }
        }
        if !places.is_empty() {
            chunks.push(self.chunk(live, pipeline, places, sync));
        }
        chunks
    }

    fn chunk<'a>(
        &'a self,
        live: &Live,
        pipeline: Pipeline,
        places: Vec<(usize, u32)>,
        synced: bool,
    ) -> Chunk<'a> {
        let (link, live) = (&self.shared.link, live.clone());
        let send = async move {
            let replies = link.pipeline_on(live.clone(), &pipeline).await?;
            let on_disk = if synced { synced::wait(link, live).await } else { Ok(()) };
            Ok((replies, on_disk))
        };
        Chunk::new(Box::pin(send), places)
    }

    /// Makes topics again that were declared and are gone; returns whether a second try makes sense.
    async fn repair(&self, batch: &[Outgoing], verdicts: &mut [Option<Result<Receipt>>]) -> bool {
        let Shared { link, registry, context, .. } = &*self.shared;
        let mut repaired: HashMap<&TopicName, bool> = HashMap::new();
        for (outgoing, verdict) in batch.iter().zip(verdicts.iter_mut()) {
            if !matches!(verdict, Some(Err(error)) if error.kind() == ErrorKind::NotFound) {
                continue;
            }
            let topic = &outgoing.topic;
            if !repaired.contains_key(topic) {
                registry.forget(topic);
                let made = topology::restore(link, registry, &context.events, topic).await;
                repaired.insert(topic, matches!(made, Ok(true)));
            }
            if repaired.get(topic) == Some(&true) {
                *verdict = None;
            }
        }
        repaired.values().any(|repaired| *repaired)
    }
}

pub(crate) fn is_synced(outgoing: &Outgoing) -> bool {
    outgoing.terms.durability == Durability::Synced
}

pub(crate) fn too_many_headers(count: usize) -> Error {
    Error::new(
        ErrorKind::InvalidInput,
        format!("the message has {count} headers; Redis Streams takes at most {MAX_HEADERS}"),
    )
}

fn fill(verdicts: &mut [Option<Result<Receipt>>], error: &Error) {
    for verdict in verdicts.iter_mut().filter(|verdict| verdict.is_none()) {
        *verdict = Some(Err(error.duplicate()));
    }
}

impl Gate {
    pub(crate) fn partition(&mut self, outgoing: &Outgoing, keys: &TopicKeys) -> u32 {
        match &outgoing.message.key {
            _ if keys.partitions == 1 => 0,
            Some(key) => of_key(key, keys.partitions),
            None => {
                self.turn = self.turn.wrapping_add(1);
                self.turn % keys.partitions
            }
        }
    }

    fn command(&mut self, outgoing: &Outgoing, keys: &TopicKeys, partition: u32, now: Timestamp) -> Cmd {
        let (message, envelope) = (&outgoing.message, Envelope::default());
        let stream = &keys.streams[partition as usize];
        if let Some(at) = message.deliver_at
            && at.plus(SKEW) > now
        {
            let blob = codec::delayed(self.order.next(now), partition, message, &envelope);
            let mut cmd = Script::Delay.call_sized(&[stream, &keys.delayed], 2, blob.len() + 32);
            cmd.arg(score(at)).arg(blob);
            return cmd;
        }
        let (arguments, size) = codec::room(message);
        if outgoing.terms.require_group {
            let mut cmd = Script::Publish.call_sized(&[stream], arguments, size);
            codec::append(&mut cmd, message, &envelope);
            return cmd;
        }
        let mut cmd = Cmd::with_capacity(4 + arguments, stream.len() + 16 + size);
        cmd.arg("XADD").arg(stream).arg("NOMKSTREAM").arg("*");
        codec::append(&mut cmd, message, &envelope);
        cmd
    }
}

/// A due time as a ZSET's score, exact up to the year 287,396.
pub(crate) fn score(at: Timestamp) -> u64 {
    at.as_millis().min(1 << 53)
}

/// Removes what is settled from the topics that were written to, for topics without consumers.
async fn trim(shared: Arc<Shared>) {
    loop {
        tokio::time::sleep(TRIM_EVERY.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
        let topics = std::mem::take(&mut *shared.written.lock());
        for topic in topics {
            let trimmed = match topology::find_topic(&shared.link, &shared.registry, &topic).await {
                Ok(Some(keys)) => topology::trim(&shared.link, &keys).await,
                Ok(None) => Ok(()),
                Err(error) => Err(error),
            };
            if let Err(error) = trimmed {
                shared.context.events.failed("trim", &error.on_topic(&topic));
            }
        }
    }
}

#[async_trait]
impl Producer for StreamProducer {
    async fn send(&self, batch: Vec<Outgoing>) -> Vec<Result<Receipt>> {
        let mut verdicts: Vec<Option<Result<Receipt>>> = (0..batch.len()).map(|_| None).collect();
        self.attempt(&batch, &mut verdicts).await;
        let missing = |verdict: &Option<Result<Receipt>>| matches!(verdict, Some(Err(error)) if error.kind() == ErrorKind::NotFound);
        if verdicts.iter().any(missing) && self.repair(&batch, &mut verdicts).await {
            self.attempt(&batch, &mut verdicts).await;
        }
        let lost = || Err(unexpected("XADD").with_kind(ErrorKind::UnknownOutcome));
        verdicts.into_iter().map(|verdict| verdict.unwrap_or_else(lost)).collect()
    }

    async fn send_atomic(&self, batch: Vec<Outgoing>) -> Result<Vec<Receipt>> {
        self.send_all(&batch).await
    }

    async fn close(&self) {
        self.trimmer.abort();
        self.shared.link.close();
    }
}

impl Drop for StreamProducer {
    fn drop(&mut self) {
        self.trimmer.abort();
    }
}

//! Forwarding what is due: every process with a consumer does its share of the ladder.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use mq_core::envelope::{DELIVER_AT, TARGET};
use mq_core::ladder::{RUNGS, Step, step};
use mq_core::{Event, Result, Timestamp};
use parking_lot::{Condvar, Mutex};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, Rebalance};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedHeaders, BorrowedMessage, Headers as _, OwnedHeaders};
use rdkafka::topic_partition_list::Offset;
use rdkafka::{ClientContext, Message as _, TopicPartitionList};
use tokio::sync::oneshot;

use crate::codec::{Name, Record, Target, millis, parse_target, timestamp};
use crate::config::KafkaConfig;
use crate::connection::Inner;
use crate::error::{from_delivery, from_native};
use crate::link::Link;
use crate::native::{self, release};
use crate::rungs;
use crate::verdicts::Verdict;
use crate::waiting::{Fate, Held, Place, Waiting};

const IDLE: Duration = Duration::from_millis(50);
/// Records forwarded at a time.
const BATCH: usize = 1000;
/// Positions are committed this often.
const COMMIT: Duration = Duration::from_millis(200);
/// How long a partition that goes waits for records on their way.
const SETTLE: Duration = Duration::from_secs(2);
/// The pause after a record could not be forwarded, in milliseconds.
const RETRY: u64 = 200;

/// A record that waits on a rung.
struct Waiter {
    key: Option<Bytes>,
    payload: Bytes,
    headers: OwnedHeaders,
    target: String,
    deliver_at: Timestamp,
}

#[derive(Default)]
struct Hands {
    waiting: Mutex<Waiting<Waiter>>,
    settled: Condvar,
}

type Native = BaseConsumer<ForwardContext>;

/// The forwarder of a client, if it runs.
#[derive(Default)]
pub(crate) struct Forwarding(Mutex<Option<Running>>);

struct Running {
    stop: Arc<AtomicBool>,
    ended: oneshot::Receiver<()>,
}

impl Forwarding {
    /// Ends the forwarder; its share goes to others.
    pub(crate) async fn stop(&self) {
        let Some(running) = self.0.lock().take() else { return };
        running.stop.store(true, Ordering::Release);
        // Should it hang, its session ends by itself.
        drop(tokio::time::timeout(SETTLE + Duration::from_secs(5), running.ended).await);
    }
}

impl Inner {
    /// Makes sure that this client forwards.
    pub(crate) async fn forward(self: &Arc<Self>) -> Result<()> {
        self.ladder().await?;
        let mut running = self.forwarding.0.lock();
        if running.is_some() {
            return Ok(());
        }
        let native = join(self)?;
        let stop = Arc::new(AtomicBool::new(false));
        let (done, ended) = oneshot::channel();
        let (inner, stopped) = (Arc::downgrade(self), stop.clone());
        std::thread::Builder::new()
            .name("mq-kafka-forward".into())
            .spawn(move || {
                run(&inner, native, &stopped);
                // Nobody may be waiting.
                let _ = done.send(());
            })
            .map_err(|error| {
                mq_core::Error::new(mq_core::ErrorKind::Other, "no thread to forward on").with_source(error)
            })?;
        *running = Some(Running { stop, ended });
        Ok(())
    }
}

/// Makes a native consumer that takes its share of the ladder.
fn join(inner: &Inner) -> Result<Native> {
    let link = Link::new("forwarder", inner.context.events.clone());
    let context = ForwardContext { hands: Arc::default(), link };
    let native: Native =
        native_config(&inner.config).create_with_context(context).map_err(|error| from_native(&error))?;
    let topics = rungs::topics();
    let topics: Vec<&str> = topics.iter().map(String::as_str).collect();
    native.subscribe(&topics).map_err(|error| from_native(&error))?;
    Ok(native)
}

fn native_config(config: &KafkaConfig) -> rdkafka::ClientConfig {
    let session = config.session_timeout.min(Duration::from_secs(6));
    let mut native = config.native();
    native
        .set("group.id", rungs::GROUP)
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "earliest")
        .set("partition.assignment.strategy", "cooperative-sticky")
        .set("session.timeout.ms", session.as_millis().to_string())
        .set("heartbeat.interval.ms", (session / 12).as_millis().to_string())
        .set("fetch.queue.backoff.ms", "10")
        .set("fetch.wait.max.ms", "50")
        .set("fetch.message.max.bytes", "262144")
        .set("queued.max.messages.kbytes", "16384");
    native
}

fn run(inner: &Weak<Inner>, mut consumer: Native, stop: &AtomicBool) {
    let mut committed = Instant::now();
    while !stop.load(Ordering::Acquire) {
        let Some(inner) = inner.upgrade() else { break };
        if consumer.context().link.is_stranded() {
            match join(&inner) {
                Ok(fresh) => release(std::mem::replace(&mut consumer, fresh)),
                Err(error) => inner.context.events.failed("forward", &error),
            }
        }
        let hands = &consumer.context().hands;
        gather(&inner, &consumer, hands);
        forward(&inner, hands);
        flow(&consumer, hands);
        if committed.elapsed() >= COMMIT {
            committed = Instant::now();
            commit(&consumer, hands);
        }
    }
    let hands = consumer.context().hands.clone();
    let places = hands.waiting.lock().places();
    leave(&consumer, &hands, &places);
    if native::leave(&consumer) {
        native::see_off(&consumer, &rungs::topic(0), SETTLE);
    }
}

/// Takes what the broker has, until the next record is due.
fn gather(inner: &Inner, native: &Native, hands: &Hands) {
    let now = inner.context.clock.now().as_millis();
    let next = hands.waiting.lock().next_due();
    let mut patience = next.map_or(IDLE, |due| Duration::from_millis(due.saturating_sub(now)).min(IDLE));
    for _ in 0..BATCH {
        match native.poll(patience) {
            Some(Ok(record)) => take(inner, hands, &record),
            Some(Err(error)) => {
                tracing::debug!(target: "mq", %error, "the native forwarder reports an error");
                return;
            }
            None => return,
        }
        patience = Duration::ZERO;
    }
}

fn take(inner: &Inner, hands: &Hands, record: &BorrowedMessage<'_>) {
    let Some(rung) = rungs::topics().iter().position(|topic| topic == record.topic()) else { return };
    let place = (rung, record.partition());
    let put = timestamp(record).unwrap_or_else(|| inner.context.clock.now());
    let due = put.plus(RUNGS[rung]).as_millis();
    let bytes = record.payload_len() + record.key_len() + 256;
    let held = Held { offset: record.offset(), due, bytes, record: waiter(record) };
    hands.waiting.lock().add(place, held);
}

fn waiter(record: &BorrowedMessage<'_>) -> Waiter {
    let headers = record.headers().map_or_else(OwnedHeaders::default, BorrowedHeaders::detach);
    let value = |name: &str| {
        let found = headers.iter().find(|header| header.key == name).and_then(|header| header.value);
        found.and_then(|value| std::str::from_utf8(value).ok()).map(str::to_owned)
    };
    let target = value(TARGET).unwrap_or_default();
    let deliver_at =
        value(DELIVER_AT).and_then(|at| at.parse().ok()).map(Timestamp::from_millis).unwrap_or_default();
    Waiter {
        key: record.key().map(Bytes::copy_from_slice),
        payload: record.payload().map(Bytes::copy_from_slice).unwrap_or_default(),
        headers,
        target,
        deliver_at,
    }
}

/// Sends what is due one step on.
fn forward(inner: &Arc<Inner>, hands: &Arc<Hands>) {
    let now = inner.context.clock.now();
    let due = hands.waiting.lock().take_due(now.as_millis(), BATCH, |held| onward(&held.record, now));
    if due.is_empty() {
        return;
    }
    let (mut places, mut records) = (Vec::with_capacity(due.len()), Vec::with_capacity(due.len()));
    for (place, offset, record) in due {
        places.push((place, offset, Name::from(record.topic.as_str())));
        records.push(record);
    }
    let (hands, context) = (hands.clone(), inner.context.clone());
    inner.sender.enqueue(
        records,
        Box::new(move |verdicts| {
            let mut waiting = hands.waiting.lock();
            for ((place, offset, target), verdict) in places.into_iter().zip(verdicts) {
                let fate = fate(verdict, &target, &context);
                waiting.settle(place, offset, fate);
            }
            drop(waiting);
            hands.settled.notify_all();
        }),
    );
}

fn fate(verdict: Verdict, target: &str, context: &mq_core::driver::Context) -> Fate {
    let Verdict::Failed(code) = verdict else { return Fate::Done };
    let error = from_delivery(code);
    if matches!(error.kind(), mq_core::ErrorKind::NotFound | mq_core::ErrorKind::InvalidInput) {
        // The topic or group it was meant for was deleted.
        context.events.emit(Event::Lost { what: format!("a delayed message for {target}, which is gone") });
        return Fate::Done;
    }
    context.events.failed("forward", &error);
    Fate::Again(context.clock.now().as_millis() + RETRY)
}

fn onward(waiter: &Waiter, now: Timestamp) -> Record {
    let (target, partition) = parse_target(&waiter.target);
    let (topic, partition, headers) = match step(waiter.deliver_at.since(now)) {
        Step::Wait(rung) => (rungs::topic(rung), None, waiter.headers.clone()),
        Step::Deliver => (target.to_owned(), partition, rungs::without_target(&waiter.headers)),
    };
    Record {
        topic: Target::Derived(topic.into()),
        partition,
        key: waiter.key.clone(),
        payload: Some(waiter.payload.clone()),
        timestamp: Some(millis(now)),
        headers: Some(headers),
    }
}

/// Leaves with the broker what there is no room for.
fn flow(native: &Native, hands: &Hands) {
    let (pause, resume) = hands.waiting.lock().flow();
    let outcome = if pause.is_empty() { Ok(()) } else { native.pause(&list(&pause)) };
    let outcome =
        outcome.and_then(|()| if resume.is_empty() { Ok(()) } else { native.resume(&list(&resume)) });
    if let Err(error) = outcome {
        tracing::debug!(target: "mq", %error, "a partition of the ladder could not be paused or resumed");
    }
}

fn list(places: &[Place]) -> TopicPartitionList {
    let mut list = TopicPartitionList::with_capacity(places.len());
    for (rung, partition) in places {
        list.add_partition(&rungs::topic(*rung), *partition);
    }
    list
}

/// Commits the positions that moved; what fails goes with a later one.
fn commit(native: &Native, hands: &Hands) {
    let moved = hands.waiting.lock().commits();
    if moved.is_empty() {
        return;
    }
    if let Err(error) = native.commit(&positions(moved), CommitMode::Async) {
        tracing::debug!(target: "mq", %error, "positions on the ladder were not committed yet");
    }
}

/// Commits the positions of partitions that go. The native client sends it before it gives them up; nobody waits for the
/// answer, which never comes if the client has no broker left by then (librdkafka 2.12.1).
fn commit_all(native: &Native, hands: &Hands, places: &[Place]) {
    let last = hands.waiting.lock().positions(places);
    if last.is_empty() {
        return;
    }
    if let Err(error) = native.commit(&positions(last), CommitMode::Async) {
        tracing::debug!(target: "mq", %error, "positions on the ladder were not committed; records may be forwarded twice");
    }
}

fn positions(moved: Vec<(Place, i64)>) -> TopicPartitionList {
    let mut offsets = TopicPartitionList::with_capacity(moved.len());
    for ((rung, partition), offset) in moved {
        let mut element = offsets.add_partition(&rungs::topic(rung), partition);
        if let Err(error) = element.set_offset(Offset::Offset(offset)) {
            tracing::debug!(target: "mq", %error, "an offset the client does not take");
        }
    }
    offsets
}

/// Gives partitions back: waits for what is on its way, and commits.
fn leave(native: &Native, hands: &Hands, places: &[Place]) {
    let deadline = Instant::now() + SETTLE;
    {
        let mut waiting = hands.waiting.lock();
        waiting.stop(places);
        while waiting.is_moving(places) && !hands.settled.wait_until(&mut waiting, deadline).timed_out() {}
    }
    commit_all(native, hands, places);
    let paused = hands.waiting.lock().forget(places);
    if !paused.is_empty()
        && let Err(error) = native.resume(&list(&paused))
    {
        tracing::debug!(target: "mq", %error, "a partition of the ladder could not be resumed");
    }
}

struct ForwardContext {
    hands: Arc<Hands>,
    link: Link,
}

impl ClientContext for ForwardContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.link.log_line(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.link.error_event(&error, reason);
    }

    fn stats_raw(&self, statistics: &[u8]) {
        self.link.statistics(statistics);
    }
}

impl ConsumerContext for ForwardContext {
    fn pre_rebalance(&self, native: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        let Rebalance::Revoke(partitions) = rebalance else { return };
        let topics = rungs::topics();
        let place =
            |topic: &str, partition| Some((topics.iter().position(|known| known == topic)?, partition));
        let places: Vec<Place> = partitions
            .elements()
            .iter()
            .filter_map(|element| place(element.topic(), element.partition()))
            .collect();
        leave(native, &self.hands, &places);
    }
}

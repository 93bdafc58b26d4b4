//! The thread that drains the partitions' queues as far as there is room.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use mq_core::Position;
use mq_core::driver::{Incoming, Token};
use mq_core::envelope::{Envelope, InPlace};
use rdkafka::Message as _;
use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::BorrowedMessage;

use super::books::{Chunk, Ownership};
use super::{MemberContext, Shared, Source, partition_of};
use crate::codec::{Arena, decode_into};
use crate::producer::position;

/// Messages taken from one partition before the next has its turn.
const BURST: usize = 1024;
/// Room for the first messages of a burst.
const FIRST: usize = 128;
/// Bytes after which a burst ends.
const BURST_BYTES: usize = 1 << 20;
/// Wake-ups are edges and may be missed: look at all queues this often.
const IDLE: Duration = Duration::from_millis(100);

/// What the events thread tells the poll thread.
pub(super) enum Command {
    Add(Queue),
    /// Drops the queues of these lanes, then answers.
    Remove(Vec<Ownership>, mpsc::SyncSender<()>),
    Stop,
}

/// A partition's queue.
pub(super) struct Queue {
    pub(super) ownership: Ownership,
    pub(super) source: usize,
    pub(super) native: PartitionQueue<MemberContext>,
    /// There may be messages.
    pub(super) ready: Arc<AtomicBool>,
}

pub(super) fn run(shared: &Arc<Shared>, commands: &mpsc::Receiver<Command>) {
    *shared.poller.lock() = Some(std::thread::current());
    let mut queues: Vec<Queue> = Vec::new();
    let mut memory = Memory { arena: Arena::default(), spent: Vec::new() };
    loop {
        loop {
            match commands.try_recv() {
                Ok(Command::Add(queue)) => queues.push(queue),
                Ok(Command::Remove(lanes, done)) => {
                    queues.retain(|queue| !lanes.contains(&queue.ownership));
                    // The events thread may have stopped waiting.
                    let _ = done.send(());
                }
                Err(mpsc::TryRecvError::Empty) => break,
                Ok(Command::Stop) | Err(mpsc::TryRecvError::Disconnected) => return,
            }
        }
        let mut worked = false;
        for queue in &queues {
            worked |= drain(shared, queue, &mut memory);
        }
        if !worked {
            std::thread::park_timeout(IDLE);
            // Whoever wakes this thread has set a flag; a time-out looks everywhere.
            if !queues.iter().any(|queue| queue.ready.load(Ordering::Acquire)) {
                queues.iter().for_each(|queue| queue.ready.store(true, Ordering::Release));
            }
        }
    }
}

/// Takes a burst from a queue; returns whether there was anything.
fn drain(shared: &Shared, queue: &Queue, memory: &mut Memory) -> bool {
    if !queue.ready.load(Ordering::Acquire) {
        return false;
    }
    let mut room = shared.books.lock().room_of(queue.ownership);
    if room == 0 {
        shared.hungry.store(true, Ordering::Release);
        // Room that came before the flag was set woke nobody.
        room = shared.books.lock().room_of(queue.ownership);
        if room == 0 {
            return false;
        }
    }
    queue.ready.store(false, Ordering::Release);
    let source = &shared.sources[queue.source];
    if memory.spent.is_empty()
        && let Some(spent) = &shared.spent
    {
        memory.spent = spent.take();
    }
    let mut messages = Vec::new();
    let mut bytes = 0;
    let limit = room.min(BURST);
    while messages.len() < limit && bytes < BURST_BYTES {
        match queue.native.poll(Duration::ZERO) {
            None => break,
            Some(Ok(record)) => {
                if messages.is_empty() {
                    messages.reserve(limit.min(FIRST));
                }
                bytes += record.payload_len() + record.key_len();
                messages.push(incoming(queue, source, &record, memory));
            }
            Some(Err(error)) => recover(shared, queue, source, &error),
        }
    }
    if messages.is_empty() {
        return false;
    }
    if messages.len() == limit || bytes >= BURST_BYTES {
        queue.ready.store(true, Ordering::Release);
    }
    let (lane, epoch) = queue.ownership;
    shared.books.lock().add(Chunk::new(lane, epoch, messages, bytes));
    shared.changed.notify_all();
    true
}

/// Where messages are put.
struct Memory {
    arena: Arena,
    /// Messages that are done with, allocated by this thread.
    spent: Vec<Arc<Incoming>>,
}

impl Memory {
    /// Returns the place of a message that nobody has any more, or else a new one, for a message to
    /// be read into.
    fn place(&mut self, token: Token, subscription: usize, position: Option<Position>) -> Arc<Incoming> {
        while let Some(mut spent) = self.spent.pop() {
            if let Some(place) = Arc::get_mut(&mut spent) {
                InPlace::clear(&mut place.message, &mut place.envelope);
                place.token = token;
                place.subscription = subscription;
                place.redelivered = false;
                place.suspect = None;
                place.not_before = None;
                place.position = position;
                return spent;
            }
        }
        Arc::new(Incoming {
            token,
            subscription,
            redelivered: false,
            message: InPlace::blank(),
            envelope: Envelope::default(),
            suspect: None,
            not_before: None,
            position,
        })
    }
}

/// Reads a record into the place where it stays.
fn incoming(
    queue: &Queue,
    source: &Source,
    record: &BorrowedMessage<'_>,
    memory: &mut Memory,
) -> Arc<Incoming> {
    let (lane, epoch) = queue.ownership;
    let token = Token { lane, epoch, high: u64::try_from(record.offset()).unwrap_or(0), low: 0 };
    let position = position(record.partition(), record.offset());
    let mut incoming = memory.place(token, source.subscription, position);
    if let Some(Incoming { message, envelope, redelivered, .. }) = Arc::get_mut(&mut incoming) {
        decode_into(record, &source.topic, &mut memory.arena, message, envelope);
        *redelivered = source.inbox && envelope.first_seen.is_some();
    }
    incoming
}

/// Where the broker no longer has what comes next, the native client stops for good: the member begins
/// anew, and goes on with the oldest there is.
fn recover(shared: &Shared, queue: &Queue, source: &Source, error: &KafkaError) {
    let partition = partition_of(queue.ownership.0);
    if matches!(error.rdkafka_error_code(), Some(Code::AutoOffsetReset | Code::OffsetOutOfRange)) {
        *shared.removed.lock() = Some((queue.source, queue.ownership));
        shared.gone.store(true, Ordering::Release);
    }
    tracing::debug!(target: "mq", topic = %source.topic, partition, %error, "the native consumer reports an error");
}

//! The sending side of the runtime: a bounded queue and the task that empties it.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, TryAcquireError, oneshot, watch};

use crate::coalesce::{self, Next};
use crate::counters::Counters;
use crate::driver::{Budget, Outgoing, Producer};
use crate::error::{Error, ErrorKind, Result};
use crate::lone::{Lone, Place};
use crate::message::Receipt;
use crate::table::Label;

/// The most messages that single sends are joined to.
const BATCH: usize = 512;
/// Driver calls in flight at once.
const CALLS: usize = 16;

/// Permits for messages and bytes, returned when the send is answered.
#[derive(Debug)]
pub(crate) struct Permit {
    /// Where the send is counted.
    topic: Label,
    _messages: OwnedSemaphorePermit,
    _bytes: OwnedSemaphorePermit,
}

/// Singles are the common case and sit in the queue by value.
#[allow(clippy::large_enum_variant)]
#[derive(Debug)]
enum Entry {
    One(Outgoing, oneshot::Sender<Result<Receipt>>, Permit),
    Many(Vec<Outgoing>, oneshot::Sender<Vec<Result<Receipt>>>, Permit),
    Atomic(Vec<Outgoing>, oneshot::Sender<Result<Vec<Receipt>>>, Permit),
}

#[derive(Debug, Default)]
struct Queue {
    entries: VecDeque<Entry>,
    /// Driver calls under way.
    calls: usize,
    closed: bool,
}

impl Queue {
    /// Takes a batch, or singles up to a batch.
    fn take(&mut self) -> Option<Work> {
        let (first, caller) = match self.entries.pop_front()? {
            Entry::Many(outgoing, caller, permit) => return Some(Work::Many(outgoing, caller, permit)),
            Entry::Atomic(outgoing, caller, permit) => return Some(Work::Atomic(outgoing, caller, permit)),
            Entry::One(outgoing, caller, permit) => (outgoing, (caller, permit)),
        };
        let (mut batch, mut callers) = (vec![first], vec![caller]);
        while batch.len() < BATCH
            && let Some(Entry::One(..)) = self.entries.front()
            && let Some(Entry::One(outgoing, caller, permit)) = self.entries.pop_front()
        {
            batch.push(outgoing);
            callers.push((caller, permit));
        }
        Some(Work::Singles(batch, callers))
    }
}

/// The queue of a client's sends.
#[derive(Debug)]
pub(crate) struct Outbox {
    queue: Mutex<Queue>,
    /// The call of a send that came alone.
    pub(crate) lone: Place,
    producer: Arc<dyn Producer>,
    wake: Notify,
    messages: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    window: Budget,
    done: watch::Sender<bool>,
    counters: Arc<Counters>,
    backend: &'static str,
}

fn closed() -> Error {
    Error::new(ErrorKind::Closed, "the client was closed; the message was not sent")
}

impl Outbox {
    pub(crate) fn start(
        producer: Arc<dyn Producer>,
        window: Budget,
        counters: Arc<Counters>,
        backend: &'static str,
    ) -> Arc<Self> {
        let outbox = Arc::new(Self {
            queue: Mutex::default(),
            lone: Place::default(),
            producer,
            wake: Notify::new(),
            messages: Arc::new(Semaphore::new(window.messages)),
            bytes: Arc::new(Semaphore::new(window.bytes)),
            window,
            done: watch::channel(false).0,
            counters,
            backend,
        });
        tokio::spawn(run(outbox.clone()));
        outbox
    }

    /// Waits for room in the window.
    pub(crate) async fn permit(&self, topic: Label, messages: usize, bytes: usize) -> Result<Permit> {
        match self.take_room(topic, messages, bytes) {
            Ok(permit) => return Ok(permit),
            Err(TryAcquireError::Closed) => return Err(closed()),
            // A send that its caller does not poll may have the room.
            Err(TryAcquireError::NoPermits) => self.nudge(),
        }
        let (messages, bytes) = self.clamp(messages, bytes);
        let permit = |semaphore: &Arc<Semaphore>, many| semaphore.clone().acquire_many_owned(many);
        Ok(Permit {
            topic,
            _messages: permit(&self.messages, messages).await.map_err(|_| closed())?,
            _bytes: permit(&self.bytes, bytes).await.map_err(|_| closed())?,
        })
    }

    /// Takes room in the window if there is some.
    pub(crate) fn try_permit(&self, topic: Label, messages: usize, bytes: usize) -> Result<Permit> {
        self.take_room(topic, messages, bytes).map_err(|error| match error {
            TryAcquireError::Closed => closed(),
            TryAcquireError::NoPermits => Error::new(
                ErrorKind::Full,
                "the in-flight window is full; wait for earlier sends, or use `send`",
            ),
        })
    }

    fn take_room(
        &self,
        topic: Label,
        messages: usize,
        bytes: usize,
    ) -> std::result::Result<Permit, TryAcquireError> {
        let (messages, bytes) = self.clamp(messages, bytes);
        Ok(Permit {
            topic,
            _messages: self.messages.clone().try_acquire_many_owned(messages)?,
            _bytes: self.bytes.clone().try_acquire_many_owned(bytes)?,
        })
    }

    /// A batch larger than the window takes all of it.
    fn clamp(&self, messages: usize, bytes: usize) -> (u32, u32) {
        let clamp = |asked: usize, window: usize| u32::try_from(asked.min(window)).unwrap_or(u32::MAX);
        (clamp(messages, self.window.messages), clamp(bytes, self.window.bytes))
    }

    pub(crate) fn push(&self, outgoing: Outgoing, permit: Permit) -> oneshot::Receiver<Result<Receipt>> {
        let (caller, answer) = oneshot::channel();
        self.enqueue(Entry::One(outgoing, caller, permit));
        answer
    }

    pub(crate) fn push_many(
        &self,
        outgoing: Vec<Outgoing>,
        permit: Permit,
    ) -> oneshot::Receiver<Vec<Result<Receipt>>> {
        let (caller, answer) = oneshot::channel();
        self.enqueue(Entry::Many(outgoing, caller, permit));
        answer
    }

    pub(crate) fn push_atomic(
        &self,
        outgoing: Vec<Outgoing>,
        permit: Permit,
    ) -> oneshot::Receiver<Result<Vec<Receipt>>> {
        let (caller, answer) = oneshot::channel();
        self.enqueue(Entry::Atomic(outgoing, caller, permit));
        answer
    }

    /// Sends a message whose caller waits for the answer; with nothing else under way the caller
    /// makes the driver's call.
    pub(crate) fn send(self: &Arc<Self>, outgoing: Outgoing, permit: Permit) -> Lone<'_> {
        let (caller, answer) = oneshot::channel();
        let mut queue = self.queue.lock();
        if queue.calls > 0 || queue.closed || !queue.entries.is_empty() {
            drop(queue);
            self.enqueue(Entry::One(outgoing, caller, permit));
            return Lone::new(self, None, answer);
        }
        queue.calls = 1;
        let work = Work::Singles(vec![outgoing], vec![(caller, permit)]);
        // Put there under the lock: whoever is queued next finds it.
        let driven = self.lone.put(Box::pin(send(self.clone(), work)));
        drop(queue);
        Lone::new(self, Some(driven), answer)
    }

    fn enqueue(&self, entry: Entry) {
        let mut queue = self.queue.lock();
        if queue.closed {
            // The answer's sender is dropped: the caller reads `closed`.
            return;
        }
        queue.entries.push_back(entry);
        drop(queue);
        self.nudge();
    }

    /// Wakes the task: there is something to send, or a call to take over.
    pub(crate) fn nudge(&self) {
        self.wake.notify_one();
    }

    /// Refuses new sends and lets those under way end.
    pub(crate) fn close(&self) {
        self.queue.lock().closed = true;
        self.messages.close();
        self.bytes.close();
        self.nudge();
    }

    /// Returns when every send was answered and the producer closed.
    pub(crate) async fn closed(&self) {
        let mut done = self.done.subscribe();
        // The sender is in `self`, so it outlives the wait.
        drop(done.wait_for(|done| *done).await);
    }

    /// Returns how many messages are not answered.
    pub(crate) fn pending(&self) -> usize {
        self.window.messages.saturating_sub(self.messages.available_permits())
    }

    fn next(self: &Arc<Self>) -> Next {
        if let Some(call) = self.lone.claim() {
            return Next::Call(call);
        }
        let mut queue = self.queue.lock();
        match queue.take() {
            Some(work) => {
                queue.calls += 1;
                Next::Call(Box::pin(send(self.clone(), work)))
            }
            // A call that its caller polls right now is claimed when it is put back.
            None if queue.closed && queue.calls == 0 => Next::Closed,
            None => Next::Empty,
        }
    }

    /// Ends a call in the books.
    fn ended(&self) {
        let mut queue = self.queue.lock();
        queue.calls -= 1;
        if queue.closed {
            self.nudge();
        }
    }

    /// Counts verdicts, each with its topic: once for each run of the same topic.
    fn count<'a>(&self, mut verdicts: impl Iterator<Item = (Label, &'a Result<Receipt>)>) {
        let Some((mut topic, first)) = verdicts.next() else { return };
        let mut tally = Tally::default();
        tally.add(first);
        for (next, verdict) in verdicts {
            if next != topic {
                std::mem::take(&mut tally).tell(&self.counters, topic);
                topic = next;
            }
            tally.add(verdict);
        }
        tally.tell(&self.counters, topic);
    }

    /// Counts a transaction.
    fn count_atomic(&self, topics: &[(Label, u64)], verdict: &Result<Vec<Receipt>>) {
        for &(topic, many) in topics {
            let (sent, unknown, rejected) = match verdict {
                Ok(_) => (many, 0, 0),
                Err(error) if error.is_unknown_outcome() => (0, many, 0),
                Err(_) => (0, 0, many),
            };
            self.counters.add_sent(topic, sent, unknown, rejected);
        }
    }

    /// Returns where the messages of a transaction are counted, each run of a topic once.
    fn runs(&self, batch: &[Outgoing]) -> Vec<(Label, u64)> {
        let runs = batch.chunk_by(|one, next| one.topic == next.topic);
        runs.map(|run| (self.counters.topic(&run[0].topic), run.len() as u64)).collect()
    }
}

/// Verdicts on sends to one topic.
#[derive(Default)]
struct Tally {
    sent: u64,
    unknown: u64,
    rejected: u64,
}

impl Tally {
    fn add(&mut self, verdict: &Result<Receipt>) {
        match verdict {
            Ok(_) => self.sent += 1,
            Err(error) if error.is_unknown_outcome() => self.unknown += 1,
            Err(_) => self.rejected += 1,
        }
    }

    fn tell(self, counters: &Counters, topic: Label) {
        counters.add_sent(topic, self.sent, self.unknown, self.rejected);
    }
}

enum Work {
    Singles(Vec<Outgoing>, Vec<(oneshot::Sender<Result<Receipt>>, Permit)>),
    Many(Vec<Outgoing>, oneshot::Sender<Vec<Result<Receipt>>>, Permit),
    Atomic(Vec<Outgoing>, oneshot::Sender<Result<Vec<Receipt>>>, Permit),
}

async fn run(outbox: Arc<Outbox>) {
    coalesce::pump(&outbox.wake, CALLS, || outbox.next()).await;
    outbox.producer.close().await;
    outbox.done.send_replace(true);
}

/// Makes a driver call and answers its callers.
async fn send(outbox: Arc<Outbox>, work: Work) {
    let context = |verdict: Result<Receipt>| verdict.map_err(|error| error.during(outbox.backend, "send"));
    // Callers that dropped their futures lose only the answer.
    match work {
        Work::Singles(batch, callers) => {
            let verdicts = outbox.producer.send(batch).await;
            outbox.ended();
            outbox.count(callers.iter().map(|(_, permit)| permit.topic).zip(&verdicts));
            for ((caller, permit), verdict) in callers.into_iter().zip(verdicts) {
                // Who reads the answer finds room for the next.
                drop(permit);
                drop(caller.send(context(verdict)));
            }
        }
        Work::Many(batch, caller, permit) => {
            let mut verdicts = outbox.producer.send(batch).await;
            outbox.ended();
            outbox.count(verdicts.iter().map(|verdict| (permit.topic, verdict)));
            if verdicts.iter().any(Result::is_err) {
                verdicts = verdicts.into_iter().map(context).collect();
            }
            drop(permit);
            drop(caller.send(verdicts));
        }
        Work::Atomic(batch, caller, permit) => {
            let topics = outbox.runs(&batch);
            let verdict = outbox.producer.send_atomic(batch).await;
            outbox.ended();
            outbox.count_atomic(&topics, &verdict);
            drop(permit);
            drop(caller.send(verdict));
        }
    }
}

/// What a caller reads whose send was still queued when the client closed.
pub(crate) fn unsent() -> Error {
    closed()
}

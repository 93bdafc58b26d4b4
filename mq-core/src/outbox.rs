//! The sending side of the runtime: a bounded queue and the task that empties it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot, watch};

use crate::coalesce::{self, Next};
use crate::counters::Counters;
use crate::driver::{Budget, Outgoing, Producer};
use crate::error::{Error, ErrorKind, Result};
use crate::message::Receipt;

/// The most messages that single sends are joined to.
const BATCH: usize = 512;
/// Driver calls in flight at once.
const CALLS: usize = 16;

/// Permits for messages and bytes, returned when the send is answered.
#[derive(Debug)]
pub(crate) struct Permit {
    _messages: OwnedSemaphorePermit,
    _bytes: OwnedSemaphorePermit,
}

/// Singles are the common case and sit in the queue by value.
#[allow(clippy::large_enum_variant)]
#[derive(Debug)]
enum Entry {
    One(Outgoing, oneshot::Sender<Result<Receipt>>, Permit),
    Many(Vec<Outgoing>, oneshot::Sender<Vec<Result<Receipt>>>, Permit),
}

#[derive(Debug, Default)]
struct Queue {
    entries: VecDeque<Entry>,
    closed: bool,
}

/// The queue of a client's sends.
#[derive(Debug)]
pub(crate) struct Outbox {
    queue: Mutex<Queue>,
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
            wake: Notify::new(),
            messages: Arc::new(Semaphore::new(window.messages)),
            bytes: Arc::new(Semaphore::new(window.bytes)),
            window,
            done: watch::Sender::new(false),
            counters,
            backend,
        });
        tokio::spawn(run(outbox.clone(), producer));
        outbox
    }

    /// Waits for room in the window.
    pub(crate) async fn permit(&self, messages: usize, bytes: usize) -> Result<Permit> {
        let (messages, bytes) = self.clamp(messages, bytes);
        let permit = |semaphore: &Arc<Semaphore>, many| semaphore.clone().acquire_many_owned(many);
        Ok(Permit {
            _messages: permit(&self.messages, messages).await.map_err(|_| closed())?,
            _bytes: permit(&self.bytes, bytes).await.map_err(|_| closed())?,
        })
    }

    /// Takes room in the window if there is some.
    pub(crate) fn try_permit(&self, messages: usize, bytes: usize) -> Result<Permit> {
        let (messages, bytes) = self.clamp(messages, bytes);
        let permit = |semaphore: &Arc<Semaphore>, many| {
            semaphore.clone().try_acquire_many_owned(many).map_err(|error| match error {
                tokio::sync::TryAcquireError::Closed => closed(),
                tokio::sync::TryAcquireError::NoPermits => Error::new(
                    ErrorKind::Full,
                    "the in-flight window is full; wait for earlier sends, or use `send`",
                ),
            })
        };
        Ok(Permit { _messages: permit(&self.messages, messages)?, _bytes: permit(&self.bytes, bytes)? })
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

    fn enqueue(&self, entry: Entry) {
        let mut queue = self.queue.lock();
        if queue.closed {
            // The answer's sender is dropped: the caller reads `closed`.
            return;
        }
        queue.entries.push_back(entry);
        drop(queue);
        self.wake.notify_one();
    }

    /// Refuses new sends and lets those under way end.
    pub(crate) fn close(&self) {
        self.queue.lock().closed = true;
        self.messages.close();
        self.bytes.close();
        self.wake.notify_one();
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

    fn next(&self) -> Next<Work> {
        let mut queue = self.queue.lock();
        let Some(first) = queue.entries.pop_front() else {
            return if queue.closed { Next::Closed } else { Next::Empty };
        };
        match first {
            Entry::Many(outgoing, caller, permit) => Next::Batch(Work::Many(outgoing, caller, permit)),
            Entry::One(outgoing, caller, permit) => {
                let mut batch = vec![outgoing];
                let mut callers = vec![(caller, permit)];
                while batch.len() < BATCH
                    && let Some(Entry::One(..)) = queue.entries.front()
                    && let Some(Entry::One(outgoing, caller, permit)) = queue.entries.pop_front()
                {
                    batch.push(outgoing);
                    callers.push((caller, permit));
                }
                Next::Batch(Work::Singles(batch, callers))
            }
        }
    }

    fn count(&self, verdicts: &[Result<Receipt>]) {
        let (mut sent, mut unknown) = (0, 0);
        for verdict in verdicts {
            match verdict {
                Ok(_) => sent += 1,
                Err(error) => unknown += u64::from(error.is_unknown_outcome()),
            }
        }
        self.counters.sent.fetch_add(sent, Ordering::Relaxed);
        self.counters.unknown.fetch_add(unknown, Ordering::Relaxed);
        self.counters.rejected.fetch_add(verdicts.len() as u64 - sent - unknown, Ordering::Relaxed);
    }
}

enum Work {
    Singles(Vec<Outgoing>, Vec<(oneshot::Sender<Result<Receipt>>, Permit)>),
    Many(Vec<Outgoing>, oneshot::Sender<Vec<Result<Receipt>>>, Permit),
}

async fn run(outbox: Arc<Outbox>, producer: Arc<dyn Producer>) {
    coalesce::pump(
        &outbox.wake,
        CALLS,
        || outbox.next(),
        |work| send(outbox.clone(), producer.clone(), work),
    )
    .await;
    producer.close().await;
    outbox.done.send_replace(true);
}

async fn send(outbox: Arc<Outbox>, producer: Arc<dyn Producer>, work: Work) {
    let backend = outbox.backend;
    let context = |verdict: Result<Receipt>| verdict.map_err(|error| error.during(backend, "send"));
    // Callers that dropped their futures lose only the answer.
    match work {
        Work::Singles(batch, callers) => {
            let verdicts = producer.send(batch).await;
            outbox.count(&verdicts);
            for ((caller, _permit), verdict) in callers.into_iter().zip(verdicts) {
                drop(caller.send(context(verdict)));
            }
        }
        Work::Many(batch, caller, _permit) => {
            let mut verdicts = producer.send(batch).await;
            outbox.count(&verdicts);
            if verdicts.iter().any(Result::is_err) {
                verdicts = verdicts.into_iter().map(context).collect();
            }
            drop(caller.send(verdicts));
        }
    }
}

/// What a caller reads whose send was still queued when the client closed.
pub(crate) fn unsent() -> Error {
    closed()
}

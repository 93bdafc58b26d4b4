//! A channel in confirm mode and the one task that publishes on it.
//!
//! The native client numbers its confirms in the order in which publishes are first polled, and
//! mixes them up when several tasks do that on one channel. So each channel belongs to one task:
//! it starts a parcel's publishes one after the other, and what follows is only waiting.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lapin::options::{ConfirmSelectOptions, ExchangeDeclareOptions};
use lapin::types::{FieldTable, ShortString};
use lapin::{Channel, ExchangeKind};
use mq_core::{Error, ErrorKind, Result};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};

use crate::codec::{Publication, header_bytes};
use crate::connection::Link;
use crate::error::{closed, from_native, is_missing};
use crate::flight::{Flight, Slot};

/// How a channel is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Parcel follows parcel within the window; what reaches no queue is well.
    Pipelined,
    /// A parcel is confirmed before the next is begun, so that what the broker returns can be told
    /// apart: the native client hands returned messages to the wrong confirms of one window.
    Checked,
}

/// How long a channel may take to close.
const GOODBYE: Duration = Duration::from_secs(1);

/// Verdicts, one per publication, in order.
pub(crate) type Verdicts = Vec<Result<()>>;

struct Parcel {
    items: Vec<Publication>,
    deadline: Instant,
    reply: oneshot::Sender<Verdicts>,
}

/// A handle to the task.
#[derive(Debug)]
pub(crate) struct Publisher {
    parcels: Mutex<Option<mpsc::UnboundedSender<Parcel>>>,
    task: Mutex<Option<JoinHandle<()>>>,
    size: usize,
    within: Duration,
}

impl Publisher {
    /// Starts the task. At most `size` messages are unconfirmed; a verdict comes within `within`.
    pub(crate) fn start(link: Arc<Link>, mode: Mode, size: usize, within: Duration) -> Self {
        let (sender, parcels) = mpsc::unbounded_channel();
        let window = Arc::new(Semaphore::new(size));
        let worker = Worker { link, mode, window, size, channel: None };
        let task = tokio::spawn(worker.run(parcels));
        Self { parcels: Mutex::new(Some(sender)), task: Mutex::new(Some(task)), size, within }
    }

    /// Returns the most publications a parcel may have.
    pub(crate) fn parcel_limit(&self) -> usize {
        self.size.div_ceil(2)
    }

    /// Queues publications; they are published in the order of the calls, cancelled or not.
    pub(crate) fn post(&self, items: Vec<Publication>) -> oneshot::Receiver<Verdicts> {
        let (reply, verdicts) = oneshot::channel();
        let parcel = Parcel { items, deadline: Instant::now() + self.within, reply };
        if let Some(Err(refused)) = self.parcels.lock().as_ref().map(|parcels| parcels.send(parcel)) {
            refused.0.refuse(&closed());
        }
        verdicts
    }

    /// Publishes any number of publications and returns their verdicts.
    pub(crate) async fn publish(&self, items: Vec<Publication>) -> Verdicts {
        let count = items.len();
        let mut posted = Vec::new();
        let mut items = items.into_iter().peekable();
        while items.peek().is_some() {
            let parcel: Vec<_> = items.by_ref().take(self.parcel_limit()).collect();
            posted.push((parcel.len(), self.post(parcel)));
        }
        let mut verdicts = Vec::with_capacity(count);
        for (count, reply) in posted {
            verdicts.extend(awaited(reply, count).await);
        }
        verdicts
    }

    /// Takes no more, and waits until what was taken is confirmed or failed.
    pub(crate) async fn close(&self) {
        drop(self.parcels.lock().take());
        let task = self.task.lock().take();
        let flushed = timeout(self.within + self.within, async {
            if let Some(task) = task {
                // A panic in the task was reported where it happened.
                drop(task.await);
            }
        });
        if flushed.await.is_err() {
            tracing::warn!(target: "mq", "closed with unconfirmed messages");
        }
    }
}

/// Waits for the verdicts of `count` publications.
pub(crate) async fn awaited(reply: oneshot::Receiver<Verdicts>, count: usize) -> Verdicts {
    match reply.await {
        Ok(verdicts) => verdicts,
        Err(_) => (0..count).map(|_| Err(closed())).collect(),
    }
}

impl Parcel {
    fn refuse(self, error: &Error) {
        let verdicts = self.items.iter().map(|_| Err(error.duplicate())).collect();
        // Whoever sent it may have stopped waiting.
        drop(self.reply.send(verdicts));
    }
}

struct Worker {
    link: Arc<Link>,
    mode: Mode,
    window: Arc<Semaphore>,
    size: usize,
    channel: Option<Open>,
}

impl Worker {
    async fn run(mut self, mut parcels: mpsc::UnboundedReceiver<Parcel>) {
        while let Some(parcel) = parcels.recv().await {
            self.serve(parcel).await;
        }
        let most = u32::try_from(self.size).unwrap_or(u32::MAX);
        drop(self.window.acquire_many(most).await);
        self.leave().await;
    }

    async fn leave(&mut self) {
        if let Some(open) = self.channel.take().filter(|open| open.channel.status().connected()) {
            let left = timeout(GOODBYE, open.channel.close(200, "closed".into())).await;
            tracing::trace!(target: "mq", ?left, "closed a publishing channel");
        }
    }

    async fn serve(&mut self, parcel: Parcel) {
        let deadline = parcel.deadline;
        let count = u32::try_from(parcel.items.len()).unwrap_or(u32::MAX);
        let permits = self.window.clone().acquire_many_owned(count);
        let Ok(Ok(permits)) = timeout_at(deadline, permits).await else {
            return parcel.refuse(&full());
        };
        let alone = self.window.available_permits() + 1 == self.size;
        let mut open = match self.open(deadline).await {
            Ok(open) => open,
            Err(error) => return parcel.refuse(&error),
        };
        let limit = self.link.header_limit();
        let Parcel { items, reply, .. } = parcel;
        let mut slots = Vec::with_capacity(items.len());
        for item in items {
            slots.push(match open.check(&item, limit, &self.link, deadline).await {
                Ok(()) => open.begin(item),
                Err(error) => Slot::refused(error),
            });
        }
        let flight = Flight::new(slots, alone, &open.published);
        self.channel = Some(open);
        match self.mode {
            Mode::Checked => {
                if !flight.land(deadline, reply, permits).await {
                    // What the broker still returns belongs to messages that were given up.
                    self.leave().await;
                }
            }
            Mode::Pipelined => {
                tokio::spawn(flight.land(deadline, reply, permits));
            }
        }
    }

    /// Takes the open channel, or opens one.
    async fn open(&mut self, deadline: Instant) -> Result<Open> {
        if let Some(open) = self.channel.take().filter(|open| open.channel.status().connected()) {
            return Ok(open);
        }
        let channel = self.link.channel(Some(deadline)).await?;
        match timeout_at(deadline, channel.confirm_select(ConfirmSelectOptions::default())).await {
            Ok(selected) => selected.map_err(from_native)?,
            Err(_) => return Err(full()),
        }
        Ok(Open { channel: Arc::new(channel), published: Arc::default(), known: HashSet::new() })
    }
}

/// An open channel.
struct Open {
    channel: Arc<Channel>,
    /// How many messages were published on it.
    published: Arc<AtomicU64>,
    /// The exchanges that were there when they were looked for.
    known: HashSet<ShortString>,
}

impl Open {
    /// Finds out what can be known before a publication: a publish to a missing exchange would
    /// close the channel and leave the fate of all others on it open.
    async fn check(
        &mut self,
        item: &Publication,
        limit: usize,
        link: &Link,
        deadline: Instant,
    ) -> Result<()> {
        let bytes = header_bytes(&item.properties);
        if bytes > limit {
            let text = format!("the headers have about {bytes} bytes; the broker takes {limit}");
            return Err(Error::new(ErrorKind::InvalidInput, text));
        }
        if item.exchange.as_str().is_empty() || self.known.contains(&item.exchange) {
            return Ok(());
        }
        let probe = link.channel(Some(deadline)).await?;
        let options = ExchangeDeclareOptions { passive: true, ..ExchangeDeclareOptions::default() };
        let kind = ExchangeKind::Topic;
        let asked = probe.exchange_declare(item.exchange.clone(), kind, options, FieldTable::default());
        let answer = timeout_at(deadline, asked).await;
        if probe.status().connected() {
            drop(timeout_at(deadline, probe.close(200, "done".into())).await);
        }
        match answer {
            Ok(Ok(())) => {
                self.known.insert(item.exchange.clone());
                Ok(())
            }
            Ok(Err(error)) if is_missing(&error) => Err(Error::new(
                ErrorKind::NotFound,
                format!("there is no topic {:?}", item.exchange.as_str()),
            )),
            Ok(Err(error)) => Err(from_native(error)),
            Err(_) => Err(full()),
        }
    }

    fn begin(&self, item: Publication) -> Slot {
        self.published.fetch_add(1, Ordering::Relaxed);
        Slot::begin(self.channel.clone(), item)
    }
}

/// The error of a message that was not handed to the broker in time.
fn full() -> Error {
    Error::new(ErrorKind::Timeout, "the broker confirms too slowly; the message was not sent")
}

//! A channel in confirm mode, and the order in which it publishes.
//!
//! The native client numbers its confirms in the order in which publishes are first polled, and
//! mixes them up when several tasks do that on one channel. So a parcel is begun whole, by whoever
//! posts it if nothing is before it and nothing is to be waited for, else by the channel's task. What
//! follows is only waiting.

mod open;

use std::sync::Arc;
use std::time::Duration;

use lapin::options::ConfirmSelectOptions;
use lapin::types::ShortString;
use mq_core::{Error, ErrorKind, Result};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};

use crate::codec::{Publication, header_bytes};
use crate::connection::Link;
use crate::error::{closed, from_native};
use crate::flight::{Flight, Slot};
use crate::topology::Topology;
use open::Open;

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

/// A parcel that was posted.
pub(crate) enum Posted {
    /// It is under way, and whoever has it waits for the confirms.
    Flying(Flight),
    /// So many publications are in the hands of the channel's task.
    Queued(usize, oneshot::Receiver<Verdicts>),
}

impl Posted {
    /// Waits for the verdicts.
    pub(crate) async fn verdicts(self) -> Verdicts {
        match self {
            Self::Flying(flight) => flight.land().await,
            Self::Queued(count, reply) => match reply.await {
                Ok(verdicts) => verdicts,
                Err(_) => (0..count).map(|_| Err(closed())).collect(),
            },
        }
    }

    /// Has a task wait for the confirms, so that each parcel makes room as soon as it is confirmed.
    pub(crate) fn apart(self) -> Self {
        let Self::Flying(flight) = self else { return self };
        let (reply, verdicts) = oneshot::channel();
        let count = flight.len();
        tokio::spawn(land(flight, reply));
        Self::Queued(count, verdicts)
    }
}

async fn land(flight: Flight, reply: oneshot::Sender<Verdicts>) {
    // Whoever sent it may have stopped waiting.
    drop(reply.send(flight.land().await));
}

/// A channel, made when it is needed.
pub(crate) struct Publisher {
    front: Arc<Front>,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl std::fmt::Debug for Publisher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Publisher").field("size", &self.front.size).finish_non_exhaustive()
    }
}

/// What those who post and the task share.
struct Front {
    link: Arc<Link>,
    /// Looks for exchanges, and knows routes.
    topology: Arc<Topology>,
    mode: Mode,
    window: Arc<Semaphore>,
    size: usize,
    within: Duration,
    state: Mutex<State>,
}

struct State {
    /// To the task; gone when the publisher is closed.
    parcels: Option<mpsc::UnboundedSender<Parcel>>,
    /// How many parcels the task has and has not begun.
    queued: usize,
    open: Option<Open>,
}

impl Publisher {
    /// Starts the task, which publishes on the link. At most `size` messages are unconfirmed; a verdict comes within
    /// `within`.
    pub(crate) fn start(
        link: &Arc<Link>,
        topology: &Arc<Topology>,
        mode: Mode,
        size: usize,
        within: Duration,
    ) -> Self {
        let (sender, parcels) = mpsc::unbounded_channel();
        let window = Arc::new(Semaphore::new(size));
        let state = Mutex::new(State { parcels: Some(sender), queued: 0, open: None });
        let (link, topology) = (link.clone(), topology.clone());
        let front = Arc::new(Front { link, topology, mode, window, size, within, state });
        let task = tokio::spawn(front.clone().run(parcels));
        Self { front, task: Mutex::new(Some(task)) }
    }

    /// Returns the most publications a parcel may have.
    pub(crate) fn parcel_limit(&self) -> usize {
        self.front.size.div_ceil(2)
    }

    /// Begins or queues publications; they are published in the order of the calls, cancelled or not.
    pub(crate) fn post(&self, items: Vec<Publication>) -> Posted {
        let front = &self.front;
        let count = items.len();
        let deadline = Instant::now() + front.within;
        let (reply, verdicts) = oneshot::channel();
        let mut state = front.state.lock();
        let State { parcels: Some(parcels), queued, open } = &mut *state else {
            return Posted::Queued(count, verdicts);
        };
        if *queued == 0
            && let Some(open) = open.as_ref().filter(|open| open.is_live() && open.knows(&items))
            && let Some(permits) = front.room(&items)
        {
            return Posted::Flying(front.begin(open, items, &[], deadline, permits));
        }
        *queued += 1;
        if let Err(refused) = parcels.send(Parcel { items, deadline, reply }) {
            refused.0.refuse(&closed());
        }
        Posted::Queued(count, verdicts)
    }

    /// Publishes some publications and returns their verdicts.
    pub(crate) async fn publish(&self, items: Vec<Publication>) -> Verdicts {
        let mut posted = Vec::new();
        let mut items = items.into_iter().peekable();
        while items.peek().is_some() {
            posted.push(self.post(items.by_ref().take(self.parcel_limit()).collect()));
        }
        let mut verdicts = Verdicts::new();
        for posted in posted {
            verdicts.extend(posted.verdicts().await);
        }
        verdicts
    }

    /// Publishes `count` publications, parcel after parcel, and returns the verdicts. Each is made when the parcels
    /// before it are confirmed, so that it may depend on the time; once a parcel was not confirmed in time the others
    /// are not sent.
    pub(crate) async fn publish_each(
        &self,
        count: usize,
        make: impl Fn(usize) -> Result<Publication>,
    ) -> Verdicts {
        let mut verdicts = Verdicts::with_capacity(count);
        let mut in_time = true;
        while verdicts.len() < count {
            let first = verdicts.len();
            if !in_time {
                verdicts.resize_with(count, || Err(full()));
                break;
            }
            let mut items = Vec::with_capacity(self.parcel_limit());
            for index in first..count.min(first + self.parcel_limit()) {
                // What could not be made has its verdict; the others get theirs below.
                verdicts.push(make(index).map(|item| items.push(item)));
            }
            let end = Instant::now() + self.front.within;
            if !items.is_empty() {
                let published = self.post(items).verdicts().await;
                let made = verdicts[first..].iter_mut().filter(|verdict| verdict.is_ok());
                made.zip(published).for_each(|(verdict, published)| *verdict = published);
            }
            in_time = Instant::now() < end;
        }
        verdicts
    }

    /// Takes no more, and waits until what was taken is confirmed or failed.
    pub(crate) async fn close(&self) {
        drop(self.front.state.lock().parcels.take());
        let task = self.task.lock().take();
        let within = self.front.within;
        let flushed = timeout(within + within, async {
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

impl Parcel {
    fn refuse(self, error: &Error) {
        let verdicts = self.items.iter().map(|_| Err(error.duplicate())).collect();
        // Whoever sent it may have stopped waiting.
        drop(self.reply.send(verdicts));
    }
}

impl Front {
    async fn run(self: Arc<Self>, mut parcels: mpsc::UnboundedReceiver<Parcel>) {
        while let Some(parcel) = parcels.recv().await {
            self.serve(parcel).await;
            self.state.lock().queued -= 1;
        }
        drop(self.window.acquire_many(permits(self.size)).await);
        self.leave().await;
    }

    async fn leave(&self) {
        let open = self.state.lock().open.take();
        if let Some(open) = open.filter(Open::is_live) {
            let left = timeout(GOODBYE, open.channel.close(200, "closed".into())).await;
            tracing::trace!(target: "mq", ?left, "closed a publishing channel");
        }
    }

    /// Takes the permits of a parcel if that takes no waiting; a checked one goes alone.
    fn room(&self, items: &[Publication]) -> Option<OwnedSemaphorePermit> {
        match self.mode {
            Mode::Pipelined => self.window.clone().try_acquire_many_owned(permits(items.len())).ok(),
            Mode::Checked => None,
        }
    }

    async fn serve(&self, parcel: Parcel) {
        let deadline = parcel.deadline;
        let permits = self.window.clone().acquire_many_owned(permits(parcel.items.len()));
        let Ok(Ok(permits)) = timeout_at(deadline, permits).await else {
            return parcel.refuse(&full());
        };
        let mut open = match self.open(deadline).await {
            Ok(open) => open,
            Err(error) => return parcel.refuse(&error),
        };
        let Parcel { items, reply, .. } = parcel;
        let absent = open.look_up(&items, &self.topology, deadline).await;
        let mut flight = self.begin(&open, items, &absent, deadline, permits);
        self.state.lock().open = Some(open);
        match self.mode {
            Mode::Checked => {
                let in_time = flight.landed().await;
                drop(reply.send(flight.verdicts()));
                if !in_time {
                    flight.written().await;
                    // What the broker still returns belongs to messages that were given up.
                    self.leave().await;
                }
            }
            Mode::Pipelined => {
                tokio::spawn(land(flight, reply));
            }
        }
    }

    /// Takes the open channel, or opens one.
    async fn open(&self, deadline: Instant) -> Result<Open> {
        let open = self.state.lock().open.take();
        if let Some(open) = open.filter(Open::is_live) {
            return Ok(open);
        }
        let channel = self.link.channel(Some(deadline)).await?;
        match timeout_at(deadline, channel.confirm_select(ConfirmSelectOptions::default())).await {
            Ok(selected) => selected.map_err(from_native)?,
            Err(_) => return Err(full()),
        }
        let lost = self.link.was_lost();
        Ok(Open::new(channel, lost))
    }

    /// Hands a parcel to the connection, but for what is refused beforehand.
    fn begin(
        &self,
        open: &Open,
        items: Vec<Publication>,
        absent: &[(ShortString, Error)],
        deadline: Instant,
        permits: OwnedSemaphorePermit,
    ) -> Flight {
        let alone = self.window.available_permits() + 1 == self.size;
        let limit = self.link.header_limit();
        let slot = |item: Publication| {
            let refused = too_long(&item, limit)
                .or_else(|| Some(absent.iter().find(|(name, _)| *name == item.exchange)?.1.duplicate()));
            match refused {
                Some(error) => Slot::refused(error),
                None => open.begin(item),
            }
        };
        let slots = items.into_iter().map(slot).collect();
        Flight::new(slots, alone, open.published.clone(), deadline, permits)
    }
}

fn too_long(item: &Publication, limit: usize) -> Option<Error> {
    let bytes = header_bytes(&item.properties);
    let text = || format!("the headers have about {bytes} bytes; the broker takes {limit}");
    (bytes > limit).then(|| Error::new(ErrorKind::InvalidInput, text()))
}

fn permits(many: usize) -> u32 {
    u32::try_from(many).unwrap_or(u32::MAX)
}

/// The error of a message that was not handed to the broker in time.
fn full() -> Error {
    Error::new(ErrorKind::Timeout, "the broker confirms too slowly; the message was not sent")
}

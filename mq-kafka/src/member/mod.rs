//! A member of a Kafka group: one native consumer and three threads.
//!
//! *Events* polls the native consumer for rebalances and errors, so that these never wait behind
//! messages. *Poll* drains the partitions' queues as far as there is room. *Commit* has one
//! commit in flight at a time; the next carries everything that came up meanwhile.

mod assign;
mod books;
mod commit;
mod events;
mod gone;
mod poll;
mod positions;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::Thread;
use std::time::{Duration, Instant};

use mq_core::driver::{Budget, Fetched, Lane, Spent, Token};
use mq_core::{Error, ErrorKind, GroupName, Result};
use parking_lot::{Condvar, Mutex};
use rdkafka::ClientConfig;
use rdkafka::consumer::BaseConsumer;
use tokio::sync::{Notify, oneshot};

use crate::codec::Name;
use crate::connection::Inner;
use crate::link::Link;
use crate::metadata::Kept;
use crate::native;
pub(crate) use assign::MemberContext;
use books::Books;
pub(crate) use books::{Ownership, Standing};
pub(crate) use positions::metadata;

/// A close that takes longer says what it waits for, each time that so much more has passed.
const SLOW: Duration = Duration::from_secs(5);

pub(crate) type Native = BaseConsumer<MemberContext>;

/// A topic of a member.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    pub(crate) topic: Name,
    /// The index of its subscription.
    pub(crate) subscription: usize,
    /// Whether it is the group's inbox.
    pub(crate) inbox: bool,
    /// Where the group's settings and dead letters are.
    pub(crate) dead: Name,
}

impl Source {
    /// Numbers a partition among all of a consumer's.
    pub(crate) fn lane(&self, partition: i32) -> Lane {
        let subscription = u32::try_from(self.subscription).unwrap_or(u32::MAX) << 17;
        subscription | u32::from(self.inbox) << 16 | (u32::try_from(partition).unwrap_or(0) & 0xffff)
    }
}

/// Returns the partition of a lane.
pub(crate) fn partition_of(lane: Lane) -> i32 {
    (lane & 0xffff) as i32
}

/// Whether a lane is of an inbox.
pub(crate) fn is_inbox(lane: Lane) -> bool {
    lane >> 16 & 1 == 1
}

/// What a member is opened with.
pub(crate) struct Opening {
    pub(crate) group: String,
    /// The group's name in the contract.
    pub(crate) name: GroupName,
    pub(crate) sources: Vec<Source>,
    pub(crate) ordered: bool,
    pub(crate) prefetch: Budget,
    /// How long an orderly hand-over waits.
    pub(crate) patience: Duration,
    /// Partitions of all sources.
    pub(crate) partitions: usize,
    pub(crate) common: Common,
}

/// What the members of a consumer share.
#[derive(Clone, Debug)]
pub(crate) struct Common {
    /// Woken when there is something to fetch.
    pub(crate) arrived: Arc<Notify>,
    /// Messages that are done with.
    pub(crate) spent: Spent,
}

/// What the threads and the driver's calls share.
pub(crate) struct Shared {
    pub(crate) inner: Arc<Inner>,
    pub(crate) group: String,
    name: GroupName,
    pub(crate) sources: Vec<Source>,
    pub(crate) patience: Duration,
    books: Mutex<Books>,
    /// There may be something to commit, or a commit was answered.
    changed: Condvar,
    arrived: Arc<Notify>,
    /// What is done with, if its memory is used again: not where it is to be saved.
    spent: Option<Spent>,
    /// The poll thread waits for room.
    hungry: AtomicBool,
    poller: Mutex<Option<Thread>>,
    /// The group has answered this life of the member, and more of that answer is not to come.
    joined: AtomicBool,
    /// The group gave partitions to this member when it was closed: the native consumer has not taken them.
    refused: AtomicBool,
    config: ClientConfig,
    /// When the last commit that was confirmed was sent: the member was in its group then.
    heard: Mutex<Instant>,
    link: Link,
    /// A topic may be gone.
    doubtful: AtomicBool,
    /// A topic is another one by now.
    gone: AtomicBool,
    /// The partition of which the next message was removed, by its source and ownership.
    removed: Mutex<Option<(usize, Ownership)>>,
    /// A topic was gone: what is known of positions may be of the one before.
    renewed: AtomicBool,
    runtime: tokio::runtime::Handle,
    /// What the events thread does, for who waits for it.
    waiting: Mutex<&'static str>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Member").field("group", &self.group).finish_non_exhaustive()
    }
}

/// A member of a Kafka group.
#[derive(Debug)]
pub(crate) struct Member {
    shared: Arc<Shared>,
    /// Resolves when the member has left the group; says whether all was given back.
    ended: Mutex<Option<oneshot::Receiver<Result<()>>>>,
}

impl fmt::Debug for Opening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opening").field("group", &self.group).finish_non_exhaustive()
    }
}

impl Member {
    /// Joins the group.
    pub(crate) fn open(inner: &Arc<Inner>, opening: Opening) -> Result<Self> {
        let config = native::consumer(&inner.config, &opening);
        let shared = Arc::new(Shared {
            inner: inner.clone(),
            group: opening.group,
            name: opening.name,
            sources: opening.sources,
            patience: opening.patience,
            books: Mutex::new(Books::new(opening.prefetch)),
            changed: Condvar::new(),
            arrived: opening.common.arrived,
            spent: (!native::saves_memory(opening.prefetch.bytes)).then_some(opening.common.spent),
            hungry: AtomicBool::new(false),
            poller: Mutex::default(),
            joined: AtomicBool::new(false),
            refused: AtomicBool::new(false),
            config,
            heard: Mutex::new(Instant::now()),
            link: Link::new("consumer", inner.context.events.clone()),
            doubtful: AtomicBool::new(false),
            gone: AtomicBool::new(false),
            removed: Mutex::default(),
            renewed: AtomicBool::new(false),
            runtime: tokio::runtime::Handle::current(),
            waiting: Mutex::new("the group's first answer"),
        });
        let ended = events::start(&shared)?;
        Ok(Self { shared, ended: Mutex::new(Some(ended)) })
    }

    /// Returns what may be handed out, about `budget`.
    pub(crate) fn take(&self, budget: Budget) -> Result<Option<Fetched>> {
        let taken = self.shared.books.lock().take(budget);
        // Taking makes room in the queue's bytes.
        self.shared.feed();
        taken
    }

    pub(crate) fn check(&self, token: &Token) -> Standing {
        self.shared.books.lock().check(token)
    }

    /// Marks deliveries as done; see [`Books::ack`].
    pub(crate) fn ack<'a>(
        &self,
        tokens: impl Iterator<Item = (usize, &'a Token)>,
        stale: impl FnMut(usize),
    ) -> Option<oneshot::Receiver<Vec<Ownership>>> {
        let answer = self.shared.books.lock().ack(tokens, stale);
        self.shared.changed.notify_all();
        self.shared.feed();
        answer
    }

    pub(crate) fn start(&self, token: &Token) -> Option<oneshot::Receiver<Vec<Ownership>>> {
        let answer = self.shared.books.lock().start(token);
        self.shared.changed.notify_all();
        answer
    }

    /// Records what a delivery that is kept comes with next; see [`Books::keep`].
    pub(crate) fn keep(
        &self,
        token: &Token,
        kept: Kept,
    ) -> Result<Option<oneshot::Receiver<Vec<Ownership>>>> {
        let answer = self.shared.books.lock().keep(token, kept);
        self.shared.changed.notify_all();
        answer
    }

    /// If the broker was not heard of for long, asks it whether these deliveries' partitions are still this
    /// member's: a process that hung is out of its group before its threads know. Returns an answer to wait for.
    pub(crate) fn ask<'a>(
        &self,
        tokens: impl Iterator<Item = &'a Token>,
    ) -> Option<oneshot::Receiver<Vec<Ownership>>> {
        if self.shared.heard.lock().elapsed() < self.shared.inner.config.session_timeout / 2 {
            return None;
        }
        let answer = self.shared.books.lock().ask(tokens)?;
        self.shared.changed.notify_all();
        Some(answer)
    }

    /// Leaves the group; what is held is given back.
    pub(crate) async fn close(&self) -> Result<()> {
        self.stop();
        let Some(mut ended) = self.ended.lock().take() else { return Ok(()) };
        let deadline = Instant::now() + events::LEAVE;
        loop {
            match tokio::time::timeout(SLOW, &mut ended).await {
                Ok(Ok(outcome)) => return outcome,
                Ok(Err(_)) => return Ok(()),
                Err(_) => {
                    let text =
                        format!("the member has not left yet: it waits for {}", self.shared.waiting.lock());
                    let error = Error::new(ErrorKind::Timeout, text).in_group(&self.shared.group);
                    if Instant::now() >= deadline {
                        return Err(error);
                    }
                    self.shared.inner.context.events.failed("close", &error);
                }
            }
        }
    }

    /// Has the events thread end the member: it looks once a poll. Nothing else may let the native consumer
    /// unsubscribe: one that is closed while it gives its partitions up for another reason forgets to leave the
    /// group (librdkafka 2.12.1, cooperative), which waits for it until the session ends.
    fn stop(&self) {
        self.shared.books.lock().close();
        self.shared.changed.notify_all();
        self.shared.arrived.notify_one();
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    /// Wakes the poll thread if it waits for room.
    fn feed(&self) {
        if self.hungry.load(Ordering::Acquire) && self.hungry.swap(false, Ordering::AcqRel) {
            self.wake_poller();
        }
    }

    fn wake_poller(&self) {
        if let Some(poller) = &*self.poller.lock() {
            poller.unpark();
        }
    }

    fn source(&self, topic: &str) -> Option<usize> {
        self.sources.iter().position(|source| source.topic == topic)
    }

    /// Returns the source of a lane.
    fn source_of(&self, lane: Lane) -> Option<&Source> {
        self.sources.iter().find(|source| source.lane(partition_of(lane)) == lane)
    }

    fn is_closed(&self) -> bool {
        self.books.lock().is_closed()
    }

    fn waits_for(&self, what: &'static str) {
        *self.waiting.lock() = what;
    }

    /// Ends the member for a reason that time can't heal.
    fn fail(&self, error: Error) {
        self.books.lock().fail(error);
        self.arrived.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_are_distinct_and_know_their_partition() {
        let source =
            |subscription, inbox| Source { topic: "t".into(), subscription, inbox, dead: "d".into() };
        let mut lanes = std::collections::BTreeSet::new();
        for (subscription, inbox) in [(0, false), (0, true), (1, false), (1, true), (2, false)] {
            for partition in [0, 1, 1023, 32767, 32768, 65535] {
                let lane = source(subscription, inbox).lane(partition);
                assert!(lanes.insert(lane));
                assert_eq!((partition_of(lane), is_inbox(lane)), (partition, inbox));
            }
        }
    }
}

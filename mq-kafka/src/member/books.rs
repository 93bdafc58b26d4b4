//! What a member owns, holds and owes: pure bookkeeping over its lanes.
//!
//! Commits are numbered snapshots of all lanes that changed, one in flight at a time. A chunk of
//! messages may be handed out when the commit that reserved it is confirmed; a settlement is
//! answered when the commit that covers it is.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use mq_core::driver::{Budget, Fetched, Incoming, Lane, Revocation, Suspect, Token};
use mq_core::{Error, ErrorKind, Result, Timestamp};
use tokio::sync::oneshot;

use crate::tracker::{Delivered, Snapshot, Tracker};

mod commits;

/// This part of the window's bytes may wait to be reserved and handed out; who takes them has room
/// for the whole window itself.
const QUEUED: usize = 4;
/// Fetches return about so many messages if there are several small chunks.
const JOIN: usize = 1024;

/// An ownership of a lane: which lane, and which time.
pub(crate) type Ownership = (Lane, u32);

/// Messages of one lane, in order.
#[derive(Debug)]
pub(crate) struct Chunk {
    pub(crate) lane: Lane,
    pub(crate) epoch: u32,
    pub(crate) messages: Vec<Arc<Incoming>>,
    pub(crate) bytes: usize,
    /// The commit that reserves it.
    after: u64,
}

impl Chunk {
    pub(crate) fn new(lane: Lane, epoch: u32, messages: Vec<Arc<Incoming>>, bytes: usize) -> Self {
        Self { lane, epoch, messages, bytes, after: 0 }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Held,
    /// No more is handed out; settlements still count.
    Leaving,
    /// Nothing counts any more; the last commit is due.
    Last,
    /// The last commit is confirmed.
    Left,
}

#[derive(Debug)]
struct Owned {
    epoch: u32,
    tracker: Tracker,
    stage: Stage,
    dirty: bool,
}

#[derive(Debug)]
struct Waiter {
    after: u64,
    /// It waits for its settlements to be covered, not for the broker's word alone.
    covered: bool,
    lanes: Vec<Ownership>,
    lost: Vec<Ownership>,
    done: oneshot::Sender<Vec<Ownership>>,
}

/// One lane's part of a commit.
#[derive(Debug)]
pub(crate) struct LaneCommit {
    pub(crate) lane: Lane,
    pub(crate) epoch: u32,
    pub(crate) snapshot: Snapshot,
    last: bool,
}

/// A numbered commit.
#[derive(Debug)]
pub(crate) struct Commit {
    number: u64,
    pub(crate) lanes: Vec<LaneCommit>,
    /// Messages taken in and settled since the last commit.
    pub(crate) work: usize,
}

#[derive(Debug)]
enum Phase {
    Open,
    Closed,
    Failed(Error),
}

/// The books of a member.
#[derive(Debug)]
pub(crate) struct Books {
    lanes: BTreeMap<Lane, Owned>,
    queue: VecDeque<Chunk>,
    revoked: Vec<Revocation>,
    waiters: Vec<Waiter>,
    epoch: u32,
    /// The number the next commit gets.
    number: u64,
    confirmed: u64,
    /// Messages taken in and settled since the last commit.
    work: usize,
    held: usize,
    queued_bytes: usize,
    limit: Budget,
    phase: Phase,
}

impl Books {
    pub(crate) fn new(limit: Budget) -> Self {
        Self {
            lanes: BTreeMap::new(),
            queue: VecDeque::new(),
            revoked: Vec::new(),
            waiters: Vec::new(),
            epoch: 0,
            number: 1,
            confirmed: 0,
            work: 0,
            held: 0,
            queued_bytes: 0,
            limit,
            phase: Phase::Open,
        }
    }

    /// Takes a lane over; returns the epoch of this ownership.
    pub(crate) fn own(&mut self, lane: Lane, tracker: Tracker) -> u32 {
        self.epoch += 1;
        let owned = Owned { epoch: self.epoch, tracker, stage: Stage::Held, dirty: false };
        if let Some(old) = self.lanes.insert(lane, owned) {
            self.held -= old.tracker.pending();
        }
        self.epoch
    }

    /// Where a lane is fetched from next.
    pub(crate) fn position(&self, (lane, epoch): Ownership) -> Option<i64> {
        self.lanes.get(&lane).filter(|owned| owned.epoch == epoch).map(|owned| owned.tracker.position())
    }

    /// How many more messages the member may fetch.
    pub(crate) fn room(&self) -> usize {
        if self.queued_bytes >= (self.limit.bytes / QUEUED).max(1) {
            return 0;
        }
        self.limit.messages.saturating_sub(self.held)
    }

    /// How many more messages of one lane the member may fetch.
    pub(crate) fn room_of(&self, (lane, epoch): Ownership) -> usize {
        match self.lanes.get(&lane) {
            Some(owned)
                if owned.epoch == epoch && owned.stage == Stage::Held && !owned.tracker.is_fragmented() =>
            {
                self.room()
            }
            _ => 0,
        }
    }

    /// Takes in what was polled. What was done before, or is no longer this member's, is left out.
    pub(crate) fn add(&mut self, mut chunk: Chunk) {
        let Some(owned) = self.lanes.get_mut(&chunk.lane) else { return };
        if owned.epoch != chunk.epoch || owned.stage != Stage::Held {
            return;
        }
        let before = owned.tracker.pending();
        chunk.messages.retain_mut(|incoming| {
            let Some(known) = owned.tracker.deliver(offset(&incoming.token)) else { return false };
            if (known.seen || known.crashes > 0)
                && let Some(incoming) = Arc::get_mut(incoming)
            {
                recall(incoming, &known);
            }
            true
        });
        owned.dirty = true;
        self.held += owned.tracker.pending() - before;
        self.work += chunk.messages.len();
        if chunk.messages.is_empty() {
            return;
        }
        chunk.after = self.number;
        self.queued_bytes += chunk.bytes;
        self.queue.push_back(chunk);
    }

    /// Hands out what is reserved, about `budget`.
    pub(crate) fn take(&mut self, budget: Budget) -> Result<Option<Fetched>> {
        match &self.phase {
            Phase::Open => {}
            Phase::Closed => return Err(closed()),
            Phase::Failed(error) => return Err(error.duplicate()),
        }
        let mut fetched = Fetched { deliveries: Vec::new(), revoked: std::mem::take(&mut self.revoked) };
        let (mut messages, mut bytes) = (budget.messages.max(1), budget.bytes);
        while let Some(index) = self.queue.iter().position(|chunk| chunk.after <= self.confirmed) {
            let room = Budget { messages, bytes };
            if !fetched.deliveries.is_empty() && !joins(&self.queue[index], fetched.deliveries.len(), room) {
                break;
            }
            let part = self.cut(index, room);
            messages -= part.messages.len().min(messages);
            bytes -= part.bytes.min(bytes);
            self.queued_bytes -= part.bytes;
            if fetched.deliveries.is_empty() {
                fetched.deliveries = part.messages;
            } else {
                fetched.deliveries.extend(part.messages);
            }
            if messages == 0 || bytes == 0 {
                break;
            }
        }
        let nothing = fetched.deliveries.is_empty() && fetched.revoked.is_empty();
        Ok((!nothing).then_some(fetched))
    }

    /// Takes a chunk out of the queue, or as much of it as there is room for; at least one message.
    fn cut(&mut self, index: usize, room: Budget) -> Chunk {
        let chunk = &mut self.queue[index];
        let mut fits = chunk.messages.len().min(room.messages);
        let mut bytes = chunk.bytes;
        if fits < chunk.messages.len() || bytes > room.bytes {
            bytes = 0;
            let sizes = chunk.messages[..fits].iter().map(|incoming| incoming.message.size());
            fits = sizes
                .take_while(|size| {
                    bytes += size;
                    bytes <= room.bytes
                })
                .count()
                .max(1);
            bytes = chunk.messages[..fits].iter().map(|incoming| incoming.message.size()).sum();
            bytes = bytes.min(chunk.bytes);
        }
        if fits == chunk.messages.len() {
            return self.queue.remove(index).unwrap_or_else(|| Chunk::new(0, 0, Vec::new(), 0));
        }
        let rest = chunk.messages.split_off(fits);
        let messages = std::mem::replace(&mut chunk.messages, rest);
        chunk.bytes -= bytes;
        Chunk { lane: chunk.lane, epoch: chunk.epoch, messages, bytes, after: chunk.after }
    }

    /// Stops handing out a lane; settlements still count. Returns its epoch, unless it is on its way out already.
    pub(crate) fn leave(&mut self, lane: Lane) -> Option<u32> {
        let owned = self.lanes.get_mut(&lane).filter(|owned| owned.stage == Stage::Held)?;
        owned.stage = Stage::Leaving;
        let epoch = owned.epoch;
        self.forget(lane);
        Some(epoch)
    }

    /// Announces that a lane goes.
    pub(crate) fn revoke(&mut self, revocation: Revocation) {
        self.revoked.push(revocation);
    }

    /// Ends settlements of these lanes; their last commit is due.
    pub(crate) fn finish(&mut self, lanes: &[Lane]) {
        for lane in lanes {
            if let Some(owned) = self.lanes.get_mut(lane).filter(|owned| owned.stage != Stage::Left) {
                owned.stage = Stage::Last;
            }
        }
    }

    /// Whether the last commits of these lanes are confirmed.
    pub(crate) fn have_left(&self, lanes: &[Lane]) -> bool {
        lanes.iter().all(|lane| self.lanes.get(lane).is_none_or(|owned| owned.stage == Stage::Left))
    }

    /// Drops a lane; settlements that no commit covers are stale. Returns its epoch.
    pub(crate) fn lose(&mut self, lane: Lane) -> Option<u32> {
        let owned = self.lanes.remove(&lane)?;
        self.held -= owned.tracker.pending();
        self.forget(lane);
        let ownership = (lane, owned.epoch);
        self.answer(|waiter| {
            if let Some(place) = waiter.lanes.iter().position(|known| *known == ownership) {
                waiter.lanes.swap_remove(place);
                waiter.lost.push(ownership);
            }
            waiter.lanes.is_empty()
        });
        Some(owned.epoch)
    }

    fn forget(&mut self, lane: Lane) {
        self.queue.retain(|chunk| chunk.lane != lane);
        self.queued_bytes = self.queue.iter().map(|chunk| chunk.bytes).sum();
    }

    /// Returns the lanes that are owned.
    pub(crate) fn lanes(&self) -> Vec<Lane> {
        self.lanes.keys().copied().collect()
    }

    /// Hands out nothing more. Returns whether it was open.
    pub(crate) fn close(&mut self) -> bool {
        let open = matches!(self.phase, Phase::Open);
        self.phase = Phase::Closed;
        self.queue.clear();
        self.queued_bytes = 0;
        open
    }

    /// Ends the member for a reason that time can't heal.
    pub(crate) fn fail(&mut self, error: Error) {
        if matches!(self.phase, Phase::Open) {
            self.phase = Phase::Failed(error);
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        matches!(self.phase, Phase::Closed)
    }
}

/// Notes in a delivery what is known of it from before.
fn recall(incoming: &mut Incoming, known: &Delivered) {
    incoming.redelivered |= known.seen;
    if let Some(kept) = known.kept {
        incoming.envelope.attempt = kept.attempt;
        incoming.not_before = Some(Timestamp::from_millis(kept.until));
        incoming.redelivered = true;
    }
    if known.crashes > 0 {
        incoming.suspect = Some(Suspect { started: known.started });
        incoming.envelope.attempt = incoming.envelope.attempt.saturating_add(known.crashes);
    }
}

/// How a delivery stands with its driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It waits for its settlement.
    Pending,
    /// It was settled in this ownership.
    Done,
    /// It is not this member's.
    Stale,
}

impl Owned {
    fn accepts(&self, token: &Token) -> bool {
        self.epoch == token.epoch && matches!(self.stage, Stage::Held | Stage::Leaving)
    }
}

fn joins(chunk: &Chunk, have: usize, room: Budget) -> bool {
    have + chunk.messages.len() <= JOIN && chunk.messages.len() <= room.messages && chunk.bytes <= room.bytes
}

fn offset(token: &Token) -> i64 {
    i64::try_from(token.high).unwrap_or(i64::MAX)
}

/// The error of a consumer that was closed.
pub(crate) fn closed() -> Error {
    Error::new(ErrorKind::Closed, "the consumer was closed")
}

#[cfg(test)]
#[path = "books_tests.rs"]
mod tests;

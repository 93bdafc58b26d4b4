//! Answers to settlements: one for a single delivery, one for a whole batch.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use slab::Slab;
use tokio::sync::oneshot;

use crate::error::{Error, Result};

/// Where the verdict on a settlement goes.
#[derive(Debug)]
pub(crate) enum Reply {
    /// Nobody asked: the delivery was dropped, or its lease ran out.
    Nobody,
    /// A single settlement's caller.
    One(oneshot::Sender<Result<()>>),
    /// Number n of a group of settlements.
    Batch(GroupId, u32),
}

/// Names a group of settlements that are answered together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GroupId(usize);

/// The failures of a batch, by index.
type Failures = Vec<(usize, Error)>;

/// An answer that is ready to be sent, which is done without a lock.
#[derive(Debug)]
pub(crate) enum Answer {
    One(oneshot::Sender<Result<()>>, Result<()>),
    Batch(Arc<BatchReply>, usize, Failures),
}

impl Answer {
    /// Tells the caller; one that dropped its future loses only the answer.
    pub(crate) fn send(self) {
        match self {
            Self::One(caller, verdict) => drop(caller.send(verdict)),
            Self::Batch(reply, count, failures) => reply.record(count, failures),
        }
    }
}

#[derive(Debug)]
struct Group {
    reply: Arc<BatchReply>,
    size: usize,
    remaining: usize,
    failures: Failures,
}

/// The groups that are not answered: a success costs one decrement.
#[derive(Debug, Default)]
pub(crate) struct Replies(Slab<Group>);

impl Replies {
    /// Opens a group; it is not answered before it is sealed.
    pub(crate) fn open(&mut self, reply: Arc<BatchReply>) -> GroupId {
        GroupId(self.0.insert(Group { reply, size: 0, remaining: 1, failures: Vec::new() }))
    }

    /// Adds the settlement with this index to an open group.
    pub(crate) fn join(&mut self, id: GroupId, index: usize) -> Reply {
        let group = &mut self.0[id.0];
        group.size += 1;
        group.remaining += 1;
        Reply::Batch(id, u32::try_from(index).unwrap_or(u32::MAX))
    }

    /// Closes a group to further settlements.
    pub(crate) fn seal(&mut self, GroupId(id): GroupId) -> Option<Answer> {
        self.done_with(id)
    }

    fn done_with(&mut self, id: usize) -> Option<Answer> {
        let group = self.0.get_mut(id)?;
        group.remaining -= 1;
        if group.remaining > 0 {
            return None;
        }
        let Group { reply, size, failures, .. } = self.0.remove(id);
        Some(Answer::Batch(reply, size, failures))
    }

    /// Takes note of a verdict; returns the answer if there is one to send now.
    pub(crate) fn answer(&mut self, reply: Reply, verdict: Result<()>) -> Option<Answer> {
        let (GroupId(id), index) = match reply {
            Reply::Nobody => return None,
            Reply::One(caller) => return Some(Answer::One(caller, verdict)),
            Reply::Batch(id, index) => (id, index),
        };
        if let (Err(error), Some(group)) = (verdict, self.0.get_mut(id)) {
            group.failures.push((index as usize, error));
        }
        self.done_with(id)
    }

    /// Leaves what is not answered without an answer; nothing is added after this.
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }
}

/// Collects the verdicts of a batch whose groups may be of several consumers.
#[derive(Debug)]
pub(crate) struct BatchReply {
    remaining: AtomicUsize,
    failures: Mutex<Failures>,
    done: Mutex<Option<oneshot::Sender<Failures>>>,
}

impl BatchReply {
    pub(crate) fn new(size: usize) -> (Arc<Self>, oneshot::Receiver<Failures>) {
        let (done, answer) = oneshot::channel();
        let reply = Self {
            remaining: AtomicUsize::new(size),
            failures: Mutex::default(),
            done: Mutex::new(Some(done)),
        };
        (Arc::new(reply), answer)
    }

    fn record(&self, count: usize, failures: Failures) {
        if !failures.is_empty() {
            self.failures.lock().extend(failures);
        }
        if self.remaining.fetch_sub(count, Ordering::AcqRel) == count
            && let Some(done) = self.done.lock().take()
        {
            drop(done.send(std::mem::take(&mut self.failures.lock())));
        }
    }
}

//! Answers to settlements: one for a single delivery, one for a whole batch.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::error::{Error, Result};

/// Where the verdict on a settlement goes.
#[derive(Debug)]
pub(crate) enum Reply {
    /// Nobody asked: the delivery was dropped, or its lease ran out.
    Nobody,
    /// A single settlement's caller.
    One(oneshot::Sender<Result<()>>),
    /// Number n of a batch.
    Batch(Arc<BatchReply>, usize),
}

impl Reply {
    pub(crate) fn send(self, verdict: Result<()>) {
        match self {
            Self::Nobody => {}
            // The caller may have dropped its future; it loses only the answer.
            Self::One(caller) => drop(caller.send(verdict)),
            Self::Batch(batch, index) => batch.record(index, verdict),
        }
    }
}

/// The failures of a batch, by index.
type Failures = Vec<(usize, Error)>;

/// Collects the verdicts of a batch; a success costs one decrement.
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

    fn record(&self, index: usize, verdict: Result<()>) {
        if let Err(error) = verdict {
            self.failures.lock().push((index, error));
        }
        if self.remaining.fetch_sub(1, Ordering::AcqRel) == 1
            && let Some(done) = self.done.lock().take()
        {
            drop(done.send(std::mem::take(&mut self.failures.lock())));
        }
    }
}

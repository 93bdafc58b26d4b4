//! Messages on their way back to the thread that allocated them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use crate::driver::{Budget, Incoming};

/// No larger messages than this are kept: the rest of the memory is shared by many.
const LARGEST: usize = 2048;
/// This part of a consumer's bytes may be kept.
const PART: usize = 4;

/// Messages that core is done with. A driver may take them, to use their memory again or to free
/// it where it was allocated: an allocator's threads share nothing then. No more are kept than a
/// consumer may hold, in a quarter of the bytes, and none for a driver that never takes any.
#[derive(Clone, Debug, Default)]
pub struct Spent(Arc<Bin>);

#[derive(Debug, Default)]
struct Bin {
    wanted: AtomicBool,
    /// Messages and bytes.
    limit: (usize, usize),
    messages: Mutex<Vec<Arc<Incoming>>>,
}

impl Spent {
    /// Makes a place for the messages of a consumer with this window.
    pub(crate) fn new(window: Budget) -> Self {
        let limit = (window.messages, window.bytes / PART);
        Self(Arc::new(Bin { limit, ..Bin::default() }))
    }

    /// Takes all that is there; who handled a message may still share it.
    #[must_use]
    pub fn take(&self) -> Vec<Arc<Incoming>> {
        self.0.wanted.store(true, Ordering::Relaxed);
        std::mem::take(&mut *self.0.messages.lock())
    }

    /// Returns whether a message of this size is kept.
    pub(crate) fn keeps(&self, size: usize) -> bool {
        size <= LARGEST && self.0.wanted.load(Ordering::Relaxed)
    }

    /// Keeps what there is room for and frees the rest. The size of all is taken for the measure of
    /// those that are kept already.
    pub(crate) fn put(&self, batch: SpentBatch) {
        let SpentBatch { mut messages, bytes, freed } = batch;
        drop(freed);
        if messages.is_empty() {
            return;
        }
        let (most, most_bytes) = self.0.limit;
        let each = size_of::<Incoming>() + bytes / messages.len().max(1);
        let most = most.min(most_bytes / each);
        let mut kept = self.0.messages.lock();
        let room = most.saturating_sub(kept.len()).min(messages.len());
        if kept.is_empty() && room == messages.len() {
            std::mem::swap(&mut *kept, &mut messages);
        } else {
            kept.extend(messages.drain(..room));
        }
        // What is left is freed without the lock.
        drop(kept);
    }
}

/// Messages that nobody needs any more, to be put back where no lock is held.
#[derive(Debug, Default)]
pub(crate) struct SpentBatch {
    messages: Vec<Arc<Incoming>>,
    /// Of `messages`.
    bytes: usize,
    freed: Vec<Arc<Incoming>>,
}

impl SpentBatch {
    pub(crate) fn reserve(&mut self, more: usize) {
        self.messages.reserve(more);
    }

    /// Takes a message of this size, for `spent` if that keeps such.
    pub(crate) fn add(&mut self, spent: &Spent, message: Arc<Incoming>, size: usize) {
        if spent.keeps(size) {
            self.bytes += size;
            self.messages.push(message);
        } else {
            self.freed.push(message);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consume::state::tests::incoming;

    #[test]
    fn keeps_for_who_takes_and_no_more_than_fits() {
        let spent = Spent::new(Budget { messages: 2000, bytes: 8 << 20 });
        assert!(!spent.keeps(10), "nobody takes");
        assert!(spent.take().is_empty() && spent.keeps(10) && !spent.keeps(LARGEST + 1));
        let many = |count: u64, size| {
            let mut batch = SpentBatch::default();
            (0..count).for_each(|serial| batch.add(&spent, Arc::new(incoming(serial, None)), size));
            batch
        };
        spent.put(many(1500, 1));
        spent.put(many(1500, 1));
        assert_eq!(spent.take().len(), 2000);
        spent.put(many(1500, LARGEST));
        assert!(spent.take().len() < 1024, "a quarter of the bytes");
        assert!(spent.take().is_empty());
    }
}

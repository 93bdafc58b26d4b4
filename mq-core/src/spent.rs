//! Messages on their way back to the thread that allocated them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use crate::driver::Incoming;

/// No more messages than this are kept, and none larger than this many bytes.
const MOST: (usize, usize) = (2048, 2048);

/// Messages that core is done with. A driver may take them, to use their memory again or to free
/// it where it was allocated: an allocator's threads share nothing then. At most 2,048 messages of
/// 2 KiB are kept, and none for a driver that never takes any.
#[derive(Clone, Debug, Default)]
pub struct Spent(Arc<Bin>);

#[derive(Debug, Default)]
struct Bin {
    wanted: AtomicBool,
    messages: Mutex<Vec<Arc<Incoming>>>,
}

impl Spent {
    /// Takes all that is there; who handled a message may still share it.
    #[must_use]
    pub fn take(&self) -> Vec<Arc<Incoming>> {
        self.0.wanted.store(true, Ordering::Relaxed);
        std::mem::take(&mut *self.0.messages.lock())
    }

    /// Returns whether a message of this size is kept.
    pub(crate) fn keeps(&self, size: usize) -> bool {
        size <= MOST.1 && self.0.wanted.load(Ordering::Relaxed)
    }

    /// Keeps what there is room for and frees the rest.
    pub(crate) fn put(&self, mut messages: Vec<Arc<Incoming>>) {
        let mut kept = self.0.messages.lock();
        let room = MOST.0.saturating_sub(kept.len()).min(messages.len());
        if kept.is_empty() && room == messages.len() {
            std::mem::swap(&mut *kept, &mut messages);
        } else {
            kept.extend(messages.drain(..room));
        }
        // What is left is freed without the lock.
        drop(kept);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consume::state::tests::incoming;

    #[test]
    fn keeps_for_who_takes_and_no_more_than_fits() {
        let spent = Spent::default();
        assert!(!spent.keeps(10), "nobody takes");
        assert!(spent.take().is_empty() && spent.keeps(10) && !spent.keeps(MOST.1 + 1));
        let many = |count: u64| (0..count).map(|serial| Arc::new(incoming(serial, None))).collect();
        spent.put(many(1500));
        spent.put(many(1500));
        assert_eq!(spent.take().len(), MOST.0);
        assert!(spent.take().is_empty());
    }
}

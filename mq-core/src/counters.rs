//! Counts of what a client did.

use std::sync::atomic::{AtomicU64, Ordering};

/// Running counts, shared by all handles of a client.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) sent: AtomicU64,
    pub(crate) rejected: AtomicU64,
    pub(crate) unknown: AtomicU64,
    pub(crate) received: AtomicU64,
    pub(crate) acked: AtomicU64,
    pub(crate) retried: AtomicU64,
    pub(crate) deferred: AtomicU64,
    pub(crate) dead: AtomicU64,
    pub(crate) stale: AtomicU64,
    pub(crate) expired: AtomicU64,
}

/// Counts of what a client did since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// Messages confirmed.
    pub sent: u64,
    /// Messages refused, stored nowhere.
    pub rejected: u64,
    /// Messages whose outcome is unknown.
    pub unknown: u64,
    /// Deliveries handed out.
    pub received: u64,
    /// Deliveries acked.
    pub acked: u64,
    /// Deliveries given another attempt, or dead-lettered because it was the last.
    pub retried: u64,
    /// Deliveries given back uncounted.
    pub deferred: u64,
    /// Deliveries dead-lettered by choice, or because crashes used up their attempts.
    pub dead: u64,
    /// Settlements that came too late.
    pub stale: u64,
    /// Leases that ran out.
    pub expired: u64,
}

impl Counters {
    /// Adds what came of settlements.
    pub(crate) fn add_settled(&self, counts: &Counts) {
        let all = [
            (&self.acked, counts.acked),
            (&self.retried, counts.retried),
            (&self.deferred, counts.deferred),
            (&self.dead, counts.dead),
            (&self.stale, counts.stale),
        ];
        for (counter, count) in all.into_iter().filter(|(_, count)| *count > 0) {
            counter.fetch_add(count, Ordering::Relaxed);
        }
    }

    pub(crate) fn read(&self) -> Counts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            sent: read(&self.sent),
            rejected: read(&self.rejected),
            unknown: read(&self.unknown),
            received: read(&self.received),
            acked: read(&self.acked),
            retried: read(&self.retried),
            deferred: read(&self.deferred),
            dead: read(&self.dead),
            stale: read(&self.stale),
            expired: read(&self.expired),
        }
    }
}

//! When a consumer ends.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// Why a consumer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// As many messages as asked for were handled.
    Counted,
    /// Nothing came for a while.
    Idle,
    /// The time was over.
    TimedOut,
    /// A signal asked for it.
    Stopped,
}

/// The bounds of a run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) count: Option<u64>,
    idle: Option<Duration>,
    end: Option<Instant>,
}

impl Limits {
    pub(crate) fn new(count: Option<u64>, idle: Option<Duration>, timeout: Option<Duration>) -> Self {
        let end = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        Self { count, idle, end }
    }

    /// Returns how many messages may still be received after `received`, at most `room`.
    pub(crate) fn room(&self, received: u64, room: usize) -> usize {
        let left = self.count.map_or(u64::MAX, |count| count.saturating_sub(received));
        usize::try_from(left).map_or(room, |left| left.min(room))
    }

    /// Returns whether nothing more is to be received.
    pub(crate) fn reached(&self, received: u64) -> bool {
        self.count.is_some_and(|count| received >= count)
    }

    /// Returns when the time is over.
    pub(crate) async fn timed_out(&self) {
        until(self.end).await;
    }

    /// Returns when nothing happened for too long since `last`.
    pub(crate) async fn idle(&self, last: Instant) {
        until(self.idle.and_then(|idle| last.checked_add(idle))).await;
    }
}

async fn until(end: Option<Instant>) {
    match end {
        Some(end) => sleep_until(end).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_bounds_what_is_received() {
        let limits = Limits::new(Some(5), None, None);
        assert_eq!((limits.room(0, 3), limits.room(4, 3), limits.room(5, 3)), (3, 1, 0));
        assert!(limits.reached(5) && !limits.reached(4));
        assert!(!Limits::new(None, None, None).reached(u64::MAX));
    }
}

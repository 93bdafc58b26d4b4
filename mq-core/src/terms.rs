//! What a publisher asks of the broker beside storing its messages, and what it does when that fails.

use std::time::Duration;

use crate::capability::{Capabilities, Capability};
use crate::error::{Error, Result};

/// How well a message is stored when its send returns `Ok`. A broker may always do better.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Durability {
    /// One broker has it, in memory perhaps.
    Transient,
    /// As many brokers have it as the topic's replication asks for.
    #[default]
    Replicated,
    /// It is on disk, past the operating system's cache; needs [`Capability::Synced`].
    Synced,
}

/// What a publisher asks for with each of its messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// How well the message is to be stored.
    pub durability: Durability,
    /// Whether a message that no group would get is refused as
    /// [`ErrorKind::Unroutable`](crate::ErrorKind::Unroutable) and stored nowhere.
    pub require_group: bool,
}

impl Terms {
    /// Passes if a backend can meet them.
    pub(crate) fn check(self, capabilities: &Capabilities) -> Result<()> {
        if self.durability == Durability::Synced {
            capabilities.require(Capability::Synced)?;
        }
        if self.require_group {
            capabilities.require(Capability::RequiredRouting)?;
        }
        Ok(())
    }
}

/// The first pause between two tries; doubled up to the longest, each cut by up to half at random.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Sends again what failed and may succeed later.
///
/// A message that is sent again may come behind messages that were sent after it and without waiting
/// for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SendRetry {
    within: Duration,
    unknown: bool,
}

impl SendRetry {
    /// Sends again what is stored nowhere, for certain, until so long after the first try.
    #[must_use]
    pub const fn safe(within: Duration) -> Self {
        Self { within, unknown: false }
    }

    /// As [`safe`](Self::safe), and what may have been stored also: groups may get it more than
    /// once, with the same id.
    #[must_use]
    pub const fn any(within: Duration) -> Self {
        Self { within, unknown: true }
    }

    pub(crate) fn applies(self, error: &Error) -> bool {
        error.is_retryable() && (self.unknown || !error.is_unknown_outcome())
    }

    /// Returns the pauses between tries that end in time.
    pub(crate) fn pauses(self) -> Pauses {
        Pauses { end: tokio::time::Instant::now() + self.within, next: FIRST_PAUSE }
    }
}

/// The pauses of one send.
pub(crate) struct Pauses {
    end: tokio::time::Instant,
    next: Duration,
}

impl Pauses {
    /// Waits before the next try; returns whether there is time for one.
    pub(crate) async fn pass(&mut self) -> bool {
        let pause = self.next.mul_f64(0.5 + fastrand::f64() / 2.0);
        self.next = (self.next * 2).min(LONGEST_PAUSE);
        let wake = tokio::time::Instant::now() + pause;
        if wake > self.end {
            return false;
        }
        tokio::time::sleep_until(wake).await;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn only_what_may_succeed_is_sent_again() {
        let (safe, any) = (SendRetry::safe(Duration::ZERO), SendRetry::any(Duration::ZERO));
        for (kind, expected) in [
            (ErrorKind::Unavailable, (true, true)),
            (ErrorKind::Timeout, (true, true)),
            (ErrorKind::UnknownOutcome, (false, true)),
            (ErrorKind::Rejected, (false, false)),
            (ErrorKind::Unroutable, (false, false)),
            (ErrorKind::Closed, (false, false)),
        ] {
            let error = Error::new(kind, "");
            assert_eq!((safe.applies(&error), any.applies(&error)), expected, "{kind:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_and_end_in_time() {
        let start = tokio::time::Instant::now();
        let mut pauses = SendRetry::safe(Duration::from_secs(10)).pauses();
        let mut tries = 0;
        while pauses.pass().await {
            tries += 1;
        }
        assert!((9..25).contains(&tries), "{tries}");
        assert!(start.elapsed() <= Duration::from_secs(10));
        assert!(start.elapsed() > Duration::from_secs(7));
    }
}

//! Wall-clock time in milliseconds, and where it comes from.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A moment, in whole milliseconds since the Unix epoch (UTC).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
pub struct Timestamp(u64);

impl Timestamp {
    /// Makes a moment from milliseconds since the Unix epoch.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// Returns the milliseconds since the Unix epoch.
    #[must_use]
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// Returns the time from `earlier` to this moment, zero if it is not earlier.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// Returns the moment `after` later; a part of a millisecond counts as a whole one.
    #[must_use]
    pub fn plus(self, after: Duration) -> Self {
        let millis = u64::try_from(after.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(millis))
    }
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }
}

impl From<Timestamp> for SystemTime {
    fn from(time: Timestamp) -> Self {
        UNIX_EPOCH + Duration::from_millis(time.0)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Tells the time; injected, so that tests run on virtual time.
#[derive(Clone, Debug, Default)]
pub struct Clock(Option<(SystemTime, tokio::time::Instant)>);

impl Clock {
    /// Tells the system's time.
    #[must_use]
    pub const fn system() -> Self {
        Self(None)
    }

    /// Tells the time of tokio's timers: it starts at the system's time and stands still or
    /// jumps with `tokio::time::pause` and `advance`.
    #[must_use]
    pub fn tokio() -> Self {
        Self(Some((SystemTime::now(), tokio::time::Instant::now())))
    }

    /// Returns this moment.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        match self.0 {
            None => SystemTime::now().into(),
            Some((wall, base)) => (wall + base.elapsed()).into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn virtual_time_moves_with_tokio() {
        let clock = Clock::tokio();
        let before = clock.now();
        tokio::time::sleep(Duration::from_secs(30)).await;
        assert_eq!(clock.now().since(before), Duration::from_secs(30));
    }

    #[test]
    fn part_of_a_millisecond_rounds_up() {
        assert_eq!(Timestamp::from_millis(5).plus(Duration::from_micros(1)), Timestamp::from_millis(6));
    }
}

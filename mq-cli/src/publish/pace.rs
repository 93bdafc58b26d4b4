//! A steady rate.

use std::num::NonZeroU32;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// How far behind a pace may fall and still catch up.
const SLACK: Duration = Duration::from_millis(100);

/// Lets through so many a second.
#[derive(Debug)]
pub(crate) struct Pace {
    gap: Duration,
    next: Instant,
}

impl Pace {
    pub(crate) fn new(rate: NonZeroU32) -> Self {
        Self { gap: Duration::from_secs(1) / rate.get(), next: Instant::now() }
    }

    /// Waits for the next turn.
    ///
    /// # Cancel safety
    /// A turn that was not waited for is not used up.
    pub(crate) async fn turn(&mut self) {
        let now = Instant::now();
        if self.next > now {
            sleep_until(self.next).await;
        }
        let earliest = now.checked_sub(SLACK).unwrap_or(now);
        self.next = self.next.max(earliest) + self.gap;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_pace_is_kept_and_a_stall_is_not_made_up() {
        let start = Instant::now();
        let mut pace = Pace::new(NonZeroU32::new(1000).unwrap());
        for _ in 0..1000 {
            pace.turn().await;
        }
        let took = start.elapsed();
        assert!((990..1010).contains(&took.as_millis()), "{took:?}");

        tokio::time::advance(Duration::from_secs(60)).await;
        let start = Instant::now();
        for _ in 0..1000 {
            pace.turn().await;
        }
        assert!(start.elapsed() >= Duration::from_millis(890), "{:?}", start.elapsed());
    }
}

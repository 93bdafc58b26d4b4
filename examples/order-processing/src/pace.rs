//! How fast orders are sent.

use std::time::Duration;

use tokio::time::{Interval, MissedTickBehavior, interval};

/// Waits between chunks.
#[derive(Debug)]
pub(crate) struct Pace(Option<Interval>);

/// Chunks a second: often enough for smooth curves.
const A_SECOND: u32 = 10;

/// Returns the orders of a chunk and what to wait for before each: `rate` a second, or chunks of `most` without
/// a wait. No chunk is larger than `most`.
pub(crate) fn of(rate: Option<u32>, most: usize) -> (usize, Pace) {
    let Some(rate) = rate else { return (most, Pace(None)) };
    let size = rate.div_ceil(A_SECOND).min(u32::try_from(most).unwrap_or(u32::MAX));
    let mut ticks = interval(Duration::from_secs(1) * size / rate);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    (size as usize, Pace(Some(ticks)))
}

impl Pace {
    /// Waits until it is time for the next chunk.
    pub(crate) async fn wait(&mut self) {
        if let Some(ticks) = &mut self.0 {
            ticks.tick().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_rate_is_kept_whatever_the_chunks() {
        for rate in [1, 7, 10, 400, 1_000_000] {
            let (size, pace) = of(Some(rate), 5000);
            let seconds = pace.0.unwrap().period().as_secs_f64();
            assert!((size as f64 / seconds - f64::from(rate)).abs() < f64::from(rate) / 100.0, "{rate}");
        }
        assert_eq!(of(None, 5000).0, 5000);
    }
}

//! How many messages of a handler are under way at once, where that depends on how it fares.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

/// What is left of the limit when a message fails or is slow.
const SHRINK: f64 = 0.75;
/// A message is slow if it takes so many times as long as the quickest did lately.
const SLOW: f64 = 2.0;
/// The quickest time is forgotten by this part with each message, so that it follows what changes.
const FORGET: f64 = 0.001;

/// How many messages are under way at once: a number, or a range within which it adapts.
///
/// Within a range the number grows by one for each round that went well while all places were taken, and
/// shrinks by a quarter when a message fails or takes more than twice as long as the quickest did lately.
///
/// ```
/// use mq_worker::{Handler, Text};
///
/// async fn charge(Text(order): Text) {}
/// let fixed = charge.concurrency(64);
/// let adaptive = charge.concurrency(4..=64);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Concurrency {
    least: usize,
    most: usize,
}

impl From<usize> for Concurrency {
    fn from(messages: usize) -> Self {
        let messages = messages.max(1);
        Self { least: messages, most: messages }
    }
}

impl From<RangeInclusive<usize>> for Concurrency {
    fn from(range: RangeInclusive<usize>) -> Self {
        let least = (*range.start()).max(1);
        Self { least, most: (*range.end()).max(least) }
    }
}

impl Concurrency {
    pub(crate) fn most(self) -> usize {
        self.most
    }

    /// Returns what adapts it, if it is a range.
    pub(crate) fn limiter(self) -> Option<Arc<Limiter>> {
        (self.least < self.most).then(|| {
            Arc::new(Limiter {
                limit: watch::Sender::new(self.least),
                busy: AtomicUsize::new(0),
                state: Mutex::new(Adaptive::new(self)),
            })
        })
    }
}

/// Says which of a handler's places are in use: those whose number is below the limit.
#[derive(Debug)]
pub(crate) struct Limiter {
    limit: watch::Sender<usize>,
    busy: AtomicUsize,
    state: Mutex<Adaptive>,
}

/// A message under way.
pub(crate) struct Started<'a> {
    limiter: &'a Limiter,
    at: Instant,
}

impl Limiter {
    /// Returns once place `index` is in use.
    pub(crate) async fn above(&self, index: usize) {
        // The sender is ours.
        let _ = self.limit.subscribe().wait_for(|limit| *limit > index).await;
    }

    /// Returns once place `index` is not in use.
    pub(crate) async fn below(&self, index: usize) {
        let _ = self.limit.subscribe().wait_for(|limit| *limit <= index).await;
    }

    pub(crate) fn start(&self) -> Started<'_> {
        self.busy.fetch_add(1, Ordering::Relaxed);
        Started { limiter: self, at: Instant::now() }
    }
}

impl Started<'_> {
    /// Takes note of how it went.
    pub(crate) fn end(self, well: bool) {
        let limiter = self.limiter;
        let busy = limiter.busy.load(Ordering::Relaxed);
        let limit = limiter.state.lock().note(busy, self.at.elapsed(), well);
        limiter.limit.send_if_modified(|now| std::mem::replace(now, limit) != limit);
    }
}

impl Drop for Started<'_> {
    fn drop(&mut self) {
        self.limiter.busy.fetch_sub(1, Ordering::Relaxed);
    }
}

#[derive(Debug)]
struct Adaptive {
    bounds: Concurrency,
    limit: f64,
    /// Seconds of the quickest message lately.
    quickest: f64,
    /// Messages that end before the next time that the limit may shrink: those under way when it did last.
    immune: usize,
}

impl Adaptive {
    fn new(bounds: Concurrency) -> Self {
        Self { bounds, limit: bounds.least as f64, quickest: f64::INFINITY, immune: 0 }
    }

    /// Takes note of a message that ended; returns the limit.
    fn note(&mut self, busy: usize, took: Duration, well: bool) -> usize {
        let took = took.as_secs_f64();
        if well {
            self.quickest = took.min(self.quickest * (1.0 + FORGET));
        }
        let slow = took > self.quickest * SLOW;
        self.immune = self.immune.saturating_sub(1);
        if !well || slow {
            if self.immune == 0 {
                self.limit *= SHRINK;
                self.immune = busy;
            }
        } else if busy >= self.limit as usize {
            self.limit += 1.0 / self.limit;
        }
        self.limit = self.limit.clamp(self.bounds.least as f64, self.bounds.most as f64);
        self.limit as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUICK: Duration = Duration::from_millis(10);

    fn rounds(adaptive: &mut Adaptive, rounds: usize, took: Duration, well: bool) -> usize {
        let mut limit = adaptive.limit as usize;
        for _ in 0..rounds {
            let places = limit;
            for _ in 0..places {
                limit = adaptive.note(limit, took, well);
            }
        }
        limit
    }

    #[test]
    fn it_grows_while_all_is_well_and_all_places_are_taken() {
        let mut adaptive = Adaptive::new((2..=8).into());
        let limit = rounds(&mut adaptive, 3, QUICK, true);
        assert!((4..=5).contains(&limit), "{limit}");
        assert_eq!(rounds(&mut adaptive, 20, QUICK, true), 8);
        // Nobody uses what there is: no reason to grow.
        let mut idle = Adaptive::new((2..=8).into());
        assert_eq!((0..100).map(|_| idle.note(1, QUICK, true)).max(), Some(2));
    }

    #[test]
    fn it_shrinks_once_a_round_by_failures_and_by_slow_messages() {
        for (took, well) in [(QUICK, false), (3 * QUICK, true)] {
            let mut adaptive = Adaptive::new((2..=64).into());
            assert_eq!(rounds(&mut adaptive, 200, QUICK, true), 64);
            let limits: Vec<usize> = (0..64).map(|_| adaptive.note(64, took, well)).collect();
            assert_eq!((limits[0], limits[63]), (48, 48));
            assert_eq!(adaptive.note(48, took, well), 36);
            assert_eq!(rounds(&mut adaptive, 100, took, false), 2);
        }
    }

    #[test]
    fn what_became_slower_for_good_is_the_new_measure() {
        let mut adaptive = Adaptive::new((2..=8).into());
        rounds(&mut adaptive, 20, QUICK, true);
        assert_eq!(rounds(&mut adaptive, 50, 3 * QUICK, true), 2);
        assert_eq!(rounds(&mut adaptive, 1000, 3 * QUICK, true), 8);
    }

    #[test]
    fn a_number_does_not_adapt() {
        assert!(Concurrency::from(0).limiter().is_none());
        assert_eq!(Concurrency::from(0).most(), 1);
        #[expect(clippy::reversed_empty_ranges, reason = "a user may write it")]
        let reversed = Concurrency::from(8..=2);
        assert_eq!(reversed, Concurrency::from(8));
    }
}

//! Growing pauses, with or without a worker.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::time::Duration;

/// How often to try, and how long to wait in between.
///
/// Default: 5 attempts, 100 ms doubling up to 30 s, with jitter, none of them in process.
///
/// ```
/// use std::time::Duration;
/// use mq_worker::Backoff;
///
/// let backoff = Backoff::exponential(Duration::from_millis(100)..=Duration::from_secs(30)).attempts(8);
/// assert_eq!(backoff.delay(1), Duration::from_millis(100));
/// assert_eq!(backoff.delay(4), Duration::from_millis(800));
/// assert_eq!(backoff.delay(100), Duration::from_secs(30));
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Backoff {
    first: Duration,
    ceiling: Duration,
    multiplier: f64,
    jitter: bool,
    attempts: u32,
    immediate: u32,
}

impl Default for Backoff {
    fn default() -> Self {
        Self::exponential(Duration::from_millis(100)..=Duration::from_secs(30)).jitter()
    }
}

impl Backoff {
    /// Waits the start of the range first, then twice as long each time, up to its end.
    #[must_use]
    pub fn exponential(delays: RangeInclusive<Duration>) -> Self {
        let (first, ceiling) = delays.into_inner();
        Self { first, ceiling, multiplier: 2.0, jitter: false, attempts: 5, immediate: 0 }
    }

    /// Waits the same time each time.
    #[must_use]
    pub fn constant(delay: Duration) -> Self {
        Self { multiplier: 1.0, ..Self::exponential(delay..=delay) }
    }

    /// Sets how much longer each wait is than the one before. Default 2; below 1 counts as 1.
    #[must_use]
    pub fn multiplier(mut self, multiplier: f64) -> Self {
        self.multiplier = multiplier.max(1.0);
        self
    }

    /// Shortens each wait by a random part, by half at most, so that what failed together does not come
    /// back together.
    #[must_use]
    pub fn jitter(mut self) -> Self {
        self.jitter = true;
        self
    }

    /// Sets how many attempts there are, the first one included; at least 1. Default 5. In a worker it is
    /// the group's `max_attempts`, after which a message is a dead letter.
    #[must_use]
    pub fn attempts(mut self, attempts: u32) -> Self {
        self.attempts = attempts.max(1);
        self
    }

    /// Tries up to `tries` times more at once and in process, within each attempt, before the wait.
    /// Default 0.
    #[must_use]
    pub fn immediate(mut self, tries: u32) -> Self {
        self.immediate = tries;
        self
    }

    /// Returns how long to wait after attempt number `attempt`, from 1.
    #[must_use]
    pub fn delay(&self, attempt: u32) -> Duration {
        let power = i32::try_from(attempt.saturating_sub(1)).unwrap_or(i32::MAX);
        let seconds = self.first.as_secs_f64() * self.multiplier.powi(power);
        let delay = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX).min(self.ceiling);
        if self.jitter { delay.mul_f64(1.0 - fastrand::f64() / 2.0) } else { delay }
    }

    pub(crate) fn max_attempts(&self) -> u32 {
        self.attempts
    }

    pub(crate) fn immediate_tries(&self) -> u32 {
        self.immediate
    }
}

/// Calls `operation` until it succeeds or the attempts of `backoff` are used up.
///
/// # Errors
/// The last one.
///
/// # Cancel safety
/// Dropping the future drops the call under way and makes no other.
///
/// # Examples
/// ```
/// # async fn example() -> Result<(), std::io::Error> {
/// use mq_worker::{Backoff, retry};
/// let mut calls = 0;
/// let answer = retry(Backoff::default().attempts(3), || {
///     calls += 1;
///     let call = calls;
///     async move { if call < 3 { Err(std::io::Error::other("busy")) } else { Ok(call) } }
/// });
/// assert_eq!(answer.await?, 3);
/// # Ok(())
/// # }
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(example()).unwrap();
/// ```
pub async fn retry<T, E: Display, F>(backoff: Backoff, operation: impl FnMut() -> F) -> Result<T, E>
where
    F: Future<Output = Result<T, E>>,
{
    retry_if(backoff, |_| true, operation).await
}

/// As [`retry`], and gives up at once when `worth_it` says no to the error.
///
/// # Errors
/// The last one.
///
/// # Cancel safety
/// As for [`retry`].
pub async fn retry_if<T, E: Display, F>(
    backoff: Backoff,
    worth_it: impl Fn(&E) -> bool,
    mut operation: impl FnMut() -> F,
) -> Result<T, E>
where
    F: Future<Output = Result<T, E>>,
{
    let mut attempt = 1;
    loop {
        let mut tries = 0;
        let error = loop {
            match operation().await {
                Ok(value) => return Ok(value),
                Err(error) if !worth_it(&error) => return Err(error),
                Err(_) if tries < backoff.immediate => tries += 1,
                Err(error) => break error,
            }
        };
        if attempt >= backoff.attempts {
            return Err(error);
        }
        let delay = backoff.delay(attempt);
        tracing::debug!(target: "mq", attempt, ?delay, %error, "trying again");
        tokio::time::sleep(delay).await;
        attempt += 1;
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn delays_grow_up_to_the_ceiling() {
        let backoff = Backoff::exponential(SECOND..=10 * SECOND).multiplier(3.0);
        assert_eq!([1, 2, 3, 4, u32::MAX].map(|n| backoff.delay(n).as_secs()), [1, 3, 9, 10, 10]);
        assert_eq!([1, 9].map(|n| Backoff::constant(SECOND).delay(n)), [SECOND; 2]);
    }

    #[test]
    fn jitter_takes_half_at_most_and_differs() {
        let backoff = Backoff::exponential(SECOND..=SECOND).jitter();
        let delays: Vec<_> = (0..100).map(|_| backoff.delay(1)).collect();
        assert!(delays.iter().all(|delay| (SECOND / 2..=SECOND).contains(delay)));
        assert!(delays.iter().any(|delay| *delay != delays[0]));
    }

    #[tokio::test(start_paused = true)]
    async fn it_waits_between_attempts_and_tries_at_once_within_one() {
        let (start, mut calls) = (Instant::now(), Vec::new());
        let backoff = Backoff::exponential(SECOND..=60 * SECOND).attempts(3).immediate(1);
        let error = retry(backoff, || {
            calls.push(start.elapsed().as_secs());
            async { Err::<(), _>("no") }
        });
        assert_eq!(error.await, Err("no"));
        assert_eq!(calls, [0, 0, 1, 1, 3, 3]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_worth_it_ends_it() {
        let mut calls = 0;
        let error = retry_if(
            Backoff::default(),
            |error| *error != "fatal",
            || {
                calls += 1;
                let error = if calls == 2 { "fatal" } else { "no" };
                async move { Err::<(), _>(error) }
            },
        );
        assert_eq!((error.await, calls), (Err("fatal"), 2));
    }
}

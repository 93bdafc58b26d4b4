//! Only at certain times.

use std::fmt;
use std::time::Duration;

use mq_core::{Clock, Timestamp};
use tokio::time::Instant;

use crate::context::Context;
use crate::failure::Failure;
use crate::layer::{Layer, Next};
use crate::outcome::Outcome;

const DAY: Duration = Duration::from_secs(24 * 3600);

type Closed = Box<dyn Fn(Timestamp) -> Option<Duration> + Send + Sync>;

/// Lets messages through at certain times; outside them the intake pauses, and what was received already is
/// given back to the broker until then, not counted as an attempt.
///
/// ```
/// use std::time::Duration;
/// use mq_worker::{Handler, layers::ScheduleWindow};
///
/// async fn report() {}
/// let hours = |hours: u64| Duration::from_secs(hours * 3600);
/// // From 22:00 to 06:00 UTC.
/// let route = report.layer(ScheduleWindow::daily(hours(22), hours(6)));
/// ```
pub struct ScheduleWindow {
    closed: Closed,
    clock: Clock,
}

impl ScheduleWindow {
    /// Lets messages through each day from one time after midnight UTC to another, which may be the next day's.
    #[must_use]
    pub fn daily(from: Duration, to: Duration) -> Self {
        Self::new(move |now| until_daily(from, to, now))
    }

    /// Lets messages through while `closed` returns nothing; else it says for how long there is nothing to do.
    #[must_use]
    pub fn new(closed: impl Fn(Timestamp) -> Option<Duration> + Send + Sync + 'static) -> Self {
        Self { closed: Box::new(closed), clock: Clock::default() }
    }

    /// Sets the clock that is asked; for tests. Default: the system's.
    #[must_use]
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }
}

fn until_daily(from: Duration, to: Duration, now: Timestamp) -> Option<Duration> {
    let millis = |time: Duration| time.as_millis() as u64 % DAY.as_millis() as u64;
    let (from, to, now) = (millis(from), millis(to), millis(Duration::from_millis(now.as_millis())));
    let open = if from <= to { (from..to).contains(&now) } else { now >= from || now < to };
    let day = DAY.as_millis() as u64;
    (!open).then(|| Duration::from_millis((from + day - now) % day))
}

impl fmt::Debug for ScheduleWindow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScheduleWindow").finish_non_exhaustive()
    }
}

impl Layer for ScheduleWindow {
    async fn call(&self, context: &mut Context<'_>, next: Next<'_>) -> Outcome {
        if let Some(wait) = (self.closed)(self.clock.now()) {
            context.pause_until(Instant::now() + wait);
            return Err(Failure::defer(wait).because("it is not the time for it"));
        }
        next.run(context).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_may_go_past_midnight() {
        let hours = |hours: u64| Duration::from_secs(hours * 3600);
        let wait = |from, to, now: u64| {
            let now = Timestamp::from_millis(now * 3_600_000 + 20_000 * 86_400_000);
            until_daily(hours(from), hours(to), now).map(|wait| wait.as_secs() / 3600)
        };
        assert_eq!([8, 9, 16, 17, 23].map(|now| wait(9, 17, now)), [Some(1), None, None, Some(16), Some(10)]);
        assert_eq!([21, 22, 0, 5, 6].map(|now| wait(22, 6, now)), [Some(1), None, None, None, Some(16)]);
    }
}

//! A burst in, a steady flow out.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::context::Context;
use crate::layer::{Layer, Next};
use crate::outcome::Outcome;

/// Lets messages through at a steady pace; who is early waits, and what is not received yet waits at the
/// broker.
///
/// Each instance is one limit: of one handler, or, on a worker or in an `Arc`, of all that share it. A waiting
/// message takes up one of the handler's places, and its lease is renewed.
///
/// ```
/// use std::time::Duration;
/// use mq_worker::{Handler, layers::RateLimit};
///
/// async fn call_partner() {}
/// // 10 a second, and up to 5 at once after a pause.
/// let route = call_partner.layer(RateLimit::new(10, Duration::from_secs(1)).burst(5));
/// ```
#[derive(Debug)]
pub struct RateLimit {
    every: Duration,
    burst: u32,
    /// When the next message would be on time, had all come evenly.
    due: Mutex<Option<Instant>>,
}

impl RateLimit {
    /// Lets `messages` through in each `per`, evenly.
    #[must_use]
    pub fn new(messages: u32, per: Duration) -> Self {
        Self { every: per / messages.max(1), burst: 1, due: Mutex::default() }
    }

    /// Lets up to this many through at once after a pause. Default 1.
    #[must_use]
    pub fn burst(mut self, messages: u32) -> Self {
        self.burst = messages.max(1);
        self
    }

    /// Takes the next turn; returns when it is.
    fn turn(&self, now: Instant) -> Instant {
        let mut due = self.due.lock();
        let on_time = due.map_or(now, |due| due.max(now));
        *due = Some(on_time + self.every);
        let ahead = self.every.saturating_mul(self.burst - 1);
        on_time.checked_sub(ahead).map_or(now, |early| early.max(now))
    }
}

impl Layer for RateLimit {
    async fn call(&self, context: &mut Context<'_>, next: Next<'_>) -> Outcome {
        let now = Instant::now();
        let turn = self.turn(now);
        if turn > now {
            context.wait_until(turn).await?;
        }
        next.run(context).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_burst_then_a_steady_flow() {
        let (limit, start) = (RateLimit::new(10, Duration::from_secs(1)).burst(3), Instant::now());
        let mut turns = |now| (limit.turn(now) - start).as_millis();
        assert_eq!([start; 5].map(&mut turns), [0, 0, 0, 100, 200]);
        // A second later there is a burst again.
        let later = start + Duration::from_millis(1300);
        assert_eq!([later; 4].map(turns), [1300, 1300, 1300, 1400]);
    }
}

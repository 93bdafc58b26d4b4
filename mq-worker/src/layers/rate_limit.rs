//! A burst in, a steady flow out.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use mq_core::Message;
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
/// // 10 a second of each customer.
/// let fair = call_partner.layer(RateLimit::new(10, Duration::from_secs(1)).per_key());
/// ```
pub struct RateLimit {
    every: Duration,
    burst: u32,
    key: Option<KeyOf>,
    due: Mutex<Due>,
}

/// What makes messages share a limit.
pub(crate) type KeyOf = Box<dyn Fn(&Message) -> Vec<u8> + Send + Sync>;

/// The message's key; messages without one share a limit.
pub(crate) fn own_key(message: &Message) -> Vec<u8> {
    message.key.as_deref().unwrap_or_default().to_vec()
}

/// When the next message of each key would be on time, had all come evenly.
#[derive(Debug, Default)]
struct Due {
    of_keys: HashMap<Vec<u8>, Instant>,
    /// When there are so many, those whose time is over are removed.
    sweep_at: usize,
}

impl RateLimit {
    /// Lets `messages` through in each `per`, evenly.
    #[must_use]
    pub fn new(messages: u32, per: Duration) -> Self {
        Self { every: per / messages.max(1), burst: 1, key: None, due: Mutex::default() }
    }

    /// Lets up to this many through at once after a pause. Default 1.
    #[must_use]
    pub fn burst(mut self, messages: u32) -> Self {
        self.burst = messages.max(1);
        self
    }

    /// Limits each of what `key` makes of a message by itself.
    #[must_use]
    pub fn per(mut self, key: impl Fn(&Message) -> Vec<u8> + Send + Sync + 'static) -> Self {
        self.key = Some(Box::new(key));
        self
    }

    /// Limits each key by itself; messages without one together.
    #[must_use]
    pub fn per_key(self) -> Self {
        self.per(own_key)
    }

    /// Takes the next turn of what `message` belongs to; returns when it is.
    pub(crate) fn turn(&self, message: &Message, now: Instant) -> Instant {
        let key = self.key.as_ref().map(|key| key(message)).unwrap_or_default();
        let mut due = self.due.lock();
        let on_time = due.of_keys.get(&key).map_or(now, |due| (*due).max(now));
        due.set(key, on_time + self.every, now);
        let ahead = self.every.saturating_mul(self.burst - 1);
        on_time.checked_sub(ahead).map_or(now, |early| early.max(now))
    }
}

impl Due {
    fn set(&mut self, key: Vec<u8>, due: Instant, now: Instant) {
        if self.of_keys.len() >= self.sweep_at.max(1024) {
            self.of_keys.retain(|_, due| *due > now);
            self.sweep_at = self.of_keys.len() * 2;
        }
        self.of_keys.insert(key, due);
    }
}

impl fmt::Debug for RateLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { every, burst, .. } = self;
        f.debug_struct("RateLimit").field("every", every).field("burst", burst).finish_non_exhaustive()
    }
}

impl Layer for RateLimit {
    async fn call(&self, context: &mut Context<'_>, next: Next<'_>) -> Outcome {
        let now = Instant::now();
        let turn = self.turn(context.message(), now);
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
        let message = Message::new("");
        let mut turns = |now| (limit.turn(&message, now) - start).as_millis();
        assert_eq!([start; 5].map(&mut turns), [0, 0, 0, 100, 200]);
        // A second later there is a burst again.
        let later = start + Duration::from_millis(1300);
        assert_eq!([later; 4].map(turns), [1300, 1300, 1300, 1400]);
    }
    #[tokio::test(start_paused = true)]
    async fn keys_have_turns_of_their_own_and_are_forgotten() {
        let (limit, start) = (RateLimit::new(10, Duration::from_secs(1)).per_key(), Instant::now());
        let of = |key: usize| Message::new("").key(key.to_string());
        let turns = [1, 1, 2, 1, 2].map(|key| (limit.turn(&of(key), start) - start).as_millis());
        assert_eq!(turns, [0, 100, 0, 200, 100]);
        for key in 0..10_000 {
            limit.turn(&of(key), start + Duration::from_secs(key as u64));
        }
        assert!(limit.due.lock().of_keys.len() <= 1024);
    }
}

//! A limit on time.

use std::time::Duration;

use crate::context::Context;
use crate::layer::{Layer, Next, too_long};
use crate::outcome::Outcome;

/// Cancels what is inside it after a time; the message failed then, and the policy says what comes next.
///
/// [`Worker::timeout`](crate::Worker::timeout) limits the handler alone; this limits the layers inside it,
/// too. What blocks its thread cannot be cancelled.
///
/// ```
/// use std::time::Duration;
/// use mq_worker::{Handler, layers::Timeout};
///
/// async fn slow() {}
/// let route = slow.layer(Timeout::new(Duration::from_secs(10)));
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Timeout(Duration);

impl Timeout {
    /// Allows `limit`.
    #[must_use]
    pub const fn new(limit: Duration) -> Self {
        Self(limit)
    }
}

impl Layer for Timeout {
    async fn call(&self, context: &mut Context<'_>, next: Next<'_>) -> Outcome {
        match tokio::time::timeout(self.0, next.run(context)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(too_long(self.0)),
        }
    }
}

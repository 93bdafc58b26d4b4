//! Too many failures: stop.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::context::Context;
use crate::layer::{Layer, Next};
use crate::outcome::Outcome;

/// Stops the worker after too many failures in a row, and says so: the run drains and returns an error with a
/// [`Stopped`](crate::Stopped) underneath.
///
/// Rejected messages count, given back ones do not. For errors that no retry heals, such as a wrong
/// configuration, it keeps the topic from ending in the dead letters.
///
/// ```
/// use mq_worker::{Handler, layers::KillSwitch};
///
/// async fn import() {}
/// let route = import.layer(KillSwitch::after(20));
/// ```
#[derive(Debug)]
pub struct KillSwitch {
    limit: u32,
    failures: AtomicU32,
}

impl KillSwitch {
    /// Stops after this many failures in a row, of all handlers that share it.
    #[must_use]
    pub const fn after(failures: u32) -> Self {
        Self { limit: failures, failures: AtomicU32::new(0) }
    }
}

impl Layer for KillSwitch {
    async fn call(&self, context: &mut Context<'_>, next: Next<'_>) -> Outcome {
        let outcome = next.run(context).await;
        match &outcome {
            Ok(_) => self.failures.store(0, Ordering::Relaxed),
            Err(failure) if matches!(failure.verdict(), crate::Verdict::Defer(_)) => {}
            Err(failure) => {
                let failures = self.failures.fetch_add(1, Ordering::Relaxed) + 1;
                if failures >= self.limit {
                    let topic = context.topic();
                    context.stop(format!(
                        "{failures} failures in a row on topic {topic}, the last one: {failure}; remove the cause and start it again"
                    ));
                }
            }
        }
        outcome
    }
}

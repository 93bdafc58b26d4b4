//! A record of what became of each attempt.

use std::fmt;
use std::time::Duration;

use mq_core::{GroupName, Message, TopicName};
use tokio::time::Instant;

use crate::context::Context;
use crate::failure::Failure;
use crate::layer::{Layer, Next};
use crate::outcome::{Done, Outcome};

/// What became of an attempt to handle a message.
#[derive(Debug)]
#[non_exhaustive]
pub struct Record<'a> {
    /// The topic it came from.
    pub topic: &'a TopicName,
    /// The group whose share it was of.
    pub group: &'a GroupName,
    /// The message.
    pub message: &'a Message,
    /// Which attempt it was, from 1.
    pub attempt: u32,
    /// How long the layers inside and the handler took.
    pub took: Duration,
    /// What came of it.
    pub outcome: Result<&'a Done, &'a Failure>,
}

/// Tells a function what became of each attempt. It is called in the handler's task: it must not block.
///
/// An attempt that is cancelled, because its lease was lost or draining ran out of time, has no outcome and is
/// not told.
///
/// ```
/// use mq_worker::{Handler, layers::Audit};
///
/// async fn charge() {}
/// let route = charge.layer(Audit::new(|record| {
///     println!("{} attempt {}: {:?}", record.message.id, record.attempt, record.outcome);
/// }));
/// ```
pub struct Audit(Box<dyn Fn(&Record<'_>) + Send + Sync>);

impl Audit {
    /// Tells `tell`.
    #[must_use]
    pub fn new(tell: impl Fn(&Record<'_>) + Send + Sync + 'static) -> Self {
        Self(Box::new(tell))
    }
}

impl fmt::Debug for Audit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Audit").finish_non_exhaustive()
    }
}

impl Layer for Audit {
    async fn call(&self, context: &mut Context<'_>, next: Next<'_>) -> Outcome {
        let start = Instant::now();
        let outcome = next.run(context).await;
        (self.0)(&Record {
            topic: context.topic(),
            group: context.group(),
            message: context.delivery().message(),
            attempt: context.delivery().attempt(),
            took: start.elapsed(),
            outcome: outcome.as_ref(),
        });
        outcome
    }
}

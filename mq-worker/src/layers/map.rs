//! Another message in the place of the one delivered.

use std::fmt;

use mq_core::Message;

use crate::context::Context;
use crate::failure::Failure;
use crate::layer::{Layer, Next};
use crate::outcome::Outcome;

type Change = Box<dyn Fn(Message) -> Result<Message, Failure> + Send + Sync>;

/// Changes each message for the layers inside it and the handler.
///
/// What is tried again or becomes a dead letter is the message as it was delivered. An error is a failure that
/// follows the policy; `Failure::reject` makes a dead letter at once.
///
/// ```
/// use mq_worker::{Failure, Handler, Text, layers::Map};
///
/// async fn import(Text(line): Text) {}
/// let trimmed = Map::new(|mut message| {
///     let text = std::str::from_utf8(&message.payload).map_err(Failure::reject)?;
///     message.payload = text.trim().to_owned().into();
///     Ok(message)
/// });
/// let route = import.layer(trimmed);
/// ```
pub struct Map(Change);

impl Map {
    /// Changes messages by a function.
    #[must_use]
    pub fn new(change: impl Fn(Message) -> Result<Message, Failure> + Send + Sync + 'static) -> Self {
        Self(Box::new(change))
    }
}

impl fmt::Debug for Map {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Map").finish_non_exhaustive()
    }
}

impl Layer for Map {
    async fn call(&self, context: &mut Context<'_>, next: Next<'_>) -> Outcome {
        let message = (self.0)(context.message().clone())?;
        context.replace(message);
        next.run(context).await
    }
}

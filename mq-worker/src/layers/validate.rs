//! Only what is as it should be.

use std::error::Error as StdError;
use std::fmt;

use mq_core::Message;

use crate::context::Context;
use crate::failure::Failure;
use crate::layer::{Layer, Next};
use crate::outcome::Outcome;

type Check = Box<dyn Fn(&Message) -> Result<(), Failure> + Send + Sync>;

/// Makes a dead letter of what is not as it should be, with the reason, before any handler sees it.
///
/// ```
/// use mq_worker::{Handler, layers::Validate};
///
/// async fn import() {}
/// let route = import.layer(Validate::new(|message| match &message.key {
///     Some(_) => Ok(()),
///     None => Err("an order needs its customer as the key"),
/// }));
/// ```
pub struct Validate(Check);

impl Validate {
    /// Lets through what `check` has nothing against.
    #[must_use]
    pub fn new<E: Into<Box<dyn StdError + Send + Sync>>>(
        check: impl Fn(&Message) -> Result<(), E> + Send + Sync + 'static,
    ) -> Self {
        Self(Box::new(move |message| check(message).map_err(Failure::reject)))
    }
}

impl fmt::Debug for Validate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Validate").finish_non_exhaustive()
    }
}

impl Layer for Validate {
    async fn call(&self, context: &mut Context<'_>, next: Next<'_>) -> Outcome {
        (self.0)(context.message())?;
        next.run(context).await
    }
}

//! Old versions are brought up to date before the handler sees them.

use mq_codec::Upcasters;

use crate::context::Context;
use crate::failure::Failure;
use crate::layer::{Layer, Next};
use crate::outcome::Outcome;

/// Brings messages of one type up to date, so that the handler knows the current version alone. Messages of other types pass as they
/// are. A version that is newer or older than those known, and what cannot be brought up to date, is a dead letter with the
/// reason, as it was delivered; once the service is updated it can be redriven.
///
/// ```
/// use mq_codec::Upcasters;
/// use mq_worker::{Body, Handler, layers::Upcast};
///
/// async fn place(Body(order): Body<serde_json::Value>) {}
/// let orders = Upcasters::of("order").then(|mut order| {
///     order["currency"] = "EUR".into();
///     Ok(order)
/// });
/// let route = place.layer(Upcast::new(orders));
/// ```
#[derive(Clone, Debug)]
pub struct Upcast(Upcasters);

impl Upcast {
    /// Applies these steps.
    #[must_use]
    pub const fn new(upcasters: Upcasters) -> Self {
        Self(upcasters)
    }
}

impl Layer for Upcast {
    async fn call(&self, context: &mut Context<'_>, next: Next<'_>) -> Outcome {
        let message = context.message();
        if self.0.concerns(message) && self.0.is_old(message).map_err(Failure::reject)? {
            let message = self.0.upcast(message.clone()).map_err(Failure::reject)?;
            context.replace(message);
        }
        next.run(context).await
    }
}

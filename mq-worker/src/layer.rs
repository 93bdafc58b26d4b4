//! What runs around a handler.

use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt as _;

use crate::context::Context;
use crate::failure::Failure;
use crate::handler::{AnyHandler, BoxFuture};
use crate::outcome::{Done, Outcome};

/// Runs around a handler: looks at the message before, at what came of it after, or does not let it through.
///
/// Layers go around a handler in the order in which they were added: the first one is the outermost. A worker's
/// are outside those of its handlers. What a layer sees as `Ok` was handled and what it returned is
/// published; panics and timeouts of the handler are failures like others. One box per layer and message.
///
/// # Cancel safety
/// `call` is dropped at any await when the lease is lost, when a layer outside times out, or when
/// draining runs out of time. A layer that waits should also wait for [`Context::stopping`].
///
/// # Examples
/// ```
/// use mq_worker::{Context, Layer, Next, Outcome};
///
/// struct Timed;
///
/// impl Layer for Timed {
///     async fn call(&self, context: &mut Context<'_>, next: Next<'_>) -> Outcome {
///         let start = std::time::Instant::now();
///         let outcome = next.run(context).await;
///         println!("{} took {:?}", context.message().id, start.elapsed());
///         outcome
///     }
/// }
/// ```
pub trait Layer: Send + Sync + 'static {
    /// Handles a message; `next` is the rest of the way.
    fn call(&self, context: &mut Context<'_>, next: Next<'_>) -> impl Future<Output = Outcome> + Send;
}

impl<L: Layer> Layer for Arc<L> {
    fn call(&self, context: &mut Context<'_>, next: Next<'_>) -> impl Future<Output = Outcome> + Send {
        L::call(self, context, next)
    }
}

/// A layer that has lost its type.
pub(crate) trait AnyLayer: Send + Sync {
    fn call<'a>(&'a self, context: &'a mut Context<'_>, next: Next<'a>) -> BoxFuture<'a, Outcome>;
}

impl<L: Layer> AnyLayer for L {
    fn call<'a>(&'a self, context: &'a mut Context<'_>, next: Next<'a>) -> BoxFuture<'a, Outcome> {
        Box::pin(Layer::call(self, context, next))
    }
}

impl fmt::Debug for dyn AnyLayer + '_ {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("layer")
    }
}

/// The layers further in, and the handler. Can be run more than once.
#[derive(Clone, Copy, Debug)]
pub struct Next<'a> {
    pub(crate) layers: &'a [Arc<dyn AnyLayer>],
    pub(crate) handler: &'a dyn AnyHandler,
}

impl Next<'_> {
    /// Goes the rest of the way.
    ///
    /// # Errors
    /// What a layer or the handler says, and what keeps its messages from being published.
    pub async fn run(self, context: &mut Context<'_>) -> Outcome {
        match self.layers {
            [layer, layers @ ..] => AnyLayer::call(&**layer, context, Next { layers, ..self }).await,
            [] => self.handle(context).await,
        }
    }

    async fn handle(self, context: &Context<'_>) -> Outcome {
        let handled = AssertUnwindSafe(async { self.handler.call(context).await }).catch_unwind();
        let handled = match context.timeout() {
            None => handled.await,
            Some(limit) => match tokio::time::timeout(limit, handled).await {
                Ok(handled) => handled,
                Err(_) => return Err(too_long(limit)),
            },
        };
        let done = handled.unwrap_or_else(|panic| Err(Failure::panicked(&*panic)))?;
        context.publish(done.publish).await?;
        Ok(Done { publish: Vec::new(), ..done })
    }
}

pub(crate) fn too_long(limit: std::time::Duration) -> Failure {
    format!("it took longer than {limit:?} and was cancelled; allow it more with `timeout`").into()
}

//! Handlers of several messages at once.

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use crate::context::Context;
use crate::extensions::Extensions;
use crate::extract::FromMessage;
use crate::failure::Failure;
use crate::gather::{Gather, Limits};
use crate::handler::{AnyHandler, BoxFuture, rejected};
use crate::outcome::{IntoOutcome, Outcome};
use crate::route::{IntoRoute, Route};

/// Messages of a batch, unless it says otherwise.
pub const BATCH: usize = 100;
/// How long a batch waits for more messages, unless it says otherwise.
pub const WITHIN: Duration = Duration::from_millis(20);
/// Batches that are under way or gathered at once, unless the route's concurrency says otherwise.
const BATCHES: usize = 2;

/// Makes a batch handler of an async function that takes a `Vec` of what it wants of each message, and up to
/// three further extractors, which are those of the first message: [`State`](crate::State), as a rule.
///
/// It returns one verdict for all, `()` or `Result<(), E>`, or a `Vec` of what a
/// [handler](crate::Handler) returns, one for each message, in order. Layers, timeouts and retries go
/// around each message as usual: what a filter skips is in no batch. A batch ends when its first message's time
/// is over. Of an ordered topic a batch has one message of each key.
///
/// ```
/// use std::time::Duration;
/// use mq_worker::{Failure, Id, Text, batch};
///
/// async fn store(orders: Vec<Text>) -> Result<(), Failure> {
///     println!("{} rows in one statement", orders.len());
///     Ok(()) // all are acked
/// }
///
/// async fn check(orders: Vec<(Id, Text)>) -> Vec<Result<(), Failure>> {
///     let verdict = |(_, order): &(Id, Text)| match order.0.is_empty() {
///         true => Err(Failure::reject("an empty order")),
///         false => Ok(()),
///     };
///     orders.iter().map(verdict).collect()
/// }
///
/// let stored = batch(store).size(500).within(Duration::from_millis(50));
/// let checked = batch(check).route().concurrency(1000);
/// ```
pub fn batch<Item, Args, H: BatchHandler<Item, Args>>(handler: H) -> Batch<H, Item, Args> {
    Batch { handler, size: BATCH, within: WITHIN, marker: PhantomData }
}

/// A handler of several messages at once; [`batch`] makes one.
#[must_use = "give it to a worker with `on`"]
#[derive(Debug)]
pub struct Batch<H, Item, Args> {
    handler: H,
    size: usize,
    within: Duration,
    marker: PhantomData<fn(Item, Args)>,
}

impl<Item, Args, H> Batch<H, Item, Args>
where
    Item: FromMessage + Send + 'static,
    Args: Send + 'static,
    H: BatchHandler<Item, Args>,
{
    /// Sets how many messages a batch has at most. Default [`BATCH`].
    pub fn size(mut self, messages: usize) -> Self {
        self.size = messages.max(1);
        self
    }

    /// Sets how long a batch waits for more messages after its first. Default [`WITHIN`].
    pub fn within(mut self, time: Duration) -> Self {
        self.within = time;
        self
    }

    /// Makes a route of it, for its settings. Its concurrency is in messages, by default those of two batches: one
    /// under way and one that is gathered.
    pub fn route(self) -> Route {
        let limits = Limits { items: self.size, bytes: usize::MAX, within: self.within };
        let shared = Arc::new((self.handler, Gather::default()));
        Route::new(Box::new(Gathered { shared, limits })).concurrency(self.size.saturating_mul(BATCHES))
    }
}

/// Marks what is a route because it is a batch.
#[derive(Debug)]
pub struct ByBatch;

impl<Item, Args, H> IntoRoute<ByBatch> for Batch<H, Item, Args>
where
    Item: FromMessage + Send + 'static,
    Args: Send + 'static,
    H: BatchHandler<Item, Args>,
{
    fn into_route(self) -> Route {
        self.route()
    }
}

/// An async function of a `Vec` of an [extractor](FromMessage), and up to three further extractors; see [`batch`].
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a batch handler: it must be an `async fn` of a `Vec` of an extractor and at most 3 further extractors that returns `()`, `Result<(), E>` or a `Vec` with a verdict for each",
    label = "not a batch handler"
)]
pub trait BatchHandler<Item, Args>: Send + Sync + 'static {
    #[doc(hidden)]
    fn args(context: &Context<'_>) -> Result<Args, crate::Rejection>;

    #[doc(hidden)]
    fn check(state: &Extensions) -> Result<(), String>;

    #[doc(hidden)]
    fn call(&self, items: Vec<Item>, args: Args) -> impl Future<Output = Vec<Outcome>> + Send;
}

/// What a batch handler may return: one verdict for all, or a `Vec` with one for each.
#[diagnostic::on_unimplemented(
    message = "a batch handler cannot return `{Self}`",
    label = "not a verdict for a batch",
    note = "return `()` or `Result<(), E>` for all, or a `Vec` of what a handler may return, one for each message"
)]
pub trait IntoOutcomes {
    /// Turns it into what becomes of each of `count` messages.
    fn into_outcomes(self, count: usize) -> Vec<Outcome>;
}

impl IntoOutcomes for () {
    fn into_outcomes(self, count: usize) -> Vec<Outcome> {
        (0..count).map(|_| ().into_outcome()).collect()
    }
}

impl<E: Into<Failure>> IntoOutcomes for Result<(), E> {
    fn into_outcomes(self, count: usize) -> Vec<Outcome> {
        let verdict = self.map_err(Into::into);
        (0..count).map(|_| verdict.clone().into_outcome()).collect()
    }
}

impl<T: IntoOutcome> IntoOutcomes for Vec<T> {
    fn into_outcomes(self, count: usize) -> Vec<Outcome> {
        if self.len() != count {
            let text = format!("the batch handler returned {} verdicts for {count} messages", self.len());
            return Err::<(), _>(Failure::from(text)).into_outcomes(count);
        }
        self.into_iter().map(IntoOutcome::into_outcome).collect()
    }
}

struct Gathered<H, Item, Args> {
    #[expect(clippy::type_complexity, reason = "a handler and what it waits for")]
    shared: Arc<(H, Gather<(Item, Args), Outcome>)>,
    limits: Limits,
}

impl<Item, Args, H> AnyHandler for Gathered<H, Item, Args>
where
    Item: FromMessage + Send + 'static,
    Args: Send + 'static,
    H: BatchHandler<Item, Args>,
{
    fn call(&self, context: &Context<'_>) -> BoxFuture<'static, Outcome> {
        let item = Item::from_message(context).and_then(|item| Ok((item, H::args(context)?)));
        let item = match item {
            Ok(item) => item,
            Err(rejection) => return rejected(rejection),
        };
        let (shared, limits) = (self.shared.clone(), self.limits);
        Box::pin(async move {
            let (handler, gather) = &*shared;
            let work = async |items: Vec<(Item, Args)>| {
                let (items, mut args): (Vec<Item>, Vec<Args>) = items.into_iter().unzip();
                // The first message leads: it is there.
                handler.call(items, args.swap_remove(0)).await
            };
            match gather.join(limits, item, 0, work).await {
                Ok(outcome) => outcome,
                Err(left) if left.begun => Err("the batch it was in was cancelled or panicked".into()),
                Err(_) => Err(Failure::defer(Duration::ZERO).because("the batch it waited in was cancelled")),
            }
        })
    }

    fn check(&self, state: &Extensions) -> Result<(), String> {
        Item::check(state)?;
        H::check(state)
    }
}

macro_rules! batches {
    ($($argument:ident)*) => {
        #[diagnostic::do_not_recommend]
        impl<F, Fut, Item, $($argument,)*> BatchHandler<Item, ($($argument,)*)> for F
        where
            F: Fn(Vec<Item>, $($argument),*) -> Fut + Send + Sync + 'static,
            Fut: Future<Output: IntoOutcomes> + Send + 'static,
            Item: Send + 'static,
            $($argument: FromMessage + Send + 'static,)*
        {
            #[allow(unused_variables, reason = "a handler without further arguments asks for nothing")]
            fn args(context: &Context<'_>) -> Result<($($argument,)*), crate::Rejection> {
                Ok(($($argument::from_message(context)?,)*))
            }

            #[allow(unused_variables, reason = "a handler without further arguments asks for nothing")]
            fn check(state: &Extensions) -> Result<(), String> {
                $($argument::check(state)?;)*
                Ok(())
            }

            #[allow(non_snake_case, reason = "each argument is named as its type")]
            async fn call(&self, items: Vec<Item>, ($($argument,)*): ($($argument,)*)) -> Vec<Outcome> {
                let count = items.len();
                self(items, $($argument),*).await.into_outcomes(count)
            }
        }
    };
}

batches!();
batches!(A);
batches!(A B);
batches!(A B C);

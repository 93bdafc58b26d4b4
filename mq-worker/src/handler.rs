//! Ordinary async functions as handlers.

use std::fmt;
use std::pin::Pin;
use std::time::Duration;

use mq_core::GroupName;

use crate::backoff::Backoff;
use crate::context::Context;
use crate::extensions::Extensions;
use crate::extract::{FromMessage, Rejection};
use crate::failure::Failure;
use crate::layer::Layer;
use crate::limiter::Concurrency;
use crate::outcome::{IntoOutcome, Outcome};
use crate::route::{IntoRoute, Route};

/// A boxed future: one for each message that a handler gets.
pub(crate) type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// An async function of up to 8 [extractors](FromMessage) that returns [something that settles a
/// message](IntoOutcome). Its settings are methods on the function:
///
/// ```
/// use std::time::Duration;
/// use mq_worker::{Attempt, Failure, Handler, Text};
///
/// async fn greet(Text(name): Text, Attempt(attempt): Attempt) -> Result<(), Failure> {
///     println!("{name}, attempt {attempt}");
///     Ok(())
/// }
///
/// let route = greet.concurrency(64).timeout(Duration::from_secs(5));
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a handler: it must be an `async fn` of at most 8 extractors that returns `()`, `Publish` or a `Result` of them",
    label = "not a handler",
    note = "each argument must be an extractor (`Json<T>`, `Text`, `Payload`, `State<T>` …), the future must be `Send`, and an error must be `Failure` or any error type"
)]
pub trait Handler<Args: 'static>: Send + Sync + Sized + 'static {
    #[doc(hidden)]
    fn call(&self, context: &Context<'_>) -> BoxFuture<'static, Outcome>;

    #[doc(hidden)]
    fn check(state: &Extensions) -> Result<(), String>;

    /// Makes a route of it, with the default settings.
    fn route(self) -> Route {
        Route::new(erase(self))
    }

    /// As [`Route::concurrency`].
    fn concurrency(self, messages: impl Into<Concurrency>) -> Route {
        self.route().concurrency(messages)
    }

    /// As [`Route::group`].
    fn group(self, group: impl TryInto<GroupName, Error: Into<mq_core::Error>>) -> Route {
        self.route().group(group)
    }

    /// As [`Route::ordered`].
    fn ordered(self) -> Route {
        self.route().ordered()
    }

    /// As [`Route::hold_key`].
    fn hold_key(self, hold: bool) -> Route {
        self.route().hold_key(hold)
    }

    /// As [`Route::timeout`].
    fn timeout(self, timeout: Duration) -> Route {
        self.route().timeout(timeout)
    }

    /// As [`Route::lease`].
    fn lease(self, lease: Duration) -> Route {
        self.route().lease(lease)
    }

    /// As [`Route::retry`].
    fn retry(self, backoff: Backoff) -> Route {
        self.route().retry(backoff)
    }

    /// As [`Route::layer`].
    fn layer(self, layer: impl Layer) -> Route {
        self.route().layer(layer)
    }
}

/// Marks what is a route because it is a handler.
#[derive(Debug)]
pub struct ByHandler<Args>(std::marker::PhantomData<Args>);

#[diagnostic::do_not_recommend]
impl<Args: 'static, H: Handler<Args>> IntoRoute<ByHandler<Args>> for H {
    fn into_route(self) -> Route {
        self.route()
    }
}

/// A handler that has lost its type.
pub(crate) trait AnyHandler: Send + Sync {
    fn call(&self, context: &Context<'_>) -> BoxFuture<'static, Outcome>;
    fn check(&self, state: &Extensions) -> Result<(), String>;
}

impl fmt::Debug for dyn AnyHandler + '_ {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("handler")
    }
}

struct Typed<H, Args>(H, std::marker::PhantomData<fn(Args)>);

pub(crate) fn erase<Args: 'static>(handler: impl Handler<Args>) -> Box<dyn AnyHandler> {
    Box::new(Typed(handler, std::marker::PhantomData))
}

impl<Args: 'static, H: Handler<Args>> AnyHandler for Typed<H, Args> {
    fn call(&self, context: &Context<'_>) -> BoxFuture<'static, Outcome> {
        self.0.call(context)
    }

    fn check(&self, state: &Extensions) -> Result<(), String> {
        H::check(state)
    }
}

pub(crate) fn rejected(rejection: Rejection) -> BoxFuture<'static, Outcome> {
    Box::pin(std::future::ready(Err(Failure::reject(rejection))))
}

macro_rules! handlers {
    ($($argument:ident)*) => {
        #[diagnostic::do_not_recommend]
        impl<F, Fut, $($argument,)*> Handler<($($argument,)*)> for F
        where
            F: Fn($($argument),*) -> Fut + Send + Sync + 'static,
            Fut: Future<Output: IntoOutcome> + Send + 'static,
            $($argument: FromMessage + 'static,)*
        {
            #[allow(non_snake_case, unused_variables, reason = "each argument is named as its type")]
            fn call(&self, context: &Context<'_>) -> BoxFuture<'static, Outcome> {
                $(
                    let $argument = match $argument::from_message(context) {
                        Ok(part) => part,
                        Err(rejection) => return rejected(rejection),
                    };
                )*
                let handled = self($($argument),*);
                Box::pin(async move { handled.await.into_outcome() })
            }

            #[allow(unused_variables, reason = "a handler without arguments asks for nothing")]
            fn check(state: &Extensions) -> Result<(), String> {
                $($argument::check(state)?;)*
                Ok(())
            }
        }
    };
}

handlers!();
handlers!(A);
handlers!(A B);
handlers!(A B C);
handlers!(A B C D);
handlers!(A B C D E);
handlers!(A B C D E G);
handlers!(A B C D E G H);
handlers!(A B C D E G H I);

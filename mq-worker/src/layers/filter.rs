//! Some messages, not others.

use std::fmt;

use bytestring::ByteString;
use mq_core::Message;
#[cfg(feature = "regex")]
use mq_core::{Error, ErrorKind, Result};

use crate::context::Context;
use crate::dispatch::subject_fits;
use crate::layer::{Layer, Next};
use crate::outcome::{Done, Outcome};

type Predicate = Box<dyn Fn(&Message) -> bool + Send + Sync>;

/// Lets through what fits; the rest is acked and skipped.
///
/// ```
/// use mq_worker::{Handler, layers::Filter};
///
/// async fn ship() {}
/// let route = ship
///     .layer(Filter::header("region", "eu"))
///     .layer(Filter::subject("order.*.paid"))
///     .layer(Filter::new(|message| message.payload.len() < 1024));
/// ```
pub struct Filter(Predicate);

impl Filter {
    /// Lets through what `fits` says yes to.
    #[must_use]
    pub fn new(fits: impl Fn(&Message) -> bool + Send + Sync + 'static) -> Self {
        Self(Box::new(fits))
    }

    /// Lets through messages whose first header `name` is `value`.
    #[must_use]
    pub fn header(name: impl Into<ByteString>, value: impl Into<ByteString>) -> Self {
        let (name, value) = (name.into(), value.into());
        Self::new(move |message| message.headers.get_str(&name) == Some(&value))
    }

    /// Lets through messages whose subject fits: `*` is one word, `#` any number of words.
    #[must_use]
    pub fn subject(pattern: impl Into<ByteString>) -> Self {
        let pattern = pattern.into();
        Self::new(move |message| {
            message.subject.as_ref().is_some_and(|subject| subject_fits(&pattern, subject))
        })
    }

    /// Lets through messages whose subject matches a regular expression, anywhere unless it is anchored.
    ///
    /// # Errors
    /// `InvalidInput` if the expression is none, or compiles to more than 10 MiB.
    #[cfg(feature = "regex")]
    pub fn subject_regex(expression: &str) -> Result<Self> {
        let expression = compile(expression)?;
        Ok(Self::new(move |message| message.subject.as_ref().is_some_and(|text| expression.is_match(text))))
    }

    /// Lets through messages whose first header `name` is text that matches a regular expression, anywhere
    /// unless it is anchored.
    ///
    /// # Errors
    /// `InvalidInput` if the expression is none, or compiles to more than 10 MiB.
    #[cfg(feature = "regex")]
    pub fn header_regex(name: impl Into<ByteString>, expression: &str) -> Result<Self> {
        let (name, expression) = (name.into(), compile(expression)?);
        Ok(Self::new(move |message| {
            message.headers.get_str(&name).is_some_and(|text| expression.is_match(text))
        }))
    }
}

#[cfg(feature = "regex")]
fn compile(expression: &str) -> Result<regex::Regex> {
    regex::Regex::new(expression).map_err(|error| {
        let text = format!("the filter's expression {expression:?} is not one that can be used: {error}");
        Error::new(ErrorKind::InvalidInput, text)
    })
}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Filter").finish_non_exhaustive()
    }
}

impl Layer for Filter {
    async fn call(&self, context: &mut Context<'_>, next: Next<'_>) -> Outcome {
        if (self.0)(context.message()) { next.run(context).await } else { Ok(Done::skipped()) }
    }
}

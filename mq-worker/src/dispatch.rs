//! One topic, several handlers.

use bytestring::ByteString;
use mq_core::Message;

use crate::context::Context;
use crate::extensions::Extensions;
use crate::failure::Failure;
use crate::handler::{AnyHandler, BoxFuture, Handler, erase};
use crate::outcome::Outcome;
use crate::route::{IntoRoute, Route};

#[derive(Debug)]
enum By {
    Subject,
    Header(ByteString),
}

/// Chooses a handler for each message of a topic, by its subject or by a header: the first that fits.
///
/// A message that fits none becomes a dead letter that says so, unless there is an
/// [`otherwise`](Self::otherwise).
///
/// ```
/// use mq_worker::{Dispatch, Text};
///
/// async fn created(Text(order): Text) {}
/// async fn changed(Text(order): Text) {}
/// async fn ignored() {}
///
/// // `*` is one word, `#` any number of words.
/// let by_subject = Dispatch::by_subject().on("order.created", created).on("order.*.changed", changed);
/// let by_type = Dispatch::by_header("type").on("OrderCreated", created).otherwise(ignored);
/// ```
#[must_use = "give it to a worker with `on`"]
#[derive(Debug)]
pub struct Dispatch {
    by: By,
    arms: Vec<(ByteString, Box<dyn AnyHandler>)>,
    otherwise: Option<Box<dyn AnyHandler>>,
}

impl Dispatch {
    /// Chooses by subject; patterns are words with dots, `*` for any one word and `#` for any number.
    pub fn by_subject() -> Self {
        Self { by: By::Subject, arms: Vec::new(), otherwise: None }
    }

    /// Chooses by the value of a header, which must be equal.
    pub fn by_header(name: impl Into<ByteString>) -> Self {
        Self { by: By::Header(name.into()), ..Self::by_subject() }
    }

    /// Adds a handler.
    pub fn on<Args: 'static>(mut self, pattern: impl Into<ByteString>, handler: impl Handler<Args>) -> Self {
        self.arms.push((pattern.into(), erase(handler)));
        self
    }

    /// Sets who handles what fits no other.
    pub fn otherwise<Args: 'static>(mut self, handler: impl Handler<Args>) -> Self {
        self.otherwise = Some(erase(handler));
        self
    }

    /// Makes a route of it, for its settings.
    pub fn route(self) -> Route {
        Route::new(Box::new(self))
    }

    fn find(&self, message: &Message) -> Option<&dyn AnyHandler> {
        let value = match &self.by {
            By::Subject => message.subject.as_deref(),
            By::Header(name) => message.headers.get_str(name),
        };
        let fits = |pattern: &str, value: &str| match self.by {
            By::Subject => subject_fits(pattern, value),
            By::Header(_) => pattern == value,
        };
        let arm = value.and_then(|value| self.arms.iter().find(|(pattern, _)| fits(pattern, value)));
        arm.map(|(_, handler)| handler).or(self.otherwise.as_ref()).map(|handler| &**handler)
    }

    fn unknown(&self, message: &Message) -> Failure {
        let (what, value) = match &self.by {
            By::Subject => ("subject".to_owned(), message.subject.as_deref()),
            By::Header(name) => (format!("header {name}"), message.headers.get_str(name)),
        };
        let value = value.map_or_else(|| format!("no {what}"), |value| format!("{what} {value:?}"));
        Failure::reject(format!("no handler for a message with {value}; add one with `on` or `otherwise`"))
    }
}

impl AnyHandler for Dispatch {
    fn call(&self, context: &Context<'_>) -> BoxFuture<'static, Outcome> {
        match self.find(context.message()) {
            Some(handler) => handler.call(context),
            None => Box::pin(std::future::ready(Err(self.unknown(context.message())))),
        }
    }

    fn check(&self, state: &Extensions) -> Result<(), String> {
        if matches!(self.by, By::Subject) {
            let wrong = |pattern: &&ByteString| pattern.split('.').any(str::is_empty);
            if let Some(pattern) = self.arms.iter().map(|(pattern, _)| pattern).find(wrong) {
                return Err(format!(
                    "subject pattern {pattern:?} has an empty word; separate words by single dots"
                ));
            }
        }
        let handlers = self.arms.iter().map(|(_, handler)| handler);
        handlers.chain(&self.otherwise).try_for_each(|handler| handler.check(state))
    }
}

/// Marks what is a route because it dispatches.
#[derive(Debug)]
pub struct ByDispatch;

impl IntoRoute<ByDispatch> for Dispatch {
    fn into_route(self) -> Route {
        self.route()
    }
}

/// Whether a subject fits a pattern.
pub(crate) fn subject_fits(pattern: &str, subject: &str) -> bool {
    let (first, rest) = split(pattern);
    let (word, words) = split(subject);
    match (first, word) {
        (None, None) => true,
        (Some("#"), None) => subject_fits(rest, subject),
        (Some("#"), Some(_)) => subject_fits(rest, subject) || subject_fits(pattern, words),
        (Some(first), Some(word)) => (first == "*" || first == word) && subject_fits(rest, words),
        _ => false,
    }
}

fn split(words: &str) -> (Option<&str>, &str) {
    if words.is_empty() {
        return (None, "");
    }
    let (first, rest) = words.split_once('.').unwrap_or((words, ""));
    (Some(first), rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_fit_patterns() {
        for (pattern, fits, not) in [
            ("a.b", &["a.b"][..], &["a", "a.b.c", "b.a"][..]),
            ("a.*", &["a.b"], &["a", "a.b.c"]),
            ("a.#", &["a", "a.b", "a.b.c"], &["b"]),
            ("#", &["a", "a.b"], &[]),
            ("#.z", &["z", "a.z", "z.z.z"], &["a", "z.a"]),
            ("a.#.*.z", &["a.b.z", "a.b.c.z"], &["a.z"]),
        ] {
            assert!(fits.iter().all(|subject| subject_fits(pattern, subject)), "{pattern}");
            assert!(!not.iter().any(|subject| subject_fits(pattern, subject)), "{pattern}");
        }
    }
}

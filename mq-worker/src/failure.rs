//! Why a handler failed, and what is to become of the message.

use std::any::Any;
use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

type Source = Arc<dyn StdError + Send + Sync>;

/// What becomes of a message that was not handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// What the worker's rules and its [`Backoff`](crate::Backoff) say.
    Policy,
    /// Another attempt after this time; after the last attempt, a dead letter.
    Retry(Duration),
    /// A dead letter at once.
    Reject,
    /// Given back for this time; not counted as an attempt.
    Defer(Duration),
}

/// Why a handler failed, and by its [`Verdict`] whether another attempt is worth it.
///
/// Any error turns into a failure that follows the policy, so `?` works on all of them:
///
/// ```
/// use std::time::Duration;
/// use mq_worker::{Failure, Text};
///
/// async fn import(Text(line): Text) -> Result<(), Failure> {
///     let amount: u32 = line.trim().parse()?; // follows the policy
///     if amount == 0 {
///         return Err(Failure::reject("an order of nothing")); // a dead letter at once
///     }
///     if amount > 1_000 {
///         return Err(Failure::retry(Duration::from_secs(60))); // another attempt in a minute
///     }
///     Ok(())
/// }
/// ```
#[derive(Clone)]
pub struct Failure {
    verdict: Verdict,
    source: Source,
}

impl Failure {
    fn new(verdict: Verdict, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self { verdict, source: Arc::from(source.into()) }
    }

    /// Another attempt after `after`, held by the broker.
    #[must_use]
    pub fn retry(after: Duration) -> Self {
        Self::new(Verdict::Retry(after), "the handler asked for another attempt")
    }

    /// Hopeless: a dead letter at once, with this reason.
    #[must_use]
    pub fn reject(reason: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::new(Verdict::Reject, reason)
    }

    /// Not now: given back, not before `after`, and not counted as an attempt.
    #[must_use]
    pub fn defer(after: Duration) -> Self {
        Self::new(Verdict::Defer(after), "the handler gave it back")
    }

    /// Tells why, in the place of what was told before.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Arc::from(source.into());
        self
    }

    /// Changes what becomes of the message.
    #[must_use]
    pub fn with_verdict(mut self, verdict: Verdict) -> Self {
        self.verdict = verdict;
        self
    }

    /// Returns what becomes of the message.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// Returns the error, if it is an `E`.
    #[must_use]
    pub fn downcast_ref<E: StdError + 'static>(&self) -> Option<&E> {
        self.source.downcast_ref()
    }

    /// Returns the error.
    #[must_use]
    pub fn error(&self) -> &(dyn StdError + Send + Sync + 'static) {
        &*self.source
    }

    /// Whether it speaks against who handles rather than against the message: what breakers count.
    #[must_use]
    pub fn is_fault(&self) -> bool {
        matches!(self.verdict, Verdict::Policy | Verdict::Retry(_))
    }

    pub(crate) fn panicked(panic: &(dyn Any + Send)) -> Self {
        let text = panic.downcast_ref::<&str>().copied();
        let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
        format!("the handler panicked: {}", text.unwrap_or("with something that is no text")).into()
    }
}

impl<E: Into<Box<dyn StdError + Send + Sync>>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::new(Verdict::Policy, error)
    }
}

impl fmt::Display for Failure {
    /// The error and what is beneath it, on one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.source)?;
        let mut source = self.source.source();
        while let Some(cause) = source {
            write!(f, ": {cause}")?;
            source = cause.source();
        }
        Ok(())
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.verdict)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_error_follows_the_policy_and_keeps_its_type() {
        fn parse() -> Result<u8, Failure> {
            Ok("x".parse::<u8>()?)
        }
        let failure = parse().unwrap_err();
        assert_eq!(failure.verdict(), Verdict::Policy);
        assert!(failure.downcast_ref::<std::num::ParseIntError>().is_some());
        assert_eq!(Failure::from(anyhow::anyhow!("low").context("high")).to_string(), "high: low");
        assert_eq!(Failure::from("text").to_string(), "text");
        assert!(!Failure::reject("no").is_fault() && !Failure::defer(Duration::ZERO).is_fault());
    }
}

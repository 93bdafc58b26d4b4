//! The one error type.

use std::error::Error as StdError;
use std::fmt;

/// A result with this library's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, as far as a program may want to tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// An argument, URL or setting is wrong; nothing was done.
    InvalidInput,
    /// The backend cannot do this; see its `Capabilities`.
    Unsupported,
    /// A topic, group or message is not there.
    NotFound,
    /// What is there differs from what was declared.
    Mismatch,
    /// The broker refused the credentials or the permission.
    Unauthorized,
    /// The broker cannot be reached now; a later try may succeed.
    Unavailable,
    /// A deadline passed.
    Timeout,
    /// The message was refused and is stored nowhere, for certain.
    Rejected,
    /// No group would get the message, and its publisher requires one; it is stored nowhere.
    Unroutable,
    /// The message may have been stored, by some group or by all.
    UnknownOutcome,
    /// The in-flight window is full.
    Full,
    /// The settlement came too late: the delivery is no longer this consumer's.
    StaleDelivery,
    /// The handle was closed.
    Closed,
    /// Stored bytes could not be understood.
    Malformed,
    /// Anything else; the source says more.
    Other,
}

impl ErrorKind {
    fn as_str(self) -> &'static str {
        match self {
            Self::InvalidInput => "invalid input",
            Self::Unsupported => "unsupported",
            Self::NotFound => "not found",
            Self::Mismatch => "mismatch",
            Self::Unauthorized => "unauthorized",
            Self::Unavailable => "unavailable",
            Self::Timeout => "timed out",
            Self::Rejected => "rejected",
            Self::Unroutable => "unroutable",
            Self::UnknownOutcome => "outcome unknown",
            Self::Full => "full",
            Self::StaleDelivery => "stale delivery",
            Self::Closed => "closed",
            Self::Malformed => "malformed",
            Self::Other => "failed",
        }
    }
}

#[derive(Debug, Clone, Default)]
struct Context {
    backend: Option<&'static str>,
    operation: Option<&'static str>,
    topic: Option<String>,
    group: Option<String>,
}

/// An error: a [kind](ErrorKind), a sentence, the operation it belongs to, and its source.
///
/// Secrets never appear in it.
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    message: String,
    context: Context,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// Makes an error of `kind`; `message` says what happened and what to do about it.
    #[must_use]
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner { kind, message: message.into(), context: Context::default(), source: None }))
    }

    /// Makes the error of a message that requires a group on a topic that has none.
    #[must_use]
    pub fn unroutable() -> Self {
        Self::new(
            ErrorKind::Unroutable,
            "the topic has no group; declare one first, or send without `require_group`",
        )
    }

    /// Adds the error underneath.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// Changes the kind, where a caller knows better.
    #[must_use]
    pub fn with_kind(mut self, kind: ErrorKind) -> Self {
        self.0.kind = kind;
        self
    }

    /// Returns the kind.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Returns the sentence without its context.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// Returns whether the same call may succeed later, with nothing changed.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(
            self.kind(),
            ErrorKind::Unavailable | ErrorKind::Timeout | ErrorKind::Full | ErrorKind::UnknownOutcome
        )
    }

    /// Returns whether a failed send may have stored its message all the same.
    #[must_use]
    pub fn is_unknown_outcome(&self) -> bool {
        self.kind() == ErrorKind::UnknownOutcome
    }

    /// Returns a copy without the source, for reporting one failure to several callers.
    #[must_use]
    pub fn duplicate(&self) -> Self {
        let message = match &self.0.source {
            Some(source) => format!("{}: {source}", self.0.message),
            None => self.0.message.clone(),
        };
        Self(Box::new(Inner { kind: self.0.kind, message, context: self.0.context.clone(), source: None }))
    }

    /// Names the operation, unless an inner layer named one before.
    #[must_use]
    pub fn during(mut self, backend: &'static str, operation: &'static str) -> Self {
        self.0.context.backend.get_or_insert(backend);
        self.0.context.operation.get_or_insert(operation);
        self
    }

    /// Names the topic.
    #[must_use]
    pub fn on_topic(mut self, topic: impl fmt::Display) -> Self {
        self.0.context.topic.get_or_insert_with(|| topic.to_string());
        self
    }

    /// Names the group.
    #[must_use]
    pub fn in_group(mut self, group: impl fmt::Display) -> Self {
        self.0.context.group.get_or_insert_with(|| group.to_string());
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let context = &self.0.context;
        if let Some(backend) = context.backend {
            write!(f, "{backend} ")?;
        }
        if let Some(operation) = context.operation {
            write!(f, "{operation} ")?;
        }
        if let Some(topic) = &context.topic {
            write!(f, "topic {topic} ")?;
        }
        if let Some(group) = &context.group {
            write!(f, "group {group} ")?;
        }
        write!(f, "{}: {}", self.0.kind.as_str(), self.0.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")?;
        let mut source = self.source();
        while let Some(cause) = source {
            write!(f, ": {cause}")?;
            source = cause.source();
        }
        Ok(())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_ref().map(|source| &**source as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn context_is_added_once_and_read_in_order() {
        let error = Error::new(ErrorKind::Rejected, "message of 3 bytes is over the limit of 2")
            .during("kafka", "send")
            .during("client", "outer")
            .on_topic("orders");
        assert_eq!(
            error.to_string(),
            "kafka send topic orders rejected: message of 3 bytes is over the limit of 2"
        );
        assert!(!error.is_retryable() && !error.is_unknown_outcome());
    }
}

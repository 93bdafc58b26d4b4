//! The one error type of codecs.

use std::error::Error as StdError;
use std::fmt;

use mq_core::ErrorKind;

/// What went wrong, as far as a program may want to tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CodecErrorKind {
    /// A schema, a setting or the value to be encoded is wrong.
    InvalidInput,
    /// The bytes are not what was asked for.
    Malformed,
    /// A limit was passed: of size, depth or items.
    OverLimit,
    /// No codec is known for the content type.
    UnknownContentType,
    /// The payload is compressed in a way that is not known, or still compressed.
    UnknownEncoding,
    /// The schema that the payload was written with is not known.
    UnknownSchema,
    /// The version of the message is newer or older than what is known.
    UnknownVersion,
    /// One schema cannot be read as the other.
    Incompatible,
    /// The schema registry cannot be reached now; a later try may succeed.
    Unavailable,
    /// The schema registry refused.
    Refused,
}

type Source = Box<dyn StdError + Send + Sync>;

/// Why a value could not be encoded or a message could not be decoded: a [kind](CodecErrorKind), a sentence that says
/// how to mend it, and the error underneath. The payload is never part of the sentence.
#[derive(Debug)]
pub struct CodecError(Box<Inner>);

#[derive(Debug)]
struct Inner {
    kind: CodecErrorKind,
    message: String,
    source: Option<Source>,
}

impl CodecError {
    /// Makes an error; `message` says what is wrong and what to do about it.
    #[must_use]
    pub fn new(kind: CodecErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner { kind, message: message.into(), source: None }))
    }

    /// Adds the error underneath.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Source>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// Returns the kind.
    #[must_use]
    pub fn kind(&self) -> CodecErrorKind {
        self.0.kind
    }

    /// Returns whether the same call may succeed later, with nothing changed.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        self.kind() == CodecErrorKind::Unavailable
    }

    /// The bytes are not `format`.
    pub(crate) fn malformed(format: &str, source: impl Into<Source>) -> Self {
        Self::new(CodecErrorKind::Malformed, format!("the payload is not the {format} expected"))
            .with_source(source)
    }

    /// The value cannot be written as `format`.
    pub(crate) fn not_written(format: &str, source: impl Into<Source>) -> Self {
        Self::new(CodecErrorKind::InvalidInput, format!("the value cannot be written as {format}"))
            .with_source(source)
    }
}

impl fmt::Display for CodecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl StdError for CodecError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

impl From<CodecError> for mq_core::Error {
    fn from(error: CodecError) -> Self {
        let kind = match error.kind() {
            CodecErrorKind::InvalidInput => ErrorKind::InvalidInput,
            CodecErrorKind::Incompatible => ErrorKind::Mismatch,
            CodecErrorKind::Unavailable => ErrorKind::Unavailable,
            CodecErrorKind::Refused => ErrorKind::Unauthorized,
            _ => ErrorKind::Malformed,
        };
        let Inner { message, source, .. } = *error.0;
        let error = Self::new(kind, message);
        match source {
            Some(source) => error.with_source(source),
            None => error,
        }
    }
}

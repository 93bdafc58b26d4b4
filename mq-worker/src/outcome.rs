//! What handlers return.

use mq_core::Message;

use crate::failure::Failure;

/// What came of a message: done with, or a failure.
pub type Outcome = Result<Done, Failure>;

/// A message that was handled: what is to be published before it is acked, and whether it was skipped.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Done {
    /// Published and confirmed before the source is acked.
    pub publish: Vec<Publish>,
    /// Acked though no handler ran; counted apart.
    pub skipped: bool,
}

impl Done {
    /// Acks without having been handled, as a filter does.
    #[must_use]
    pub fn skipped() -> Self {
        Self { skipped: true, ..Self::default() }
    }
}

/// A message to be published before the source is acked.
///
/// A source that is handled again publishes again. Give the message an id made from the source's, and
/// who consumes it can tell.
///
/// ```
/// use mq_core::Message;
/// use mq_worker::{Id, Publish, Text};
///
/// async fn pack(Id(id): Id, Text(order): Text) -> Publish {
///     Publish::new("parcels", Message::new(order.into_bytes()).id(format!("parcel-of-{id}")))
/// }
/// ```
#[derive(Clone, Debug)]
pub struct Publish {
    /// Where to.
    pub topic: String,
    /// What.
    pub message: Message,
}

impl Publish {
    /// Publishes a message to a topic, which is made if it is missing and the client's policy is to.
    #[must_use]
    pub fn new(topic: impl Into<String>, message: Message) -> Self {
        Self { topic: topic.into(), message }
    }
}

/// What a handler may return: `()`, [`Publish`], several of them, [`Done`], an `Option` of these, or a
/// `Result` of these with any error.
#[diagnostic::on_unimplemented(
    message = "a handler cannot return `{Self}`",
    label = "not something that settles a message",
    note = "return `()`, `Publish`, `Vec<Publish>`, `Option<Publish>` or `Done`, or a `Result` of one of them whose error is `Failure` or any error"
)]
pub trait IntoOutcome {
    /// Turns it into what becomes of the message.
    ///
    /// # Errors
    /// The handler's own.
    fn into_outcome(self) -> Outcome;
}

impl IntoOutcome for () {
    fn into_outcome(self) -> Outcome {
        Ok(Done::default())
    }
}

impl IntoOutcome for Done {
    fn into_outcome(self) -> Outcome {
        Ok(self)
    }
}

impl IntoOutcome for Publish {
    fn into_outcome(self) -> Outcome {
        vec![self].into_outcome()
    }
}

impl IntoOutcome for Vec<Publish> {
    fn into_outcome(self) -> Outcome {
        Ok(Done { publish: self, skipped: false })
    }
}

impl<const N: usize> IntoOutcome for [Publish; N] {
    fn into_outcome(self) -> Outcome {
        Vec::from(self).into_outcome()
    }
}

impl<T: IntoOutcome> IntoOutcome for Option<T> {
    fn into_outcome(self) -> Outcome {
        self.map_or(Ok(Done::default()), T::into_outcome)
    }
}

impl<T: IntoOutcome, E: Into<Failure>> IntoOutcome for Result<T, E> {
    fn into_outcome(self) -> Outcome {
        self.map_err(Into::into)?.into_outcome()
    }
}

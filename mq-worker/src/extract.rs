//! The parts of a message that a handler asks for by type.

use std::fmt;

use bytes::Bytes;
use bytestring::ByteString;
use mq_core::{MessageId, Timestamp};
use serde::de::DeserializeOwned;

use crate::context::Context;
use crate::extensions::Extensions;

/// Why a part could not be had. The message becomes a dead letter with this reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    reason: ByteString,
    absent: bool,
}

impl Rejection {
    /// The message has no such part; an `Option` of the extractor is `None`.
    #[must_use]
    pub fn absent(reason: impl Into<ByteString>) -> Self {
        Self { reason: reason.into(), absent: true }
    }

    /// The part is there and wrong.
    #[must_use]
    pub fn malformed(reason: impl Into<ByteString>) -> Self {
        Self { reason: reason.into(), absent: false }
    }

    /// Returns whether the message has no such part.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        self.absent
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for Rejection {}

/// A part of a message, or of what the worker was given; what handlers take as arguments.
///
/// ```
/// use mq_worker::{Context, FromMessage, Rejection};
///
/// struct Tenant(String);
///
/// impl FromMessage for Tenant {
///     fn from_message(context: &Context<'_>) -> Result<Self, Rejection> {
///         let tenant = context.message().headers.get_str("tenant");
///         let tenant = tenant.ok_or_else(|| Rejection::absent("the message has no header tenant"))?;
///         Ok(Self(tenant.into()))
///     }
/// }
///
/// async fn bill(Tenant(tenant): Tenant) {}
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no part of a message that a handler can take as an argument",
    label = "not an extractor",
    note = "take `Json<T>`, `Text`, `Payload`, `State<T>` or another extractor of `mq::worker`, or implement `FromMessage` for it"
)]
pub trait FromMessage: Sized {
    /// Takes the part out.
    ///
    /// # Errors
    /// It is not there, or not what was asked for.
    fn from_message(context: &Context<'_>) -> Result<Self, Rejection>;

    /// Checks what it needs of the worker's state, before anything is received. Default: nothing.
    ///
    /// # Errors
    /// What is missing and how to give it.
    fn check(state: &Extensions) -> Result<(), String> {
        let _ = state;
        Ok(())
    }
}

/// `None` where the message has no such part; one that is there and wrong rejects the message.
impl<E: FromMessage> FromMessage for Option<E> {
    fn from_message(context: &Context<'_>) -> Result<Self, Rejection> {
        match E::from_message(context) {
            Err(rejection) if rejection.is_absent() => Ok(None),
            part => part.map(Some),
        }
    }
}

/// Leaves what to do about a rejection to the handler.
impl<E: FromMessage> FromMessage for Result<E, Rejection> {
    fn from_message(context: &Context<'_>) -> Result<Self, Rejection> {
        Ok(E::from_message(context))
    }

    fn check(state: &Extensions) -> Result<(), String> {
        E::check(state)
    }
}

macro_rules! tuples {
    ($($part:ident)*) => {
        /// Several parts, as a [batch](crate::batch) takes them of each message.
        impl<$($part: FromMessage),*> FromMessage for ($($part,)*) {
            fn from_message(context: &Context<'_>) -> Result<Self, Rejection> {
                Ok(($($part::from_message(context)?,)*))
            }

            fn check(state: &Extensions) -> Result<(), String> {
                $($part::check(state)?;)*
                Ok(())
            }
        }
    };
}

tuples!(A B);
tuples!(A B C);
tuples!(A B C D);

/// The payload, read as JSON.
#[derive(Clone, Copy, Debug)]
pub struct Json<T>(pub T);

impl<T: DeserializeOwned> FromMessage for Json<T> {
    fn from_message(context: &Context<'_>) -> Result<Self, Rejection> {
        serde_json::from_slice(&context.message().payload)
            .map(Self)
            .map_err(|error| Rejection::malformed(format!("the payload is not the JSON expected: {error}")))
    }
}

/// The payload as UTF-8 text, not copied.
#[derive(Clone, Debug)]
pub struct Text(pub ByteString);

impl FromMessage for Text {
    fn from_message(context: &Context<'_>) -> Result<Self, Rejection> {
        ByteString::try_from(context.message().payload.clone())
            .map(Self)
            .map_err(|_| Rejection::malformed("the payload is not UTF-8 text"))
    }
}

/// The payload as it is, not copied.
#[derive(Clone, Debug)]
pub struct Payload(pub Bytes);

/// The key; rejects a message without.
#[derive(Clone, Debug)]
pub struct Key(pub Bytes);

/// The subject; rejects a message without.
#[derive(Clone, Debug)]
pub struct Subject(pub ByteString);

/// The headers.
#[derive(Clone, Debug)]
pub struct Headers(pub mq_core::Headers);

/// The message's id.
#[derive(Clone, Debug)]
pub struct Id(pub MessageId);

/// Which attempt this is, from 1.
#[derive(Clone, Copy, Debug)]
pub struct Attempt(pub u32);

/// Whether the group was handed the message before.
#[derive(Clone, Copy, Debug)]
pub struct Redelivered(pub bool);

/// When the message was first sent; rejects one whose producer did not say.
#[derive(Clone, Copy, Debug)]
pub struct PublishedAt(pub Timestamp);

/// The topic it came from.
#[derive(Clone, Debug)]
pub struct Topic(pub mq_core::TopicName);

/// The group whose share it is of.
#[derive(Clone, Debug)]
pub struct Group(pub mq_core::GroupName);

impl FromMessage for Payload {
    fn from_message(context: &Context<'_>) -> Result<Self, Rejection> {
        Ok(Self(context.message().payload.clone()))
    }
}

impl FromMessage for Key {
    fn from_message(context: &Context<'_>) -> Result<Self, Rejection> {
        context.message().key.clone().map(Self).ok_or_else(|| Rejection::absent("the message has no key"))
    }
}

impl FromMessage for Subject {
    fn from_message(context: &Context<'_>) -> Result<Self, Rejection> {
        let subject = context.message().subject.clone();
        subject.map(Self).ok_or_else(|| Rejection::absent("the message has no subject"))
    }
}

impl FromMessage for Headers {
    fn from_message(context: &Context<'_>) -> Result<Self, Rejection> {
        Ok(Self(context.message().headers.clone()))
    }
}

impl FromMessage for Id {
    fn from_message(context: &Context<'_>) -> Result<Self, Rejection> {
        Ok(Self(context.message().id.clone()))
    }
}

impl FromMessage for Attempt {
    fn from_message(context: &Context<'_>) -> Result<Self, Rejection> {
        Ok(Self(context.delivery().attempt()))
    }
}

impl FromMessage for Redelivered {
    fn from_message(context: &Context<'_>) -> Result<Self, Rejection> {
        Ok(Self(context.delivery().redelivered()))
    }
}

impl FromMessage for PublishedAt {
    fn from_message(context: &Context<'_>) -> Result<Self, Rejection> {
        let absent = || Rejection::absent("the message does not say when it was published");
        context.message().published_at.map(Self).ok_or_else(absent)
    }
}

impl FromMessage for Topic {
    fn from_message(context: &Context<'_>) -> Result<Self, Rejection> {
        Ok(Self(context.topic().clone()))
    }
}

impl FromMessage for Group {
    fn from_message(context: &Context<'_>) -> Result<Self, Rejection> {
        Ok(Self(context.group().clone()))
    }
}

/// A clone of what was given to the worker with [`state`](crate::Worker::state). A worker that was not
/// given it does not start.
#[derive(Clone, Copy, Debug)]
pub struct State<T>(pub T);

impl<T: Clone + Send + Sync + 'static> FromMessage for State<T> {
    fn from_message(context: &Context<'_>) -> Result<Self, Rejection> {
        context.state().get().cloned().map(Self).ok_or_else(|| Rejection::absent(missing::<T>()))
    }

    fn check(state: &Extensions) -> Result<(), String> {
        state.get::<T>().map(drop).ok_or_else(missing::<T>)
    }
}

fn missing<T>() -> String {
    let name = std::any::type_name::<T>();
    format!("the worker has no state of type {name}; give it one with `.state(…)`")
}

/// A clone of what a layer left in [`Context::extensions`].
#[derive(Clone, Copy, Debug)]
pub struct Extension<T>(pub T);

impl<T: Clone + Send + Sync + 'static> FromMessage for Extension<T> {
    fn from_message(context: &Context<'_>) -> Result<Self, Rejection> {
        context.extensions.get().cloned().map(Self).ok_or_else(|| {
            let name = std::any::type_name::<T>();
            Rejection::absent(format!("no layer left a {name}; add the one that does with `.layer(…)`"))
        })
    }
}

//! The payload in a format, as extractors.

use mq_codec::{CodecError, Codecs};
use serde::de::DeserializeOwned;

use crate::context::Context;
use crate::extract::{FromMessage, Rejection};
use crate::failure::Failure;

/// What cannot be read is a dead letter, with all that the error says.
fn reject(error: CodecError) -> Rejection {
    Rejection::malformed(Failure::from(error).to_string())
}

/// The payload in the format that the content type says: JSON, or MessagePack with the feature `msgpack`; a message without a
/// content type is read as JSON. Rejects other content types.
///
/// Other codecs or limits: give the worker a [`Codecs<T>`] with [`state`](crate::Worker::state).
///
/// ```
/// use mq_worker::{Body, Worker};
/// # use mq_core::Client;
/// use mq_codec::{Codecs, Json, Limits};
///
/// async fn add(Body(numbers): Body<Vec<u32>>) {}
/// # fn worker(client: &Client) -> Worker {
/// // Short JSON alone.
/// let codecs = Codecs::<Vec<u32>>::new(Json::new().limits(Limits::default().payload(1024)));
/// Worker::new(client, "sums").on("numbers", add).state(codecs)
/// # }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Body<T>(pub T);

impl<T: DeserializeOwned + 'static> FromMessage for Body<T> {
    fn from_message(context: &Context<'_>) -> Result<Self, Rejection> {
        let value = match context.state().get::<Codecs<T>>() {
            Some(codecs) => codecs.read(context.message()),
            None => Codecs::default().read(context.message()),
        };
        value.map(Self).map_err(reject)
    }
}

/// The payload as MessagePack; rejects what says another content type.
///
/// Limits: give the worker an [`mq_codec::Limits`] with [`state`](crate::Worker::state).
#[cfg(feature = "msgpack")]
#[derive(Clone, Copy, Debug)]
pub struct MsgPack<T>(pub T);

#[cfg(feature = "msgpack")]
impl<T: DeserializeOwned> FromMessage for MsgPack<T> {
    fn from_message(context: &Context<'_>) -> Result<Self, Rejection> {
        use mq_codec::Decode as _;
        let codec = mq_codec::MessagePack::new().limits(limits(context));
        codec.read(context.message()).map(Self).map_err(reject)
    }
}

/// The payload as Protobuf; rejects what says another content type.
///
/// Limits: give the worker an [`mq_codec::Limits`] with [`state`](crate::Worker::state).
#[cfg(feature = "protobuf")]
#[derive(Clone, Copy, Debug)]
pub struct Proto<T>(pub T);

#[cfg(feature = "protobuf")]
impl<T> FromMessage for Proto<T>
where
    mq_codec::Protobuf: mq_codec::Decode<T>,
{
    fn from_message(context: &Context<'_>) -> Result<Self, Rejection> {
        use mq_codec::Decode as _;
        let codec = mq_codec::Protobuf::new().limits(limits(context));
        codec.read(context.message()).map(Self).map_err(reject)
    }
}

#[cfg(any(feature = "msgpack", feature = "protobuf"))]
fn limits(context: &Context<'_>) -> mq_codec::Limits {
    context.state().get().copied().unwrap_or_default()
}

/// The payload as Avro in single-object encoding; rejects what says another content type. A worker that was not given the
/// codec, [`mq_codec::Avro<T>`] with its schemas, by [`state`](crate::Worker::state) does not start.
#[cfg(feature = "avro")]
#[derive(Clone, Copy, Debug)]
pub struct Avro<T>(pub T);

#[cfg(feature = "avro")]
impl<T: DeserializeOwned + 'static> FromMessage for Avro<T> {
    fn from_message(context: &Context<'_>) -> Result<Self, Rejection> {
        use mq_codec::Decode as _;
        let codec = context
            .state()
            .get::<mq_codec::Avro<T>>()
            .ok_or_else(|| Rejection::malformed(no_schema::<T>()))?;
        codec.read(context.message()).map(Self).map_err(reject)
    }

    fn check(state: &crate::extensions::Extensions) -> Result<(), String> {
        state.get::<mq_codec::Avro<T>>().map(drop).ok_or_else(no_schema::<T>)
    }
}

#[cfg(feature = "avro")]
fn no_schema<T>() -> String {
    let name = std::any::type_name::<T>();
    format!(
        "the worker has no Avro schema for {name}; give it one with `.state(mq::codec::Avro::<{name}>::new(schema)?)`"
    )
}

#![doc = include_str!("../README.md")]

mod backoff;
mod context;
mod control;
#[cfg(feature = "codec")]
mod decoded;
mod dispatch;
mod extensions;
mod extract;
mod failure;
mod handler;
mod layer;
pub mod layers;
mod outcome;
mod report;
mod route;
mod shared;
mod slot;
mod worker;

pub use backoff::{Backoff, retry, retry_if};
pub use context::Context;
#[cfg(feature = "avro")]
pub use decoded::Avro;
#[cfg(feature = "codec")]
pub use decoded::Body;
#[cfg(feature = "msgpack")]
pub use decoded::MsgPack;
#[cfg(feature = "protobuf")]
pub use decoded::Proto;
pub use dispatch::{ByDispatch, Dispatch};
pub use extensions::Extensions;
pub use extract::{
    Attempt, Extension, FromMessage, Group, Headers, Id, Json, Key, Payload, PublishedAt, Redelivered,
    Rejection, State, Subject, Text, Topic,
};
pub use failure::{Failure, Verdict};
pub use handler::{ByHandler, Handler};
pub use layer::{Layer, Next};
pub use outcome::{Done, IntoOutcome, Outcome, Publish};
pub use report::{Report, Stopped};
pub use route::{AsIs, CONCURRENCY, IntoRoute, Route};
pub use worker::{DRAIN, Worker};

#![doc = include_str!("../README.md")]

mod answers;
mod backoff;
mod batch;
mod context;
mod control;
#[cfg(feature = "codec")]
mod decoded;
mod dispatch;
mod extensions;
mod extract;
mod failure;
mod gather;
mod handler;
mod health;
mod layer;
pub mod layers;
mod limiter;
mod outcome;
mod outlet;
mod report;
mod route;
mod shared;
mod slot;
mod taken;
pub mod testing;
mod worker;

pub use backoff::{Backoff, retry, retry_if};
pub use batch::{BATCH, Batch, BatchHandler, ByBatch, IntoOutcomes, WITHIN, batch};
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
pub use health::{Health, Stage};
pub use layer::{Layer, Next};
pub use limiter::Concurrency;
pub use outcome::{Done, IntoOutcome, Outcome, Publish};
pub use outlet::{Batching, Outlet};
pub use report::{Report, Stopped};
pub use route::{AsIs, CONCURRENCY, IntoRoute, Route};
pub use worker::{DRAIN, Worker};

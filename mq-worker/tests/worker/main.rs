//! The worker on the memory backend, on virtual time.

#[cfg(all(feature = "protobuf", feature = "msgpack", feature = "avro", feature = "compression"))]
mod decoded;
mod dispatch;
mod handlers;
mod idempotent;
mod layers;
mod outcomes;
mod policies;
mod running;
mod storm;
mod support;
mod unconfirmed;

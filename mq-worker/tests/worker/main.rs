//! The worker on the memory backend, on virtual time.

mod batches;
#[cfg(all(feature = "protobuf", feature = "msgpack", feature = "avro", feature = "compression"))]
mod decoded;
mod dispatch;
mod handlers;
mod idempotent;
mod layers;
mod outcomes;
mod outlet;
mod policies;
mod running;
mod shaping;
mod stores;
mod storm;
mod support;
mod testing;
mod unconfirmed;

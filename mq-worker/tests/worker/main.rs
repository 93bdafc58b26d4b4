//! The worker on the memory backend, on virtual time.

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

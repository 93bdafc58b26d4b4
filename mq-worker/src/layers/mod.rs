//! The layers that come with the worker, each in a file of its own.

mod circuit_breaker;
#[cfg(feature = "compression")]
mod decompress;
mod filter;
mod idempotent;
mod kill_switch;
mod rate_limit;
#[cfg(feature = "codec")]
mod schema_check;
mod store;
mod timeout;
#[cfg(feature = "codec")]
mod upcast;

pub use circuit_breaker::CircuitBreaker;
#[cfg(feature = "compression")]
pub use decompress::Decompress;
pub use filter::Filter;
pub use idempotent::Idempotent;
pub use kill_switch::KillSwitch;
pub use rate_limit::RateLimit;
#[cfg(feature = "codec")]
pub use schema_check::SchemaCheck;
pub use store::{Claim, MemoryStore, Store, StoreDown, StoreError};
pub use timeout::Timeout;
#[cfg(feature = "codec")]
pub use upcast::Upcast;

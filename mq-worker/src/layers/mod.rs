//! The layers that come with the worker, each in a file of its own.

mod circuit_breaker;
mod filter;
mod idempotent;
mod kill_switch;
mod rate_limit;
mod store;
mod timeout;

pub use circuit_breaker::CircuitBreaker;
pub use filter::Filter;
pub use idempotent::Idempotent;
pub use kill_switch::KillSwitch;
pub use rate_limit::RateLimit;
pub use store::{Claim, MemoryStore, Store, StoreDown, StoreError};
pub use timeout::Timeout;

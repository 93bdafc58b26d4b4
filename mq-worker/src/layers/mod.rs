//! The layers that come with the worker, each in a file of its own.

mod audit;
mod circuit_breaker;
mod concurrency_limit;
#[cfg(feature = "compression")]
mod decompress;
mod filter;
mod idempotent;
mod kill_switch;
mod map;
mod promises;
mod rate_limit;
#[cfg(feature = "redis-store")]
mod redis_store;
#[cfg(feature = "codec")]
mod schema_check;
#[cfg(feature = "encryption")]
mod sealed;
#[cfg(feature = "sql-store")]
mod sql_store;
mod store;
mod timeout;
#[cfg(feature = "codec")]
mod upcast;
mod validate;
mod window;

pub use audit::{Audit, Record};
pub use circuit_breaker::CircuitBreaker;
pub use concurrency_limit::ConcurrencyLimit;
#[cfg(feature = "compression")]
pub use decompress::Decompress;
pub use filter::Filter;
pub use idempotent::{Idempotent, Once, OnceError};
pub use kill_switch::KillSwitch;
pub use map::Map;
pub use promises::check_store;
pub use rate_limit::RateLimit;
#[cfg(feature = "redis-store")]
pub use redis_store::RedisStore;
#[cfg(feature = "codec")]
pub use schema_check::SchemaCheck;
#[cfg(feature = "encryption")]
pub use sealed::{AeadCipher, Cipher, CipherError, Decrypt, ENCRYPTION};
#[cfg(feature = "sql-store")]
pub use sql_store::SqlStore;
pub use store::{Claim, MemoryStore, Store, StoreDown, StoreError};
pub use timeout::Timeout;
#[cfg(feature = "codec")]
pub use upcast::Upcast;
pub use validate::Validate;
pub use window::ScheduleWindow;

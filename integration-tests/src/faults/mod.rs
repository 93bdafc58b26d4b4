//! Faults between a client and a broker: a TCP proxy that cuts, refuses, stalls and delays.
//!
//! ```no_run
//! # async fn example() -> anyhow::Result<()> {
//! use mq_integration_tests::brokers::BrokerKind;
//! use mq_integration_tests::faults::Proxied;
//!
//! let redis = Proxied::start(BrokerKind::Redis).await?;
//! println!("{}", redis.url()); // what clients dial: the proxy
//! redis.proxy().cut();
//! # Ok(())
//! # }
//! ```

mod proxied;
mod proxy;

pub use proxied::Proxied;
pub use proxy::Proxy;

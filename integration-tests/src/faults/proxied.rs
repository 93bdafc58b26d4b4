//! A broker behind a proxy.

use anyhow::{Context, Result};

use super::proxy::Proxy;
use crate::brokers::{Broker, BrokerKind, free_port};

/// How many ports are tried for the proxy.
const ATTEMPTS: usize = 5;

/// A broker of the caller's own whose clients all pass through a [`Proxy`].
///
/// Kafka tells its clients to dial the proxy, too.
#[derive(Debug)]
pub struct Proxied {
    proxy: Proxy,
    broker: Broker,
    url: String,
}

impl Proxied {
    /// Starts a broker and a proxy in front of it, and waits until the broker serves.
    ///
    /// The proxy runs on the caller's runtime.
    ///
    /// # Errors
    /// As [`BrokerBuilder::start`](crate::brokers::BrokerBuilder::start).
    pub async fn start(kind: BrokerKind) -> Result<Self> {
        let proxy = listen().await?;
        let address = proxy.address().to_string();
        let broker = Broker::builder(kind).advertised(address).start().await?;
        let port = broker.port().context("a broker started here has a port")?;
        proxy.forward_to(([127, 0, 0, 1], port).into());
        let url = kind.url(proxy.address().port());
        Ok(Self { proxy, broker, url })
    }

    /// Returns the URL that `mq::connect` takes: the proxy's.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Returns the proxy.
    #[must_use]
    pub fn proxy(&self) -> &Proxy {
        &self.proxy
    }

    /// Returns the broker, which can be stopped, killed and paused.
    #[must_use]
    pub fn broker(&self) -> &Broker {
        &self.broker
    }
}

/// Listens on a port that no outgoing connection gets, so that the proxy can take it again after it refused.
async fn listen() -> Result<Proxy> {
    let mut last = None;
    for _ in 0..ATTEMPTS {
        match Proxy::listen(([127, 0, 0, 1], free_port()?).into()).await {
            Ok(proxy) => return Ok(proxy),
            Err(error) => last = Some(error),
        }
    }
    last.map_or_else(
        || anyhow::bail!("no port was tried"),
        |error| Err(error).context("a port for the proxy"),
    )
}

//! A broker of rows with faults: all its clients pass through a proxy.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;

use super::harness::{BrokerHarness, Harness};
use crate::brokers::{Broker, BrokerKind};
use crate::faults::{Proxied, Proxy};

/// After how long the clients of [`Faulty::url`] give up a send, when asked to be impatient.
pub(super) const IMPATIENT: Duration = Duration::from_secs(4);

/// A broker behind a proxy, and the harness that reaches it through it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Faulty {
    proxied: Arc<Proxied>,
    query: String,
    mark: String,
    harness: Arc<BrokerHarness>,
}

impl Faulty {
    pub(super) async fn start(
        kind: BrokerKind,
        name: &'static str,
        query: &str,
        mark: &str,
        session_bound: Duration,
    ) -> Result<Self> {
        let proxied = Arc::new(Proxied::start(kind).await?);
        let harness = BrokerHarness::new(name, join(proxied.url(), &[query]), session_bound);
        let harness = Arc::new(harness.marked(mark.to_owned()));
        Ok(Self { proxied, query: query.to_owned(), mark: mark.to_owned(), harness })
    }

    pub(super) fn proxy(&self) -> &Proxy {
        self.proxied.proxy()
    }

    pub(super) fn broker(&self) -> &Broker {
        self.proxied.broker()
    }

    pub(super) fn harness(&self) -> Arc<dyn Harness> {
        self.harness.clone()
    }

    pub(super) fn session_bound(&self) -> Duration {
        self.harness.session_bound()
    }

    /// Returns the URL through the proxy; impatient, a send without an answer ends after [`IMPATIENT`].
    pub(super) fn url(&self, impatient: bool) -> String {
        let key = match self.broker().kind() {
            BrokerKind::Kafka => "send_timeout",
            BrokerKind::RabbitMq => "publish_timeout",
            BrokerKind::Redis => "response_timeout",
        };
        let impatience = format!("{key}={}s", IMPATIENT.as_secs());
        join(self.proxied.url(), &[&self.query, if impatient { &impatience } else { "" }]) + &self.mark
    }

    /// Returns how long after the end of a fault a service may take to go on.
    pub(super) fn goes_on_within(&self) -> Duration {
        match self.broker().kind() {
            // The session timeout that the suite sets, and 15 s.
            BrokerKind::Kafka => Duration::from_secs(6 + 15),
            BrokerKind::RabbitMq | BrokerKind::Redis => Duration::from_secs(10),
        }
    }

    /// Undoes what a row that ended half-way left.
    pub(super) async fn recover(&self) -> Result<()> {
        self.proxy().heal().await?;
        recover(self.broker()).await
    }
}

/// Undoes what a row that ended half-way left of a broker.
pub(super) async fn recover(broker: &Broker) -> Result<()> {
    // They fail where there is nothing to undo.
    drop(broker.unpause().await);
    drop(broker.start().await);
    broker.wait_until_ready().await
}

fn join(url: &str, queries: &[&str]) -> String {
    let queries: Vec<&str> = queries.iter().copied().filter(|query| !query.is_empty()).collect();
    if queries.is_empty() { url.to_owned() } else { format!("{url}?{}", queries.join("&")) }
}

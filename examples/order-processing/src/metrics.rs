//! What an operator sees of a run.

use std::time::Duration;

use anyhow::Result;
use mq::Client;
use mq::observe::{Endpoint, Observer, Serving, Trace};
use mq::worker::{Health, Worker};

/// Watches a run and serves what it sees.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    observer: Observer,
    trace: Trace,
    address: String,
}

impl Metrics {
    /// Watches from now on; to be served at `address`.
    pub(crate) fn start(client: &Client, address: String) -> Result<Self> {
        let observer = Observer::builder(client).every(Duration::from_secs(2)).start()?;
        Ok(Self { observer, trace: Trace::new(client), address })
    }

    /// Measures what a worker does, and joins its traces.
    pub(crate) fn watch(&self, worker: Worker) -> Worker {
        worker.layer(self.observer.latency()).layer(self.trace)
    }

    /// Serves metrics and health.
    pub(crate) async fn serve(&self, services: &[(&'static str, Health)]) -> Result<Serving> {
        let endpoint = services.iter().fold(Endpoint::new(&self.observer), |endpoint, (name, health)| {
            let health = health.clone();
            endpoint.ready(*name, move || health.is_ready())
        });
        let serving = endpoint.bind(&self.address).await?;
        eprintln!("metrics at http://{}/metrics", serving.address());
        Ok(serving)
    }
}

//! The backends of this workspace, each with its broker.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};

use super::harness::{BrokerHarness, Harness, MemoryHarness};
use super::manifest::manifest;
use super::runner::{Options, is_selected};
use crate::brokers::{self, Broker, BrokerKind};

/// The bounds within which the backends give a dead process's messages back, with the settings used here.
const BOUNDS: [(BrokerKind, &str, &str, Duration); 3] = [
    (BrokerKind::Kafka, "kafka", "session_timeout=6s", Duration::from_secs(12)),
    (BrokerKind::RabbitMq, "rabbitmq", "", Duration::from_secs(2)),
    (BrokerKind::Redis, "redis-stream", "session_timeout=3s", Duration::from_secs(6)),
];

/// The conformance program of this workspace: see [`main`](super::main).
///
/// Starts only the brokers that the filters ask for; without a container engine it fails. Unless told
/// otherwise it writes `conformance.json` into cargo's target folder.
///
/// # Errors
/// What failed.
pub fn run_all_backends(mut options: Options) -> Result<()> {
    if options.json.is_none() {
        options.json = target_folder().map(|target| target.join("conformance.json"));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(super::main(options, async |filters| harnesses(filters).await))
}

/// The folder that cargo builds into, which holds this program.
fn target_folder() -> Option<PathBuf> {
    let program = std::env::current_exe().ok()?;
    program.ancestors().find(|folder| folder.join("CACHEDIR.TAG").exists()).map(PathBuf::from)
}

/// Returns the names, `BACKEND::ROW`, of the rows that `filters` select; none select all.
#[must_use]
pub fn selected(filters: &[String]) -> Vec<String> {
    let mut rows = Vec::new();
    for case in manifest() {
        rows.extend(names().map(|backend| format!("{backend}::{}", case.id)));
    }
    rows.retain(|name| is_selected(name, filters));
    rows
}

/// The names of the backends.
fn names() -> impl Iterator<Item = &'static str> {
    std::iter::once("memory").chain(BOUNDS.iter().map(|(_, name, ..)| *name))
}

async fn harnesses(filters: &[String]) -> Result<Vec<Arc<dyn Harness>>> {
    let named = |name: &str| filters.iter().any(|filter| filter.starts_with(name));
    let all = !names().any(named);
    let mut harnesses: Vec<Arc<dyn Harness>> = Vec::new();
    if all || named("memory") {
        harnesses.push(Arc::new(MemoryHarness::default()));
    }
    for (kind, name, keys, bound) in BOUNDS {
        if all || named(name) {
            harnesses.push(Arc::new(harness(kind, name, keys, bound).await?));
        }
    }
    Ok(harnesses)
}

/// Starts the broker of a backend, and returns how rows reach it and may hurt it.
pub(super) async fn of(backend: &str) -> Result<BrokerHarness> {
    let known = BOUNDS.iter().find(|(_, name, ..)| *name == backend);
    let (kind, name, keys, bound) = known.with_context(|| format!("no broker of {backend}"))?;
    harness(*kind, name, keys, *bound).await
}

async fn harness(kind: BrokerKind, name: &'static str, keys: &str, bound: Duration) -> Result<BrokerHarness> {
    let broker: Broker = match kind {
        BrokerKind::Kafka => brokers::kafka().await,
        BrokerKind::RabbitMq => brokers::rabbitmq().await,
        BrokerKind::Redis => brokers::redis().await,
    }
    .with_context(|| format!("start {name}"))?;
    let url = format!("{}?{keys}", broker.url());
    Ok(BrokerHarness::new(name, url, bound).may_hurt(Arc::new(broker)))
}

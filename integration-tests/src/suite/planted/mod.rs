//! Does the suite notice? Rows run on drivers with planted defects; each row must fail on one.
//!
//! The defects are planted between core and a driver, without building anything anew: the in-memory driver, and
//! those of brokers for rows that hurt one.
//! Those in core and in the drivers themselves are patches: `cargo xtask mutants`.

mod admin;
mod consumer;
mod defect;
mod producer;
mod table;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use mq::{Client, ErrorKind};
use mq_core::driver::{Admin, Backend, Consumer, ConsumerOptions, Context, Producer};
use mq_core::{Capabilities, ClientOptions, GroupName};
use mq_memory::{Broker as MemoryBroker, MemoryBackend, MemoryConfig};

use self::admin::BadAdmin;
use self::consumer::BadConsumer;
use self::defect::{Defect, Turn};
use self::producer::BadProducer;
use self::table::{HURT, NOTICED, PATCHED};
use super::backends;
use super::faulty::recover;
use super::harness::{Harness, MemoryHarness, Victim, memory_victim};
use super::manifest::{Case, manifest};
use super::runner::outcome;
use super::victim::Plan;
use crate::brokers::Broker;

/// A row that takes longer has noticed something, unless it needs a third of that on a sound driver.
const LIMIT: Duration = Duration::from_secs(20);
/// How long a row may take on a sound driver, beside many others.
const SOUND_LIMIT: Duration = Duration::from_secs(120);
/// As that, of rows that wait for a broker.
const HURT_LIMIT: Duration = Duration::from_secs(120);
/// Rows at once: most of them wait.
const AT_ONCE: usize = 32;

/// A driver with a defect.
#[derive(Debug)]
struct BadBackend {
    inner: Arc<dyn Backend>,
    /// What the client listens to.
    context: Context,
    defect: Defect,
}

impl BadBackend {
    fn client(inner: Arc<dyn Backend>, defect: Defect, options: ClientOptions) -> Client {
        let context = match defect {
            Defect::EventsLost => Context::default(),
            _ => inner.context().clone(),
        };
        Client::new(Self { inner, context, defect }, options)
    }
}

/// Separates a URL from the name of the defect that is planted behind it.
const MARK: char = '#';

/// Connects to what a URL names, through a driver with the defect that it is marked with, if any.
pub(super) async fn connect(url: impl AsRef<str>) -> mq::Result<Client> {
    connect_with(url, ClientOptions::default()).await
}

/// As [`connect`], with options.
pub(super) async fn connect_with(url: impl AsRef<str>, options: ClientOptions) -> mq::Result<Client> {
    let (url, defect) = url.as_ref().split_once(MARK).unwrap_or((url.as_ref(), ""));
    let backend = mq::backend(url, Context { in_flight: options.in_flight, ..Context::default() }).await?;
    Ok(match Defect::named(defect) {
        Some(defect) => BadBackend::client(backend, defect, options),
        None => Client::of(backend, options),
    })
}

#[async_trait]
impl Backend for BadBackend {
    fn capabilities(&self) -> &'static Capabilities {
        self.inner.capabilities()
    }

    fn context(&self) -> &Context {
        &self.context
    }

    fn max_message_size(&self) -> usize {
        self.inner.max_message_size()
    }

    async fn producer(&self) -> mq_core::Result<Arc<dyn Producer>> {
        let inner = self.inner.producer().await?;
        Ok(Arc::new(BadProducer { inner, defect: self.defect, turn: Turn::default() }))
    }

    async fn consumer(&self, mut options: ConsumerOptions) -> mq_core::Result<Arc<dyn Consumer>> {
        if self.defect == Defect::GroupsMerged {
            options.group = merged_group();
        }
        let inner = self.inner.consumer(options).await?;
        let (turn, fetched) = Default::default();
        Ok(Arc::new(BadConsumer { inner, defect: self.defect, turn, fetched }))
    }

    async fn admin(&self) -> mq_core::Result<Arc<dyn Admin>> {
        Ok(Arc::new(BadAdmin { inner: self.inner.admin().await?, defect: self.defect }))
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}

fn merged_group() -> GroupName {
    GroupName::new("all").unwrap_or_else(|error| panic!("{error}"))
}

/// A broker in memory that is reached through drivers with a defect.
#[derive(Clone, Debug)]
struct BadHarness {
    broker: MemoryBroker,
    defect: Defect,
}

impl BadHarness {
    fn new(defect: Defect) -> Self {
        Self { broker: MemoryBroker::new(), defect }
    }

    fn connect(&self, options: ClientOptions) -> (MemoryBackend, Client) {
        let inner = self.broker.backend(MemoryConfig::default(), Context::default());
        (inner.clone(), BadBackend::client(Arc::new(inner), self.defect, options))
    }
}

#[async_trait]
impl Harness for BadHarness {
    fn name(&self) -> &'static str {
        "memory"
    }

    async fn client_with(&self, options: ClientOptions) -> Result<Client> {
        Ok(self.connect(options).1)
    }

    async fn victim(&self, plan: Plan) -> Result<Box<dyn Victim>> {
        let (backend, client) = self.connect(ClientOptions::default());
        memory_victim(backend, client, plan).await
    }

    fn session_bound(&self) -> Duration {
        Duration::ZERO
    }

    fn broken_urls(&self) -> Vec<(&'static str, String, ErrorKind)> {
        MemoryHarness::default().broken_urls()
    }

    fn broker(&self) -> Option<&Broker> {
        None
    }
}

/// Runs each row of the table on a sound driver, where it must pass, and on the one that it must fail on; returns
/// what is wrong.
pub async fn unnoticed() -> Vec<String> {
    let cases: BTreeMap<&str, Case> = manifest().into_iter().map(|case| (case.id, case)).collect();
    let pairs = NOTICED.iter().flat_map(|(defect, rows)| rows.iter().map(|row| (&cases[row], *defect)));
    let tried = stream::iter(pairs).map(async |(case, defect)| {
        let begun = Instant::now();
        if let Some(why) = failure(case.clone(), Defect::None, SOUND_LIMIT).await {
            return Some(format!("{} fails without a defect: {why}", case.id));
        }
        let noticed = failure(case.clone(), defect, LIMIT.max(begun.elapsed() * 3)).await.is_some();
        (!noticed).then(|| format!("{} passes though {}", case.id, defect.says()))
    });
    tried.buffer_unordered(AT_ONCE).filter_map(async |wrong| wrong).collect().await
}

/// Tells for each row what it must notice, and fails if one does not; with filters, of those rows that hurt a broker
/// whose names contain one.
pub(super) async fn report(filters: &[String]) -> Result<()> {
    let chosen = |row: &str| filters.is_empty() || filters.iter().any(|filter| row.contains(filter));
    if !filters.is_empty() {
        let wrong = unnoticed_on_brokers(chosen).await?;
        ensure!(wrong.is_empty(), "{wrong:#?}");
        return Ok(());
    }
    for (defect, rows) in NOTICED {
        rows.iter().for_each(|row| println!("{row}: {}", defect.says()));
    }
    PATCHED.iter().for_each(|(row, patch)| println!("{row}: `cargo xtask mutants {patch}`"));
    let mut wrong = unnoticed().await;
    wrong.extend(unnoticed_on_brokers(chosen).await?);
    let rows = NOTICED.iter().map(|(_, rows)| rows.len()).chain(HURT.iter().map(|(_, _, rows)| rows.len()));
    let planted: usize = rows.sum();
    println!("{planted} rows on planted drivers, {} of them wrong", wrong.len());
    ensure!(wrong.is_empty(), "{wrong:#?}");
    Ok(())
}

/// Runs the rows that hurt a broker on real drivers with defects, one after the other; returns what is wrong.
async fn unnoticed_on_brokers(chosen: impl Fn(&str) -> bool) -> Result<Vec<String>> {
    let cases: BTreeMap<&str, Case> = manifest().into_iter().map(|case| (case.id, case)).collect();
    let mut wrong = Vec::new();
    for (backend, defect, rows) in HURT {
        let rows: Vec<&str> = rows.iter().copied().filter(|row| chosen(row)).collect();
        if rows.is_empty() {
            continue;
        }
        let harness = backends::of(backend).await?.marked(format!("{MARK}{defect:?}"));
        let harness = Arc::new(harness);
        for row in rows {
            let (outcome, error) = outcome(&cases[row], harness.clone(), 1, 1, HURT_LIMIT).await;
            let noticed = outcome == "fail";
            println!("{backend}::{row}: {}: {outcome} {}", defect.says(), error.unwrap_or_default());
            if !noticed {
                wrong.push(format!("{backend}::{row} passes though {}", defect.says()));
            }
            if let Some(broker) = harness.broker() {
                recover(broker).await?;
            }
        }
    }
    Ok(wrong)
}

/// Returns why a row fails on a driver with a defect, if it does.
async fn failure(case: Case, defect: Defect, limit: Duration) -> Option<String> {
    let harness = Arc::new(BadHarness::new(defect));
    let (outcome, error) = outcome(&case, harness, 1, 1, limit).await;
    (outcome == "fail").then(|| error.unwrap_or_default())
}

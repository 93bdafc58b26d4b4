//! Does the suite notice? Rows run on drivers with planted defects; each row must fail on one.
//!
//! The defects are planted between core and the in-memory driver, without building anything anew.
//! Those in core and in the drivers themselves are patches: `cargo xtask mutants`.

mod admin;
mod consumer;
mod defect;
mod producer;
mod table;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

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
use self::table::{NOTICED, PATCHED, UNPLANTED};
use super::harness::{Harness, MemoryHarness, Victim, memory_victim};
use super::manifest::{Case, manifest};
use super::runner::outcome;
use super::victim::Plan;
use crate::brokers::Broker;

/// A row that takes longer has noticed something.
const LIMIT: Duration = Duration::from_secs(20);
/// Rows at once: most of them wait.
const AT_ONCE: usize = 32;

/// The in-memory driver with a defect.
#[derive(Debug)]
struct BadBackend {
    inner: MemoryBackend,
    defect: Defect,
}

#[async_trait]
impl Backend for BadBackend {
    fn capabilities(&self) -> &'static Capabilities {
        self.inner.capabilities()
    }

    fn context(&self) -> &Context {
        self.inner.context()
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
        (inner.clone(), Client::new(BadBackend { inner, defect: self.defect }, options))
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
        if fails(case.clone(), Defect::None).await {
            return Some(format!("{} fails without a defect", case.id));
        }
        let noticed = fails(case.clone(), defect).await;
        (!noticed).then(|| format!("{} passes though {}", case.id, defect.says()))
    });
    tried.buffer_unordered(AT_ONCE).filter_map(async |wrong| wrong).collect().await
}

/// Tells for each row what it must notice, and fails if one does not.
pub(super) async fn report() -> Result<()> {
    for (defect, rows) in NOTICED {
        rows.iter().for_each(|row| println!("{row}: {}", defect.says()));
    }
    PATCHED.iter().for_each(|(row, patch)| println!("{row}: `cargo xtask mutants {patch}`"));
    UNPLANTED.iter().for_each(|(row, why)| println!("{row}: none; {why}"));
    let wrong = unnoticed().await;
    let planted: usize = NOTICED.iter().map(|(_, rows)| rows.len()).sum();
    println!("{planted} rows on planted drivers, {} of them wrong", wrong.len());
    ensure!(wrong.is_empty(), "{wrong:#?}");
    Ok(())
}

async fn fails(case: Case, defect: Defect) -> bool {
    let harness = Arc::new(BadHarness::new(defect));
    outcome(&case, harness, 1, 1, LIMIT).await.0 == "fail"
}

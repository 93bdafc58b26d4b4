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

use anyhow::Result;
use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use mq::{Client, ErrorKind};
use mq_core::driver::{Admin, Backend, Consumer, ConsumerOptions, Context, Producer};
use mq_core::{Capabilities, ClientOptions, GroupName, TopicName};
use mq_memory::{Broker as MemoryBroker, MemoryBackend, MemoryConfig};

use self::admin::BadAdmin;
use self::consumer::BadConsumer;
use self::defect::{Defect, Turn};
use self::producer::BadProducer;
use self::table::NOTICED;
use super::harness::{Harness, MemoryHarness, Victim, memory_victim};
use super::manifest::{Case, Kind, manifest};
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
        self.inner.max_message_size() + usize::from(self.defect == Defect::LimitGrown)
    }

    async fn producer(&self) -> mq_core::Result<Arc<dyn Producer>> {
        let inner = self.inner.producer().await?;
        Ok(Arc::new(BadProducer { inner, defect: self.defect, turn: Turn::default() }))
    }

    async fn consumer(&self, mut options: ConsumerOptions) -> mq_core::Result<Arc<dyn Consumer>> {
        if self.defect == Defect::GroupsMerged {
            options.group = merged_group();
        }
        if self.defect == Defect::TopicsMerged {
            options.subscriptions.iter_mut().for_each(|subscription| subscription.topic = merged());
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

fn merged() -> TopicName {
    TopicName::new("all").unwrap_or_else(|error| panic!("{error}"))
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

/// Runs the rows that `filters` select, those that need no broker of their own, on every defect, and
/// tells which notice which. Rows that fail without a defect say nothing.
pub(super) async fn explore(filters: &[String]) {
    let selected = |case: &Case| {
        let name = format!("memory::{}", case.id);
        case.kind != Kind::Hurts && (filters.is_empty() || filters.iter().any(|filter| name.contains(filter)))
    };
    let cases: Vec<Case> = manifest().into_iter().filter(selected).collect();
    let fails = async |case: &Case, defect| fails(case.clone(), defect).await;
    let mut noticed: BTreeMap<&str, Vec<Defect>> = BTreeMap::new();
    let sound = stream::iter(cases.iter()).map(async |case| (case, fails(case, Defect::None).await));
    let sound: Vec<_> = sound.buffer_unordered(AT_ONCE).collect().await;
    for (case, failed) in &sound {
        if *failed {
            println!("{} fails without a defect", case.id);
        }
        noticed.insert(case.id, Vec::new());
    }
    for defect in Defect::ALL {
        let rows = sound.iter().filter(|(_, failed)| !failed).map(|(case, _)| *case);
        let failed = stream::iter(rows).map(async |case| (case.id, fails(case, *defect).await));
        let failed: Vec<_> = failed.buffer_unordered(AT_ONCE).collect().await;
        let failed: Vec<&str> = failed.into_iter().filter(|(_, failed)| *failed).map(|(id, _)| id).collect();
        println!("{defect:?} ({}): {} rows", defect.says(), failed.len());
        failed.iter().for_each(|id| noticed.entry(*id).or_default().push(*defect));
    }
    for (id, defects) in noticed {
        println!("{id}: {defects:?}");
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

async fn fails(case: Case, defect: Defect) -> bool {
    let harness = Arc::new(BadHarness::new(defect));
    outcome(&case, harness, 1, 1, LIMIT).await.0 == "fail"
}

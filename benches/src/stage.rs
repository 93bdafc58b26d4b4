//! Topics for the runs: made before, filled where a run consumes, removed after.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use mq::{Client, GroupName, GroupSettings, Start, TopicName, TopicSpec};

use crate::args::Args;
use crate::child;
use crate::spec::{Backend, Mode, Side, Spec};

/// Kafka's partitions; elsewhere the layout of a topic without key order.
const PARTITIONS: u32 = 4;
/// An append-only file larger than this is rewritten between runs, so that it is not within one.
const AOF: u64 = 64 << 20;
/// How long Redis may take to rewrite it, or to answer meanwhile.
const LIMIT: Duration = Duration::from_secs(30);
static NUMBER: AtomicUsize = AtomicUsize::new(0);

/// A broker.
#[derive(Debug)]
pub(crate) struct Stage {
    backend: Backend,
    url: String,
    client: Client,
    uncounted: bool,
    before: Option<PathBuf>,
}

/// A topic with messages that every run may read from the start, as a group of its own.
#[derive(Debug)]
pub(crate) struct Filled {
    topic: String,
    count: usize,
}

impl Stage {
    /// Connects.
    pub(crate) async fn open(backend: Backend, url: &str, args: &Args) -> Result<Self> {
        let (uncounted, before) = (args.uncounted, args.before.clone());
        Ok(Self { backend, url: url.to_owned(), client: mq::connect(url).await?, uncounted, before })
    }

    /// Returns what `mq` is compared with, as one word.
    pub(crate) fn other(&self) -> &'static str {
        if self.before.is_some() { "before" } else { "raw" }
    }

    /// Returns a run without a topic; where an older version takes the native client's place, the
    /// raw side is that of its `mq`.
    pub(crate) fn spec(&self, side: Side, mode: Mode, bytes: usize, within: Duration) -> Spec {
        let (url, backend) = (self.url.clone(), self.backend);
        let (topic, group) = (String::new(), name("group"));
        let uncounted = self.uncounted;
        let (side, program) = match &self.before {
            Some(before) if side == Side::Raw => (Side::Mq, Some(before.clone())),
            _ => (side, None),
        };
        Spec {
            side,
            backend,
            mode,
            bytes,
            warm_up: 0,
            count: 0,
            within,
            url,
            topic,
            group,
            uncounted,
            program,
        }
    }

    /// Does a run on a fresh topic.
    pub(crate) async fn run(&self, mut spec: Spec) -> Result<crate::meter::Report> {
        if self.backend == Backend::Memory {
            // The child's memory is its own.
            spec.topic = name("memory");
            return child::start(spec).await;
        }
        spec.topic = self.declare(&spec.group).await?;
        let report = async {
            if matches!(spec.mode, Mode::Consume | Mode::Worker) {
                self.fill(&spec, spec.warm_up + spec.count).await?;
            }
            child::start(spec.clone()).await
        };
        let report = report.await;
        self.remove(&spec.topic).await?;
        report
    }

    /// Does a run that consumes from a log, which reading leaves as it was: the topic is filled once,
    /// and each run reads the same bytes as a group of its own.
    pub(crate) async fn run_on(
        &self,
        filled: &mut Option<Filled>,
        mut spec: Spec,
    ) -> Result<crate::meter::Report> {
        let needed = spec.warm_up + spec.count;
        if let Some(short) = filled.take_if(|filled| filled.count < needed) {
            self.remove(&short.topic).await?;
        }
        if filled.is_none() {
            let count = needed + needed / 4;
            spec.topic = self.declare_topic().await?;
            self.fill(&spec, count).await?;
            *filled = Some(Filled { topic: spec.topic.clone(), count });
        }
        let topic = filled.as_ref().context("no topic")?.topic.clone();
        self.declare_group(&topic, &spec.group, Start::Earliest).await?;
        spec.topic = topic;
        child::start(spec).await
    }

    /// Removes a filled topic.
    pub(crate) async fn clear(&self, filled: Option<Filled>) -> Result<()> {
        match filled {
            Some(filled) => self.remove(&filled.topic).await,
            None => Ok(()),
        }
    }

    async fn declare(&self, group: &str) -> Result<String> {
        let topic = self.declare_topic().await?;
        self.declare_group(&topic, group, Start::Latest).await?;
        Ok(topic)
    }

    async fn declare_topic(&self) -> Result<String> {
        let topic = TopicName::new(name(self.backend.name()))?;
        let spec = match self.backend {
            Backend::Kafka => TopicSpec::default().partitions(PARTITIONS),
            Backend::Rabbitmq | Backend::Redis | Backend::Memory => TopicSpec::default(),
        };
        self.client.admin().ensure_topic(&topic, &spec).await?;
        Ok(topic.to_string())
    }

    async fn declare_group(&self, topic: &str, group: &str, start: Start) -> Result<()> {
        let (topic, group) = (TopicName::new(topic)?, GroupName::new(group)?);
        let settings = GroupSettings::default().start(start);
        Ok(self.client.admin().ensure_group(&topic, &group, &settings).await?)
    }

    /// Puts messages in, with the native client: what `mq` reads is written by another.
    async fn fill(&self, spec: &Spec, count: usize) -> Result<()> {
        let (side, mode) = (Side::Raw, Mode::Publish);
        let fill = Spec { side, mode, warm_up: 0, count, program: None, ..spec.clone() };
        child::start(fill).await.context("filling the topic")?;
        // Else Redis rewrites what was put in while it is read.
        self.quiet_redis().await
    }

    async fn remove(&self, topic: &str) -> Result<()> {
        self.client.admin().delete_topic(&TopicName::new(topic)?).await?;
        self.quiet_redis().await
    }

    /// Has Redis rewrite its file while nothing is measured.
    async fn quiet_redis(&self) -> Result<()> {
        if self.backend != Backend::Redis {
            return Ok(());
        }
        // By default an answer is waited for half a second, less than a fork of a full Redis takes.
        let config = redis::AsyncConnectionConfig::new().set_response_timeout(Some(LIMIT));
        let client = redis::Client::open(self.url.as_str())?;
        let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
        let start = Instant::now();
        let mut asked = false;
        while start.elapsed() < LIMIT {
            let info: redis::InfoDict =
                redis::cmd("INFO").arg("persistence").query_async(&mut connection).await?;
            let rewriting = info.get::<u8>("aof_rewrite_in_progress") == Some(1);
            let large = info.get::<u64>("aof_current_size").is_some_and(|size| size > AOF);
            if !rewriting && (!large || asked) {
                return Ok(());
            }
            if !rewriting {
                let _: redis::Value = redis::cmd("BGREWRITEAOF").query_async(&mut connection).await?;
                asked = true;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        eprintln!(
            "warning: Redis still rewrites its file after {LIMIT:?}; the next run may be the slower for it"
        );
        Ok(())
    }
}

/// Returns a name that nobody had.
fn name(what: &str) -> String {
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    format!("bench-{what}-{:x}-{number}", std::process::id() as u64 ^ (fastrand::u64(..) >> 24))
}

//! The connection to a cluster: what its producer, consumers and administration share.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use mq_core::driver::{Admin, Backend, Consumer, ConsumerOptions, Context, Producer};
use mq_core::{Capabilities, Error, ErrorKind, Event, Result, Start};
use parking_lot::Mutex;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::error::{KafkaResult, RDKafkaErrorCode as Code};
use rdkafka::producer::Producer as _;
use rdkafka::types::RDKafkaRespErr;
use tokio::sync::OnceCell;
use url::Url;

use crate::admin::KafkaAdmin;
use crate::codec::Record;
use crate::config::KafkaConfig;
use crate::consumer::KafkaConsumer;
use crate::declared::Declared;
use crate::error::{from_code, from_native};
use crate::forward::Forwarding;
use crate::link::Link;
use crate::native::release;
use crate::producer::KafkaProducer;
use crate::reader::Readers;
use crate::routing::Routes;
use crate::rungs;
use crate::sender::{Reports, Sender};
use crate::transaction::Transactions;
use crate::verdicts::Verdict;

/// How long a question to the broker may take.
pub(crate) const ANSWER: Duration = Duration::from_secs(10);
/// How long the broker may take to carry out what it was asked.
pub(crate) const OPERATION: Duration = Duration::from_secs(5);
/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(10);

/// After so long, brokers that can't be reached count as not there.
const REFUSED: Duration = Duration::from_millis(1500);

/// A connection to a Kafka cluster.
pub struct KafkaBackend {
    inner: Arc<Inner>,
}

impl fmt::Debug for KafkaBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaBackend").field("config", &self.inner.config).finish_non_exhaustive()
    }
}

pub(crate) struct Inner {
    pub(crate) config: KafkaConfig,
    pub(crate) context: Context,
    pub(crate) sender: Sender,
    admin: Mutex<Option<Arc<AdminClient<Link>>>>,
    pub(crate) readers: Readers,
    pub(crate) forwarding: Forwarding,
    pub(crate) declared: Declared,
    pub(crate) routes: Routes,
    pub(crate) transactions: Transactions,
    ladder: OnceCell<()>,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner").field("config", &self.config).finish_non_exhaustive()
    }
}

impl KafkaBackend {
    /// Connects to the cluster that `url` names.
    ///
    /// # Errors
    /// Within 10 s: `InvalidInput` for a URL that can't be read, `Unauthorized` for wrong
    /// credentials, `Unavailable` for a broker that is not there.
    pub async fn connect(url: &Url, context: Context) -> Result<Self> {
        Self::with_config(KafkaConfig::from_url(url)?, context).await
    }

    /// Connects with settings made in code.
    ///
    /// # Errors
    /// As for [`connect`](Self::connect).
    pub async fn with_config(config: KafkaConfig, context: Context) -> Result<Self> {
        config.validate()?;
        let sender = Sender::new(&config, &context)?;
        probe(&sender).await?;
        context.events.emit(Event::Connected { what: "cluster" });
        let inner = Inner {
            readers: Readers::new(config.native()),
            forwarding: Forwarding::default(),
            declared: Declared::default(),
            routes: Routes::default(),
            transactions: Transactions::default(),
            ladder: OnceCell::new(),
            config,
            context,
            sender,
            admin: Mutex::default(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }
}

/// Asks for the cluster until it answers, the time is over, or the login is refused.
async fn probe(sender: &Sender) -> Result<()> {
    let native = sender.native();
    let probed = tokio::task::spawn_blocking(move || {
        let deadline = Instant::now() + CONNECT;
        loop {
            let failure = match native.client().fetch_metadata(Some(rungs::GROUP), Duration::from_millis(400))
            {
                Ok(_) => return Ok(()),
                Err(error) => from_native(&error),
            };
            let reports: &Reports = native.context();
            let said = reports.link.last_error();
            if let Some((code, reason)) = &said
                && from_code(*code).kind() == ErrorKind::Unauthorized
            {
                return Err(Error::new(ErrorKind::Unauthorized, reason));
            }
            let down = reports.link.is_down() && Instant::now() + CONNECT >= deadline + REFUSED;
            if down || Instant::now() >= deadline {
                let reason = said.map_or_else(|| failure.to_string(), |(_, reason)| reason);
                return Err(Error::new(ErrorKind::Unavailable, format!("no broker answers: {reason}")));
            }
        }
    });
    probed.await.unwrap_or_else(|_| Err(Error::new(ErrorKind::Closed, "the runtime is shutting down")))
}

/// A topic to be created.
pub(crate) struct Plan {
    pub(crate) name: String,
    pub(crate) partitions: i32,
    pub(crate) settings: Vec<(&'static str, String)>,
}

impl Inner {
    /// Runs a blocking question to the cluster on a thread where it may block.
    pub(crate) async fn ask<T, F>(self: &Arc<Self>, question: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Self) -> Result<T> + Send + 'static,
    {
        let inner = self.clone();
        tokio::task::spawn_blocking(move || question(&inner))
            .await
            .unwrap_or_else(|_| Err(Error::new(ErrorKind::Closed, "the runtime is shutting down")))
    }

    /// Returns the administrative client.
    pub(crate) fn admin(&self) -> Result<Arc<AdminClient<Link>>> {
        let mut slot = self.admin.lock();
        if let Some(admin) = &*slot {
            return Ok(admin.clone());
        }
        let mut config = self.config.native();
        // Nobody polls this client for its statistics.
        config.set("statistics.interval.ms", "0");
        let link = Link::new("admin", self.context.events.clone());
        let admin =
            AdminClient::from_config_and_context(&config, link).map_err(|error| from_native(&error))?;
        Ok(slot.insert(Arc::new(admin)).clone())
    }

    /// Takes an answer of the administrative client. One that finds no broker is replaced at the next call.
    pub(crate) fn answered<T>(&self, admin: Arc<AdminClient<Link>>, answer: KafkaResult<T>) -> Result<T> {
        let answer = answer.map_err(|error| from_native(&error));
        if let Err(error) = &answer
            && matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Timeout)
        {
            release((self.admin.lock().take(), admin));
        }
        answer
    }

    /// Returns a topic's number of partitions, or `None` if there is no such topic. Blocks.
    pub(crate) fn partitions(&self, topic: &str) -> Result<Option<i32>> {
        self.partitions_within(topic, ANSWER)
    }

    /// As [`partitions`](Self::partitions), within a time.
    pub(crate) fn partitions_within(&self, topic: &str, limit: Duration) -> Result<Option<i32>> {
        let native = self.sender.native();
        let metadata =
            native.client().fetch_metadata(Some(topic), limit).map_err(|error| from_native(&error))?;
        let Some(found) = metadata.topics().iter().find(|found| found.name() == topic) else {
            return Ok(None);
        };
        match found.error() {
            None => Ok(i32::try_from(found.partitions().len()).ok().filter(|count| *count > 0)),
            Some(RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART) => Ok(None),
            Some(error) => Err(from_code(error.into())),
        }
    }

    /// As [`partitions`](Self::partitions), from a task; a missing topic is an error.
    pub(crate) async fn partitions_of(self: &Arc<Self>, topic: &str) -> Result<i32> {
        let name = topic.to_owned();
        let found = self.ask(move |inner| inner.partitions(&name)).await?;
        found.ok_or_else(|| Error::new(ErrorKind::NotFound, format!("there is no topic {topic}")))
    }

    /// Creates topics; those that are there already stay as they are. Returns whether any is new.
    pub(crate) async fn create(self: &Arc<Self>, plans: &[Plan]) -> Result<bool> {
        let limit = self.config.wire_limit().to_string();
        let replication = TopicReplication::Fixed(self.config.replication.map_or(-1, i32::from));
        let topics: Vec<NewTopic<'_>> =
            plans.iter().map(|plan| native_topic(plan, &limit, &replication)).collect();
        let admin = self.admin()?;
        let answer = admin.create_topics(&topics, &options()).await;
        let results = self.answered(admin, answer)?;
        let mut created = false;
        for result in results {
            match result {
                Ok(_) => created = true,
                Err((_, Code::TopicAlreadyExists)) => {}
                Err((topic, code)) => return Err(from_code(code).on_topic(topic)),
            }
        }
        for plan in plans {
            self.wait_for(&plan.name).await?;
        }
        Ok(created)
    }

    /// Waits until a topic that was created takes messages. It shows before each of its partitions has its log, and a send
    /// in between was confirmed, without a place, and lost (librdkafka 2.12.1).
    async fn wait_for(self: &Arc<Self>, topic: &str) -> Result<()> {
        let deadline = Instant::now() + ANSWER;
        let mut pause = Duration::from_millis(5);
        loop {
            let ends = async {
                let (name, partitions) = (topic.to_owned(), self.partitions_of(topic).await?);
                self.ask(move |inner| inner.readers.offsets(&name, partitions, Start::Latest)).await
            };
            match ends.await {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Unauthorized || Instant::now() >= deadline => {
                    return Err(error);
                }
                Err(_) => tokio::time::sleep(pause).await,
            }
            pause = (pause * 2).min(Duration::from_millis(100));
        }
    }

    /// Makes sure that the delay ladder is there.
    pub(crate) async fn ladder(self: &Arc<Self>) -> Result<()> {
        self.ladder.get_or_try_init(|| self.create_ladder()).await.copied()
    }

    async fn create_ladder(self: &Arc<Self>) -> Result<()> {
        let last = rungs::topics().pop().unwrap_or_default();
        if self.ask(move |inner| inner.partitions(&last)).await?.is_some() {
            return Ok(());
        }
        let plan = |(rung, name)| Plan {
            name,
            partitions: rungs::PARTITIONS,
            settings: vec![
                ("retention.ms", rungs::retention(rung)),
                ("message.timestamp.type", "CreateTime".into()),
                ("segment.ms", Duration::from_secs(86_400).as_millis().to_string()),
            ],
        };
        let plans: Vec<Plan> = rungs::topics().into_iter().enumerate().map(plan).collect();
        self.create(&plans).await.map(|_| ())
    }

    /// Sends records of the ladder; each comes with its place in the batch it belongs to.
    pub(crate) async fn send_delayed(
        self: &Arc<Self>,
        records: Vec<(usize, Record)>,
    ) -> Vec<(usize, Result<Verdict>)> {
        let (places, records): (Vec<usize>, Vec<Record>) = records.into_iter().unzip();
        if let Err(error) = self.ladder().await {
            return places.into_iter().map(|place| (place, Err(error.duplicate()))).collect();
        }
        let verdicts = self.sender.send(records).await;
        places.into_iter().zip(verdicts.into_iter().map(Ok)).collect()
    }
}

fn native_topic<'a>(plan: &'a Plan, limit: &'a str, replication: &TopicReplication<'a>) -> NewTopic<'a> {
    let replication = match replication {
        TopicReplication::Fixed(replicas) => TopicReplication::Fixed(*replicas),
        TopicReplication::Variable(assignment) => TopicReplication::Variable(assignment),
    };
    let topic = NewTopic::new(&plan.name, plan.partitions, replication).set("max.message.bytes", limit);
    plan.settings.iter().fold(topic, |topic, (name, value)| topic.set(name, value))
}

/// The time limits of administrative calls.
pub(crate) fn options() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(ANSWER)).operation_timeout(Some(OPERATION))
}

#[async_trait]
impl Backend for KafkaBackend {
    fn capabilities(&self) -> &'static Capabilities {
        &crate::CAPABILITIES
    }

    fn context(&self) -> &Context {
        &self.inner.context
    }

    fn max_message_size(&self) -> usize {
        self.inner.config.max_message_size
    }

    async fn producer(&self) -> Result<Arc<dyn Producer>> {
        Ok(Arc::new(KafkaProducer(self.inner.clone())))
    }

    async fn consumer(&self, options: ConsumerOptions) -> Result<Arc<dyn Consumer>> {
        Ok(Arc::new(KafkaConsumer::open(&self.inner, options).await?))
    }

    async fn admin(&self) -> Result<Arc<dyn Admin>> {
        Ok(Arc::new(KafkaAdmin(self.inner.clone())))
    }

    async fn close(&self) {
        self.inner.forwarding.stop().await;
        self.inner.sender.flush().await;
        release(self.inner.readers.take());
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        release((self.admin.get_mut().take(), self.readers.take()));
    }
}

//! What a row works with.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use mq::{
    Admin, Capability, Client, Delivery, ErrorKind, GroupName, GroupSettings, Message, Publisher, Stats,
    Subscriber, SubscriberBuilder, Support, TopicName,
};

use super::harness::Harness;

/// How long a row waits for what must happen.
pub(super) const PATIENCE: Duration = Duration::from_secs(45);
/// How long a row watches that something does not happen.
pub(super) const QUIET: Duration = Duration::from_millis(400);

/// A row's view of the backend: a client, and names that no other row uses.
#[derive(Clone)]
pub struct Context {
    pub(super) harness: Arc<dyn Harness>,
    pub(super) client: Client,
    pub(super) seed: u64,
    /// How many histories with faults a row plays.
    pub(super) histories: u32,
    prefix: String,
    /// Tells this row's groups from others': on Kafka, equal names on different topics are one group.
    tag: u32,
    topics: Arc<AtomicU32>,
}

impl Context {
    pub(super) async fn new(harness: Arc<dyn Harness>, case: &str, seed: u64) -> Result<Self> {
        let client =
            tokio::time::timeout(Duration::from_secs(20), harness.client()).await.context("connect")??;
        let tag = fastrand::u32(..);
        let prefix = format!("{}-{tag:x}", case.replace('.', "-"));
        Ok(Self { harness, client, seed, histories: 1, prefix, tag, topics: Arc::default() })
    }

    /// Goes on with a client of its own connections; the former is left as it is.
    pub(super) async fn reconnect(&mut self) -> Result<()> {
        self.client = self.harness.client().await?;
        Ok(())
    }

    pub(super) fn has(&self, capability: Capability) -> bool {
        self.client.capabilities().support(capability).0 != Support::Unsupported
    }

    /// Returns a topic name of this row's own.
    pub(super) fn topic(&self) -> TopicName {
        let number = self.topics.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}-{number}", self.prefix);
        TopicName::new(name).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Returns this row's own group of a name.
    pub(super) fn group(&self, name: &str) -> GroupName {
        GroupName::new(format!("{name}-{:x}", self.tag)).unwrap_or_else(|error| panic!("{error}"))
    }

    pub(super) fn admin(&self) -> Admin {
        self.client.admin()
    }

    pub(super) async fn publisher(&self, topic: &TopicName) -> Result<Publisher> {
        Ok(self.client.publisher(topic).await?)
    }

    pub(super) fn subscriber(&self, topic: &TopicName, group: &str) -> SubscriberBuilder {
        self.client.subscriber(topic, self.group(group))
    }

    pub(super) async fn subscribe(&self, topic: &TopicName, group: &str) -> Result<Subscriber> {
        Ok(self.subscriber(topic, group).open().await?)
    }

    pub(super) async fn subscribe_as(
        &self,
        topic: &TopicName,
        group: &str,
        settings: GroupSettings,
    ) -> Result<Subscriber> {
        Ok(self.subscriber(topic, group).settings(settings).open().await?)
    }

    pub(super) async fn stats(&self, topic: &TopicName, group: &str) -> Result<Stats> {
        Ok(self.admin().stats(topic, &self.group(group)).await?)
    }

    /// Waits until `check` passes, and tells the last reason if it never does.
    pub(super) async fn until<T, F: Future<Output = Result<T>>>(&self, check: impl Fn() -> F) -> Result<T> {
        let end = tokio::time::Instant::now() + PATIENCE;
        loop {
            match check().await {
                Ok(value) => return Ok(value),
                Err(error) if tokio::time::Instant::now() > end => {
                    return Err(error.context("never came true"));
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }

    /// Waits until the group has nothing ready, in flight or delayed, as far as the broker can say.
    pub(super) async fn until_empty(&self, topic: &TopicName, group: &str) -> Result<()> {
        self.until(|| async {
            let stats = self.stats(topic, group).await?;
            let left = [stats.ready, stats.in_flight, stats.delayed];
            ensure!(left.iter().all(|count| count.unwrap_or(0) == 0), "{stats:?}");
            Ok(())
        })
        .await
    }
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context")
            .field("backend", &self.harness.name())
            .field("row", &self.prefix)
            .finish_non_exhaustive()
    }
}

/// Receives one message.
pub(super) async fn one(subscriber: &Subscriber) -> Result<Delivery> {
    let received = tokio::time::timeout(PATIENCE, subscriber.receive()).await;
    Ok(received.context("no message came")??)
}

/// Receives `count` messages and holds them.
pub(super) async fn take(subscriber: &Subscriber, count: usize) -> Result<Vec<Delivery>> {
    let mut taken: Vec<Delivery> = Vec::new();
    let end = tokio::time::Instant::now() + PATIENCE;
    while taken.len() < count {
        let Ok(received) = tokio::time::timeout_at(end, subscriber.receive()).await else {
            let mut seen = String::new();
            for delivery in taken.iter().take(20) {
                write!(seen, " {}#{}", body(delivery), delivery.attempt())?;
            }
            bail!("{} of {count} messages came:{seen}", taken.len());
        };
        taken.push(received?);
    }
    Ok(taken)
}

/// Receives `count` messages and acks each; returns their bodies, sorted.
pub(super) async fn drain(subscriber: &Subscriber, count: usize) -> Result<Vec<String>> {
    let mut bodies = Vec::with_capacity(count);
    let mut acks = Vec::with_capacity(count);
    while bodies.len() < count {
        let delivery = one(subscriber).await.with_context(|| format!("after {} of {count}", bodies.len()))?;
        bodies.push(body(&delivery));
        acks.push(delivery.ack());
    }
    for ack in acks {
        ack.await?;
    }
    bodies.sort();
    Ok(bodies)
}

/// Watches that nothing comes.
pub(super) async fn quiet(subscriber: &Subscriber) -> Result<()> {
    match tokio::time::timeout(QUIET, subscriber.receive()).await {
        Err(_) => Ok(()),
        Ok(received) => {
            let received = received?;
            bail!("{:?} came, attempt {}, though nothing should", body(&received), received.attempt())
        }
    }
}

pub(super) fn body(delivery: &Delivery) -> String {
    String::from_utf8_lossy(delivery.payload()).into_owned()
}

/// Sends numbered messages, `{prefix}{n}` with n in five digits, and checks that each was confirmed.
pub(super) async fn send(publisher: &Publisher, prefix: &str, count: usize) -> Result<Vec<String>> {
    send_with(publisher, prefix, count, |_, message| message).await
}

/// As [`send`], each message changed by `shape`.
pub(super) async fn send_with(
    publisher: &Publisher,
    prefix: &str,
    count: usize,
    shape: impl Fn(usize, Message) -> Message,
) -> Result<Vec<String>> {
    let bodies: Vec<String> = (0..count).map(|number| format!("{prefix}{number:05}")).collect();
    let messages = bodies.iter().enumerate().map(|(number, body)| shape(number, Message::new(body.clone())));
    for verdict in publisher.send_batch(messages.collect()).await {
        verdict?;
    }
    Ok(bodies)
}

/// Checks that a result is an error of this kind.
pub(super) fn expect_kind<T: std::fmt::Debug>(result: mq::Result<T>, kind: ErrorKind) -> Result<mq::Error> {
    match result {
        Err(error) if error.kind() == kind => Ok(error),
        other => bail!("expected an error of kind {kind:?}, got {other:?}"),
    }
}

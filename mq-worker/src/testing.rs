//! Helpers to test a service: what it handled, published, retried and gave up, on memory in virtual time or on a
//! real broker.

use std::collections::HashMap;
use std::time::Duration;

use mq_core::driver::Page;
use mq_core::{
    Client, DeadLetter, Error, ErrorKind, GroupName, Message, Result, Subscriber, TopicName, ack_all,
};

use crate::report::Report;
use crate::worker::Worker;

/// How long all may take; on virtual time that is no time at all.
const PATIENCE: Duration = Duration::from_secs(24 * 3600);
/// The first and the longest pause between two looks.
const PAUSES: (Duration, Duration) = (Duration::from_millis(5), Duration::from_secs(1));
/// How long nothing more must come of a topic that is watched.
const QUIET: Duration = Duration::from_millis(300);
const PAGE: usize = 1000;

/// Runs a worker on some messages until nothing is left of them, and tells what came of it.
///
/// ```
/// use mq_core::{Client, Message};
/// use mq_worker::{Failure, Publish, Text, Worker, testing::Bench};
///
/// async fn ship(Text(order): Text) -> Result<Publish, Failure> {
///     match &*order {
///         "" => Err(Failure::reject("an empty order")),
///         order => Ok(Publish::new("parcels", Message::new(order.to_owned()))),
///     }
/// }
///
/// # async fn example(client: Client) -> mq_core::Result<()> {
/// let bench = Bench::new(&client).watch("parcels").await?;
/// let worker = Worker::new(&client, "shipping").on("orders", ship);
/// let seen = bench.run(worker, [("orders", Message::new("one book")), ("orders", Message::new(""))]).await?;
/// assert_eq!((seen.report.handled, seen.report.dead), (1, 1));
/// assert_eq!(seen.texts("parcels"), ["one book"]);
/// assert_eq!(seen.reasons("orders", "shipping"), ["an empty order"]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Bench {
    client: Client,
    watched: Vec<(String, Subscriber)>,
    patience: Duration,
}

/// What a worker did.
#[derive(Debug)]
#[non_exhaustive]
pub struct Seen {
    /// How its messages were settled.
    pub report: Report,
    published: HashMap<String, Vec<Message>>,
    dead: HashMap<(String, String), Vec<DeadLetter>>,
}

impl Bench {
    /// Makes a bench on a broker: of memory, as a rule, with the clock of tokio.
    #[must_use]
    pub fn new(client: &Client) -> Self {
        Self { client: client.clone(), watched: Vec::new(), patience: PATIENCE }
    }

    /// Sets how long a run may take. Default a day: on virtual time, no time at all.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Takes note of what is published to a topic from now on.
    ///
    /// # Errors
    /// What opening a subscriber says.
    pub async fn watch(mut self, topic: impl Into<String>) -> Result<Self> {
        let topic = topic.into();
        let group = format!("bench-{:x}", fastrand::u64(..));
        let subscriber = self.client.subscriber(topic.as_str(), group.as_str()).open().await?;
        self.watched.push((topic, subscriber));
        Ok(self)
    }

    /// Runs the worker, sends the messages once it is subscribed, and stops it when its groups have nothing left:
    /// all are acked or dead letters.
    ///
    /// # Errors
    /// What the run says; what refuses a message; `Timeout` if something is left when the patience is over.
    pub async fn run<Topic: Into<String>>(
        self,
        worker: Worker,
        messages: impl IntoIterator<Item = (Topic, Message)>,
    ) -> Result<Seen> {
        let shares = worker.subscriptions()?;
        let messages: Vec<(String, Message)> =
            messages.into_iter().map(|(topic, message)| (topic.into(), message)).collect();
        let mut worked = Ok(());
        let report = worker.run_until(async {
            worked = async {
                for (topic, message) in messages {
                    self.client.publisher(topic.as_str()).await?.send(message).await?;
                }
                self.until_empty(&shares).await
            }
            .await;
        });
        let report = report.await?;
        worked?;
        let mut published = HashMap::new();
        for (topic, subscriber) in &self.watched {
            published.insert(topic.clone(), rest(subscriber).await?);
        }
        let mut dead = HashMap::new();
        for (topic, group) in shares {
            let letters = self.dead_letters(&topic, &group).await?;
            dead.insert((topic.to_string(), group.to_string()), letters);
        }
        Ok(Seen { report, published, dead })
    }

    async fn until_empty(&self, shares: &[(TopicName, GroupName)]) -> Result<()> {
        let (mut pause, longest) = PAUSES;
        let waiting = async {
            for (topic, group) in shares {
                loop {
                    let stats = self.client.admin().stats(topic, group).await?;
                    let left = [stats.ready, stats.in_flight, stats.delayed];
                    if left.iter().all(|count| count.unwrap_or(0) == 0) {
                        break;
                    }
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(longest);
                }
            }
            Ok(())
        };
        match tokio::time::timeout(self.patience, waiting).await {
            Ok(waited) => waited,
            Err(_) => {
                let text = format!("messages are left after {:?}", self.patience);
                Err(Error::new(ErrorKind::Timeout, text))
            }
        }
    }

    async fn dead_letters(&self, topic: &TopicName, group: &GroupName) -> Result<Vec<DeadLetter>> {
        let mut letters = Vec::new();
        loop {
            let page = Page { offset: letters.len(), limit: PAGE };
            let more = self.client.admin().dead_letters(topic, group, page).await?;
            let last = more.len() < PAGE;
            letters.extend(more);
            if last {
                return Ok(letters);
            }
        }
    }
}

/// Takes what comes until nothing more does.
async fn rest(subscriber: &Subscriber) -> Result<Vec<Message>> {
    let mut messages = Vec::new();
    loop {
        let deliveries = subscriber.receive_batch(PAGE, QUIET).await?;
        if deliveries.is_empty() {
            return Ok(messages);
        }
        messages.extend(deliveries.iter().map(|delivery| delivery.message().clone()));
        if let Err(failures) = ack_all(deliveries).await
            && let Some((_, error)) = failures.into_iter().next()
        {
            return Err(error);
        }
    }
}

impl Seen {
    /// Returns what was published to a topic that was watched, in the order in which it came.
    ///
    /// # Panics
    /// The topic was not watched.
    #[must_use]
    pub fn published(&self, topic: &str) -> &[Message] {
        self.published.get(topic).unwrap_or_else(|| panic!("{topic} is not watched; use `watch({topic:?})`"))
    }

    /// Returns the payloads of [`published`](Self::published) as text.
    ///
    /// # Panics
    /// The topic was not watched.
    #[must_use]
    pub fn texts(&self, topic: &str) -> Vec<String> {
        let text = |message: &Message| String::from_utf8_lossy(&message.payload).into_owned();
        self.published(topic).iter().map(text).collect()
    }

    /// Returns the dead letters of a topic and group that the worker serves.
    ///
    /// # Panics
    /// The worker does not serve them.
    #[must_use]
    pub fn dead(&self, topic: &str, group: &str) -> &[DeadLetter] {
        let share = (topic.to_owned(), group.to_owned());
        self.dead.get(&share).unwrap_or_else(|| panic!("the worker serves no group {group} of topic {topic}"))
    }

    /// Returns why messages are dead letters.
    ///
    /// # Panics
    /// The worker does not serve the topic and group.
    #[must_use]
    pub fn reasons(&self, topic: &str, group: &str) -> Vec<String> {
        let reason = |letter: &DeadLetter| {
            letter.envelope.death.as_ref().map_or_else(String::new, |death| death.reason.to_string())
        };
        self.dead(topic, group).iter().map(reason).collect()
    }
}

//! Exchanges and queues: how they are declared, and what was declared here.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use lapin::options::{
    ExchangeDeclareOptions, ExchangeDeleteOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, ExchangeKind, Queue};
use mq_core::{Error, ErrorKind, Events, GroupName, GroupSettings, Policy, Result, TopicName};
use parking_lot::Mutex;
use tokio::time::{Instant, timeout};

use crate::connection::{Link, Pause};
use crate::error::{from_native, inequivalent, is_missing, is_unstarted, timed_out};
use crate::names;

mod groups;

/// Binds all subjects.
const ALL: &str = "#";
/// How long the queues of a private group outlive it.
const EPHEMERAL: Duration = Duration::from_secs(600);
/// How long the broker lets a consumer keep a message; its own default is half an hour. Leases are
/// ours, and may be renewed for long.
const CONSUMER_TIMEOUT: Duration = Duration::from_secs(24 * 24 * 3600);
/// How long a record of a lone start or of orderly returns is kept, if nobody asks for it.
const RECORD: Duration = Duration::from_secs(7 * 24 * 3600);
/// The broker notes the log of a new quorum queue in a table that it writes out within a second;
/// killed before that, it forgets messages that it confirmed. So new queues are left alone at first,
/// or whoever publishes to them takes no confirmation for one before.
pub(crate) const FRESH: Duration = Duration::from_secs(1);
/// How often queues are declared that the broker cannot start, which takes it some 10 s to say.
const STARTS: u32 = 3;
/// The argument that keeps settings: compared by the broker, at every declaration.
const SETTINGS: &str = "x-dead-letter-routing-key";

/// Declares, deletes, and remembers what was declared.
#[derive(Debug)]
pub(crate) struct Topology {
    link: Arc<Link>,
    within: Duration,
    events: Events,
    groups: Mutex<HashMap<(TopicName, GroupName), Declared>>,
    /// The partitions of topics that were declared here.
    topics: Mutex<HashMap<TopicName, u32>>,
    /// Had by who makes a group's queues: who consumes one that the broker still starts loses the connection, see
    /// [`open_due`](crate::delay::Delay::open_due).
    making: tokio::sync::Mutex<()>,
}

/// A group as it was declared here.
#[derive(Clone, Debug)]
struct Declared {
    settings: GroupSettings,
    policy: Policy,
}

/// The queues that members of a group consume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Queues {
    pub(crate) names: Vec<String>,
    pub(crate) ordered: bool,
}

impl Queues {
    fn new(topic: &TopicName, group: &GroupName, lanes: u32) -> Self {
        let names = match lanes {
            0 => vec![names::queue(topic, group)],
            lanes => (0..lanes).map(|lane| names::lane(topic, group, lane)).collect(),
        };
        Self { names, ordered: lanes > 0 }
    }
}

impl Topology {
    pub(crate) fn new(link: Arc<Link>, within: Duration, events: Events) -> Self {
        Self {
            link,
            within,
            events,
            groups: Mutex::default(),
            topics: Mutex::default(),
            making: tokio::sync::Mutex::default(),
        }
    }

    pub(crate) fn events(&self) -> &Events {
        &self.events
    }

    /// Opens a channel for one piece of work.
    pub(crate) async fn channel(&self) -> Result<Channel> {
        self.link.channel(Some(Instant::now() + self.within)).await
    }

    /// Closes a channel that was opened for one piece of work, unless the broker did so. A channel
    /// that is merely dropped would be closed behind our back, and take the connection along if the
    /// broker closes it at the same moment.
    pub(crate) async fn leave(&self, channel: &Channel) {
        if channel.status().connected() {
            let left = self.native("closing a channel", channel.close(200, "done".into())).await;
            if !matches!(left, Ok(Ok(()))) {
                tracing::debug!(target: "mq", "a channel ended without a goodbye");
            }
        }
    }

    /// Waits for a reply.
    pub(crate) async fn reply<T>(
        &self,
        what: &str,
        reply: impl Future<Output = lapin::Result<T>>,
    ) -> Result<T> {
        self.native(what, reply).await?.map_err(from_native)
    }

    async fn native<T>(
        &self,
        what: &str,
        reply: impl Future<Output = lapin::Result<T>>,
    ) -> Result<lapin::Result<T>> {
        timeout(self.within, reply).await.map_err(|_| timed_out(what, self.within))
    }

    /// Looks for a queue.
    pub(crate) async fn find_queue(&self, name: &str) -> Result<Option<Queue>> {
        let channel = self.channel().await?;
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let found = channel.queue_declare(name.into(), options, FieldTable::default());
        let found = self.native("looking for a queue", found).await;
        self.leave(&channel).await;
        match found? {
            Ok(queue) => Ok(Some(queue)),
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => Err(from_native(error)),
        }
    }

    /// Looks for an exchange.
    pub(crate) async fn find_exchange(&self, name: &str) -> Result<bool> {
        let channel = self.channel().await?;
        let options = ExchangeDeclareOptions { passive: true, ..ExchangeDeclareOptions::default() };
        let found =
            channel.exchange_declare(name.into(), ExchangeKind::Topic, options, FieldTable::default());
        let found = self.native("looking for an exchange", found).await;
        self.leave(&channel).await;
        match found? {
            Ok(()) => Ok(true),
            Err(error) if is_missing(&error) => Ok(false),
            Err(error) => Err(from_native(error)),
        }
    }

    /// Declares something on a channel of its own, and again if the broker could not start a queue.
    pub(crate) async fn declare<T, F>(&self, declare: impl Fn(Channel) -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let mut pause = Pause::default();
        let mut tries = 0;
        loop {
            tries += 1;
            let channel = self.channel().await?;
            let declared = declare(channel.clone()).await;
            self.leave(&channel).await;
            match declared {
                Err(error) if is_unstarted(&error) && tries < STARTS => {
                    self.events.failed("declare", &error);
                    tokio::time::sleep(pause.next()).await;
                }
                declared => return declared,
            }
        }
    }

    pub(crate) async fn declare_queue(
        &self,
        channel: &Channel,
        name: &str,
        arguments: FieldTable,
    ) -> Result<Queue> {
        let declared = channel.queue_declare(name.into(), QueueDeclareOptions::durable(), arguments);
        self.reply("declaring a queue", declared).await
    }

    async fn declare_exchange(
        &self,
        channel: &Channel,
        name: &str,
        kind: ExchangeKind,
        arguments: FieldTable,
    ) -> Result<()> {
        let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
        let declared = channel.exchange_declare(name.into(), kind, options, arguments);
        self.reply("declaring an exchange", declared).await
    }

    /// Keeps `settings` in the arguments of a queue, unless there are others already: those are returned.
    async fn keep_settings(&self, marker: &str, settings: &str, ephemeral: bool) -> Result<Option<String>> {
        match self.try_keep(marker, settings, ephemeral).await? {
            // The settings are compared after the time that an unused queue lives.
            Some(text) if text.contains("'x-expires'") => {
                let text = self.try_keep(marker, settings, !ephemeral).await?;
                text.map(|text| settings_in(&text)).transpose()
            }
            text => text.map(|text| settings_in(&text)).transpose(),
        }
    }

    /// Returns the refusal if the marker is there with other arguments.
    async fn try_keep(&self, marker: &str, settings: &str, ephemeral: bool) -> Result<Option<String>> {
        let channel = self.channel().await?;
        let arguments = settings_arguments(settings, ephemeral);
        let declared = channel.queue_declare(marker.into(), QueueDeclareOptions::durable(), arguments);
        let declared = self.native("storing settings", declared).await;
        self.leave(&channel).await;
        match declared? {
            Ok(_) => Ok(None),
            Err(error) => inequivalent(&error).map(Some).ok_or_else(|| from_native(error)),
        }
    }

    /// Reads what [`keep_settings`](Self::keep_settings) kept: the broker refuses another
    /// declaration and says what it has.
    async fn read_settings(&self, marker: &str) -> Result<Option<String>> {
        if self.find_queue(marker).await?.is_none() {
            return Ok(None);
        }
        let found = self.keep_settings(marker, "?", false).await;
        if let Ok(None) = found {
            // It went away in between, and the question has just made it.
            self.delete_queue(marker).await?;
        }
        found
    }

    pub(crate) async fn delete_queue(&self, name: &str) -> Result<()> {
        let channel = self.channel().await?;
        let deleted = channel.queue_delete(name.into(), QueueDeleteOptions::default());
        let deleted = self.reply("deleting a queue", deleted).await;
        self.leave(&channel).await;
        deleted.map(|_| ())
    }

    pub(crate) async fn delete_exchange(&self, name: &str) -> Result<()> {
        let channel = self.channel().await?;
        let deleted = channel.exchange_delete(name.into(), ExchangeDeleteOptions::default());
        let deleted = self.reply("deleting an exchange", deleted).await;
        self.leave(&channel).await;
        deleted
    }

    /// Makes a queue that is a record, or keeps one.
    pub(crate) async fn declare_record(&self, name: &str) -> Result<()> {
        let channel = self.channel().await?;
        let mut arguments = FieldTable::default();
        arguments.insert("x-expires".into(), millis(RECORD));
        let declared = self.declare_queue(&channel, name, arguments).await;
        self.leave(&channel).await;
        declared.map(|_| ())
    }
}

/// Fails if `wanted` partitions are not those found.
pub(crate) fn check_partitions(found: u32, wanted: Option<u32>) -> Result<()> {
    match wanted {
        Some(wanted) if wanted != found => {
            let text = format!("the topic has {found} partitions, not {wanted}");
            Err(Error::new(ErrorKind::Mismatch, text))
        }
        _ => Ok(()),
    }
}

/// Makes the error of a group that is not there.
pub(crate) fn no_group() -> Error {
    Error::new(ErrorKind::NotFound, "the group is not there; declare it first")
}

fn parse<T>(text: &str, read: impl FnOnce(&str) -> Option<T>) -> Result<T> {
    read(text).ok_or_else(|| {
        Error::new(ErrorKind::Malformed, format!("stored settings {text:?} are of another version"))
    })
}

fn settings_in(refusal: &str) -> Result<String> {
    names::current_argument(refusal).map(str::to_owned).ok_or_else(|| {
        Error::new(ErrorKind::Malformed, format!("stored settings cannot be read from: {refusal}"))
    })
}

fn settings_arguments(settings: &str, ephemeral: bool) -> FieldTable {
    let mut arguments = FieldTable::default();
    arguments.insert("x-dead-letter-exchange".into(), long_string(""));
    arguments.insert(SETTINGS.into(), long_string(settings));
    if ephemeral {
        arguments.insert("x-expires".into(), millis(EPHEMERAL));
    }
    arguments
}

/// No limit of deliveries, no length, no time: nothing is dropped.
pub(crate) fn queue_arguments(ephemeral: bool, single: bool) -> FieldTable {
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), long_string("quorum"));
    arguments.insert("x-delivery-limit".into(), AMQPValue::LongLongInt(-1));
    arguments.insert("x-consumer-timeout".into(), millis(CONSUMER_TIMEOUT));
    if ephemeral {
        arguments.insert("x-expires".into(), millis(EPHEMERAL));
    }
    if single {
        arguments.insert("x-single-active-consumer".into(), AMQPValue::Boolean(true));
    }
    arguments
}

pub(crate) fn long_string(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}

pub(crate) fn millis(duration: Duration) -> AMQPValue {
    AMQPValue::LongLongInt(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX))
}

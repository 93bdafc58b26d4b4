//! Exchanges and queues: how they are declared, and what was declared here.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use lapin::options::{
    ExchangeBindOptions, ExchangeDeclareOptions, ExchangeDeleteOptions, QueueBindOptions,
    QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, ExchangeKind, Queue};
use mq_core::{
    Error, ErrorKind, Event, Events, GroupName, GroupSettings, ORDERED_PARTITIONS, Policy, Result, TopicName,
    derived,
};
use parking_lot::Mutex;
use tokio::time::{Instant, timeout};

use crate::connection::Link;
use crate::error::{from_native, inequivalent, is_missing, timed_out};
use crate::names::{self, StoredGroup};

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
        Self { link, within, events, groups: Mutex::default(), topics: Mutex::default() }
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

    async fn find_exchange(&self, name: &str) -> Result<bool> {
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

    /// Returns a topic's partitions, if it was declared with this library.
    pub(crate) async fn partitions(&self, topic: &TopicName) -> Result<Option<u32>> {
        let stored = self.read_settings(&names::topic_marker(topic)).await?;
        stored.map(|text| parse(&text, names::parse_topic)).transpose()
    }

    /// Returns whether a topic is there.
    pub(crate) async fn topic_exists(&self, topic: &TopicName) -> Result<bool> {
        self.find_exchange(topic.as_str()).await
    }

    /// Declares a topic; returns its partitions.
    pub(crate) async fn declare_topic(&self, topic: &TopicName, partitions: Option<u32>) -> Result<u32> {
        let channel = self.channel().await?;
        let kind = ExchangeKind::Topic;
        let declared = self.declare_exchange(&channel, topic.as_str(), kind, FieldTable::default()).await;
        self.leave(&channel).await;
        declared?;
        let marker = names::topic_marker(topic);
        let wanted = partitions.unwrap_or(ORDERED_PARTITIONS);
        let found = match self.keep_settings(&marker, &names::stored_topic(wanted), false).await? {
            None => wanted,
            Some(text) => {
                let found = parse(&text, names::parse_topic)?;
                check_partitions(found, partitions)?;
                found
            }
        };
        self.topics.lock().insert(topic.clone(), found);
        Ok(found)
    }

    /// Returns what was stored when a group was declared.
    pub(crate) async fn stored_group(
        &self,
        topic: &TopicName,
        group: &GroupName,
    ) -> Result<Option<StoredGroup>> {
        let stored = self.read_settings(&names::group_marker(topic, group)).await?;
        stored.map(|text| parse(&text, StoredGroup::parse)).transpose()
    }

    /// Declares a group.
    pub(crate) async fn declare_group(
        &self,
        topic: &TopicName,
        group: &GroupName,
        settings: &GroupSettings,
    ) -> Result<Queues> {
        let partitions = match settings.ordered {
            true => self.partitions(topic).await?.unwrap_or(ORDERED_PARTITIONS),
            false => 0,
        };
        let mut wanted = StoredGroup::new(settings, partitions);
        let marker = names::group_marker(topic, group);
        if let Some(text) = self.keep_settings(&marker, &wanted.to_string(), settings.ephemeral).await? {
            let found = parse(&text, StoredGroup::parse)?;
            found.settings().check_same(settings)?;
            wanted = found;
        }
        let queues = Queues::new(topic, group, wanted.lanes);
        let fresh = !settings.ephemeral && self.find_queue(&queues.names[0]).await?.is_none();
        let channel = self.channel().await?;
        let declared = self.declare_queues(&channel, topic, group, &queues, settings).await;
        self.leave(&channel).await;
        declared?;
        if fresh {
            tokio::time::sleep(FRESH).await;
        }
        Ok(queues)
    }

    async fn declare_queues(
        &self,
        channel: &Channel,
        topic: &TopicName,
        group: &GroupName,
        queues: &Queues,
        settings: &GroupSettings,
    ) -> Result<()> {
        let ephemeral = settings.ephemeral;
        let dead = derived::dead(topic, group);
        self.declare_queue(channel, &dead, queue_arguments(ephemeral, false)).await?;
        for name in &queues.names {
            self.declare_queue(channel, name, queue_arguments(ephemeral, queues.ordered)).await?;
        }
        if settings.hold_key {
            for name in &queues.names {
                self.declare_queue(channel, &names::kept(name), queue_arguments(ephemeral, false)).await?;
            }
        }
        if !queues.ordered {
            let bound = channel.queue_bind(
                names::queue(topic, group).into(),
                topic.as_str().into(),
                ALL.into(),
                QueueBindOptions::default(),
                FieldTable::default(),
            );
            return self.reply("binding a queue", bound).await;
        }
        let hash = names::hash_exchange(topic, group);
        let mut arguments = FieldTable::default();
        arguments.insert("hash-header".into(), long_string(mq_core::envelope::KEY));
        let kind = ExchangeKind::Custom("x-consistent-hash".into());
        self.declare_exchange(channel, &hash, kind, arguments).await?;
        for name in &queues.names {
            // The routing key is the queue's weight.
            let bound = channel.queue_bind(
                name.as_str().into(),
                hash.as_str().into(),
                "1".into(),
                QueueBindOptions::default(),
                FieldTable::default(),
            );
            self.reply("binding a queue", bound).await?;
        }
        let bound = channel.exchange_bind(
            hash.into(),
            topic.as_str().into(),
            ALL.into(),
            ExchangeBindOptions::default(),
            FieldTable::default(),
        );
        self.reply("binding an exchange", bound).await
    }

    /// Remembers how a group was declared, for when it must be made again.
    pub(crate) fn remember(
        &self,
        topic: &TopicName,
        group: &GroupName,
        settings: &GroupSettings,
        policy: Policy,
    ) {
        let declared = Declared { settings: settings.clone(), policy };
        self.groups.lock().insert((topic.clone(), group.clone()), declared);
    }

    /// Forgets a group.
    pub(crate) fn forget(&self, topic: &TopicName, group: &GroupName) {
        self.groups.lock().remove(&(topic.clone(), group.clone()));
    }

    /// Returns the groups of a topic that were declared here.
    pub(crate) fn known_groups(&self, topic: &TopicName) -> Vec<GroupName> {
        let groups = self.groups.lock();
        groups.keys().filter(|(known, _)| known == topic).map(|(_, group)| group.clone()).collect()
    }

    /// Makes a group again as it was declared, and its topic, if the policy was to create; returns
    /// whether it was.
    pub(crate) async fn rebuild(&self, topic: &TopicName, group: &GroupName) -> Result<bool> {
        let declared = self.groups.lock().get(&(topic.clone(), group.clone())).cloned();
        let Some(Declared { settings, policy: Policy::Create }) = declared else { return Ok(false) };
        let missing = !self.topic_exists(topic).await?;
        if missing {
            let partitions = self.topics.lock().get(topic).copied();
            self.declare_topic(topic, partitions).await?;
        }
        self.declare_group(topic, group, &settings).await?;
        if missing {
            self.events.emit(Event::Rebuilt { what: format!("topic {topic}") });
        }
        Ok(true)
    }

    /// Makes a group's topic again, if it is gone.
    pub(crate) async fn look_after(&self, topic: &TopicName, group: &GroupName) -> Result<()> {
        if !self.topic_exists(topic).await? {
            self.rebuild(topic, group).await?;
        }
        Ok(())
    }

    /// Returns the queues of a group.
    pub(crate) async fn queues(&self, topic: &TopicName, group: &GroupName, ordered: bool) -> Result<Queues> {
        if !ordered {
            return Ok(Queues::new(topic, group, 0));
        }
        match self.stored_group(topic, group).await? {
            Some(stored) => Ok(Queues::new(topic, group, stored.lanes)),
            None => Err(no_group()),
        }
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

    /// Deletes a group with all that belongs to it.
    pub(crate) async fn delete_group(&self, topic: &TopicName, group: &GroupName) -> Result<()> {
        let Some(stored) = self.stored_group(topic, group).await? else { return Err(no_group()) };
        self.forget(topic, group);
        let queues = Queues::new(topic, group, stored.lanes);
        if queues.ordered {
            self.delete_exchange(&names::hash_exchange(topic, group)).await?;
        }
        for name in &queues.names {
            self.delete_queue(name).await?;
            if queues.ordered {
                self.delete_queue(&names::returns(name)).await?;
            }
            if stored.hold_key {
                self.delete_queue(&names::kept(name)).await?;
            }
        }
        self.delete_queue(&derived::dead(topic, group)).await?;
        self.delete_queue(&names::group_marker(topic, group)).await
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

//! The administrating side of a driver.

use std::fmt::Debug;
use std::time::Duration;

use async_trait::async_trait;
use serde::Serialize;

use crate::clock::Timestamp;
use crate::envelope::Envelope;
use crate::error::{Error, ErrorKind, Result};
use crate::message::{Message, MessageId, Position};
use crate::name::{GroupName, TopicName};
use crate::topology::{GroupSettings, Policy, Start, TopicSpec};

/// A topic as found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct TopicInfo {
    /// Its name.
    pub topic: String,
    /// Its partitions, if known.
    pub partitions: Option<u32>,
    /// How long it keeps messages, in milliseconds, if it was said.
    pub retention_ms: Option<u64>,
    /// Its groups, if known.
    pub groups: Option<Vec<String>>,
}

impl TopicInfo {
    /// Makes the description of a topic of which only the name is known.
    #[must_use]
    pub fn new(topic: impl Into<String>) -> Self {
        Self { topic: topic.into(), partitions: None, retention_ms: None, groups: None }
    }
}

/// Counts of one group on one topic; `None` where the broker cannot say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Stats {
    /// Waiting to be fetched, now.
    pub ready: Option<u64>,
    /// Held by consumers.
    pub in_flight: Option<u64>,
    /// Waiting for their time.
    pub delayed: Option<u64>,
    /// Dead letters.
    pub dead: Option<u64>,
    /// When the oldest waiting message was sent.
    pub oldest_ready_at: Option<Timestamp>,
    /// Live members.
    pub consumers: Option<u64>,
}

/// A dead letter.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DeadLetter {
    /// The message as it was sent.
    pub message: Message,
    /// Attempts made, first seen, last error, reason and time of death.
    pub envelope: Envelope,
    /// Where the dead letter is stored, for paging.
    pub position: Option<Position>,
}

impl DeadLetter {
    /// Makes a dead letter.
    #[must_use]
    pub const fn new(message: Message, envelope: Envelope, position: Option<Position>) -> Self {
        Self { message, envelope, position }
    }
}

/// A message that a consumer holds.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Pending {
    /// The message's id.
    pub id: MessageId,
    /// Where it is stored, if the broker says.
    pub position: Option<Position>,
    /// Who holds it, as the broker names its members.
    pub owner: String,
    /// How long it has been held, since it was fetched or its lease was renewed; `None` where the
    /// broker does not say.
    pub idle: Option<Duration>,
    /// Which attempt it is on.
    pub attempt: u32,
}

impl Pending {
    /// Makes an entry.
    #[must_use]
    pub fn new(id: MessageId, owner: impl Into<String>, attempt: u32) -> Self {
        Self { id, position: None, owner: owner.into(), idle: None, attempt }
    }

    /// Adds where it is stored.
    #[must_use]
    pub fn at(mut self, position: Option<Position>) -> Self {
        self.position = position;
        self
    }

    /// Adds how long it has been held.
    #[must_use]
    pub fn idle(mut self, idle: Duration) -> Self {
        self.idle = Some(idle);
        self
    }
}

/// A part of a listing.
#[derive(Clone, Copy, Debug)]
pub struct Page {
    /// Skip this many from the oldest.
    pub offset: usize,
    /// Return at most this many.
    pub limit: usize,
}

/// Which dead letters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    /// All that are there when the call starts.
    All,
    /// Those with these message ids.
    Ids(Vec<MessageId>),
}

impl Selection {
    /// Returns whether `id` is selected.
    #[must_use]
    pub fn contains(&self, id: &MessageId) -> bool {
        match self {
            Self::All => true,
            Self::Ids(ids) => ids.contains(id),
        }
    }
}

/// Administrates topics, groups and dead letters.
///
/// Calls are rare and may be slow; each fails with `Timeout` or `Unavailable` rather than hang.
#[async_trait]
pub trait Admin: Debug + Send + Sync {
    /// Makes sure that a topic is there, as `policy` says (`Assume` never arrives here).
    async fn ensure_topic(&self, topic: &TopicName, spec: &TopicSpec, policy: Policy) -> Result<()>;

    /// Makes sure that a group, its inbox and its dead letters are there, with these settings. A new group
    /// starts where `settings.start` says, as of this call, before it has a member.
    async fn ensure_group(
        &self,
        topic: &TopicName,
        group: &GroupName,
        settings: &GroupSettings,
        policy: Policy,
    ) -> Result<()>;

    /// Returns the settings a group was declared with.
    async fn group_settings(&self, topic: &TopicName, group: &GroupName) -> Result<GroupSettings>;

    /// Lists the topics, without derived names.
    async fn topics(&self) -> Result<Vec<TopicInfo>>;

    /// Describes one topic.
    async fn topic(&self, topic: &TopicName) -> Result<TopicInfo>;

    /// Deletes a topic with its groups, as far as they are known; `NotFound` if it is not there.
    async fn delete_topic(&self, topic: &TopicName) -> Result<()>;

    /// Deletes a group of a topic with its inbox and its dead letters; `NotFound` if it is not there.
    async fn delete_group(&self, topic: &TopicName, group: &GroupName) -> Result<()>;

    /// Counts.
    async fn stats(&self, topic: &TopicName, group: &GroupName) -> Result<Stats>;

    /// Lists dead letters, oldest first; changes nothing.
    async fn dead_letters(&self, topic: &TopicName, group: &GroupName, page: Page)
    -> Result<Vec<DeadLetter>>;

    /// Moves dead letters back to their group's inbox, as first attempts; returns how many.
    async fn redrive(&self, topic: &TopicName, group: &GroupName, which: &Selection) -> Result<u64>;

    /// Removes dead letters; returns how many.
    async fn purge(&self, topic: &TopicName, group: &GroupName, which: &Selection) -> Result<u64>;

    /// Reads up to `limit` messages of a topic from `start` without a group; `Latest` reads the last ones.
    async fn peek(
        &self,
        topic: &TopicName,
        start: Start,
        limit: usize,
    ) -> Result<Vec<(Message, Option<Position>)>>;

    /// Lists what a group's consumers hold of a topic, oldest first; called only where
    /// [`Pending`](crate::Capability::Pending) is declared.
    async fn pending(&self, _topic: &TopicName, _group: &GroupName, _page: Page) -> Result<Vec<Pending>> {
        Err(Error::new(ErrorKind::Unsupported, "this driver does not list what is pending"))
    }

    /// Takes back a message that was sent for later and is not due; returns whether it was there.
    /// Called only where [`CancelDelayed`](crate::Capability::CancelDelayed) is declared.
    async fn cancel_delayed(&self, _topic: &TopicName, _id: &MessageId) -> Result<bool> {
        Err(Error::new(ErrorKind::Unsupported, "this driver does not take back delayed messages"))
    }
}

//! Administration: topology, counts and dead letters.

use crate::capability::Capability;
use crate::client::Client;
use crate::driver::{self, DeadLetter, Page, Selection, Stats, TopicInfo};
use crate::error::{Error, ErrorKind, Result};
use crate::message::{Message, Position};
use crate::name::{GroupName, TopicName};
use crate::topology::{GroupSettings, Policy, Start, TopicSpec};

/// Administrates a broker's topics, groups and dead letters.
#[derive(Clone, Debug)]
pub struct Admin {
    client: Client,
    policy: Policy,
}

impl Admin {
    pub(crate) fn new(client: Client, policy: Policy) -> Self {
        Self { client, policy }
    }

    async fn driver(&self) -> Result<std::sync::Arc<dyn driver::Admin>> {
        self.client.inner.admin().await
    }

    fn require(&self, capability: Capability) -> Result<()> {
        self.client.inner.backend.capabilities().require(capability)
    }

    fn context(&self, operation: &'static str, topic: &TopicName) -> impl FnOnce(Error) -> Error + use<> {
        let (backend, topic) = (self.client.inner.backend_name(), topic.clone());
        move |error| error.during(backend, operation).on_topic(topic)
    }

    /// Makes sure that a topic is there, as the policy says.
    ///
    /// # Errors
    /// `NotFound`, `Mismatch`, or what the broker says.
    pub async fn ensure_topic(&self, topic: &TopicName, spec: &TopicSpec) -> Result<()> {
        spec.validate()?;
        if self.policy == Policy::Assume {
            return Ok(());
        }
        let ensured = self.driver().await?.ensure_topic(topic, spec, self.policy).await;
        ensured.map_err(self.context("declare", topic))
    }

    /// Makes sure that a group is there, as the policy says; from then on it gets what is sent.
    ///
    /// # Errors
    /// `NotFound`, `Mismatch`, `Unsupported`, or what the broker says.
    pub async fn ensure_group(
        &self,
        topic: &TopicName,
        group: &GroupName,
        settings: &GroupSettings,
    ) -> Result<()> {
        settings.validate()?;
        if let Some(capability) = settings.start.capability() {
            self.require(capability)?;
        }
        if settings.ordered {
            self.require(Capability::KeyOrder)?;
        }
        if settings.ephemeral {
            self.require(Capability::Broadcast)?;
        }
        if self.policy == Policy::Assume {
            return Ok(());
        }
        let ensured = self.driver().await?.ensure_group(topic, group, settings, self.policy).await;
        ensured.map_err(|error| self.context("declare", topic)(error).in_group(group))
    }

    /// Returns `None` if the topic is there, else the given number of partitions for a new one.
    pub(crate) async fn partitions_or(&self, topic: &TopicName, partitions: u32) -> Result<Option<u32>> {
        match self.driver().await?.topic(topic).await {
            Ok(_) => Ok(None),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Some(partitions)),
            Err(error) => Err(self.context("describe", topic)(error)),
        }
    }

    /// Returns the settings that a group was declared with.
    ///
    /// # Errors
    /// `NotFound`, or what the broker says.
    pub async fn group_settings(&self, topic: &TopicName, group: &GroupName) -> Result<GroupSettings> {
        let settings = self.driver().await?.group_settings(topic, group).await;
        settings.map_err(|error| self.context("describe", topic)(error).in_group(group))
    }

    /// Lists the topics.
    ///
    /// # Errors
    /// `Unsupported`, or what the broker says.
    pub async fn topics(&self) -> Result<Vec<TopicInfo>> {
        self.require(Capability::List)?;
        let topics = self.driver().await?.topics().await;
        topics.map_err(|error| error.during(self.client.inner.backend_name(), "list topics"))
    }

    /// Describes a topic.
    ///
    /// # Errors
    /// `NotFound`, or what the broker says.
    pub async fn topic(&self, topic: &TopicName) -> Result<TopicInfo> {
        self.driver().await?.topic(topic).await.map_err(self.context("describe", topic))
    }

    /// Deletes a topic and its groups, with all their messages.
    ///
    /// # Errors
    /// `NotFound`, or what the broker says.
    pub async fn delete_topic(&self, topic: &TopicName) -> Result<()> {
        self.driver().await?.delete_topic(topic).await.map_err(self.context("delete", topic))
    }

    /// Deletes a group with its inbox and its dead letters.
    ///
    /// # Errors
    /// `NotFound`, or what the broker says.
    pub async fn delete_group(&self, topic: &TopicName, group: &GroupName) -> Result<()> {
        let deleted = self.driver().await?.delete_group(topic, group).await;
        deleted.map_err(|error| self.context("delete", topic)(error).in_group(group))
    }

    /// Counts a group's messages on a topic; exact when quiet, `None` where the broker cannot say.
    ///
    /// # Errors
    /// `NotFound`, or what the broker says.
    pub async fn stats(&self, topic: &TopicName, group: &GroupName) -> Result<Stats> {
        let stats = self.driver().await?.stats(topic, group).await;
        stats.map_err(|error| self.context("count", topic)(error).in_group(group))
    }

    /// Lists dead letters, oldest first; looking changes nothing.
    ///
    /// # Errors
    /// `NotFound`, or what the broker says.
    pub async fn dead_letters(
        &self,
        topic: &TopicName,
        group: &GroupName,
        page: Page,
    ) -> Result<Vec<DeadLetter>> {
        let letters = self.driver().await?.dead_letters(topic, group, page).await;
        letters.map_err(|error| self.context("list dead letters of", topic)(error).in_group(group))
    }

    /// Gives dead letters back to their group, and to no other, as first attempts; returns how many.
    ///
    /// # Errors
    /// `NotFound`, or what the broker says.
    pub async fn redrive(&self, topic: &TopicName, group: &GroupName, which: &Selection) -> Result<u64> {
        let redriven = self.driver().await?.redrive(topic, group, which).await;
        redriven.map_err(|error| self.context("redrive", topic)(error).in_group(group))
    }

    /// Removes dead letters; returns how many.
    ///
    /// # Errors
    /// `NotFound`, or what the broker says.
    pub async fn purge(&self, topic: &TopicName, group: &GroupName, which: &Selection) -> Result<u64> {
        let purged = self.driver().await?.purge(topic, group, which).await;
        purged.map_err(|error| self.context("purge", topic)(error).in_group(group))
    }

    /// Reads a topic without a group and without disturbing one.
    ///
    /// # Errors
    /// `Unsupported`, `NotFound`, or what the broker says.
    pub async fn peek(
        &self,
        topic: &TopicName,
        start: Start,
        limit: usize,
    ) -> Result<Vec<(Message, Option<Position>)>> {
        self.require(Capability::Peek)?;
        self.driver().await?.peek(topic, start, limit).await.map_err(self.context("peek", topic))
    }
}

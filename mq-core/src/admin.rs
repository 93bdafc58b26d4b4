//! Administration: topology, counts and dead letters.

use std::sync::Arc;

use crate::capability::Capability;
use crate::client::Client;
use crate::driver::{self, DeadLetter, Page, Pending, Selection, Stats, TopicInfo};
use crate::error::{Error, ErrorKind, Result};
use crate::message::{Message, MessageId, Position};
use crate::name::{GroupName, TopicName};
use crate::topology::{GroupSettings, Policy, Start, TopicSpec};
use crate::whole::whole;

/// Administrates a broker's topics, groups and dead letters.
///
/// # Cancel safety
/// From its first poll on each call goes on to its end; dropping its future loses only the answer.
#[derive(Clone, Debug)]
pub struct Admin {
    client: Client,
    policy: Policy,
}

impl Admin {
    pub(crate) fn new(client: Client, policy: Policy) -> Self {
        Self { client, policy }
    }

    /// Makes a call of the driver, which goes on to its end if its caller goes away.
    async fn call<T, F>(&self, call: impl FnOnce(Arc<dyn driver::Admin>) -> F + Send + 'static) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let inner = self.client.inner.clone();
        whole(async move { call(inner.admin().await?).await }).await
    }

    /// As [`call`](Self::call), one at a time and in order: what a caller that went away began does not
    /// take what dies while the next one works.
    async fn call_alone<T, F>(
        &self,
        call: impl FnOnce(Arc<dyn driver::Admin>) -> F + Send + 'static,
    ) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let inner = self.client.inner.clone();
        whole(async move {
            let _alone = inner.letters.lock().await;
            call(inner.admin().await?).await
        })
        .await
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
        let (name, spec, policy) = (topic.clone(), spec.clone(), self.policy);
        let ensured = self.call(move |driver| async move { driver.ensure_topic(&name, &spec, policy).await });
        ensured.await.map_err(self.context("declare", topic))
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
        if settings.hold_key {
            self.require(Capability::HoldKey)?;
        }
        if settings.ephemeral {
            self.require(Capability::Broadcast)?;
        }
        if self.policy == Policy::Assume {
            return Ok(());
        }
        let (names, settings, policy) = ((topic.clone(), group.clone()), settings.clone(), self.policy);
        let ensured = self.call(move |driver| async move {
            driver.ensure_group(&names.0, &names.1, &settings, policy).await
        });
        ensured.await.map_err(|error| self.context("declare", topic)(error).in_group(group))
    }

    /// Returns `None` if the topic is there, else the given number of partitions for a new one.
    pub(crate) async fn partitions_or(&self, topic: &TopicName, partitions: u32) -> Result<Option<u32>> {
        let name = topic.clone();
        match self.call(move |driver| async move { driver.topic(&name).await }).await {
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
        let names = (topic.clone(), group.clone());
        let settings =
            self.call(move |driver| async move { driver.group_settings(&names.0, &names.1).await });
        settings.await.map_err(|error| self.context("describe", topic)(error).in_group(group))
    }

    /// Lists the topics.
    ///
    /// # Errors
    /// `Unsupported`, or what the broker says.
    pub async fn topics(&self) -> Result<Vec<TopicInfo>> {
        self.require(Capability::List)?;
        let topics = self.call(|driver| async move { driver.topics().await });
        topics.await.map_err(|error| error.during(self.client.inner.backend_name(), "list topics"))
    }

    /// Describes a topic.
    ///
    /// # Errors
    /// `NotFound`, or what the broker says.
    pub async fn topic(&self, topic: &TopicName) -> Result<TopicInfo> {
        let name = topic.clone();
        let found = self.call(move |driver| async move { driver.topic(&name).await });
        found.await.map_err(self.context("describe", topic))
    }

    /// Deletes a topic and its groups, with all their messages.
    ///
    /// # Errors
    /// `NotFound`, or what the broker says.
    pub async fn delete_topic(&self, topic: &TopicName) -> Result<()> {
        let name = topic.clone();
        let deleted = self.call(move |driver| async move { driver.delete_topic(&name).await });
        deleted.await.map_err(self.context("delete", topic))
    }

    /// Deletes a group with its inbox and its dead letters.
    ///
    /// # Errors
    /// `NotFound`, or what the broker says.
    pub async fn delete_group(&self, topic: &TopicName, group: &GroupName) -> Result<()> {
        let names = (topic.clone(), group.clone());
        let deleted = self.call(move |driver| async move { driver.delete_group(&names.0, &names.1).await });
        deleted.await.map_err(|error| self.context("delete", topic)(error).in_group(group))
    }

    /// Counts a group's messages on a topic; exact when quiet, `None` where the broker cannot say.
    ///
    /// # Errors
    /// `NotFound`, or what the broker says.
    pub async fn stats(&self, topic: &TopicName, group: &GroupName) -> Result<Stats> {
        let names = (topic.clone(), group.clone());
        let stats = self.call(move |driver| async move { driver.stats(&names.0, &names.1).await });
        stats.await.map_err(|error| self.context("count", topic)(error).in_group(group))
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
        let names = (topic.clone(), group.clone());
        let letters =
            self.call(move |driver| async move { driver.dead_letters(&names.0, &names.1, page).await });
        letters.await.map_err(|error| self.context("list dead letters of", topic)(error).in_group(group))
    }

    /// Gives dead letters back to their group, and to no other, as first attempts; returns how many.
    /// Of one client, redrives and purges run one after the other.
    ///
    /// # Errors
    /// `NotFound`, or what the broker says.
    pub async fn redrive(&self, topic: &TopicName, group: &GroupName, which: &Selection) -> Result<u64> {
        let names = (topic.clone(), group.clone());
        let which = which.clone();
        let redriven =
            self.call_alone(move |driver| async move { driver.redrive(&names.0, &names.1, &which).await });
        redriven.await.map_err(|error| self.context("redrive", topic)(error).in_group(group))
    }

    /// Removes dead letters; returns how many.
    ///
    /// # Errors
    /// `NotFound`, or what the broker says.
    pub async fn purge(&self, topic: &TopicName, group: &GroupName, which: &Selection) -> Result<u64> {
        let names = (topic.clone(), group.clone());
        let which = which.clone();
        let purged =
            self.call_alone(move |driver| async move { driver.purge(&names.0, &names.1, &which).await });
        purged.await.map_err(|error| self.context("purge", topic)(error).in_group(group))
    }

    /// Lists what a group's consumers hold of a topic, oldest first: fetched, and neither settled nor given back.
    ///
    /// # Errors
    /// `Unsupported`, `NotFound`, or what the broker says.
    pub async fn pending(&self, topic: &TopicName, group: &GroupName, page: Page) -> Result<Vec<Pending>> {
        self.require(Capability::Pending)?;
        let names = (topic.clone(), group.clone());
        let held = self.call(move |driver| async move { driver.pending(&names.0, &names.1, page).await });
        held.await.map_err(|error| self.context("list what is held of", topic)(error).in_group(group))
    }

    /// Takes back a message that was sent for later, before any group has it; returns whether it was
    /// still there. Retries that wait are their group's and stay.
    ///
    /// # Errors
    /// `Unsupported`, `NotFound`, or what the broker says.
    pub async fn cancel_delayed(&self, topic: &TopicName, id: &MessageId) -> Result<bool> {
        self.require(Capability::CancelDelayed)?;
        let (name, id) = (topic.clone(), id.clone());
        let cancelled = self.call(move |driver| async move { driver.cancel_delayed(&name, &id).await });
        cancelled.await.map_err(self.context("cancel a delayed message of", topic))
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
        let name = topic.clone();
        let seen = self.call(move |driver| async move { driver.peek(&name, start, limit).await });
        seen.await.map_err(self.context("peek", topic))
    }
}

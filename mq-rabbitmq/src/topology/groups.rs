//! Topics and groups: how they are declared, made again and deleted.

use lapin::options::{ExchangeBindOptions, QueueBindOptions};
use lapin::types::FieldTable;
use lapin::{Channel, ExchangeKind};
use mq_core::{
    ErrorKind, Event, GroupName, GroupSettings, ORDERED_PARTITIONS, Policy, Result, TopicName, derived,
};

use super::{
    ALL, Declared, FRESH, Queues, Topology, check_partitions, long_string, no_group, parse, queue_arguments,
};
use crate::names::{self, StoredGroup};

impl Topology {
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
        let making = self.making.lock().await;
        let fresh = !settings.ephemeral && self.find_queue(&queues.names[0]).await?.is_none();
        let declare = |channel| self.declare_queues(channel, topic, group, &queues, settings);
        let declared = self.declare(declare).await;
        drop(making);
        declared?;
        if fresh {
            tokio::time::sleep(FRESH).await;
        }
        Ok(queues)
    }

    async fn declare_queues(
        &self,
        channel: Channel,
        topic: &TopicName,
        group: &GroupName,
        queues: &Queues,
        settings: &GroupSettings,
    ) -> Result<()> {
        let ephemeral = settings.ephemeral;
        let dead = derived::dead(topic, group);
        self.declare_queue(&channel, &dead, queue_arguments(ephemeral, false)).await?;
        for name in &queues.names {
            self.declare_queue(&channel, name, queue_arguments(ephemeral, queues.ordered)).await?;
        }
        if settings.hold_key {
            for name in &queues.names {
                self.declare_queue(&channel, &names::kept(name), queue_arguments(ephemeral, false)).await?;
            }
        }
        self.bind(&channel, topic, group, queues).await
    }

    /// Declares the routes from a topic to a group's queues.
    async fn bind(
        &self,
        channel: &Channel,
        topic: &TopicName,
        group: &GroupName,
        queues: &Queues,
    ) -> Result<()> {
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

    /// Declares the routes to the groups of a topic that were declared here: a broker that was killed may have
    /// forgotten them (4.0.5, its metadata in Mnesia), and confirms what it has no route for.
    pub(crate) async fn restore_routes(&self, topic: &str) -> Result<()> {
        let known: Vec<_> = {
            let groups = self.groups.lock();
            let of_topic = groups.iter().filter(|((known, _), _)| known.as_str() == topic);
            of_topic.map(|(names, declared)| (names.clone(), declared.settings.ordered)).collect()
        };
        for ((topic, group), ordered) in known {
            let restored = async {
                let queues = self.queues(&topic, &group, ordered).await?;
                let channel = self.channel().await?;
                let bound = self.bind(&channel, &topic, &group, &queues).await;
                self.leave(&channel).await;
                bound
            };
            match restored.await {
                // Who deleted the group meanwhile wants no route to it.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                restored => restored?,
            }
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
}

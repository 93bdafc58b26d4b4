//! Administration.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use mq_core::driver::{Admin, DeadLetter, Page, Selection, Stats, TopicInfo};
use mq_core::policy::redriven;
use mq_core::{
    Capability, Error, ErrorKind, GroupName, GroupSettings, Message, Policy, Position, Result, Start,
    TopicName, TopicSpec, derived,
};

use crate::CAPABILITIES;
use crate::backend::Shared;
use crate::codec;
use crate::dead::{self, Look};
use crate::names;
use crate::topology::{check_partitions, no_group};

pub(crate) struct RabbitAdmin {
    shared: Arc<Shared>,
}

impl fmt::Debug for RabbitAdmin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RabbitAdmin")
    }
}

impl RabbitAdmin {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    async fn ready(&self, queue: &str) -> Result<lapin::Queue> {
        self.shared.topology.find_queue(queue).await?.ok_or_else(no_group)
    }

    async fn group(&self, topic: &TopicName, group: &GroupName) -> Result<names::StoredGroup> {
        self.shared.topology.stored_group(topic, group).await?.ok_or_else(no_group)
    }

    /// Makes the publication that takes a dead letter back to its group.
    fn revived(
        topic: &TopicName,
        group: &GroupName,
        ordered: bool,
        letter: &DeadLetter,
    ) -> Result<codec::Publication> {
        let (message, envelope) = redriven(letter.message.clone(), &letter.envelope);
        if !ordered {
            return codec::to_queue(&names::queue(topic, group), message, &envelope);
        }
        // Through the exchange that knows the key's queue.
        let mut item = codec::to_queue("", message, &envelope)?;
        item.exchange = names::hash_exchange(topic, group).into();
        Ok(item)
    }

    /// Publishes the selected letters of a batch and removes those that were confirmed.
    async fn revive(
        &self,
        place: (&TopicName, &GroupName, bool),
        look: &mut Look<'_>,
        batch: Vec<(u64, DeadLetter)>,
    ) -> Result<u64> {
        let (topic, group, ordered) = place;
        let revived = |index: usize| Self::revived(topic, group, ordered, &batch[index].1);
        let verdicts = self.shared.copier.courier.publish_each(batch.len(), revived).await;
        let stored = batch.iter().zip(&verdicts).filter(|(_, verdict)| verdict.is_ok());
        let tags: Vec<u64> = stored.map(|((tag, _), _)| *tag).collect();
        look.remove(&tags).await?;
        match verdicts.into_iter().find_map(Result::err) {
            Some(error) => Err(error),
            None => Ok(tags.len() as u64),
        }
    }
}

fn unsupported(capability: Capability) -> Error {
    match CAPABILITIES.require(capability) {
        Err(error) => error,
        Ok(()) => Error::new(ErrorKind::Unsupported, "not there yet"),
    }
}

fn require_start(start: Start) -> Result<()> {
    start.capability().map_or(Ok(()), |capability| CAPABILITIES.require(capability))
}

fn no_topic(topic: &TopicName) -> Error {
    Error::new(ErrorKind::NotFound, format!("there is no topic {:?}", topic.as_str()))
}

#[async_trait]
impl Admin for RabbitAdmin {
    async fn ensure_topic(&self, topic: &TopicName, spec: &TopicSpec, policy: Policy) -> Result<()> {
        if spec.retention.is_some() {
            return Err(unsupported(Capability::StartEarliest));
        }
        let topology = &self.shared.topology;
        match policy {
            Policy::Create => topology.declare_topic(topic, spec.partitions).await.map(|_| ()),
            Policy::Verify => {
                if !topology.topic_exists(topic).await? {
                    return Err(no_topic(topic));
                }
                match (topology.partitions(topic).await?, spec.partitions) {
                    (Some(found), wanted) => check_partitions(found, wanted),
                    // A foreign exchange has no partitions until an ordered group gives it some.
                    (None, _) => Ok(()),
                }
            }
            Policy::Assume => Ok(()),
        }
    }

    async fn ensure_group(
        &self,
        topic: &TopicName,
        group: &GroupName,
        settings: &GroupSettings,
        policy: Policy,
    ) -> Result<()> {
        require_start(settings.start)?;
        let topology = &self.shared.topology;
        match policy {
            Policy::Create => {
                if !topology.topic_exists(topic).await? {
                    return Err(no_topic(topic));
                }
                topology.declare_group(topic, group, settings).await?;
            }
            Policy::Verify => {
                let stored = self.group(topic, group).await?;
                stored.settings().check_same(settings)?;
                for queue in topology.queues(topic, group, settings.ordered).await?.names {
                    self.ready(&queue).await?;
                }
                self.ready(&derived::dead(topic, group)).await?;
            }
            Policy::Assume => {}
        }
        topology.remember(topic, group, settings, policy);
        Ok(())
    }

    async fn group_settings(&self, topic: &TopicName, group: &GroupName) -> Result<GroupSettings> {
        Ok(self.group(topic, group).await?.settings())
    }

    async fn topics(&self) -> Result<Vec<TopicInfo>> {
        Err(unsupported(Capability::List))
    }

    async fn topic(&self, topic: &TopicName) -> Result<TopicInfo> {
        if !self.shared.topology.topic_exists(topic).await? {
            return Err(no_topic(topic));
        }
        let mut info = TopicInfo::new(topic.as_str());
        info.partitions = self.shared.topology.partitions(topic).await?;
        Ok(info)
    }

    async fn delete_topic(&self, topic: &TopicName) -> Result<()> {
        let topology = &self.shared.topology;
        if !topology.topic_exists(topic).await? {
            return Err(no_topic(topic));
        }
        for group in topology.known_groups(topic) {
            match topology.delete_group(topic, &group).await {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        topology.delete_exchange(topic.as_str()).await?;
        topology.delete_queue(&names::topic_marker(topic)).await
    }

    async fn delete_group(&self, topic: &TopicName, group: &GroupName) -> Result<()> {
        self.shared.topology.delete_group(topic, group).await
    }

    async fn stats(&self, topic: &TopicName, group: &GroupName) -> Result<Stats> {
        let stored = self.group(topic, group).await?;
        let queues = self.shared.topology.queues(topic, group, stored.lanes > 0).await?;
        let mut stats = Stats::default();
        let mut ready = 0;
        for name in &queues.names {
            let queue = self.ready(name).await?;
            ready += u64::from(queue.message_count());
            // Of a queue with a single active consumer the broker counts only that one.
            stats.consumers = (!queues.ordered).then_some(queue.consumer_count().into());
        }
        stats.ready = Some(ready);
        stats.dead = Some(self.ready(&derived::dead(topic, group)).await?.message_count().into());
        Ok(stats)
    }

    async fn dead_letters(
        &self,
        topic: &TopicName,
        group: &GroupName,
        page: Page,
    ) -> Result<Vec<DeadLetter>> {
        dead::list(&self.shared.topology, topic, group, page).await
    }

    async fn redrive(&self, topic: &TopicName, group: &GroupName, which: &Selection) -> Result<u64> {
        let ordered = self.group(topic, group).await?.lanes > 0;
        let topology = &self.shared.topology;
        let opened = Look::open(topology, topic, group, usize::MAX, dead::keeps(which)).await?;
        let Some(mut look) = opened else { return Ok(0) };
        let mut moved = 0;
        loop {
            let batch = look.next().await?;
            if batch.is_empty() {
                break;
            }
            let letters = batch.into_iter().map(|delivery| (delivery.delivery_tag, dead::letter(delivery)));
            let chosen = letters.filter(|(_, letter)| which.contains(&letter.message.id)).collect();
            moved += self.revive((topic, group, ordered), &mut look, chosen).await?;
        }
        look.close().await?;
        Ok(moved)
    }

    async fn purge(&self, topic: &TopicName, group: &GroupName, which: &Selection) -> Result<u64> {
        let topology = &self.shared.topology;
        let opened = Look::open(topology, topic, group, usize::MAX, dead::keeps(which)).await?;
        let Some(mut look) = opened else { return Ok(0) };
        let mut removed = 0;
        loop {
            let batch = look.next().await?;
            if batch.is_empty() {
                break;
            }
            let letters = batch.into_iter().map(|delivery| (delivery.delivery_tag, dead::letter(delivery)));
            let chosen = letters.filter(|(_, letter)| which.contains(&letter.message.id));
            let tags: Vec<u64> = chosen.map(|(tag, _)| tag).collect();
            look.remove(&tags).await?;
            removed += tags.len() as u64;
        }
        look.close().await?;
        Ok(removed)
    }

    async fn peek(
        &self,
        _topic: &TopicName,
        _start: Start,
        _limit: usize,
    ) -> Result<Vec<(Message, Option<Position>)>> {
        Err(unsupported(Capability::Peek))
    }
}

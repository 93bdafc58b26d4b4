//! Administration.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use mq_core::driver::{Admin, Context, DeadLetter, Page, Pending, Selection, Stats, TopicInfo};
use mq_core::{
    ErrorKind, GroupName, GroupSettings, Message, MessageId, Policy, Position, Result, Start, Timestamp,
    TopicName, TopicSpec,
};
use redis::Pipeline;

use crate::codec;
use crate::connection::{Link, checked};
use crate::dead;
use crate::entry::{self, EntryId, array, integer, text, unexpected};
use crate::names::{GroupKeys, TopicKeys, topic_of};
use crate::pending;
use crate::scripts::Script;
use crate::takeover::names;
use crate::topology::{self, Missing, Registry, no_group, no_topic};

/// How many keys the server looks at for one reply of a listing.
const SCAN: usize = 1000;

/// Administrates topics, groups and dead letters.
#[derive(Debug)]
pub(crate) struct StreamAdmin {
    link: Arc<Link>,
    registry: Arc<Registry>,
    context: Context,
}

impl StreamAdmin {
    pub(crate) fn new(link: Arc<Link>, registry: Arc<Registry>, context: Context) -> Self {
        Self { link, registry, context }
    }

    /// Looks a topic up afresh: another process may have changed it.
    async fn keys(&self, topic: &TopicName) -> Result<Arc<TopicKeys>> {
        self.registry.forget(topic);
        let keys = topology::find_topic(&self.link, &self.registry, topic).await?;
        keys.ok_or_else(|| no_topic(topic))
    }

    async fn group(&self, topic: &TopicName, group: &GroupName) -> Result<GroupKeys> {
        let keys = self.keys(topic).await?;
        Ok(GroupKeys::new(topic, keys.partitions, group))
    }

    /// Finds a group that is there.
    async fn existing(&self, topic: &TopicName, group: &GroupName) -> Result<GroupKeys> {
        let keys = self.group(topic, group).await?;
        if self.stored(&keys).await?.is_none() && !self.groups(&keys.topic).await?.contains(group.as_str()) {
            return Err(no_group(topic, group));
        }
        Ok(keys)
    }

    async fn stored(&self, keys: &GroupKeys) -> Result<Option<String>> {
        let mut cmd = redis::cmd("HGET");
        cmd.arg(&keys.topic.groups).arg(keys.group.as_str());
        Ok(text(self.link.query(&cmd).await?))
    }

    async fn groups(&self, keys: &TopicKeys) -> Result<BTreeSet<String>> {
        let mut pipeline = Pipeline::with_capacity(2);
        pipeline.cmd("HKEYS").arg(&keys.groups);
        pipeline.cmd("XINFO").arg("GROUPS").arg(&keys.streams[0]);
        let mut replies = self.link.pipeline(&pipeline).await?.into_iter();
        let mut found: BTreeSet<String> =
            names(checked(replies.next().unwrap_or_default())?).into_iter().collect();
        // A stream that is not there has no groups.
        for group in replies.next().map(array).unwrap_or_default() {
            found.extend(array(group).into_iter().nth(1).and_then(text));
        }
        Ok(found)
    }
}

fn policy(policy: Policy) -> Missing {
    match policy {
        Policy::Create => Missing::Create,
        Policy::Verify | Policy::Assume => Missing::Fail,
    }
}

fn count(value: Option<&i64>) -> Option<u64> {
    value.and_then(|count| u64::try_from(*count).ok())
}

#[async_trait]
impl Admin for StreamAdmin {
    async fn ensure_topic(&self, topic: &TopicName, spec: &TopicSpec, wanted: Policy) -> Result<()> {
        topology::ensure_topic(&self.link, &self.registry, topic, spec, policy(wanted)).await.map(drop)
    }

    async fn ensure_group(
        &self,
        topic: &TopicName,
        group: &GroupName,
        settings: &GroupSettings,
        wanted: Policy,
    ) -> Result<()> {
        let made = topology::ensure_group(&self.link, &self.registry, topic, group, settings, policy(wanted));
        made.await.map(drop)
    }

    async fn group_settings(&self, topic: &TopicName, group: &GroupName) -> Result<GroupSettings> {
        let keys = self.group(topic, group).await?;
        match self.stored(&keys).await? {
            Some(stored) => topology::read_settings(&stored),
            None => Err(no_group(topic, group)),
        }
    }

    async fn topics(&self) -> Result<Vec<TopicInfo>> {
        let (mut found, mut cursor) = (BTreeSet::new(), "0".to_owned());
        loop {
            let mut cmd = redis::cmd("SCAN");
            cmd.arg(&cursor).arg("COUNT").arg(SCAN).arg("TYPE").arg("stream");
            let mut reply = array(self.link.query(&cmd).await?).into_iter();
            cursor = reply.next().and_then(text).ok_or_else(|| unexpected("SCAN"))?;
            for stream in names(reply.next().unwrap_or_default()) {
                found.extend(topic_of(&stream).map(str::to_owned));
            }
            if cursor == "0" {
                break;
            }
        }
        let mut topics = Vec::with_capacity(found.len());
        for name in found {
            match self.topic(&TopicName::new(&name)?).await {
                Ok(info) => topics.push(info),
                // Deleted meanwhile.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(topics)
    }

    async fn topic(&self, topic: &TopicName) -> Result<TopicInfo> {
        let keys = self.keys(topic).await?;
        let mut cmd = redis::cmd("HGET");
        cmd.arg(&keys.meta).arg("retention");
        let retention = integer(&self.link.query(&cmd).await?);
        let mut info = TopicInfo::new(topic.as_str());
        info.partitions = Some(keys.partitions);
        info.retention_ms = retention.and_then(|retention| u64::try_from(retention).ok());
        info.groups = Some(self.groups(&keys).await?.into_iter().collect());
        Ok(info)
    }

    async fn delete_topic(&self, topic: &TopicName) -> Result<()> {
        let keys = self.keys(topic).await?;
        self.registry.forget_topic(topic);
        let mut cmd = Script::DeleteTopic.call(&[&keys.meta, &keys.groups, &keys.delayed]);
        cmd.arg(keys.partitions).arg(&keys.base).arg(keys.group_prefix());
        match integer(&self.link.query(&cmd).await?) {
            Some(0) => Err(no_topic(topic)),
            _ => Ok(()),
        }
    }

    async fn delete_group(&self, topic: &TopicName, group: &GroupName) -> Result<()> {
        let keys = self.group(topic, group).await?;
        self.registry.forget_group(topic, group);
        if topology::delete_group(&self.link, &keys).await? { Ok(()) } else { Err(no_group(topic, group)) }
    }

    async fn stats(&self, topic: &TopicName, group: &GroupName) -> Result<Stats> {
        let keys = self.group(topic, group).await?;
        let mut cmd = Script::Stats.call(&[&keys.members, &keys.delayed, &keys.dead]);
        cmd.arg(group.as_str()).arg(keys.topic.partitions).arg(&keys.topic.base).arg(&keys.inbox);
        let reply: Vec<i64> = array(self.link.query(&cmd).await?).iter().filter_map(integer).collect();
        if reply.len() < 6 {
            return Err(no_group(topic, group));
        }
        let mut stats = Stats::default();
        stats.ready = count(reply.first());
        stats.in_flight = count(reply.get(1));
        stats.delayed = count(reply.get(2));
        stats.dead = count(reply.get(3));
        stats.oldest_ready_at = count(reply.get(4)).map(Timestamp::from_millis);
        stats.consumers = count(reply.get(5));
        Ok(stats)
    }

    async fn dead_letters(
        &self,
        topic: &TopicName,
        group: &GroupName,
        page: Page,
    ) -> Result<Vec<DeadLetter>> {
        let keys = self.existing(topic, group).await?;
        dead::list(&self.link, &keys, page).await
    }

    async fn redrive(&self, topic: &TopicName, group: &GroupName, which: &Selection) -> Result<u64> {
        let keys = self.existing(topic, group).await?;
        dead::redrive(&self.link, &keys, which).await
    }

    async fn purge(&self, topic: &TopicName, group: &GroupName, which: &Selection) -> Result<u64> {
        let keys = self.existing(topic, group).await?;
        dead::purge(&self.link, &keys, which).await
    }

    async fn peek(
        &self,
        topic: &TopicName,
        start: Start,
        limit: usize,
    ) -> Result<Vec<(Message, Option<Position>)>> {
        let keys = self.keys(topic).await?;
        let mut pipeline = Pipeline::with_capacity(keys.streams.len());
        for stream in &keys.streams {
            match start {
                Start::Latest => pipeline.cmd("XREVRANGE").arg(stream).arg("+").arg("-"),
                Start::At(at) => pipeline.cmd("XRANGE").arg(stream).arg(at.as_millis()).arg("+"),
                _ => pipeline.cmd("XRANGE").arg(stream).arg("-").arg("+"),
            };
            pipeline.arg("COUNT").arg(limit);
        }
        let mut found: Vec<(EntryId, u32, entry::Entry)> = Vec::new();
        for (partition, reply) in (0..).zip(self.link.pipeline(&pipeline).await?) {
            let entries = array(checked(reply)?).into_iter().filter_map(entry::entry);
            found.extend(entries.map(|entry| (entry.id, partition, entry)));
        }
        found.sort_by_key(|(id, partition, _)| (*id, *partition));
        if start == Start::Latest {
            found.drain(..found.len().saturating_sub(limit));
        }
        found.truncate(limit);
        let message = |(id, partition, entry): (EntryId, u32, entry::Entry)| {
            (codec::due(codec::decode_entry(&entry), &self.context.clock).0, Some(id.position(partition)))
        };
        Ok(found.into_iter().map(message).collect())
    }

    async fn pending(&self, topic: &TopicName, group: &GroupName, page: Page) -> Result<Vec<Pending>> {
        let keys = self.existing(topic, group).await?;
        pending::list(&self.link, &keys, page).await
    }

    async fn cancel_delayed(&self, topic: &TopicName, id: &MessageId) -> Result<bool> {
        let keys = self.keys(topic).await?;
        let (mut cursor, mut removed) = ("0".to_owned(), 0);
        loop {
            let mut cmd = Script::Cancel.call(&[&keys.delayed]);
            cmd.arg(&cursor).arg(id.to_string());
            let mut reply = array(self.link.query(&cmd).await?).into_iter();
            cursor = reply.next().and_then(text).ok_or_else(|| unexpected("ZSCAN"))?;
            removed += reply.next().as_ref().and_then(integer).unwrap_or(0);
            if cursor == "0" {
                return Ok(removed > 0);
            }
        }
    }
}

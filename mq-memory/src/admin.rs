//! Administration.

use std::sync::Arc;

use async_trait::async_trait;
use mq_core::driver::{Admin, Context};
use mq_core::{
    DeadLetter, GroupName, GroupSettings, Message, MessageId, Page, Pending, Policy, Position, Result,
    Selection, Start, Stats, TopicInfo, TopicName, TopicSpec,
};

use crate::broker::{Shared, unexpected};
use crate::op::Op;
use crate::state::Reply;

#[derive(Debug)]
pub(crate) struct MemoryAdmin {
    pub(crate) shared: Arc<Shared>,
    pub(crate) context: Context,
}

impl MemoryAdmin {
    fn apply(&self, op: Op) -> Result<Reply> {
        self.shared.apply(op, &self.context)
    }

    fn count(&self, op: Op) -> Result<u64> {
        match self.apply(op)? {
            Reply::Count(count) => Ok(count),
            other => Err(unexpected(&other)),
        }
    }
}

#[async_trait]
impl Admin for MemoryAdmin {
    async fn ensure_topic(&self, topic: &TopicName, spec: &TopicSpec, policy: Policy) -> Result<()> {
        self.apply(Op::EnsureTopic(topic.clone(), spec.clone(), policy)).map(drop)
    }

    async fn ensure_group(
        &self,
        topic: &TopicName,
        group: &GroupName,
        settings: &GroupSettings,
        policy: Policy,
    ) -> Result<()> {
        self.apply(Op::EnsureGroup(topic.clone(), group.clone(), settings.clone(), policy)).map(drop)
    }

    async fn group_settings(&self, topic: &TopicName, group: &GroupName) -> Result<GroupSettings> {
        Ok(self.shared.state.lock().group(topic, group)?.settings.clone())
    }

    async fn topics(&self) -> Result<Vec<TopicInfo>> {
        let state = self.shared.state.lock();
        state.topic_names().map(|topic| state.topic_info(topic)).collect()
    }

    async fn topic(&self, topic: &TopicName) -> Result<TopicInfo> {
        self.shared.state.lock().topic_info(topic)
    }

    async fn delete_topic(&self, topic: &TopicName) -> Result<()> {
        self.apply(Op::DeleteTopic(topic.clone())).map(drop)
    }

    async fn delete_group(&self, topic: &TopicName, group: &GroupName) -> Result<()> {
        self.apply(Op::DeleteGroup(topic.clone(), group.clone())).map(drop)
    }

    async fn stats(&self, topic: &TopicName, group: &GroupName) -> Result<Stats> {
        Ok(self.shared.state.lock().group(topic, group)?.stats())
    }

    async fn dead_letters(
        &self,
        topic: &TopicName,
        group: &GroupName,
        page: Page,
    ) -> Result<Vec<DeadLetter>> {
        Ok(self.shared.state.lock().group(topic, group)?.dead_letters(page.offset, page.limit))
    }

    async fn redrive(&self, topic: &TopicName, group: &GroupName, which: &Selection) -> Result<u64> {
        self.count(Op::Redrive(topic.clone(), group.clone(), which.clone()))
    }

    async fn purge(&self, topic: &TopicName, group: &GroupName, which: &Selection) -> Result<u64> {
        self.count(Op::Purge(topic.clone(), group.clone(), which.clone()))
    }

    async fn peek(
        &self,
        topic: &TopicName,
        start: Start,
        limit: usize,
    ) -> Result<Vec<(Message, Option<Position>)>> {
        self.shared.state.lock().peek(topic, start, limit)
    }

    async fn pending(&self, topic: &TopicName, group: &GroupName, page: Page) -> Result<Vec<Pending>> {
        let now = self.context.clock.now();
        Ok(self.shared.state.lock().group(topic, group)?.pending(page, now))
    }

    async fn cancel_delayed(&self, topic: &TopicName, id: &MessageId) -> Result<bool> {
        Ok(self.count(Op::Cancel(topic.clone(), id.clone()))? > 0)
    }
}

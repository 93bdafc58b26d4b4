//! An administration with a defect.

use std::sync::Arc;

use async_trait::async_trait;
use mq_core::driver::{Admin, DeadLetter, Page, Pending, Selection, Stats, TopicInfo};
use mq_core::{
    ErrorKind, GroupName, GroupSettings, Message, MessageId, Policy, Position, Result, Start, TopicName,
    TopicSpec,
};

use super::defect::Defect;
use super::merged_group;

#[derive(Debug)]
pub(super) struct BadAdmin {
    pub(super) inner: Arc<dyn Admin>,
    pub(super) defect: Defect,
}

impl BadAdmin {
    fn is(&self, defect: Defect) -> bool {
        self.defect == defect
    }

    fn group(&self, group: &GroupName) -> GroupName {
        if self.is(Defect::GroupsMerged) { merged_group() } else { group.clone() }
    }

    fn policy(&self, policy: Policy) -> Policy {
        if self.is(Defect::PolicyIgnored) { Policy::Create } else { policy }
    }

    fn which(&self, which: &Selection) -> Selection {
        if self.is(Defect::SelectionIgnored) { Selection::All } else { which.clone() }
    }

    async fn count(&self, topic: &TopicName, group: &GroupName, which: &Selection) -> Result<u64> {
        let all = self.inner.dead_letters(topic, group, Page { offset: 0, limit: usize::MAX }).await?;
        Ok(all.iter().filter(|letter| which.contains(&letter.message.id)).count() as u64)
    }
}

#[async_trait]
impl Admin for BadAdmin {
    async fn ensure_topic(&self, topic: &TopicName, spec: &TopicSpec, policy: Policy) -> Result<()> {
        self.inner.ensure_topic(topic, spec, self.policy(policy)).await
    }

    async fn ensure_group(
        &self,
        topic: &TopicName,
        group: &GroupName,
        settings: &GroupSettings,
        policy: Policy,
    ) -> Result<()> {
        let mut settings = settings.clone();
        if self.is(Defect::StartMoved) {
            settings.start = match settings.start {
                Start::Latest => Start::Earliest,
                _ => Start::Latest,
            };
        }
        let made = self.inner.ensure_group(topic, &self.group(group), &settings, self.policy(policy)).await;
        match made {
            Err(error) if error.kind() == ErrorKind::Mismatch && self.is(Defect::SettingsIgnored) => Ok(()),
            made => made,
        }
    }

    async fn group_settings(&self, topic: &TopicName, group: &GroupName) -> Result<GroupSettings> {
        match self.inner.group_settings(topic, &self.group(group)).await {
            Err(error) if self.is(Defect::MissingUntold) && error.kind() == ErrorKind::NotFound => {
                Ok(GroupSettings::default())
            }
            settings => settings,
        }
    }

    async fn topics(&self) -> Result<Vec<TopicInfo>> {
        let mut topics = self.inner.topics().await?;
        if self.is(Defect::DerivedListed) {
            let derived = topics.iter().map(|topic| TopicInfo::new(format!("{}..g..dead", topic.topic)));
            topics.extend(derived.collect::<Vec<_>>());
        }
        Ok(topics)
    }

    async fn topic(&self, topic: &TopicName) -> Result<TopicInfo> {
        self.inner.topic(topic).await
    }

    async fn delete_topic(&self, topic: &TopicName) -> Result<()> {
        if self.is(Defect::DeletionForgotten) {
            return Ok(());
        }
        self.inner.delete_topic(topic).await
    }

    async fn delete_group(&self, topic: &TopicName, group: &GroupName) -> Result<()> {
        if self.is(Defect::DeletionForgotten) {
            return Ok(());
        }
        self.inner.delete_group(topic, &self.group(group)).await
    }

    async fn stats(&self, topic: &TopicName, group: &GroupName) -> Result<Stats> {
        let mut stats = self.inner.stats(topic, &self.group(group)).await?;
        if self.is(Defect::CountsWrong) {
            let counts = [&mut stats.ready, &mut stats.in_flight, &mut stats.delayed, &mut stats.dead];
            counts.into_iter().for_each(|count| *count = count.map(|count| count + 1));
        }
        Ok(stats)
    }

    async fn dead_letters(
        &self,
        topic: &TopicName,
        group: &GroupName,
        page: Page,
    ) -> Result<Vec<DeadLetter>> {
        let group = self.group(group);
        let page = if self.is(Defect::PagesIgnored) { Page { offset: 0, ..page } } else { page };
        let letters = self.inner.dead_letters(topic, &group, page).await?;
        if self.is(Defect::LookingPurges) {
            let ids = letters.iter().map(|letter| letter.message.id.clone()).collect();
            self.inner.purge(topic, &group, &Selection::Ids(ids)).await?;
        }
        Ok(letters)
    }

    async fn redrive(&self, topic: &TopicName, group: &GroupName, which: &Selection) -> Result<u64> {
        let (group, which) = (self.group(group), self.which(which));
        if self.is(Defect::RedriveLoses) {
            return self.inner.purge(topic, &group, &which).await;
        }
        self.inner.redrive(topic, &group, &which).await
    }

    async fn purge(&self, topic: &TopicName, group: &GroupName, which: &Selection) -> Result<u64> {
        let (group, which) = (self.group(group), self.which(which));
        if self.is(Defect::PurgeForgotten) {
            return self.count(topic, &group, &which).await;
        }
        self.inner.purge(topic, &group, &which).await
    }

    async fn peek(
        &self,
        topic: &TopicName,
        start: Start,
        limit: usize,
    ) -> Result<Vec<(Message, Option<Position>)>> {
        if self.is(Defect::PeekEmpty) {
            return Ok(Vec::new());
        }
        self.inner.peek(topic, start, limit).await
    }

    async fn pending(&self, topic: &TopicName, group: &GroupName, page: Page) -> Result<Vec<Pending>> {
        if self.is(Defect::PendingEmpty) {
            return Ok(Vec::new());
        }
        self.inner.pending(topic, &self.group(group), page).await
    }

    async fn cancel_delayed(&self, topic: &TopicName, id: &MessageId) -> Result<bool> {
        if self.is(Defect::CancelForgotten) {
            return Ok(true);
        }
        self.inner.cancel_delayed(topic, id).await
    }
}

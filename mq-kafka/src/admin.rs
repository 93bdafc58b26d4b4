//! Administration: topics, groups, counts, dead letters, peeking.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use mq_core::driver::{Admin, DeadLetter, Page, Pending, Selection, Stats, TopicInfo};
use mq_core::{
    Error, ErrorKind, GroupName, GroupSettings, Message, Policy, Position, Result, SEPARATOR, Start,
    TopicName, TopicSpec, derived,
};
use rdkafka::Message as _;
use rdkafka::admin::ResourceSpecifier;
use rdkafka::error::RDKafkaErrorCode as Code;
use rdkafka::metadata::MetadataTopic;
use rdkafka::producer::Producer as _;
use rdkafka::topic_partition_list::Offset;

use crate::codec::{Arena, decode};
use crate::connection::{ANSWER, Inner, OPERATION, Plan, options};
use crate::consumer::group_id;
use crate::dead::{self, Removal};
use crate::error::{from_code, from_native};
use crate::groups;
use crate::pending;
use crate::producer::position;
use crate::stats;

/// The administration of a cluster.
#[derive(Debug)]
pub(crate) struct KafkaAdmin(pub(crate) Arc<Inner>);

impl KafkaAdmin {
    async fn verify(&self, topic: &TopicName, spec: &TopicSpec, found: i32) -> Result<()> {
        if let Some(wanted) = spec.partitions.filter(|wanted| i64::from(*wanted) != i64::from(found)) {
            return Err(mismatch(topic, &format!("has {found} partitions, not {wanted}")));
        }
        let Some(wanted) = spec.retention else { return Ok(()) };
        match self.retention(topic.as_str()).await? {
            Some(found) if found == wanted.as_millis().to_string() => Ok(()),
            found => Err(mismatch(
                topic,
                &format!("keeps messages for {} ms, not {}", found.unwrap_or_default(), wanted.as_millis()),
            )),
        }
    }

    async fn retention(&self, topic: &str) -> Result<Option<String>> {
        let specifier = ResourceSpecifier::Topic(topic);
        let admin = self.0.admin()?;
        let answer = admin.describe_configs([&specifier], &options()).await;
        let described = self.0.answered(admin, answer)?;
        match described.into_iter().next() {
            Some(Ok(resource)) => Ok(resource.get("retention.ms").and_then(|entry| entry.value.clone())),
            Some(Err(code)) => Err(from_code(code)),
            None => Ok(None),
        }
    }

    /// Deletes native topics and waits until they are out of sight; returns whether any was there.
    async fn delete(&self, topics: &[String]) -> Result<bool> {
        let names: Vec<&str> = topics.iter().map(String::as_str).collect();
        let admin = self.0.admin()?;
        let answer = admin.delete_topics(&names, &options()).await;
        let results = self.0.answered(admin, answer)?;
        let mut deleted = false;
        for result in results {
            match result {
                Ok(_) => deleted = true,
                Err((_, Code::UnknownTopicOrPartition | Code::UnknownTopic)) => {}
                Err((topic, code)) => return Err(from_code(code).on_topic(topic)),
            }
        }
        let deadline = Instant::now() + OPERATION;
        for topic in topics {
            // Somebody may make it again meanwhile.
            while Instant::now() < deadline && self.0.partitions_of(topic).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        Ok(deleted)
    }

    async fn native_topics(&self) -> Result<BTreeMap<String, u32>> {
        self.0.ask(all_topics).await
    }

    /// A Kafka group that serves this topic alone goes with it; one that has members stays with them.
    async fn forget_positions(&self, topic: &TopicName, group: &GroupName) -> Result<()> {
        let topics = self.native_topics().await?;
        let suffix = format!("{SEPARATOR}{group}{SEPARATOR}dead");
        if topics.keys().any(|name| name.ends_with(&suffix) && *name != derived::dead(topic, group)) {
            return Ok(());
        }
        let ids = [group_id(group, false), group_id(group, true)];
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        let admin = self.0.admin()?;
        let answer = admin.delete_groups(&ids, &options()).await;
        let results = self.0.answered(admin, answer)?;
        for result in results {
            match result {
                Ok(_) | Err((_, Code::GroupIdNotFound | Code::NonEmptyGroup)) => {}
                Err((group, code)) => return Err(from_code(code).in_group(group)),
            }
        }
        Ok(())
    }
}

/// Returns every topic's name and number of partitions. Blocks.
pub(crate) fn all_topics(inner: &Inner) -> Result<BTreeMap<String, u32>> {
    let native = inner.sender.native();
    let metadata = native.client().fetch_metadata(None, ANSWER).map_err(|error| from_native(&error))?;
    let known = metadata.topics().iter().filter(|topic| topic.error().is_none());
    let count = |topic: &MetadataTopic| u32::try_from(topic.partitions().len()).unwrap_or(0);
    Ok(known.map(|topic| (topic.name().to_owned(), count(topic))).collect())
}

/// Returns the groups of a topic among all topics' names.
pub(crate) fn groups_of<'a>(topics: &'a BTreeMap<String, u32>, topic: &str) -> Vec<&'a str> {
    let prefix = format!("{topic}{SEPARATOR}");
    let suffix = format!("{SEPARATOR}dead");
    topics
        .range(prefix.clone()..)
        .map_while(|(name, _)| name.strip_prefix(prefix.as_str()))
        .filter_map(|rest| rest.strip_suffix(suffix.as_str()))
        .collect()
}

fn info(topics: &BTreeMap<String, u32>, topic: &str, partitions: u32) -> TopicInfo {
    let mut info = TopicInfo::new(topic);
    info.partitions = Some(partitions);
    info.groups = Some(groups_of(topics, topic).into_iter().map(str::to_owned).collect());
    info
}

fn missing(topic: &TopicName) -> Error {
    Error::new(ErrorKind::NotFound, format!("there is no topic {topic}"))
}

fn mismatch(topic: &TopicName, what: &str) -> Error {
    Error::new(
        ErrorKind::Mismatch,
        format!("topic {topic} {what}; declare what is there, or change it first"),
    )
}

#[async_trait]
impl Admin for KafkaAdmin {
    async fn ensure_topic(&self, topic: &TopicName, spec: &TopicSpec, policy: Policy) -> Result<()> {
        let name = topic.to_string();
        if let Some(found) = self.0.ask(move |inner| inner.partitions(&name)).await? {
            self.verify(topic, spec, found).await?;
            self.0.declared.topic(topic, spec, found);
            return Ok(());
        }
        if policy == Policy::Verify {
            return Err(missing(topic));
        }
        let wanted = spec.partitions.unwrap_or(self.0.config.partitions);
        let mut plan = Plan {
            name: topic.to_string(),
            partitions: i32::try_from(wanted).unwrap_or(1),
            settings: Vec::new(),
        };
        if let Some(retention) = spec.retention {
            plan.settings.push(("retention.ms", retention.as_millis().to_string()));
        }
        let new = self.0.create(&[plan]).await?;
        let found = self.0.partitions_of(topic.as_str()).await?;
        if !new {
            // Somebody else was faster.
            self.verify(topic, spec, found).await?;
        }
        self.0.declared.topic(topic, spec, found);
        Ok(())
    }

    async fn ensure_group(
        &self,
        topic: &TopicName,
        group: &GroupName,
        settings: &GroupSettings,
        policy: Policy,
    ) -> Result<()> {
        groups::ensure(&self.0, topic, group, settings, policy).await?;
        self.0.declared.group(topic, group, settings, policy);
        Ok(())
    }

    async fn group_settings(&self, topic: &TopicName, group: &GroupName) -> Result<GroupSettings> {
        match groups::find(&self.0, &derived::dead(topic, group)).await? {
            Some(declared) => Ok(declared.settings),
            None => Err(Error::new(ErrorKind::NotFound, format!("there is no group {group} on {topic}"))),
        }
    }

    async fn topics(&self) -> Result<Vec<TopicInfo>> {
        let topics = self.native_topics().await?;
        let own = topics.iter().filter(|(name, _)| !derived::is_derived(name) && !name.starts_with("__"));
        Ok(own.map(|(name, partitions)| info(&topics, name, *partitions)).collect())
    }

    async fn topic(&self, topic: &TopicName) -> Result<TopicInfo> {
        let topics = self.native_topics().await?;
        let partitions = topics.get(topic.as_str()).ok_or_else(|| missing(topic))?;
        let mut info = info(&topics, topic.as_str(), *partitions);
        info.retention_ms =
            self.retention(topic.as_str()).await?.and_then(|retention| retention.parse().ok());
        Ok(info)
    }

    async fn delete_topic(&self, topic: &TopicName) -> Result<()> {
        let topics = self.native_topics().await?;
        let prefix = format!("{topic}{SEPARATOR}");
        let mut names = vec![topic.to_string()];
        names.extend(
            topics
                .range(prefix.clone()..)
                .map_while(|(name, _)| name.starts_with(&prefix).then(|| name.clone())),
        );
        if !topics.contains_key(topic.as_str()) && names.len() == 1 {
            return Err(missing(topic));
        }
        self.delete(&names).await.map(|_| ())
    }

    async fn delete_group(&self, topic: &TopicName, group: &GroupName) -> Result<()> {
        self.forget_positions(topic, group).await?;
        if self.delete(&[derived::inbox(topic, group), derived::dead(topic, group)]).await? {
            return Ok(());
        }
        Err(Error::new(ErrorKind::NotFound, format!("there is no group {group} on {topic}")))
    }

    async fn pending(&self, topic: &TopicName, group: &GroupName, page: Page) -> Result<Vec<Pending>> {
        let (topic, group) = (topic.clone(), group.clone());
        self.0.ask(move |inner| pending::list(inner, &topic, &group, page)).await
    }

    async fn stats(&self, topic: &TopicName, group: &GroupName) -> Result<Stats> {
        let (topic, group) = (topic.clone(), group.clone());
        self.0.ask(move |inner| stats::of_group(inner, &topic, &group)).await
    }

    async fn dead_letters(
        &self,
        topic: &TopicName,
        group: &GroupName,
        page: Page,
    ) -> Result<Vec<DeadLetter>> {
        dead::list(&self.0, topic, group, page).await
    }

    async fn redrive(&self, topic: &TopicName, group: &GroupName, which: &Selection) -> Result<u64> {
        dead::remove(&self.0, topic, group, which, Removal::Redrive).await
    }

    async fn purge(&self, topic: &TopicName, group: &GroupName, which: &Selection) -> Result<u64> {
        dead::remove(&self.0, topic, group, which, Removal::Purge).await
    }

    async fn peek(
        &self,
        topic: &TopicName,
        start: Start,
        limit: usize,
    ) -> Result<Vec<(Message, Option<Position>)>> {
        let name = topic.clone();
        self.0
            .ask(move |inner| {
                let partitions = inner.partitions(name.as_str())?.ok_or_else(|| missing(&name))?;
                peek(inner, name.as_str(), partitions, start, limit)
            })
            .await
    }
}

/// Reads up to `limit` messages in the order of their times; blocks.
fn peek(
    inner: &Inner,
    topic: &str,
    partitions: i32,
    start: Start,
    limit: usize,
) -> Result<Vec<(Message, Option<Position>)>> {
    let last = matches!(start, Start::Latest);
    let lows = inner.readers.offsets(topic, partitions, Start::Earliest)?;
    let reach = i64::try_from(limit).unwrap_or(i64::MAX);
    let from = inner.readers.offsets(topic, partitions, start)?;
    let back = |(offset, low): (i64, i64)| if last { offset.saturating_sub(reach).max(low) } else { offset };
    let from: Vec<(i32, Offset)> = (0..)
        .zip(from.into_iter().zip(lows).map(back))
        .map(|(partition, at)| (partition, Offset::Offset(at)))
        .collect();
    let mut taken = vec![0usize; from.len()];
    let mut arena = Arena::default();
    let mut messages = Vec::new();
    inner.readers.scan(topic, &from, |record| {
        let count = &mut taken[usize::try_from(record.partition()).unwrap_or(0)];
        // Which partitions have the wanted ones is known at the end; none has more than the limit.
        if *count < limit {
            *count += 1;
            let message = decode(record, topic, &mut arena).message;
            messages.push((message, position(record.partition(), record.offset())));
        }
        if taken.iter().all(|count| *count >= limit) {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    })?;
    messages.sort_by_key(|(message, _)| message.published_at);
    if last {
        messages.drain(..messages.len().saturating_sub(limit));
    }
    messages.truncate(limit);
    Ok(messages)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_read_from_derived_names() {
        let names =
            ["a", "a..g1..dead", "a..g1..inbox", "a..g2..dead", "ab", "ab..g3..dead", "mq..delay..1s"];
        let topics: BTreeMap<String, u32> = names.into_iter().map(|name| (name.to_owned(), 1)).collect();
        assert_eq!(groups_of(&topics, "a"), ["g1", "g2"]);
        assert_eq!(groups_of(&topics, "ab"), ["g3"]);
        assert!(groups_of(&topics, "b").is_empty());
    }
}

//! Declaring groups. A group's settings and where it starts are the first record of its dead letters.

use std::sync::Arc;

use bytes::Bytes;
use mq_core::{Error, ErrorKind, GroupName, GroupSettings, Policy, Result, Timestamp, TopicName, derived};
use rdkafka::admin::NewPartitions;
use serde::{Deserialize, Serialize};

use crate::codec::{self, Name};
use crate::connection::{Inner, Plan, options};
use crate::error::{from_code, from_delivery};
use crate::verdicts::Verdict;

/// The key of the record that declares a group; no dead letter has it.
pub(crate) const SETTINGS_KEY: &[u8] = b"..settings";

/// How a group was declared, version 1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Declaration {
    version: u32,
    pub(crate) settings: GroupSettings,
    /// Where it starts, one offset per partition.
    pub(crate) start: Vec<i64>,
    pub(crate) at: Timestamp,
}

impl Declaration {
    pub(crate) fn read(json: &[u8]) -> Result<Self> {
        let malformed =
            |what: String| Error::new(ErrorKind::Malformed, format!("the group's declaration {what}"));
        let read: Self =
            serde_json::from_slice(json).map_err(|error| malformed(format!("is unreadable: {error}")))?;
        match read.version {
            1 => Ok(read),
            other => Err(malformed(format!("has version {other}; this library knows 1"))),
        }
    }

    fn write(&self) -> Result<Bytes> {
        let json = serde_json::to_vec(self).map_err(|error| {
            Error::new(ErrorKind::Other, "the group's settings can't be written").with_source(error)
        })?;
        Ok(json.into())
    }
}

/// Names a dead letter by where its last attempt was: a copy that is stored twice is one letter.
pub(crate) fn letter_key(inbox: bool, partition: i32, offset: u64) -> String {
    format!("{}:{partition}:{offset}", if inbox { 'i' } else { 't' })
}

/// Returns the partition in the key of a dead letter.
pub(crate) fn letter_partition(key: &[u8]) -> Option<i32> {
    std::str::from_utf8(key).ok()?.split(':').nth(1)?.parse().ok()
}

/// Makes sure that a group is there.
pub(crate) async fn ensure(
    inner: &Arc<Inner>,
    topic: &TopicName,
    group: &GroupName,
    settings: &GroupSettings,
    policy: Policy,
) -> Result<()> {
    let partitions = inner.partitions_of(topic.as_str()).await?;
    let (inbox, dead) = (derived::inbox(topic, group), derived::dead(topic, group));
    let declared = match find(inner, &dead).await? {
        Some(declared) => declared,
        None if policy == Policy::Verify => {
            return Err(Error::new(ErrorKind::NotFound, format!("there is no group {group} on {topic}")));
        }
        None => {
            inner.create(&[inbox_plan(&inbox, inboxes(settings, partitions)), dead_plan(&dead)]).await?;
            declare(inner, topic, &dead, settings, partitions).await?
        }
    };
    declared.settings.check_same(settings)?;
    complete_inbox(inner, &inbox, inboxes(settings, partitions), policy).await
}

/// How many partitions an inbox needs. Members share out all partitions alike, those of topics and of inboxes:
/// as many of these as of the topic, and one member could get the inbox and another one all the work.
fn inboxes(settings: &GroupSettings, partitions: i32) -> i32 {
    if settings.ordered { partitions } else { 1 }
}

/// Returns the partition of the inbox for what comes from a partition of the topic or the inbox: a key of an
/// ordered group has the same number in both.
pub(crate) fn inbox_partition(settings: &GroupSettings, partition: i32) -> i32 {
    if settings.ordered { partition } else { 0 }
}

/// Reads a group's declaration, if it has one.
pub(crate) async fn find(inner: &Arc<Inner>, dead: &str) -> Result<Option<Declaration>> {
    let dead = dead.to_owned();
    inner
        .ask(move |inner| match inner.partitions(&dead)? {
            Some(_) => inner.readers.declaration(&dead),
            None => Ok(None),
        })
        .await
}

fn inbox_plan(name: &str, partitions: i32) -> Plan {
    Plan {
        name: name.to_owned(),
        partitions,
        settings: vec![("retention.ms", "-1".into()), ("retention.bytes", "-1".into())],
    }
}

fn dead_plan(name: &str) -> Plan {
    let settings = vec![("cleanup.policy", "compact".into()), ("segment.ms", "3600000".into())];
    Plan { name: name.to_owned(), partitions: 1, settings }
}

/// Writes a group's declaration; the first one counts.
async fn declare(
    inner: &Arc<Inner>,
    topic: &TopicName,
    dead: &str,
    settings: &GroupSettings,
    partitions: i32,
) -> Result<Declaration> {
    let (name, start) = (topic.to_string(), settings.start);
    let start = inner.ask(move |inner| inner.readers.offsets(&name, partitions, start)).await?;
    let wanted = Declaration { version: 1, settings: settings.clone(), start, at: inner.context.clock.now() };
    write(inner, dead, &wanted).await?;
    let missing = || Error::new(ErrorKind::Other, "the group's declaration does not show");
    let declared = find(inner, dead).await?.ok_or_else(missing)?;
    if declared != wanted {
        // Compaction keeps the last: let that be the one that counts.
        write(inner, dead, &declared).await?;
    }
    Ok(declared)
}

async fn write(inner: &Arc<Inner>, dead: &str, declaration: &Declaration) -> Result<()> {
    let now = inner.context.clock.now();
    let record =
        codec::bare(Name::from(dead), Bytes::from_static(SETTINGS_KEY), Some(declaration.write()?), now);
    match inner.sender.send(vec![record]).await.first() {
        Some(Verdict::Stored { .. }) => Ok(()),
        Some(Verdict::Failed(code)) => Err(from_delivery(*code)),
        _ => Err(Error::new(ErrorKind::UnknownOutcome, "the broker's answer was lost")),
    }
}

async fn complete_inbox(inner: &Arc<Inner>, inbox: &str, partitions: i32, policy: Policy) -> Result<()> {
    let name = inbox.to_owned();
    match inner.ask(move |inner| inner.partitions(&name)).await? {
        Some(found) if found >= partitions => Ok(()),
        _ if policy == Policy::Verify => Err(Error::new(
            ErrorKind::NotFound,
            format!("the inbox {inbox} is missing, or has too few partitions"),
        )),
        None => inner.create(&[inbox_plan(inbox, partitions)]).await.map(|_| ()),
        Some(_) => {
            let count = usize::try_from(partitions).unwrap_or(1);
            let admin = inner.admin()?;
            let answer = admin.create_partitions(&[NewPartitions::new(inbox, count)], &options()).await;
            let results = inner.answered(admin, answer)?;
            results.into_iter().try_for_each(|result| result.map(drop).map_err(|(_, code)| from_code(code)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn declarations_read_back_and_later_versions_are_refused() {
        let declaration = Declaration {
            version: 1,
            settings: GroupSettings::default().max_attempts(3),
            start: vec![5, 0],
            at: Timestamp::from_millis(9),
        };
        assert_eq!(Declaration::read(&declaration.write().unwrap()).unwrap(), declaration);
        let later = Declaration { version: 2, ..declaration }.write().unwrap();
        assert_eq!(Declaration::read(&later).unwrap_err().kind(), ErrorKind::Malformed);
        assert_eq!(Declaration::read(b"x").unwrap_err().kind(), ErrorKind::Malformed);
    }

    #[test]
    fn letters_know_their_partition() {
        assert_eq!(letter_partition(letter_key(true, 7, 19).as_bytes()), Some(7));
        assert_eq!(letter_partition(SETTINGS_KEY), None);
    }
}

//! Topics and groups on the server, and what this process declared of them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use mq_core::{
    Error, ErrorKind, Event, Events, GroupName, GroupSettings, Result, Start, TopicName, TopicSpec,
};
use parking_lot::Mutex;
use redis::Pipeline;
use serde::Deserialize;

use crate::connection::{Link, checked};
use crate::entry::{integer, status, text, unexpected};
use crate::names::{GroupKeys, TopicKeys};
use crate::scripts::Script;

/// How long entries that no group needs stay, so that they can be looked at.
const GRACE_MS: u64 = 60_000;
/// How many entries one run of the trimming script removes of one stream.
const TRIM: usize = 100_000;

/// What may be done about what is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Missing {
    /// It is made.
    Create,
    /// It is an error.
    Fail,
}

impl Missing {
    fn flag(self) -> u8 {
        u8::from(self == Self::Create)
    }
}

#[derive(Debug, Default)]
struct Known {
    keys: Option<Arc<TopicKeys>>,
    declared: Option<TopicSpec>,
    groups: HashMap<GroupName, GroupSettings>,
}

/// What this process knows and declared.
#[derive(Debug, Default)]
pub(crate) struct Registry(Mutex<HashMap<TopicName, Known>>);

impl Registry {
    fn with<R>(&self, topic: &TopicName, act: impl FnOnce(&mut Known) -> R) -> R {
        act(self.0.lock().entry(topic.clone()).or_default())
    }

    fn cached(&self, topic: &TopicName) -> Option<Arc<TopicKeys>> {
        self.0.lock().get(topic).and_then(|known| known.keys.clone())
    }

    /// Forgets where a topic is; it is looked up again.
    pub(crate) fn forget(&self, topic: &TopicName) {
        self.with(topic, |known| known.keys = None);
    }

    /// Forgets a topic: it shall not be made again.
    pub(crate) fn forget_topic(&self, topic: &TopicName) {
        self.0.lock().remove(topic);
    }

    /// Forgets a group: it shall not be made again.
    pub(crate) fn forget_group(&self, topic: &TopicName, group: &GroupName) {
        self.with(topic, |known| known.groups.remove(group));
    }

    fn declared(&self, topic: &TopicName) -> Option<(TopicSpec, Vec<(GroupName, GroupSettings)>)> {
        self.with(topic, |known| {
            let groups = known.groups.iter().map(|(group, settings)| (group.clone(), settings.clone()));
            known.declared.clone().map(|spec| (spec, groups.collect()))
        })
    }
}

/// The settings of a group as they are stored.
#[derive(Debug, Deserialize)]
struct Stored {
    settings: GroupSettings,
}

pub(crate) fn no_topic(topic: &TopicName) -> Error {
    Error::new(ErrorKind::NotFound, format!("topic {topic} is not there; declare it first"))
}

pub(crate) fn no_group(topic: &TopicName, group: &GroupName) -> Error {
    Error::new(ErrorKind::NotFound, format!("group {group} of topic {topic} is not there; declare it first"))
}

/// Finds a topic; `None` if it is not there.
pub(crate) async fn find_topic(
    link: &Link,
    registry: &Registry,
    topic: &TopicName,
) -> Result<Option<Arc<TopicKeys>>> {
    if let Some(keys) = registry.cached(topic) {
        return Ok(Some(keys));
    }
    let mut pipeline = Pipeline::with_capacity(2);
    pipeline.cmd("HGET").arg(&TopicKeys::new(topic, 1).meta).arg("partitions");
    pipeline.cmd("EXISTS").arg(topic.as_str());
    let mut replies = link.pipeline(&pipeline).await?.into_iter();
    let declared = checked(replies.next().unwrap_or_default())?;
    let bare = checked(replies.next().unwrap_or_default())?;
    let partitions = match (integer(&declared), integer(&bare)) {
        (Some(partitions), _) => u32::try_from(partitions).map_err(|_| unexpected("HGET"))?,
        (None, Some(1)) => 1,
        _ => return Ok(None),
    };
    Ok(Some(remember(registry, topic, partitions)))
}

fn remember(registry: &Registry, topic: &TopicName, partitions: u32) -> Arc<TopicKeys> {
    registry.with(topic, |known| match &known.keys {
        Some(keys) if keys.partitions == partitions => keys.clone(),
        _ => known.keys.insert(Arc::new(TopicKeys::new(topic, partitions))).clone(),
    })
}

/// Makes sure of a topic; returns whether something was made.
pub(crate) async fn ensure_topic(
    link: &Link,
    registry: &Registry,
    topic: &TopicName,
    spec: &TopicSpec,
    missing: Missing,
) -> Result<bool> {
    let retention = spec.retention.map(|retention| retention.as_millis().to_string()).unwrap_or_default();
    let partitions = spec.partitions.map(|count| count.to_string()).unwrap_or_default();
    let mut cmd = Script::EnsureTopic.call(&[TopicKeys::new(topic, 1).meta]);
    cmd.arg(topic.as_str()).arg(&partitions).arg(&retention).arg(missing.flag());
    let (found, mut rest) = status(link.query(&cmd).await?, "ensure topic")?;
    let count = match found {
        -1 => return Err(no_topic(topic)),
        -2 => {
            let key = rest.next().and_then(text).unwrap_or_default();
            return Err(Error::new(
                ErrorKind::Mismatch,
                format!("the key {key} holds something else than a stream"),
            ));
        }
        count => u32::try_from(count).map_err(|_| unexpected("ensure topic"))?,
    };
    let kept = rest.next().and_then(text).unwrap_or_default();
    let made = rest.next().as_ref().and_then(integer) == Some(1);
    check_topic(topic, spec, count, &kept)?;
    remember(registry, topic, count);
    if missing == Missing::Create {
        // As it is: whoever makes it again must not give it another number of partitions.
        let mut declared = spec.clone();
        declared.partitions = Some(count);
        declared.retention = declared.retention.or_else(|| kept.parse().ok().map(Duration::from_millis));
        registry.with(topic, |known| known.declared = Some(declared));
    }
    Ok(made)
}

fn check_topic(topic: &TopicName, spec: &TopicSpec, partitions: u32, retention: &str) -> Result<()> {
    let mut differ = Vec::new();
    if let Some(wanted) = spec.partitions
        && wanted != partitions
    {
        differ.push(format!("partitions is {partitions}, not {wanted}"));
    }
    if let Some(wanted) = spec.retention
        && wanted.as_millis().to_string() != retention
    {
        let found = if retention.is_empty() { "not set".into() } else { format!("{retention} ms") };
        differ.push(format!("retention is {found}, not {} ms", wanted.as_millis()));
    }
    if differ.is_empty() {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Mismatch,
        format!("topic {topic} was declared with other settings: {}", differ.join("; ")),
    ))
}

/// Makes sure of a group; returns whether something was made.
pub(crate) async fn ensure_group(
    link: &Link,
    registry: &Registry,
    topic: &TopicName,
    group: &GroupName,
    settings: &GroupSettings,
    missing: Missing,
) -> Result<bool> {
    let made = put_group(link, topic, group, settings, missing, settings.start).await?;
    if missing == Missing::Create {
        registry.with(topic, |known| known.groups.insert(group.clone(), settings.clone()));
    }
    Ok(made)
}

async fn put_group(
    link: &Link,
    topic: &TopicName,
    group: &GroupName,
    settings: &GroupSettings,
    missing: Missing,
    start: Start,
) -> Result<bool> {
    let keys = GroupKeys::new(topic, 1, group);
    let json = serde_json::to_string(settings)
        .map_err(|error| Error::new(ErrorKind::Other, "the settings cannot be written").with_source(error))?;
    let past = settings.start != Start::Latest && start == settings.start;
    let mut cmd = Script::EnsureGroup.call(&[&keys.topic.meta, &keys.topic.groups]);
    cmd.arg(topic.as_str()).arg(group.as_str()).arg(json).arg(first_id(start)?);
    cmd.arg(u8::from(past)).arg(missing.flag()).arg(&keys.inbox);
    let (found, mut rest) = status(link.query(&cmd).await?, "ensure group")?;
    match found {
        -1 => return Err(no_topic(topic)),
        -2 => return Err(no_group(topic, group)),
        -3 => {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "a group that starts in the past needs a topic with `retention`; topic {topic} has none"
                ),
            ));
        }
        _ => {}
    }
    let stored = rest.next().and_then(text).unwrap_or_default();
    if !stored.is_empty() {
        read_settings(&stored)?.check_same(settings)?;
    }
    Ok(found == 1)
}

pub(crate) fn read_settings(stored: &str) -> Result<GroupSettings> {
    serde_json::from_str::<Stored>(stored).map(|stored| stored.settings).map_err(|error| {
        Error::new(ErrorKind::Malformed, "the stored settings of the group cannot be read").with_source(error)
    })
}

/// The id behind which a new group begins.
fn first_id(start: Start) -> Result<String> {
    Ok(match start {
        Start::Latest => "$".into(),
        Start::Earliest => "0".into(),
        Start::At(at) => match at.as_millis().checked_sub(1) {
            Some(before) => format!("{before}-{}", u64::MAX),
            None => "0".into(),
        },
        _ => return Err(Error::new(ErrorKind::Unsupported, "this start is not known to this backend")),
    })
}

/// Makes again what this process declared and the server lost; a group then starts with all that is
/// there. Returns `false` if this process declared nothing.
pub(crate) async fn restore(
    link: &Link,
    registry: &Registry,
    events: &Events,
    topic: &TopicName,
) -> Result<bool> {
    let Some((spec, groups)) = registry.declared(topic) else { return Ok(false) };
    registry.forget(topic);
    if ensure_topic(link, registry, topic, &spec, Missing::Create).await? {
        events.emit(Event::Rebuilt { what: format!("topic {topic}") });
    }
    for (group, settings) in groups {
        if put_group(link, topic, &group, &settings, Missing::Create, Start::Earliest).await? {
            events.emit(Event::Rebuilt { what: format!("group {group} of topic {topic}") });
        }
    }
    Ok(true)
}

/// Removes what every group has settled.
pub(crate) async fn trim(link: &Link, keys: &TopicKeys) -> Result<()> {
    let mut pipeline = Pipeline::with_capacity(keys.streams.len());
    for stream in &keys.streams {
        let mut cmd = Script::Trim.call(&[stream, &keys.meta]);
        cmd.arg(GRACE_MS).arg(TRIM);
        pipeline.add_command(cmd);
    }
    for reply in link.pipeline(&pipeline).await? {
        checked(reply)?;
    }
    Ok(())
}

/// Tells of what was removed before a group read it.
pub(crate) async fn tell_trimmed(link: &Link, events: &Events, keys: &GroupKeys) -> Result<()> {
    let streams = &keys.topic.streams;
    let mut pipeline = Pipeline::with_capacity(streams.len());
    for (partition, stream) in streams.iter().enumerate() {
        let mut cmd = Script::Trimmed.call(&[stream, &keys.topic.groups]);
        cmd.arg(keys.group.as_str()).arg(partition);
        pipeline.add_command(cmd);
    }
    for (stream, reply) in streams.iter().zip(link.pipeline(&pipeline).await?) {
        if let Some(count @ 1..) = integer(&checked(reply)?) {
            let group = &keys.group;
            let what = format!("{count} entries of {stream} were removed before group {group} read them");
            events.emit(Event::Lost { what });
        }
    }
    Ok(())
}

/// Deletes a group; returns whether it was there.
pub(crate) async fn delete_group(link: &Link, keys: &GroupKeys) -> Result<bool> {
    let names = [&keys.topic.groups, &keys.members, &keys.lanes, &keys.started, &keys.delayed, &keys.dead];
    let mut cmd = Script::DeleteGroup.call(&names);
    cmd.arg(keys.group.as_str()).arg(keys.topic.partitions).arg(&keys.topic.base).arg(&keys.inbox);
    Ok(integer(&link.query(&cmd).await?) == Some(1))
}

/// Deletes the ephemeral groups of processes that are gone.
pub(crate) async fn sweep(link: &Link, topic: &TopicKeys, patience_ms: u64) -> Result<()> {
    let mut cmd = Script::Leftovers.call(&[&topic.groups]);
    cmd.arg(topic.group_prefix()).arg(patience_ms);
    for name in crate::entry::array(link.query(&cmd).await?).into_iter().filter_map(text) {
        if let Ok(group) = GroupName::new(name) {
            delete_group(link, &GroupKeys::new(&topic.topic, topic.partitions, &group)).await?;
        }
    }
    Ok(())
}

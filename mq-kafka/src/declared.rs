//! What was declared through this client, for when it must be made again.

use std::collections::BTreeMap;
use std::sync::Arc;

use mq_core::driver::Admin as _;
use mq_core::{Event, GroupName, GroupSettings, Policy, Result, TopicName, TopicSpec};
use parking_lot::Mutex;

use crate::admin::KafkaAdmin;
use crate::connection::Inner;

/// Topics and groups as they were declared last.
#[derive(Debug, Default)]
pub(crate) struct Declared {
    topics: Mutex<BTreeMap<TopicName, TopicSpec>>,
    groups: Mutex<BTreeMap<(TopicName, GroupName), (GroupSettings, Policy)>>,
}

impl Declared {
    /// Remembers a topic with the number of partitions it has.
    pub(crate) fn topic(&self, topic: &TopicName, spec: &TopicSpec, partitions: i32) {
        let mut spec = spec.clone();
        spec.partitions = u32::try_from(partitions).ok().or(spec.partitions);
        self.topics.lock().insert(topic.clone(), spec);
    }

    /// Remembers a group.
    pub(crate) fn group(
        &self,
        topic: &TopicName,
        group: &GroupName,
        settings: &GroupSettings,
        policy: Policy,
    ) {
        self.groups.lock().insert((topic.clone(), group.clone()), (settings.clone(), policy));
    }

    /// Returns the settings of a group that may be made again.
    fn group_to_make(&self, topic: &TopicName, group: &GroupName) -> Option<GroupSettings> {
        let known = self.groups.lock().get(&(topic.clone(), group.clone())).cloned();
        known.filter(|(_, policy)| *policy == Policy::Create).map(|(settings, _)| settings)
    }
}

/// Makes a topic and a group on it again as they were declared, if the policy was to create;
/// returns whether both are there now.
pub(crate) async fn restore(inner: &Arc<Inner>, topic: &TopicName, group: &GroupName) -> Result<bool> {
    let name = topic.to_string();
    let missing = inner.ask(move |inner| inner.partitions(&name)).await?.is_none();
    let Some(settings) = inner.declared.group_to_make(topic, group) else { return Ok(!missing) };
    let admin = KafkaAdmin(inner.clone());
    if missing {
        let spec = inner.declared.topics.lock().get(topic).cloned().unwrap_or_default();
        admin.ensure_topic(topic, &spec, Policy::Create).await?;
    }
    admin.ensure_group(topic, group, &settings, Policy::Create).await?;
    if missing {
        inner.context.events.emit(Event::Rebuilt { what: format!("topic {topic}") });
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_to_be_created_is_made_again() {
        let declared = Declared::default();
        let (topic, group) = (TopicName::new("t").unwrap(), GroupName::new("g").unwrap());
        assert_eq!(declared.group_to_make(&topic, &group), None);
        let settings = GroupSettings::default().max_attempts(3);
        declared.group(&topic, &group, &settings, Policy::Verify);
        assert_eq!(declared.group_to_make(&topic, &group), None);
        declared.group(&topic, &group, &settings, Policy::Create);
        assert_eq!(declared.group_to_make(&topic, &group), Some(settings));
        declared.topic(&topic, &TopicSpec::default(), 5);
        assert_eq!(declared.topics.lock()[&topic].partitions, Some(5));
    }
}

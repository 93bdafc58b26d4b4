//! Whether a topic has a group that would get a message.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use mq_core::driver::Outgoing;
use mq_core::{Error, ErrorKind, Result, TopicName};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::admin::{all_topics, groups_of};
use crate::connection::Inner;

/// How long a topic that had a group is taken to have one.
const FRESH: Duration = Duration::from_secs(1);

/// Topics that had a group a moment ago.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    seen: Mutex<HashMap<TopicName, Instant>>,
    /// Who waits for an answer holds it until its messages are queued, so that they stay in order.
    pub(crate) gate: tokio::sync::Mutex<()>,
}

impl Routes {
    fn is_fresh(&self, topic: &TopicName) -> bool {
        self.seen.lock().get(topic).is_some_and(|seen| seen.elapsed() < FRESH)
    }
}

/// Finds out for the topics of the messages that require a group; what is not in it may be sent.
pub(crate) async fn refused(inner: &Arc<Inner>, batch: &[Outgoing]) -> HashMap<TopicName, Error> {
    let required = batch.iter().filter(|outgoing| outgoing.terms.require_group);
    let topics: BTreeSet<&TopicName> = required.map(|outgoing| &outgoing.topic).collect();
    let unknown: Vec<TopicName> =
        topics.into_iter().filter(|topic| !inner.routes.is_fresh(topic)).cloned().collect();
    if unknown.is_empty() {
        return HashMap::new();
    }
    let topics = inner.ask(all_topics).await;
    let mut refused = HashMap::new();
    for topic in unknown {
        match &topics {
            Ok(topics) => match judge(topics, &topic) {
                Ok(()) => drop(inner.routes.seen.lock().insert(topic, Instant::now())),
                Err(error) => drop(refused.insert(topic, error)),
            },
            Err(error) => drop(refused.insert(topic, error.duplicate())),
        }
    }
    refused
}

fn judge(topics: &BTreeMap<String, u32>, topic: &TopicName) -> Result<()> {
    if !topics.contains_key(topic.as_str()) {
        return Err(Error::new(ErrorKind::NotFound, format!("there is no topic {topic}")));
    }
    if groups_of(topics, topic.as_str()).is_empty() {
        return Err(Error::unroutable());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_without_a_group_is_told_from_none() {
        let topics = ["a", "a..g..inbox", "a..g..dead", "b"].map(|name| (name.to_owned(), 1)).into();
        let kind = |name| judge(&topics, &TopicName::new(name).unwrap()).map_err(|error| error.kind());
        assert_eq!(kind("a"), Ok(()));
        assert_eq!(kind("b"), Err(ErrorKind::Unroutable));
        assert_eq!(kind("c"), Err(ErrorKind::NotFound));
    }
}

//! The keys of a topic and its groups. All hash to the slot of `{topic}`.

use mq_core::{GroupName, SEPARATOR, TopicName};

/// What every member name starts with.
pub(crate) const MEMBER: &str = "mq-";

/// The keys of a topic.
#[derive(Clone, Debug)]
pub(crate) struct TopicKeys {
    /// The topic's name.
    pub(crate) topic: TopicName,
    /// How many streams there are.
    pub(crate) partitions: u32,
    /// The stream, or what its numbered streams start with.
    pub(crate) base: String,
    /// The streams, by partition.
    pub(crate) streams: Vec<String>,
    /// HASH: `format`, `partitions`, `retention` in ms.
    pub(crate) meta: String,
    /// HASH: a group's name → its settings as JSON.
    pub(crate) groups: String,
    /// ZSET: due time → delayed message of the topic.
    pub(crate) delayed: String,
}

impl TopicKeys {
    pub(crate) fn new(topic: &TopicName, partitions: u32) -> Self {
        let key = |what: &str| format!("{{{topic}}}{SEPARATOR}{what}");
        let base = if partitions == 1 { topic.to_string() } else { format!("{{{topic}}}") };
        Self {
            topic: topic.clone(),
            partitions,
            streams: (0..partitions).map(|partition| numbered(&base, partitions, partition)).collect(),
            base,
            meta: key("meta"),
            groups: key("groups"),
            delayed: key("delayed"),
        }
    }

    /// What the keys of the topic's groups start with.
    pub(crate) fn group_prefix(&self) -> String {
        format!("{{{}}}{SEPARATOR}", self.topic)
    }
}

/// The keys of a group of a topic.
#[derive(Clone, Debug)]
pub(crate) struct GroupKeys {
    /// The topic's.
    pub(crate) topic: TopicKeys,
    /// The group's name.
    pub(crate) group: GroupName,
    /// The inbox, or what its numbered streams start with.
    pub(crate) inbox: String,
    /// STREAM: dead letters.
    pub(crate) dead: String,
    /// ZSET: due time → delayed message of the group.
    pub(crate) delayed: String,
    /// ZSET: member → end of its session in ms; 0 dead, -1 left.
    pub(crate) members: String,
    /// HASH: lane → its owner, and `generation`.
    pub(crate) lanes: String,
    /// HASH: what was started alone, and what is kept to hold its key.
    pub(crate) started: String,
}

impl GroupKeys {
    pub(crate) fn new(topic: &TopicName, partitions: u32, group: &GroupName) -> Self {
        let key = |what: &str| format!("{{{topic}}}{SEPARATOR}{group}{SEPARATOR}{what}");
        Self {
            topic: TopicKeys::new(topic, partitions),
            group: group.clone(),
            inbox: key("inbox"),
            dead: key("dead"),
            delayed: key("delayed"),
            members: key("members"),
            lanes: key("lanes"),
            started: key("started"),
        }
    }

    pub(crate) fn stream(&self, partition: u32, side: Side) -> String {
        match side {
            Side::Topic => numbered(&self.topic.base, self.topic.partitions, partition),
            Side::Inbox => numbered(&self.inbox, self.topic.partitions, partition),
        }
    }
}

/// Which of a lane's two streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// The topic's.
    Topic,
    /// The group's inbox.
    Inbox,
}

fn numbered(base: &str, partitions: u32, partition: u32) -> String {
    if partitions == 1 { base.to_owned() } else { format!("{base}:{partition}") }
}

/// Returns the topic that a stream belongs to, `None` for a stream of our own.
pub(crate) fn topic_of(stream: &str) -> Option<&str> {
    if stream.contains(SEPARATOR) {
        return None;
    }
    let name = match stream.strip_prefix('{').and_then(|rest| rest.split_once("}:")) {
        Some((topic, number)) if number.bytes().all(|byte| byte.is_ascii_digit()) => topic,
        _ => stream,
    };
    TopicName::new(name).is_ok().then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_partition_has_the_bare_name_and_more_share_a_slot() {
        let topic = TopicName::new("orders").unwrap();
        let group = GroupName::new("billing").unwrap();
        let one = GroupKeys::new(&topic, 1, &group);
        assert_eq!(one.stream(0, Side::Topic), "orders");
        assert_eq!(one.stream(0, Side::Inbox), "{orders}..billing..inbox");
        let many = GroupKeys::new(&topic, 3, &group);
        assert_eq!(many.stream(2, Side::Topic), "{orders}:2");
        assert_eq!(many.stream(2, Side::Inbox), "{orders}..billing..inbox:2");
        assert_eq!(many.dead, "{orders}..billing..dead");
    }

    #[test]
    fn streams_name_their_topics() {
        for (stream, topic) in [
            ("orders", Some("orders")),
            ("{orders}:12", Some("orders")),
            ("{orders}..billing..inbox", None),
            ("a b", None),
            ("{orders}:x", None),
        ] {
            assert_eq!(topic_of(stream), topic, "{stream}");
        }
    }
}

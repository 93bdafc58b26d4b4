//! Names and texts that are derived, written and read back; pure.

use std::time::Duration;

use mq_core::{GroupName, GroupSettings, MessageId, SEPARATOR, TopicName};

/// The queue that delayed messages come out of.
pub(crate) const DUE: &str = "mq.due";
/// An empty queue that is there once the one before may be consumed.
pub(crate) const DUE_OPEN: &str = "mq.due.open";

/// Returns the queue of an unordered group.
pub(crate) fn queue(topic: &TopicName, group: &GroupName) -> String {
    format!("{topic}{SEPARATOR}{group}")
}

/// Returns one of the queues of an ordered group.
pub(crate) fn lane(topic: &TopicName, group: &GroupName, lane: u32) -> String {
    format!("{topic}{SEPARATOR}{group}{SEPARATOR}{lane}")
}

/// Returns the exchange that spreads an ordered group's messages over its queues.
pub(crate) fn hash_exchange(topic: &TopicName, group: &GroupName) -> String {
    format!("{topic}{SEPARATOR}{group}{SEPARATOR}hash")
}

/// Returns one of the queues that hold delayed messages for about so many seconds.
pub(crate) fn delay(seconds: u64, side: usize) -> String {
    format!("mq.delay.{seconds}s.{side}")
}

/// Returns the queue whose arguments keep a topic's settings.
pub(crate) fn topic_marker(topic: &TopicName) -> String {
    format!("mq.settings.{:016x}", hash64(topic.as_str()))
}

/// Returns the queue whose arguments keep a group's settings.
///
/// Hashed, so that the broker's reply text, which is cut at 255 bytes, has room for the settings.
pub(crate) fn group_marker(topic: &TopicName, group: &GroupName) -> String {
    format!("mq.settings.{:016x}", hash64(&queue(topic, group)))
}

/// Returns the queue whose existence says that a message was about to run alone.
pub(crate) fn started(queue: &str, id: &MessageId) -> String {
    let mut hash = Hash128::default();
    hash.update(queue.as_bytes());
    hash.update(&[0]);
    id.with_str(|id| hash.update(id.as_bytes()));
    format!("mq.started.{:032x}", hash.finish())
}

/// Returns the queue that keeps which returns to a queue were orderly.
pub(crate) fn returns(queue: &str) -> String {
    format!("{queue}{SEPARATOR}returns")
}

/// Returns the queue that keeps what messages of a queue that hold their key come with next.
pub(crate) fn kept(queue: &str) -> String {
    format!("{queue}{SEPARATOR}kept")
}

/// Where a delayed message goes when it is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target<'a> {
    /// A queue, through the default exchange.
    Queue(&'a str),
    /// A topic's exchange, with the message's subject.
    Topic(&'a str),
}

impl<'a> Target<'a> {
    /// Reads the text of an `mq-target` header.
    pub(crate) fn parse(text: &'a str) -> Option<Self> {
        match text.split_once(':')? {
            ("queue", name) => Some(Self::Queue(name)),
            ("topic", name) => Some(Self::Topic(name)),
            _ => None,
        }
    }
}

impl std::fmt::Display for Target<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Queue(name) => write!(f, "queue:{name}"),
            Self::Topic(name) => write!(f, "topic:{name}"),
        }
    }
}

/// A group's settings as its marker keeps them; version 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StoredGroup {
    /// The lease.
    pub(crate) lease: Duration,
    /// The most attempts.
    pub(crate) max_attempts: u32,
    /// How many queues an ordered group has; 0 for an unordered one.
    pub(crate) lanes: u32,
    /// Whether a retried message holds its key.
    pub(crate) hold_key: bool,
}

impl StoredGroup {
    /// Takes what is stored of `settings`.
    pub(crate) fn new(settings: &GroupSettings, partitions: u32) -> Self {
        let lanes = if settings.ordered { partitions } else { 0 };
        Self {
            lease: settings.lease,
            max_attempts: settings.max_attempts,
            lanes,
            hold_key: settings.hold_key,
        }
    }

    /// Reads a marker's text.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.strip_prefix("g1:")?.split(':');
        let lease = Duration::from_millis(parts.next()?.parse().ok()?);
        let (max_attempts, lanes) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        let hold_key = match parts.next() {
            None => false,
            Some("hold") => true,
            Some(_) => return None,
        };
        parts.next().is_none().then_some(Self { lease, max_attempts, lanes, hold_key })
    }

    /// Returns the settings a member compares with its own.
    pub(crate) fn settings(&self) -> GroupSettings {
        let settings = GroupSettings::default().lease(self.lease).max_attempts(self.max_attempts);
        if self.lanes > 0 { settings.ordered().hold_key(self.hold_key) } else { settings }
    }
}

impl std::fmt::Display for StoredGroup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "g1:{}:{}:{}", self.lease.as_millis(), self.max_attempts, self.lanes)?;
        if self.hold_key { f.write_str(":hold") } else { Ok(()) }
    }
}

/// Writes a topic's partitions as its marker keeps them.
pub(crate) fn stored_topic(partitions: u32) -> String {
    format!("t1:{partitions}")
}

/// Reads a topic's partitions from its marker.
pub(crate) fn parse_topic(text: &str) -> Option<u32> {
    text.strip_prefix("t1:")?.parse().ok()
}

/// Finds what a queue has in the text of a refused declaration:
/// `… received 'x' but current is 'y'`.
pub(crate) fn current_argument(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once("but current is ")?;
    let (_, rest) = rest.split_once('\'')?;
    rest.split_once('\'').map(|(value, _)| value)
}

/// Returns how much a consumer wants a queue: the highest wins, and each queue ranks the
/// consumers in an order of its own.
pub(crate) fn rendezvous(consumer: u64, queue: &str) -> i32 {
    i32::try_from(mix(hash64(queue) ^ consumer) >> 34).unwrap_or(0)
}

/// Spreads keys over this client's channels.
pub(crate) fn shard(topic: &str, key: &[u8], shards: usize) -> usize {
    let mut hash = Hash64::default();
    hash.update(topic.as_bytes());
    hash.update(key);
    usize::try_from(mix(hash.finish()) >> 33).unwrap_or(0) % shards
}

/// Has every bit decide on every other: the last bytes that FNV takes in reach only some of them, so
/// keys that differ in their last digits would share the others.
fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

fn hash64(text: &str) -> u64 {
    let mut hash = Hash64::default();
    hash.update(text.as_bytes());
    hash.finish()
}

/// FNV-1a over 64 bits.
pub(crate) struct Hash64(u64);

impl Default for Hash64 {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Hash64 {
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    pub(crate) fn finish(&self) -> u64 {
        self.0
    }
}

/// FNV-1a over 128 bits: the same for everyone and for ever.
pub(crate) struct Hash128(u128);

impl Default for Hash128 {
    fn default() -> Self {
        Self(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d)
    }
}

impl Hash128 {
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u128::from(*byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b);
        }
    }

    pub(crate) fn finish(&self) -> u128 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn settings_are_read_from_a_refusal() {
        for (text, value) in [
            (
                "PRECONDITION_FAILED - inequivalent arg 'x-dead-letter-routing-key' for queue 'q' in vhost '/': received '?' but current is 'g1:30000:5:8'",
                Some("g1:30000:5:8"),
            ),
            ("… received none but current is the value 't1:8' of type 'longstr'", Some("t1:8")),
            ("… received '?' but current is 'g1:30", None),
            ("… received '?' but current is none", None),
        ] {
            assert_eq!(current_argument(text), value);
        }
    }

    #[test]
    fn a_refusal_has_room_for_the_settings() {
        let topic = TopicName::new("t".repeat(100)).unwrap();
        let group = GroupName::new("g".repeat(100)).unwrap();
        let longest = StoredGroup {
            lease: Duration::from_secs(24 * 3600),
            max_attempts: u32::MAX,
            lanes: 1024,
            hold_key: true,
        };
        let text = format!(
            "PRECONDITION_FAILED - inequivalent arg 'x-dead-letter-routing-key' for queue '{}' in vhost '{}': received '?' but current is '{longest}'",
            group_marker(&topic, &group),
            "v".repeat(64),
        );
        assert!(text.len() <= 255, "{}", text.len());
    }

    #[test]
    fn targets_read_back() {
        for target in [Target::Queue("a..b..3"), Target::Topic("a.b")] {
            assert_eq!(Target::parse(&target.to_string()), Some(target));
        }
        assert_eq!(Target::parse("a"), None);
    }

    #[test]
    fn every_consumer_gets_queues() {
        let mut wins = [0; 4];
        for lane in 0..400 {
            let queue = format!("t..g..{lane}");
            let best = (0..4).max_by_key(|consumer| rendezvous(*consumer * 7919, &queue)).unwrap();
            wins[usize::try_from(best).unwrap()] += 1;
        }
        assert!(wins.iter().all(|wins| (60..140).contains(wins)), "{wins:?}");
    }

    #[test]
    fn keys_that_differ_in_their_last_digits_spread_over_the_channels() {
        let mut each = [0; 4];
        for number in 0..1000 {
            each[shard("orders", format!("customer-{number:05}").as_bytes(), 4)] += 1;
        }
        assert!(each.iter().all(|keys| (200..300).contains(keys)), "{each:?}");
    }

    proptest! {
        #[test]
        fn stored_settings_read_back(lease in 100u64..86_400_000, max_attempts in 1u32.., lanes in 0u32..1025, hold in any::<bool>()) {
            let stored = StoredGroup { lease: Duration::from_millis(lease), max_attempts, lanes, hold_key: hold && lanes > 0 };
            prop_assert_eq!(StoredGroup::parse(&stored.to_string()), Some(stored));
            prop_assert_eq!(StoredGroup::new(&stored.settings(), lanes), stored);
            prop_assert_eq!(StoredGroup::parse("g1:100:2:8").map(|older| older.hold_key), Some(false));
            prop_assert_eq!(parse_topic(&stored_topic(lanes)), Some(lanes));
        }
    }
}

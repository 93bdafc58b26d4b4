//! Messages as Kafka records, and back.

use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::{Bytes, BytesMut};
use bytestring::ByteString;
use mq_core::envelope::{Decoder, Envelope, NativeFields, encode};
use mq_core::{Message, MessageId, Timestamp, TopicName};
use rdkafka::Message as _;
use rdkafka::message::{BorrowedMessage, Header, Headers as _, OwnedHeaders};

/// A name that is cheap to hand around.
pub(crate) type Name = ByteString;

/// A record on its way out.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) topic: Target,
    pub(crate) partition: Option<i32>,
    pub(crate) key: Option<Bytes>,
    /// `None` is a tombstone.
    pub(crate) payload: Option<Bytes>,
    pub(crate) timestamp: Option<i64>,
    pub(crate) headers: Option<OwnedHeaders>,
}

/// The topic of a record: a user's, or a derived one.
#[derive(Clone, Debug)]
pub(crate) enum Target {
    Topic(TopicName),
    Derived(Name),
}

impl Target {
    pub(crate) fn as_str(&self) -> &str {
        match self {
            Self::Topic(topic) => topic.as_str(),
            Self::Derived(name) => name,
        }
    }
}

/// A first copy: the key and the time of publishing are fields of the record.
const FIRST: NativeFields =
    NativeFields { id: false, key: true, subject: false, content_type: false, published_at: true };
/// A later copy, whose record has a time of its own.
const COPY: NativeFields = NativeFields { published_at: false, ..FIRST };
/// A dead letter, whose record has a key of its own as well.
const DEAD: NativeFields = NativeFields { key: false, ..COPY };

/// Makes the record of a message that is published.
pub(crate) fn first(topic: TopicName, message: &Message) -> Record {
    Record {
        topic: Target::Topic(topic),
        partition: None,
        key: message.key.clone(),
        payload: Some(message.payload.clone()),
        timestamp: message.published_at.map(millis),
        headers: headers(message, &Envelope::default(), FIRST),
    }
}

/// Makes the record of a copy; its time is `now`.
pub(crate) fn copy(
    topic: Name,
    partition: Option<i32>,
    message: &Message,
    envelope: &Envelope,
    now: Timestamp,
) -> Record {
    Record {
        topic: Target::Derived(topic),
        partition,
        key: message.key.clone(),
        payload: Some(message.payload.clone()),
        timestamp: Some(millis(now)),
        headers: headers(message, envelope, COPY),
    }
}

/// Makes the record of a dead letter under a key of its own.
pub(crate) fn dead(
    topic: Name,
    key: String,
    message: &Message,
    envelope: &Envelope,
    now: Timestamp,
) -> Record {
    let headers = headers(message, envelope, DEAD);
    Record { key: Some(key.into()), headers, ..copy_of(topic, message.payload.clone(), now) }
}

/// Makes a record without headers in partition 0, or a tombstone.
pub(crate) fn bare(topic: Name, key: Bytes, payload: Option<Bytes>, now: Timestamp) -> Record {
    Record { key: Some(key), payload, ..copy_of(topic, Bytes::new(), now) }
}

fn copy_of(topic: Name, payload: Bytes, now: Timestamp) -> Record {
    Record {
        topic: Target::Derived(topic),
        partition: Some(0),
        key: None,
        payload: Some(payload),
        timestamp: Some(millis(now)),
        headers: None,
    }
}

/// Milliseconds as Kafka counts them.
pub(crate) fn millis(at: Timestamp) -> i64 {
    i64::try_from(at.as_millis()).unwrap_or(i64::MAX)
}

fn headers(message: &Message, envelope: &Envelope, native: NativeFields) -> Option<OwnedHeaders> {
    let mut headers = Some(OwnedHeaders::new_with_capacity(message.headers.len() + 2));
    let mut put = |key: &str, value: &[u8]| {
        headers = headers.take().map(|headers| headers.insert(Header { key, value: Some(value) }));
    };
    encode(message, envelope, native, &mut put);
    for (name, value) in message.headers.iter() {
        put(name, value);
    }
    headers
}

/// Copies payloads and keys of a burst into blocks, one allocation for many small messages.
#[derive(Debug, Default)]
pub(crate) struct Arena(BytesMut);

/// Small enough that a message held for long pins little.
const BLOCK: usize = 16 << 10;

impl Arena {
    fn copy(&mut self, bytes: &[u8]) -> Bytes {
        if bytes.is_empty() {
            return Bytes::new();
        }
        if bytes.len() > BLOCK / 4 {
            return Bytes::copy_from_slice(bytes);
        }
        if self.0.capacity() < bytes.len() {
            self.0 = BytesMut::with_capacity(BLOCK);
        }
        self.0.extend_from_slice(bytes);
        self.0.split().freeze()
    }
}

/// A record as read, with what the native client alone knows of it.
#[derive(Debug)]
pub(crate) struct Decoded {
    pub(crate) message: Message,
    pub(crate) envelope: Envelope,
}

/// Reads a record of a topic or an inbox.
pub(crate) fn decode(record: &BorrowedMessage<'_>, topic: &str, arena: &mut Arena) -> Decoded {
    let mut decoder = read_headers(record, arena);
    decoder.key = record.key().map(|key| arena.copy(key));
    finish(decoder, record, topic, arena)
}

/// Reads a record of a dead-letter topic, whose key is not the message's.
pub(crate) fn decode_dead(record: &BorrowedMessage<'_>, topic: &str, arena: &mut Arena) -> Decoded {
    finish(read_headers(record, arena), record, topic, arena)
}

fn finish(mut decoder: Decoder, record: &BorrowedMessage<'_>, topic: &str, arena: &mut Arena) -> Decoded {
    if decoder.published_at.is_none() {
        decoder.published_at = timestamp(record);
    }
    let payload = record.payload().map_or_else(Bytes::new, |payload| arena.copy(payload));
    let (message, mut envelope) = decoder.finish(payload, || foreign_id(record, topic));
    envelope.target = None;
    Decoded { message, envelope }
}

fn foreign_id(record: &BorrowedMessage<'_>, topic: &str) -> MessageId {
    format!("{topic}:{}:{}", record.partition(), record.offset()).into()
}

/// When the record was written, as its producer or the broker says.
pub(crate) fn timestamp(record: &BorrowedMessage<'_>) -> Option<Timestamp> {
    let millis = record.timestamp().to_millis()?;
    Some(Timestamp::from_millis(u64::try_from(millis).unwrap_or(0)))
}

fn read_headers(record: &BorrowedMessage<'_>, arena: &mut Arena) -> Decoder {
    let mut decoder = Decoder::default();
    if let Some(headers) = record.headers() {
        // One of them is the id.
        decoder = Decoder::new(headers.count().saturating_sub(1));
        // The client panics at a name that is not UTF-8; what came before it is kept.
        let read = catch_unwind(AssertUnwindSafe(|| {
            for header in headers.iter() {
                decoder.header_with(header.key, header.value.unwrap_or_default(), |part| arena.copy(part));
            }
        }));
        if read.is_err() {
            tracing::warn!(target: "mq", offset = record.offset(), "a header's name is not UTF-8; left out");
        }
    }
    decoder
}

/// Writes where a delayed message goes: a topic, or a topic and a partition.
pub(crate) fn target(topic: &str, partition: Option<i32>) -> Name {
    match partition {
        Some(partition) => format!("{topic}:{partition}").into(),
        None => topic.into(),
    }
}

/// Reads what [`target`] wrote.
pub(crate) fn parse_target(target: &str) -> (&str, Option<i32>) {
    match target.rsplit_once(':') {
        Some((topic, partition)) => (topic, partition.parse().ok()),
        None => (target, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_read_back() {
        for (topic, partition) in [("a.b", None), ("a..g..inbox", Some(7))] {
            assert_eq!(parse_target(&target(topic, partition)), (topic, partition));
        }
    }

    #[test]
    fn small_parts_share_a_block_and_large_ones_do_not() {
        let mut arena = Arena::default();
        let (a, b) = (arena.copy(b"abc"), arena.copy(b"de"));
        assert_eq!((a.as_ref(), b.as_ref()), (&b"abc"[..], &b"de"[..]));
        assert_eq!(a.as_ptr() as usize + 3, b.as_ptr() as usize);
        assert_eq!(arena.copy(&[7; BLOCK]).len(), BLOCK);
        assert!((0..10_000u32).all(|n| arena.copy(&n.to_be_bytes()) == n.to_be_bytes()[..]));
    }

    #[test]
    fn copies_carry_what_the_record_cannot() {
        let mut message = Message::with_id("body", "id").key("k");
        message.published_at = Some(Timestamp::from_millis(5));
        let names = |record: &Record| -> Vec<String> {
            record.headers.iter().flat_map(|all| all.iter().map(|header| header.key.to_owned())).collect()
        };
        let now = Timestamp::from_millis(9);
        let envelope = Envelope::default();
        let topic = TopicName::new("t").unwrap();
        let published = first(topic, &message);
        assert_eq!((names(&published), published.timestamp), (vec!["mq-id".to_owned()], Some(5)));
        let copied = copy("i".into(), Some(2), &message, &envelope, now);
        assert_eq!(
            (names(&copied), copied.timestamp),
            (vec!["mq-id".into(), "mq-published-at".into()], Some(9))
        );
        let dead = dead("d".into(), "t:2:7".into(), &message, &envelope, now);
        assert_eq!(names(&dead), ["mq-id", "mq-key", "mq-published-at"]);
        assert_eq!(dead.key.as_deref(), Some(&b"t:2:7"[..]));
    }
}

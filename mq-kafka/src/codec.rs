//! Messages as Kafka records, and back.

use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::{Bytes, BytesMut};
use bytestring::ByteString;
use mq_core::envelope::{Envelope, InPlace, NativeFields, encode};
use mq_core::{Headers, Message, MessageId, Timestamp, TopicName};
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

/// Copies the parts of messages into blocks, one allocation for many small messages.
#[derive(Debug, Default)]
pub(crate) struct Arena(BytesMut);

/// Small enough that a message held for long pins little.
const BLOCK: usize = 16 << 10;
/// Room for the headers of a small message.
const HEADERS: usize = 256;

impl Arena {
    /// Makes room for a message's parts; more are taken than said.
    fn begin(&mut self, len: usize) {
        if self.0.capacity() < len {
            self.0 = BytesMut::with_capacity(if len > BLOCK / 4 { len } else { BLOCK });
        }
    }

    fn put(&mut self, part: &[u8]) {
        self.0.extend_from_slice(part);
    }

    /// Returns all that was put since the last time.
    fn end(&mut self) -> Bytes {
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
    let mut decoded = Decoded { message: InPlace::blank(), envelope: Envelope::default() };
    decode_into(record, topic, arena, &mut decoded.message, &mut decoded.envelope);
    decoded
}

/// Reads a record of a topic or an inbox into a message that is blank or [cleared](InPlace::clear).
pub(crate) fn decode_into(
    record: &BorrowedMessage<'_>,
    topic: &str,
    arena: &mut Arena,
    message: &mut Message,
    envelope: &mut Envelope,
) {
    let key = record.key();
    let len = read(record, key.unwrap_or_default(), topic, arena, InPlace::new(message, envelope));
    let rest = parts(arena.end(), len, message);
    message.key = key.map(|_| rest);
    envelope.target = None;
}

/// Reads a record of a dead-letter topic, whose key is not the message's.
pub(crate) fn decode_dead(record: &BorrowedMessage<'_>, topic: &str, arena: &mut Arena) -> Decoded {
    let mut decoded = Decoded { message: InPlace::blank(), envelope: Envelope::default() };
    let Decoded { message, envelope } = &mut decoded;
    let len = read(record, &[], topic, arena, InPlace::new(message, envelope));
    parts(arena.end(), len, message);
    envelope.target = None;
    decoded
}

/// The parts of a message in a block: key, payload, headers.
#[derive(Clone, Copy, Debug)]
struct Parts {
    key: usize,
    payload: usize,
    headers: u32,
}

/// Shares a block out among the parts of a message; returns the key.
fn parts(mut block: Bytes, parts: Parts, message: &mut Message) -> Bytes {
    message.headers = match parts.headers {
        0 => Headers::default(),
        headers => Headers::packed(block.split_off(parts.key + parts.payload), headers),
    };
    if parts.key == 0 {
        message.payload = block;
        return Bytes::new();
    }
    message.payload = block.split_off(parts.key);
    block
}

/// Puts the parts of a message into the arena, and reads the headers of ours.
fn read(
    record: &BorrowedMessage<'_>,
    key: &[u8],
    topic: &str,
    arena: &mut Arena,
    mut place: InPlace<'_>,
) -> Parts {
    let payload = record.payload().unwrap_or_default();
    arena.begin(key.len() + payload.len() + HEADERS);
    arena.put(key);
    arena.put(payload);
    let headers = read_headers(record, arena, &mut place);
    if place.message.published_at.is_none() {
        place.message.published_at = timestamp(record);
    }
    place.finish(|| foreign_id(record, topic));
    Parts { key: key.len(), payload: payload.len(), headers }
}

fn foreign_id(record: &BorrowedMessage<'_>, topic: &str) -> MessageId {
    format!("{topic}:{}:{}", record.partition(), record.offset()).into()
}

/// When the record was written, as its producer or the broker says.
pub(crate) fn timestamp(record: &BorrowedMessage<'_>) -> Option<Timestamp> {
    let millis = record.timestamp().to_millis()?;
    Some(Timestamp::from_millis(u64::try_from(millis).unwrap_or(0)))
}

/// Returns how many headers are the message's own.
fn read_headers(record: &BorrowedMessage<'_>, arena: &mut Arena, place: &mut InPlace<'_>) -> u32 {
    let Some(headers) = record.headers() else { return 0 };
    let mut kept = 0;
    // The client panics at a name that is not UTF-8; what came before it is kept.
    let read = catch_unwind(AssertUnwindSafe(|| {
        for index in 0..headers.count() {
            let Some(Header { key, value }) = headers.try_get(index) else { break };
            let value = value.unwrap_or_default();
            if !place.takes(key, value) {
                Headers::pack(key, value, |part| arena.put(part));
                kept += 1;
            }
        }
    }));
    if read.is_err() {
        tracing::warn!(target: "mq", offset = record.offset(), "a header's name is not UTF-8; left out");
    }
    kept
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
    fn the_parts_of_small_messages_share_a_block() {
        let mut arena = Arena::default();
        let mut put = |key: &[u8], payload: &[u8]| {
            arena.begin(key.len() + payload.len());
            arena.put(key);
            arena.put(payload);
            Headers::pack("name", b"value", |part| arena.put(part));
            let mut message = InPlace::blank();
            let len = Parts { key: key.len(), payload: payload.len(), headers: 1 };
            message.key = Some(parts(arena.end(), len, &mut message));
            message
        };
        let (a, b) = (put(b"abc", b"de"), put(b"", b"f"));
        assert_eq!((a.key.as_deref(), a.payload.as_ref()), (Some(&b"abc"[..]), &b"de"[..]));
        assert_eq!((b.key.as_deref(), b.payload.as_ref()), (Some(&b""[..]), &b"f"[..]));
        assert_eq!((a.headers.get_str("name"), b.headers.get_str("name")), (Some("value"), Some("value")));
        assert_eq!(a.payload.as_ptr() as usize + 2 + 17, b.payload.as_ptr() as usize);
        assert_eq!(put(&[1; 9], &[7; BLOCK]).size(), 9 + BLOCK + 9);
        for n in 0..10_000u32 {
            assert_eq!(put(&n.to_be_bytes(), &[]).key.as_deref(), Some(&n.to_be_bytes()[..]));
        }
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

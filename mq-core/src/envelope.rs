//! What this library adds to a message on the wire: a few headers, version 1.
//!
//! The payload is the native body and the user's headers are native headers. The names below are
//! the only ones of our own; all start with `mq-`, numbers are decimal text, times are
//! milliseconds since the Unix epoch. A header is written only when it says something. An
//! incompatible later format would use the prefix `mq2-`.

mod read;

use bytestring::ByteString;

use crate::clock::Timestamp;
use crate::message::Message;
pub use read::{Decoder, InPlace};

/// The prefix reserved for this library's headers.
pub const PREFIX: &str = "mq-";
/// The message's id.
pub const ID: &str = "mq-id";
/// The key, where the broker has no field for it.
pub const KEY: &str = "mq-key";
/// The subject, where the broker has no field for it.
pub const SUBJECT: &str = "mq-subject";
/// When the message was first sent.
pub const PUBLISHED_AT: &str = "mq-published-at";
/// Not to be delivered before this moment.
pub const DELIVER_AT: &str = "mq-deliver-at";
/// The attempt that the next delivery is; absent for the first.
pub const ATTEMPT: &str = "mq-attempt";
/// When the group first received the message.
pub const FIRST_SEEN: &str = "mq-first-seen";
/// What the last failed attempt said.
pub const ERROR: &str = "mq-error";
/// Where a delayed message goes when it is due, in the backend's own notation.
pub const TARGET: &str = "mq-target";
/// Why the message is dead.
pub const DEAD_REASON: &str = "mq-dead-reason";
/// When it was dead-lettered.
pub const DEAD_AT: &str = "mq-dead-at";
/// The media type of the payload, where the broker has no field for it.
pub const CONTENT_TYPE: &str = "content-type";

/// A message's history in one group; travels with relocated copies only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// The attempt that the next delivery is, from 1; in a dead letter, the attempts made.
    pub attempt: u32,
    /// When the group first received the message.
    pub first_seen: Option<Timestamp>,
    /// What the last failed attempt said.
    pub error: Option<ByteString>,
    /// Where a delayed message goes when it is due.
    pub target: Option<ByteString>,
    /// Why and when the message was dead-lettered.
    pub death: Option<Death>,
}

/// Why and when a message was dead-lettered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Death {
    /// The reason.
    pub reason: ByteString,
    /// The moment.
    pub at: Timestamp,
}

impl Default for Envelope {
    fn default() -> Self {
        Self { attempt: 1, first_seen: None, error: None, target: None, death: None }
    }
}

/// Which of a message's parts a broker carries in fields of its own.
#[derive(Clone, Copy, Debug, Default)]
pub struct NativeFields {
    /// The id.
    pub id: bool,
    /// The key.
    pub key: bool,
    /// The subject.
    pub subject: bool,
    /// The media type.
    pub content_type: bool,
    /// The time of publishing, to the millisecond.
    pub published_at: bool,
}

/// Calls `put` with each header of our own that `message` and `envelope` need, in a fixed order;
/// the user's headers are not among them.
pub fn encode(
    message: &Message,
    envelope: &Envelope,
    native: NativeFields,
    mut put: impl FnMut(&'static str, &[u8]),
) {
    let mut digits = Digits::default();
    if !native.id {
        message.id.with_str(|id| put(ID, id.as_bytes()));
    }
    if let (false, Some(key)) = (native.key, &message.key) {
        put(KEY, key);
    }
    if let (false, Some(subject)) = (native.subject, &message.subject) {
        put(SUBJECT, subject.as_bytes());
    }
    if let (false, Some(kind)) = (native.content_type, &message.content_type) {
        put(CONTENT_TYPE, kind.as_bytes());
    }
    if let (false, Some(at)) = (native.published_at, message.published_at) {
        put(PUBLISHED_AT, digits.of(at.as_millis()));
    }
    if let Some(at) = message.deliver_at {
        put(DELIVER_AT, digits.of(at.as_millis()));
    }
    if envelope.attempt > 1 {
        put(ATTEMPT, digits.of(envelope.attempt.into()));
    }
    if let Some(at) = envelope.first_seen {
        put(FIRST_SEEN, digits.of(at.as_millis()));
    }
    if let Some(error) = &envelope.error {
        put(ERROR, error.as_bytes());
    }
    if let Some(target) = &envelope.target {
        put(TARGET, target.as_bytes());
    }
    if let Some(death) = &envelope.death {
        put(DEAD_REASON, death.reason.as_bytes());
        put(DEAD_AT, digits.of(death.at.as_millis()));
    }
}

/// Decimal digits on the stack.
#[derive(Default)]
struct Digits([u8; 20]);

impl Digits {
    fn of(&mut self, mut number: u64) -> &[u8] {
        let mut start = self.0.len();
        loop {
            start -= 1;
            self.0[start] = b'0' + (number % 10) as u8;
            number /= 10;
            if number == 0 {
                return &self.0[start..];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::message::JSON;
    use bytes::Bytes;

    fn round_trip(message: &Message, envelope: &Envelope) -> (Message, Envelope) {
        let mut decoder = Decoder::new(4);
        encode(message, envelope, NativeFields::default(), |name, value| decoder.header(name, value));
        for (name, value) in message.headers.iter() {
            decoder.header(name, value);
        }
        decoder.finish(message.payload.clone(), || unreachable!("the id is a header"))
    }

    proptest! {
        #[test]
        fn every_field_survives(
            id in ".{0,40}", key in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..20)),
            subject in proptest::option::of("[a-z.]{0,20}"), at in proptest::option::of(any::<u64>()),
            attempt in 1u32.., error in proptest::option::of(".{0,20}"), dead in proptest::option::of((".{0,9}", any::<u64>())),
            headers in proptest::collection::vec(("[a-z-]{0,8}", proptest::collection::vec(any::<u8>(), 0..9)), 0..4),
        ) {
            let mut message = Message::with_id("body", id);
            message.key = key.map(Bytes::from);
            message.subject = subject.map(Into::into);
            message.deliver_at = at.map(Timestamp::from_millis);
            message.published_at = at.map(Timestamp::from_millis);
            message.headers = headers.into_iter().filter(|(name, _)| !name.starts_with(PREFIX) && name != CONTENT_TYPE).collect();
            let envelope = Envelope {
                attempt,
                first_seen: at.map(Timestamp::from_millis),
                error: error.map(Into::into),
                target: None,
                death: dead.map(|(reason, at)| Death { reason: reason.into(), at: Timestamp::from_millis(at) }),
            };
            prop_assert_eq!(round_trip(&message, &envelope), (message, envelope));
        }
    }

    #[test]
    fn reading_in_place_finds_the_same() {
        let mut message =
            Message::with_id("body", "id").key("k").subject("a.b").content_type(JSON).header("x", "y");
        message.published_at = Some(Timestamp::from_millis(5));
        let death = Some(Death { reason: "poison".into(), at: Timestamp::from_millis(7) });
        let envelope = Envelope { attempt: 3, death, ..Envelope::default() };
        let mut read = (InPlace::blank(), Envelope::default());
        let mut place = InPlace::new(&mut read.0, &mut read.1);
        encode(&message, &envelope, NativeFields::default(), |name, value| assert!(place.takes(name, value)));
        assert!(!place.takes("x", b"y") && !place.takes(ATTEMPT, b"0"));
        place.message.payload = "body".into();
        place.message.headers.push("x", "y");
        place.finish(|| unreachable!("the id is a header"));
        assert_eq!(read, (message, envelope));
    }

    #[test]
    fn unreadable_headers_of_ours_are_kept_as_headers() {
        let mut decoder = Decoder::default();
        decoder.header(ATTEMPT, b"0");
        decoder.header(PUBLISHED_AT, b"yesterday");
        decoder.header("mq-unknown", b"x");
        let (message, envelope) = decoder.finish(Bytes::new(), || "foreign".into());
        assert_eq!(message.headers.len(), 3);
        assert_eq!((envelope.attempt, message.id.to_string().as_str()), (1, "foreign"));
    }
}

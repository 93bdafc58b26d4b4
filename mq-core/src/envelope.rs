//! What this library adds to a message on the wire: a few headers, version 1.
//!
//! The payload is the native body and the user's headers are native headers. The names below are
//! the only ones of our own; all start with `mq-`, numbers are decimal text, times are
//! milliseconds since the Unix epoch. A header is written only when it says something. An
//! incompatible later format would use the prefix `mq2-`.

use bytes::Bytes;
use bytestring::ByteString;
use uuid::Uuid;

use crate::clock::Timestamp;
use crate::headers::Headers;
use crate::message::{JSON, Message, MessageId};

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

/// Builds a message from native headers.
///
/// Feed every native header to [`header`](Self::header), set what the broker carries in fields of
/// its own, then call [`finish`](Self::finish). A header of ours with a value that cannot be read is
/// kept as a header of the message, so a foreign producer's bytes are never lost.
#[derive(Debug, Default)]
pub struct Decoder {
    /// The id, if known.
    pub id: Option<MessageId>,
    /// The key, if known.
    pub key: Option<Bytes>,
    /// The subject, if known.
    pub subject: Option<ByteString>,
    /// The media type, if known.
    pub content_type: Option<ByteString>,
    /// When it was sent, if known.
    pub published_at: Option<Timestamp>,
    deliver_at: Option<Timestamp>,
    headers: Headers,
    envelope: Envelope,
    death: Dying,
}

impl Decoder {
    /// Makes a decoder with room for `headers`.
    #[must_use]
    pub fn new(headers: usize) -> Self {
        Self { headers: Headers::with_capacity(headers), ..Self::default() }
    }

    /// Takes a native header whose bytes are borrowed; they are copied only where they are kept.
    pub fn header(&mut self, name: &str, value: &[u8]) {
        self.header_with(name, value, Bytes::copy_from_slice);
    }

    /// Takes a native header whose bytes are borrowed; `keep` copies what is kept.
    pub fn header_with(&mut self, name: &str, value: &[u8], mut keep: impl FnMut(&[u8]) -> Bytes) {
        if !self.takes(name, value) {
            let kept = ByteString::try_from(keep(name.as_bytes()));
            self.headers.push(kept.unwrap_or_else(|_| name.into()), keep(value));
        }
    }

    /// Takes a native header that is owned already.
    pub fn owned_header(&mut self, name: ByteString, value: Bytes) {
        if !self.takes(&name, &value) {
            self.headers.push(name, value);
        }
    }

    fn takes(&mut self, name: &str, value: &[u8]) -> bool {
        is_own(name)
            && Slots {
                id: &mut self.id,
                key: &mut self.key,
                subject: &mut self.subject,
                content_type: &mut self.content_type,
                published_at: &mut self.published_at,
                deliver_at: &mut self.deliver_at,
                envelope: &mut self.envelope,
                death: &mut self.death,
            }
            .take(name, value)
    }

    /// Returns the message and its history. `foreign_id` names a message whose producer gave no id;
    /// it must be the same at every delivery of that message.
    pub fn finish(self, payload: Bytes, foreign_id: impl FnOnce() -> MessageId) -> (Message, Envelope) {
        let mut envelope = self.envelope;
        envelope.death = self.death.end();
        let mut message = Message::with_id(payload, self.id.unwrap_or_else(foreign_id));
        message.key = self.key;
        message.subject = self.subject;
        message.content_type = self.content_type;
        message.published_at = self.published_at;
        message.deliver_at = self.deliver_at;
        message.headers = self.headers;
        (message, envelope)
    }
}

/// Reads native headers straight into a message and its history, which nothing then moves.
///
/// Feed every native header to [`takes`](Self::takes) and keep those that it leaves, set what the
/// broker carries in fields of its own, then call [`finish`](Self::finish).
#[derive(Debug)]
pub struct InPlace<'a> {
    /// The message, empty so far.
    pub message: &'a mut Message,
    envelope: &'a mut Envelope,
    id: Option<MessageId>,
    death: Dying,
}

impl<'a> InPlace<'a> {
    /// Returns a message to read into.
    #[must_use]
    pub fn blank() -> Message {
        Message::with_id(Bytes::new(), Uuid::nil())
    }

    /// Makes a message and its history blank again, but for payload, key, headers and id, which reading
    /// replaces: each is then dropped once, and nothing is moved.
    pub fn clear(message: &mut Message, envelope: &mut Envelope) {
        message.subject = None;
        message.content_type = None;
        message.published_at = None;
        message.deliver_at = None;
        envelope.attempt = 1;
        envelope.first_seen = None;
        envelope.error = None;
        envelope.target = None;
    }

    /// Begins with a [`blank`](Self::blank) message and the history of a first attempt.
    pub fn new(message: &'a mut Message, envelope: &'a mut Envelope) -> Self {
        Self { message, envelope, id: None, death: Dying::default() }
    }

    /// Returns whether a header was one of ours and is read; if not, it is a header of the message.
    pub fn takes(&mut self, name: &str, value: &[u8]) -> bool {
        is_own(name)
            && Slots {
                id: &mut self.id,
                key: &mut self.message.key,
                subject: &mut self.message.subject,
                content_type: &mut self.message.content_type,
                published_at: &mut self.message.published_at,
                deliver_at: &mut self.message.deliver_at,
                envelope: self.envelope,
                death: &mut self.death,
            }
            .take(name, value)
    }

    /// Ends the reading. `foreign_id` is as for [`Decoder::finish`].
    pub fn finish(self, foreign_id: impl FnOnce() -> MessageId) {
        self.message.id = self.id.unwrap_or_else(foreign_id);
        self.envelope.death = self.death.end();
    }
}

/// The two headers of a death, until both are known.
#[derive(Debug, Default)]
struct Dying {
    reason: Option<ByteString>,
    at: Option<Timestamp>,
}

impl Dying {
    fn end(self) -> Option<Death> {
        self.reason.map(|reason| Death { reason, at: self.at.unwrap_or_default() })
    }
}

/// Where the headers of ours go.
struct Slots<'a> {
    id: &'a mut Option<MessageId>,
    key: &'a mut Option<Bytes>,
    subject: &'a mut Option<ByteString>,
    content_type: &'a mut Option<ByteString>,
    published_at: &'a mut Option<Timestamp>,
    deliver_at: &'a mut Option<Timestamp>,
    envelope: &'a mut Envelope,
    death: &'a mut Dying,
}

impl Slots<'_> {
    /// Returns whether the header was one of ours and could be read.
    fn take(self, name: &str, value: &[u8]) -> bool {
        match name {
            ID => store(self.id, text(value).map(MessageId::from)),
            KEY => store(self.key, Some(Bytes::copy_from_slice(value))),
            SUBJECT => store(self.subject, text(value).map(Into::into)),
            CONTENT_TYPE => self.content_type.is_none() && store(self.content_type, media_type(value)),
            PUBLISHED_AT => store(self.published_at, time(value)),
            DELIVER_AT => store(self.deliver_at, time(value)),
            FIRST_SEEN => store(&mut self.envelope.first_seen, time(value)),
            ERROR => store(&mut self.envelope.error, text(value).map(Into::into)),
            TARGET => store(&mut self.envelope.target, text(value).map(Into::into)),
            DEAD_REASON => store(&mut self.death.reason, text(value).map(Into::into)),
            DEAD_AT => store(&mut self.death.at, time(value)),
            ATTEMPT => match number(value).and_then(|attempt| u32::try_from(attempt).ok()) {
                Some(attempt @ 1..) => {
                    self.envelope.attempt = attempt;
                    true
                }
                _ => false,
            },
            _ => false,
        }
    }
}

fn is_own(name: &str) -> bool {
    name.starts_with(PREFIX) || name == CONTENT_TYPE
}

/// The commonest one is not copied.
fn media_type(value: &[u8]) -> Option<ByteString> {
    match value == JSON.as_bytes() {
        true => Some(ByteString::from_static(JSON)),
        false => text(value).map(Into::into),
    }
}

fn store<T>(slot: &mut Option<T>, value: Option<T>) -> bool {
    let read = value.is_some();
    if read {
        *slot = value;
    }
    read
}

fn text(value: &[u8]) -> Option<&str> {
    std::str::from_utf8(value).ok()
}

fn number(value: &[u8]) -> Option<u64> {
    text(value)?.parse().ok()
}

fn time(value: &[u8]) -> Option<Timestamp> {
    number(value).map(Timestamp::from_millis)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

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

//! Reading native headers into a message and its history.

use bytes::Bytes;
use bytestring::ByteString;
use uuid::Uuid;

use super::{
    ATTEMPT, CONTENT_TYPE, DEAD_AT, DEAD_REASON, DELIVER_AT, Death, ERROR, Envelope, FIRST_SEEN, ID, KEY,
    PREFIX, PUBLISHED_AT, SUBJECT, TARGET,
};
use crate::clock::Timestamp;
use crate::headers::Headers;
use crate::message::{JSON, Message, MessageId};

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

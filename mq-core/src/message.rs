//! Messages, headers and ids.

use std::fmt;

use bytes::Bytes;
use bytestring::ByteString;
use serde::Serialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::headers::Headers;

/// Names a message: a UUIDv7 unless its producer gave another id.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MessageId(Id);

#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Id {
    Uuid(Uuid),
    Text(ByteString),
}

impl MessageId {
    /// Makes a new, time-ordered id (UUIDv7).
    #[must_use]
    pub fn generate() -> Self {
        Self(Id::Uuid(Uuid::now_v7()))
    }

    /// Returns the id if it is a UUID.
    #[must_use]
    pub fn as_uuid(&self) -> Option<Uuid> {
        match self.0 {
            Id::Uuid(uuid) => Some(uuid),
            Id::Text(_) => None,
        }
    }

    /// Calls `read` with the id's text, without allocating.
    pub fn with_str<R>(&self, read: impl FnOnce(&str) -> R) -> R {
        match &self.0 {
            Id::Uuid(uuid) => read(uuid.hyphenated().encode_lower(&mut Uuid::encode_buffer())),
            Id::Text(text) => read(text),
        }
    }
}

impl From<Uuid> for MessageId {
    fn from(uuid: Uuid) -> Self {
        Self(Id::Uuid(uuid))
    }
}

impl From<&str> for MessageId {
    fn from(text: &str) -> Self {
        match canonical_uuid(text) {
            Some(uuid) => Self(Id::Uuid(uuid)),
            None => Self(Id::Text(text.into())),
        }
    }
}

impl From<String> for MessageId {
    fn from(text: String) -> Self {
        match canonical_uuid(&text) {
            Some(uuid) => Self(Id::Uuid(uuid)),
            None => Self(Id::Text(text.into())),
        }
    }
}

/// Only the lower-case hyphenated form, so that an id reads back exactly as it was given.
fn canonical_uuid(text: &str) -> Option<Uuid> {
    // All bytes are looked at: a loop that ends early is not vectorised.
    if text.len() != 36 || text.bytes().fold(false, |found, byte| found | byte.is_ascii_uppercase()) {
        return None;
    }
    Uuid::try_parse(text).ok()
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.with_str(|text| f.write_str(text))
    }
}

impl fmt::Debug for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.with_str(|text| f.write_str(text))
    }
}

/// A message: a payload and what a broker and a consumer need to know of it.
///
/// Setters are bare nouns and return the message:
///
/// ```
/// use mq_core::Message;
/// let message = Message::new("hello").key("customer-1").header("source", "web");
/// assert_eq!(message.payload.as_ref(), b"hello");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Message {
    /// The body, as it is on the wire.
    pub payload: Bytes,
    /// What orders and partitions: messages of one key keep their order on an ordered topic.
    pub key: Option<Bytes>,
    /// What routes: words separated by dots.
    pub subject: Option<ByteString>,
    /// The user's headers.
    pub headers: Headers,
    /// The id; given when the message is made, kept through retries and dead letters.
    pub id: MessageId,
    /// The media type of the payload.
    pub content_type: Option<ByteString>,
    /// When the message was first sent; `None` before the send, or where a foreign producer said nothing.
    pub published_at: Option<Timestamp>,
    /// Not delivered before this moment.
    pub deliver_at: Option<Timestamp>,
}

/// The media type of [`Message::json`].
pub const JSON: &str = "application/json";

impl Message {
    /// Makes a message with a fresh id.
    #[must_use]
    pub fn new(payload: impl Into<Bytes>) -> Self {
        Self::with_id(payload, MessageId::generate())
    }

    /// Makes a message with a given id.
    #[must_use]
    pub fn with_id(payload: impl Into<Bytes>, id: impl Into<MessageId>) -> Self {
        Self {
            payload: payload.into(),
            key: None,
            subject: None,
            headers: Headers::default(),
            id: id.into(),
            content_type: None,
            published_at: None,
            deliver_at: None,
        }
    }

    /// Makes a message whose payload is `value` as JSON.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] if the value cannot be written as JSON.
    pub fn json(value: &impl Serialize) -> Result<Self> {
        let payload = serde_json::to_vec(value).map_err(|error| {
            Error::new(ErrorKind::InvalidInput, "the value cannot be written as JSON").with_source(error)
        })?;
        Ok(Self::new(payload).content_type(JSON))
    }

    /// Reads the payload as JSON.
    ///
    /// # Errors
    /// [`ErrorKind::Malformed`] names the place where the payload stops being what was asked for.
    pub fn parse_json<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_slice(&self.payload).map_err(|error| {
            Error::new(
                ErrorKind::Malformed,
                format!("the payload of message {} is not the JSON expected", self.id),
            )
            .with_source(error)
        })
    }

    /// Sets the id.
    #[must_use]
    pub fn id(mut self, id: impl Into<MessageId>) -> Self {
        self.id = id.into();
        self
    }

    /// Sets the key.
    #[must_use]
    pub fn key(mut self, key: impl AsRef<[u8]>) -> Self {
        self.key = Some(Bytes::copy_from_slice(key.as_ref()));
        self
    }

    /// Sets the subject.
    #[must_use]
    pub fn subject(mut self, subject: impl Into<ByteString>) -> Self {
        self.subject = Some(subject.into());
        self
    }

    /// Adds a header; names that start with `mq-` are this library's own and are refused by `send`.
    #[must_use]
    pub fn header(mut self, name: impl Into<ByteString>, value: impl Into<Bytes>) -> Self {
        self.headers.push(name, value);
        self
    }

    /// Sets the media type.
    #[must_use]
    pub fn content_type(mut self, content_type: impl Into<ByteString>) -> Self {
        self.content_type = Some(content_type.into());
        self
    }

    /// Holds the message back until `at`, by the broker's clock. A time that is past when the message
    /// is sent is not sent with it: it is due at once.
    #[must_use]
    pub fn deliver_at(mut self, at: impl Into<Timestamp>) -> Self {
        self.deliver_at = Some(at.into());
        self
    }

    /// Returns the size that counts against limits: payload, key, subject and headers, in bytes.
    #[must_use]
    pub fn size(&self) -> usize {
        self.payload.len()
            + self.headers.size()
            + self.key.as_ref().map_or(0, Bytes::len)
            + self.subject.as_ref().map_or(0, |subject| subject.len())
            + self.content_type.as_ref().map_or(0, |kind| kind.len())
    }
}

/// Where a broker stored a message; its text is the broker's own notation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// Partition, shard or stream number.
    pub partition: u32,
    /// Offset, or the first part of an id.
    pub offset: u64,
    /// The second part of an id, where there is one.
    pub sub: Option<u64>,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.partition, self.offset)?;
        self.sub.map_or(Ok(()), |sub| write!(f, "-{sub}"))
    }
}

/// Says that a message is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Receipt {
    /// The message's id.
    pub id: MessageId,
    /// Where it is, if the broker says; `None` for a delayed message.
    pub position: Option<Position>,
}

impl Receipt {
    /// Makes a receipt.
    #[must_use]
    pub const fn new(id: MessageId, position: Option<Position>) -> Self {
        Self { id, position }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_read_back_as_given() {
        for text in
            ["order-17", "0190B0A2-0000-7000-8000-000000000000", "0190b0a2-0000-7000-8000-000000000000", ""]
        {
            assert_eq!(MessageId::from(text).to_string(), text);
        }
        assert!(MessageId::generate() < MessageId::generate());
    }
}

//! The message line: a message as one JSON object, in and out.
//!
//! `{"id":…,"topic":…,"key":…,"subject":…,"headers":[["k","v"],…],"content_type":…,"body":…}`. `body` is a
//! JSON value when the content type is JSON, a string when the payload is UTF-8; else there is
//! `body_base64`. Bytes of a key or header that are not UTF-8 are `{"base64":…}`.

mod input;

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mq::{Bytes, DeadLetter, Delivery, Message, Position};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;

use crate::values::{now, rfc3339};

pub(crate) use input::{Draft, id_of, parse};

/// A message, as every line shows it.
#[derive(Debug, Serialize)]
pub(crate) struct MessageLine<'a> {
    id: String,
    topic: &'a str,
    key: Option<Text<'a>>,
    subject: Option<&'a str>,
    headers: Vec<(&'a str, Text<'a>)>,
    content_type: Option<&'a str>,
    #[serde(flatten)]
    body: Body<'a>,
    published_at: Option<String>,
}

impl<'a> MessageLine<'a> {
    pub(crate) fn new(topic: &'a str, message: &'a Message) -> Self {
        Self {
            id: message.id.to_string(),
            topic,
            key: message.key.as_deref().map(Text::new),
            subject: message.subject.as_deref(),
            headers: message.headers.iter().map(|(name, value)| (&**name, Text::new(value))).collect(),
            content_type: message.content_type.as_deref(),
            body: Body::new(&message.payload, message.content_type.as_deref()),
            published_at: message.published_at.map(rfc3339),
        }
    }
}

/// A delivery as it was received; what became of it is added when it is shown.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    pub(crate) message: Message,
    pub(crate) attempt: u32,
    redelivered: bool,
    pub(crate) position: Option<Position>,
    received_at: String,
}

impl From<&Delivery> for Received {
    fn from(delivery: &Delivery) -> Self {
        Self {
            message: delivery.message().clone(),
            attempt: delivery.attempt(),
            redelivered: delivery.redelivered(),
            position: delivery.position(),
            received_at: rfc3339(now()),
        }
    }
}

impl Received {
    pub(crate) fn line<'a>(&'a self, topic: &'a str, settled: &'a str) -> ReceivedLine<'a> {
        ReceivedLine {
            message: MessageLine::new(topic, &self.message),
            deliver_at: self.message.deliver_at.map(rfc3339),
            received_at: &self.received_at,
            attempt: self.attempt,
            redelivered: self.redelivered,
            position: self.position.map(|position| position.to_string()),
            settled,
        }
    }
}

/// A message that was received.
#[derive(Debug, Serialize)]
pub(crate) struct ReceivedLine<'a> {
    #[serde(flatten)]
    message: MessageLine<'a>,
    /// When it was due, if it was delayed.
    #[serde(skip_serializing_if = "Option::is_none")]
    deliver_at: Option<String>,
    received_at: &'a str,
    attempt: u32,
    redelivered: bool,
    position: Option<String>,
    settled: &'a str,
}

/// A message that was looked at.
#[derive(Debug, Serialize)]
pub(crate) struct PeekedLine<'a> {
    #[serde(flatten)]
    message: MessageLine<'a>,
    position: Option<String>,
}

impl<'a> PeekedLine<'a> {
    pub(crate) fn new(topic: &'a str, message: &'a Message, position: Option<Position>) -> Self {
        let position = position.map(|position| position.to_string());
        Self { message: MessageLine::new(topic, message), position }
    }
}

/// A dead letter.
#[derive(Debug, Serialize)]
pub(crate) struct DeadLine<'a> {
    #[serde(flatten)]
    message: MessageLine<'a>,
    group: &'a str,
    dead_reason: Option<&'a str>,
    dead_error: Option<&'a str>,
    dead_at: Option<String>,
    first_seen_at: Option<String>,
    attempts: u32,
    position: Option<String>,
}

impl<'a> DeadLine<'a> {
    pub(crate) fn new(topic: &'a str, group: &'a str, letter: &'a DeadLetter) -> Self {
        let envelope = &letter.envelope;
        Self {
            message: MessageLine::new(topic, &letter.message),
            group,
            dead_reason: envelope.death.as_ref().map(|death| &*death.reason),
            dead_error: envelope.error.as_deref(),
            dead_at: envelope.death.as_ref().map(|death| rfc3339(death.at)),
            first_seen_at: envelope.first_seen.map(rfc3339),
            attempts: envelope.attempt,
            position: letter.position.map(|position| position.to_string()),
        }
    }
}

/// Bytes in JSON: a string if they are UTF-8, else `{"base64":…}`.
#[derive(Debug, PartialEq, Eq)]
enum Text<'a> {
    Utf8(Cow<'a, str>),
    Bytes(Cow<'a, [u8]>),
}

impl<'a> Text<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::Utf8(text.into()),
            Err(_) => Self::Bytes(bytes.into()),
        }
    }

    fn into_bytes(self) -> Bytes {
        match self {
            Self::Utf8(text) => text.into_owned().into(),
            Self::Bytes(bytes) => bytes.into_owned().into(),
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Base64<'a> {
    base64: Cow<'a, str>,
}

impl Serialize for Text<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Utf8(text) => serializer.serialize_str(text),
            Self::Bytes(bytes) => Base64 { base64: STANDARD.encode(bytes).into() }.serialize(serializer),
        }
    }
}

#[derive(Debug, Serialize)]
enum Body<'a> {
    #[serde(rename = "body")]
    Json(Cow<'a, RawValue>),
    #[serde(rename = "body")]
    Text(&'a str),
    #[serde(rename = "body_base64")]
    Base64(String),
}

impl<'a> Body<'a> {
    /// A payload that claims to be JSON and is not is base64, so that it reads back as it was.
    fn new(payload: &'a [u8], content_type: Option<&str>) -> Self {
        let text = if content_type.is_some_and(is_json) {
            json(payload).map(Self::Json)
        } else {
            std::str::from_utf8(payload).ok().map(Self::Text)
        };
        text.unwrap_or_else(|| Self::Base64(STANDARD.encode(payload)))
    }
}

/// Returns `payload` as JSON on one line. Line breaks only occur between JSON's tokens.
fn json(payload: &[u8]) -> Option<Cow<'_, RawValue>> {
    let value: &RawValue = serde_json::from_slice(payload).ok()?;
    if !value.get().contains(['\n', '\r']) {
        return Some(Cow::Borrowed(value));
    }
    RawValue::from_string(value.get().replace(['\n', '\r'], " ")).ok().map(Cow::Owned)
}

/// Returns whether a media type says JSON.
fn is_json(content_type: &str) -> bool {
    let kind = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    kind == mq::JSON || kind == "text/json" || kind.ends_with("+json")
}

#[cfg(test)]
mod tests;

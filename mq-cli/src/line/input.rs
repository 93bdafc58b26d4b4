//! From a line to a message.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mq::{Bytes, Headers, Message, MessageId};
use serde::de::{Error as _, IgnoredAny, MapAccess, Visitor, value::MapAccessDeserializer};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::{Base64, Text, is_json};
use crate::values;

/// A line as it is written. The fields behind `deliver_at` are those of lines on their way out: read
/// over, so that what was received or exported can be published again.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "the fields that are read over")]
struct Input<'a> {
    id: Option<String>,
    #[serde(borrow)]
    key: Option<Text<'a>>,
    subject: Option<String>,
    #[serde(default)]
    headers: Vec<(String, Text<'a>)>,
    content_type: Option<String>,
    #[serde(default, deserialize_with = "present")]
    body: Option<&'a RawValue>,
    body_base64: Option<String>,
    delay: Option<String>,
    deliver_at: Option<String>,
    topic: Option<IgnoredAny>,
    group: Option<IgnoredAny>,
    published_at: Option<IgnoredAny>,
    received_at: Option<IgnoredAny>,
    attempt: Option<IgnoredAny>,
    redelivered: Option<IgnoredAny>,
    position: Option<IgnoredAny>,
    settled: Option<IgnoredAny>,
    dead_reason: Option<IgnoredAny>,
    dead_error: Option<IgnoredAny>,
    dead_at: Option<IgnoredAny>,
    first_seen_at: Option<IgnoredAny>,
    attempts: Option<IgnoredAny>,
}

/// Reads a value that is there, be it `null`.
fn present<'de: 'a, 'a, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'a RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextVisitor)
    }
}

struct TextVisitor;

impl<'de> Visitor<'de> for TextVisitor {
    type Value = Text<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string or {\"base64\": …}")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Text::Utf8(text.into()))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Text::Utf8(Cow::Owned(text.to_owned())))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        let Base64 { base64 } = Base64::deserialize(MapAccessDeserializer::new(map))?;
        decode(&base64).map(|bytes| Text::Bytes(bytes.into())).map_err(A::Error::custom)
    }
}

fn decode(base64: &str) -> Result<Vec<u8>, String> {
    STANDARD.decode(base64).map_err(|error| format!("the base64 does not decode: {error}"))
}

/// A message as a line asks for it. A delay counts from the moment it is sent, not read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Draft {
    pub(crate) message: Message,
    pub(crate) delay: Option<Duration>,
}

impl Draft {
    /// Returns the message to send now.
    pub(crate) fn now(mut self) -> Message {
        if let Some(delay) = self.delay {
            self.message.deliver_at = Some(values::now().plus(delay));
        }
        self.message
    }
}

/// Reads a message from a line.
///
/// # Errors
/// What is wrong, and with what.
pub(crate) fn parse(line: &[u8]) -> Result<Draft, String> {
    let input: Input<'_> = serde_json::from_slice(line).map_err(|error| wrong(&error))?;
    let (payload, content_type) = payload(&input)?;
    let id = input.id.map_or_else(MessageId::generate, MessageId::from);
    let mut message = Message::with_id(payload, id);
    if input.delay.is_some() && input.deliver_at.is_some() {
        return Err("delay and deliver_at exclude each other".into());
    }
    let delay = input.delay.as_deref().map(values::duration).transpose()?;
    message.deliver_at = input.deliver_at.as_deref().map(values::time).transpose()?;
    message.key = input.key.map(Text::into_bytes);
    message.subject = input.subject.map(Into::into);
    message.content_type = content_type.map(Into::into);
    let headers = input.headers.into_iter().map(|(name, value)| (name, value.into_bytes()));
    message.headers = headers.collect::<Headers>();
    Ok(Draft { message, delay })
}

/// Returns the id in a line that may be wrong in other places.
pub(crate) fn id_of(line: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct OnlyId {
        id: String,
    }
    serde_json::from_slice(line).ok().map(|OnlyId { id }| id)
}

/// A body that is neither text nor declared is JSON.
fn payload(input: &Input<'_>) -> Result<(Bytes, Option<String>), String> {
    let content_type = input.content_type.clone();
    let body = match (input.body, &input.body_base64) {
        (Some(_), Some(_)) => return Err("body and body_base64 exclude each other".into()),
        (None, None) => return Err("no body: give \"body\" or \"body_base64\"".into()),
        (None, Some(base64)) => return Ok((decode(base64)?.into(), content_type)),
        (Some(body), None) => body.get(),
    };
    let json = content_type.as_deref().map(is_json);
    if json != Some(true) && body.starts_with('"') {
        let text: String = serde_json::from_str(body).map_err(|error| wrong(&error))?;
        return Ok((text.into(), content_type));
    }
    if json == Some(false) {
        let kind = content_type.unwrap_or_default();
        return Err(format!("the content type is {kind:?}, so body must be a string (or body_base64 given)"));
    }
    let content_type = content_type.unwrap_or_else(|| mq::JSON.to_owned());
    Ok((Bytes::copy_from_slice(body.as_bytes()), Some(content_type)))
}

/// Says what is wrong with a line's JSON; the parser's own line number is always 1.
fn wrong(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let what = text.rsplit_once(" at line ").map_or(text.as_str(), |(what, _)| what);
    format!("{what} (column {})", error.column())
}

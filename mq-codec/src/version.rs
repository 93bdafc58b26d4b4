//! Messages of older versions, brought up to date.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

use bytestring::ByteString;
use mq_core::Message;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::codec::Codec;
use crate::error::{CodecError, CodecErrorKind};
use crate::json::Json;

/// The header that says what a message is, such as `order.placed`.
pub const TYPE: &str = "type";
/// The header that says which version of its type a message is: a decimal number.
pub const SCHEMA_VERSION: &str = "schema-version";

/// Says in the headers [`TYPE`] and [`SCHEMA_VERSION`] what a message is, in the place of what they said before.
#[must_use]
pub fn versioned(mut message: Message, kind: impl Into<ByteString>, version: u32) -> Message {
    message.headers.remove(TYPE);
    message.headers.remove(SCHEMA_VERSION);
    message.header(TYPE, kind.into().into_bytes()).header(SCHEMA_VERSION, version.to_string())
}

/// Returns the version that a message says, if it says one.
///
/// # Errors
/// The header is not a number.
pub fn schema_version(message: &Message) -> Result<Option<u32>, CodecError> {
    let Some(version) = message.headers.get(SCHEMA_VERSION) else { return Ok(None) };
    let version = String::from_utf8_lossy(version);
    version.trim().parse().map(Some).map_err(|error| {
        let message = format!("the header {SCHEMA_VERSION} is {version:?} and not a number");
        CodecError::new(CodecErrorKind::Malformed, message).with_source(error)
    })
}

type StepError = Box<dyn StdError + Send + Sync>;
type Step = Arc<dyn Fn(Value) -> Result<Value, StepError> + Send + Sync>;

/// Brings messages of a type up to date, step by step: what each version is made from the one before.
///
/// A message that says no version is of the oldest. One that is current is not touched. Cheap to clone.
///
/// ```
/// use mq_codec::{Upcasters, versioned};
/// use mq_core::Message;
/// use serde::Deserialize;
///
/// #[derive(Deserialize)]
/// struct Order { items: Vec<String>, currency: String }
///
/// let orders = Upcasters::of("order")
///     .then(|mut order| { // 1 to 2: one item became several
///         order["items"] = vec![order["item"].take()].into();
///         Ok(order)
///     })
///     .then(|mut order| { // 2 to 3
///         order["currency"] = "EUR".into();
///         Ok(order)
///     });
/// let old = versioned(Message::new(r#"{"item":"book"}"#), "order", 1);
/// let order: Order = orders.read(&old)?;
/// assert_eq!((order.items, order.currency), (vec!["book".to_owned()], "EUR".to_owned()));
///
/// let newer = versioned(Message::new("{}"), "order", 4);
/// let error = orders.read::<Order>(&newer).err().unwrap();
/// assert!(error.to_string().contains("version 4 of order is newer than 3"));
/// # Ok::<(), mq_codec::CodecError>(())
/// ```
#[derive(Clone)]
pub struct Upcasters {
    kind: ByteString,
    oldest: u32,
    steps: Vec<Step>,
    format: Arc<dyn Codec<Value> + Send + Sync>,
}

impl Upcasters {
    /// Begins with version 1 of a type.
    #[must_use]
    pub fn of(kind: impl Into<ByteString>) -> Self {
        Self { kind: kind.into(), oldest: 1, steps: Vec::new(), format: Arc::new(Json::new()) }
    }

    /// Sets the oldest version that there still is. Default 1.
    #[must_use]
    pub fn since(mut self, version: u32) -> Self {
        self.oldest = version;
        self
    }

    /// Adds the step to the next version.
    #[must_use]
    pub fn then(mut self, step: impl Fn(Value) -> Result<Value, StepError> + Send + Sync + 'static) -> Self {
        self.steps.push(Arc::new(step));
        self
    }

    /// Sets the format of the messages, before and after. Default JSON.
    #[must_use]
    pub fn format(mut self, codec: impl Codec<Value> + Send + Sync + 'static) -> Self {
        self.format = Arc::new(codec);
        self
    }

    /// Returns the type.
    #[must_use]
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// Returns the current version.
    #[must_use]
    pub fn current(&self) -> u32 {
        let steps = u32::try_from(self.steps.len()).unwrap_or(u32::MAX);
        self.oldest.saturating_add(steps)
    }

    /// Returns whether a message is of the type; one that says none is.
    #[must_use]
    pub fn concerns(&self, message: &Message) -> bool {
        message.headers.get_str(TYPE).is_none_or(|kind| self.kind == kind)
    }

    /// Returns whether a message is of an older version.
    ///
    /// # Errors
    /// It is of another type, or its version is newer or older than those known.
    pub fn is_old(&self, message: &Message) -> Result<bool, CodecError> {
        Ok(!self.steps_for(message)?.is_empty())
    }

    /// Brings a message up to date: the same message, with the payload and the version of the current one.
    ///
    /// # Errors
    /// It is of another type, its version is newer or older than those known, it cannot be read, or a step fails.
    pub fn upcast(&self, message: Message) -> Result<Message, CodecError> {
        match self.steps_for(&message)? {
            [] => Ok(message),
            steps => {
                let value = self.run(steps, self.format.read(&message)?)?;
                let mut message = versioned(message, self.kind.clone(), self.current());
                message.payload = self.format.encode(&value)?;
                Ok(message.content_type(self.format.content_type()))
            }
        }
    }

    /// Reads a message of any known version as the current one.
    ///
    /// # Errors
    /// As [`upcast`](Self::upcast); what comes out is not a `T`.
    pub fn read<T: DeserializeOwned>(&self, message: &Message) -> Result<T, CodecError> {
        let steps = self.steps_for(message)?;
        let value = self.run(steps, self.format.read(message)?)?;
        serde_json::from_value(value).map_err(|error| {
            let message = format!("version {} of {} is not what is expected", self.current(), self.kind);
            CodecError::new(CodecErrorKind::Malformed, message).with_source(error)
        })
    }

    fn steps_for(&self, message: &Message) -> Result<&[Step], CodecError> {
        let refuse = |message| Err(CodecError::new(CodecErrorKind::UnknownVersion, message));
        let (kind, current, oldest) = (&self.kind, self.current(), self.oldest);
        if !self.concerns(message) {
            let other = message.headers.get_str(TYPE).unwrap_or_default();
            return refuse(format!("the message is of type {other:?} and not {kind}"));
        }
        match schema_version(message)?.unwrap_or(oldest) {
            version if version > current => refuse(format!(
                "version {version} of {kind} is newer than {current}, the newest known; update this program"
            )),
            version if version < oldest => refuse(format!(
                "version {version} of {kind} is older than {oldest}, the oldest known; add the steps from it"
            )),
            version => Ok(&self.steps[(version - oldest) as usize..]),
        }
    }

    fn run(&self, steps: &[Step], mut value: Value) -> Result<Value, CodecError> {
        let first = self.current() - u32::try_from(steps.len()).unwrap_or_default();
        for (version, step) in (first..).zip(steps) {
            value = step(value).map_err(|error| {
                let (kind, next) = (&self.kind, version + 1);
                let message = format!("version {version} of {kind} cannot be made version {next}");
                CodecError::new(CodecErrorKind::Malformed, message).with_source(error)
            })?;
        }
        Ok(value)
    }
}

impl fmt::Debug for Upcasters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let versions = self.oldest..=self.current();
        f.debug_struct("Upcasters")
            .field("kind", &self.kind)
            .field("versions", &versions)
            .finish_non_exhaustive()
    }
}

/// Checks that recorded messages of old and current versions can still be read as a `T`; for the tests of a service. Each sample has a
/// name.
///
/// # Errors
/// [`CodecErrorKind::Incompatible`]: names each sample that cannot be read, and why.
pub fn check_compatible<T: DeserializeOwned>(
    upcasters: &Upcasters,
    samples: impl IntoIterator<Item = (impl fmt::Display, Message)>,
) -> Result<(), CodecError> {
    let mut broken = Vec::new();
    let mut count = 0;
    for (name, sample) in samples {
        count += 1;
        if let Err(error) = upcasters.read::<T>(&sample) {
            let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
            broken.push(format!("{name}: {error}{cause}"));
        }
    }
    if broken.is_empty() {
        return Ok(());
    }
    let message = format!("{} of {count} samples cannot be read: {}", broken.len(), broken.join("; "));
    Err(CodecError::new(CodecErrorKind::Incompatible, message))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[derive(Debug, PartialEq, serde::Deserialize)]
    struct Name {
        first: String,
        last: String,
    }

    /// 3: `full`; 4: `name`; 5: `first` and `last`.
    fn names() -> Upcasters {
        Upcasters::of("name").since(3).then(|value| Ok(json!({"name": value["full"]}))).then(|value| {
            let (first, last) =
                value["name"].as_str().and_then(|name| name.split_once(' ')).ok_or("no space")?;
            Ok(json!({"first": first, "last": last}))
        })
    }

    fn message(payload: &Value, version: u32) -> Message {
        versioned(Message::new(payload.to_string()), "name", version)
    }

    fn samples() -> [(u32, Message); 3] {
        [json!({"full": "Ada King"}), json!({"name": "Ada King"}), json!({"first": "Ada", "last": "King"})]
            .iter()
            .zip(3..)
            .map(|(payload, version)| (version, message(payload, version)))
            .collect::<Vec<_>>()
            .try_into()
            .unwrap()
    }

    #[test]
    fn each_version_becomes_the_current_one() {
        let ada = Name { first: "Ada".into(), last: "King".into() };
        for (version, sample) in samples() {
            assert_eq!(names().read::<Name>(&sample).unwrap(), ada, "{version}");
            let updated = names().upcast(sample.clone().key("k")).unwrap();
            assert_eq!(schema_version(&updated).unwrap(), Some(5));
            assert_eq!((&updated.id, updated.key.as_deref()), (&sample.id, Some(&b"k"[..])));
            assert_eq!(updated.parse_json::<Name>().unwrap(), ada);
            assert_eq!(updated.headers.len(), 2);
        }
        // What says nothing is the oldest.
        assert_eq!(names().read::<Name>(&Message::new(r#"{"full":"Ada King"}"#)).unwrap(), ada);
    }

    #[test]
    fn the_current_version_is_not_touched() {
        let current = versioned(Message::new("not even JSON"), "name", 5);
        assert_eq!(names().upcast(current.clone()).unwrap(), current);
    }

    #[test]
    fn unknown_versions_and_types_are_refused() {
        for (version, says) in
            [(6, "version 6 of name is newer than 5"), (2, "version 2 of name is older than 3")]
        {
            let error = names().upcast(message(&json!({}), version)).unwrap_err();
            assert_eq!(error.kind(), CodecErrorKind::UnknownVersion);
            assert!(error.to_string().starts_with(says), "{error}");
        }
        let other = versioned(Message::new("{}"), "address", 5);
        assert!(!names().concerns(&other));
        let error = names().upcast(other).unwrap_err();
        assert_eq!(error.to_string(), "the message is of type \"address\" and not name");
        let error = names().upcast(Message::new("{}").header(SCHEMA_VERSION, "five")).unwrap_err();
        assert_eq!(error.kind(), CodecErrorKind::Malformed);
    }

    #[test]
    fn a_step_that_fails_says_which_and_why() {
        let error = names().upcast(message(&json!({"name": "Ada"}), 4)).unwrap_err();
        assert_eq!(error.to_string(), "version 4 of name cannot be made version 5");
        assert_eq!(error.source().unwrap().to_string(), "no space");
    }

    #[test]
    fn samples_that_are_not_read_any_more_are_named() {
        check_compatible::<Name>(&names(), samples()).unwrap();
        let mut samples = samples();
        samples[1].1 = message(&json!({"full": "Ada King"}), 4);
        let error = check_compatible::<Name>(&names(), samples).unwrap_err();
        assert_eq!(error.kind(), CodecErrorKind::Incompatible);
        let says = "1 of 3 samples cannot be read: 4: version 4 of name cannot be made version 5: no space";
        assert_eq!(error.to_string(), says);
    }

    #[cfg(feature = "msgpack")]
    #[test]
    fn other_formats_stay_what_they_are() {
        use crate::codec::{Decode as _, Encode as _};
        use crate::msgpack::MessagePack;
        let names = names().format(MessagePack::new());
        let old = versioned(MessagePack::new().message(&json!({"full": "Ada King"})).unwrap(), "name", 3);
        let updated: Name = MessagePack::new().read(&names.upcast(old).unwrap()).unwrap();
        assert_eq!(updated.last, "King");
        let json = names.upcast(Json::new().message(&json!({"full": "Ada King"})).unwrap()).unwrap_err();
        assert_eq!(json.kind(), CodecErrorKind::UnknownContentType);
    }
}

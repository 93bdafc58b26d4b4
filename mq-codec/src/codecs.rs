//! The codec that the content type asks for.

use std::fmt;
use std::sync::Arc;

use mq_core::Message;
use serde::de::DeserializeOwned;

use crate::codec::{Decode, media_type, refuse_encoded};
use crate::error::{CodecError, CodecErrorKind};
use crate::json::Json;
use crate::limits::Limits;

type Shared<T> = Arc<dyn Decode<T> + Send + Sync>;

/// Reads messages by their content type, with the first codec that takes it. A message that says no content type, or
/// `application/octet-stream`, is read with the first codec.
///
/// [`Codecs::default`] reads JSON and, with the feature `msgpack`, MessagePack. Cheap to clone.
///
/// ```
/// use mq_codec::{CodecErrorKind, Codecs, Encode, Json};
/// use mq_core::Message;
///
/// let codecs = Codecs::<Vec<u32>>::default();
/// assert_eq!(codecs.read(&Json::new().message(&[1, 2])?)?, [1, 2]);
/// assert_eq!(codecs.read(&Message::new("[3]"))?, [3]);
/// let error = codecs.read(&Message::new("<a/>").content_type("text/xml")).unwrap_err();
/// assert!(error.to_string().starts_with("the content type text/xml is not known; known are application/json"));
/// # Ok::<(), mq_codec::CodecError>(())
/// ```
pub struct Codecs<T> {
    codecs: Vec<Shared<T>>,
    strict: bool,
}

impl<T> Codecs<T> {
    /// Begins with a codec, which also reads what says no content type.
    #[must_use]
    pub fn new(codec: impl Decode<T> + Send + Sync + 'static) -> Self {
        Self { codecs: vec![Arc::new(codec)], strict: false }
    }

    /// Adds a codec.
    #[must_use]
    pub fn with(mut self, codec: impl Decode<T> + Send + Sync + 'static) -> Self {
        self.codecs.push(Arc::new(codec));
        self
    }

    /// Refuses messages that say no content type.
    #[must_use]
    pub fn strict(mut self) -> Self {
        self.strict = true;
        self
    }

    /// Reads a message.
    ///
    /// # Errors
    /// No codec takes its content type; the error lists those that are known. Or what the codec says.
    pub fn read(&self, message: &Message) -> Result<T, CodecError> {
        refuse_encoded(message)?;
        let kind = media_type(message);
        let codec = match &kind {
            Some(kind) => self.codecs.iter().find(|codec| codec.accepts(kind)),
            None if self.strict => None,
            None => self.codecs.first(),
        };
        let codec = codec.ok_or_else(|| self.unknown(kind.as_deref()))?;
        codec.decode(&message.payload)
    }

    fn known(&self) -> Vec<&'static str> {
        self.codecs.iter().map(|codec| codec.content_type()).collect()
    }

    fn unknown(&self, kind: Option<&str>) -> CodecError {
        let known = self.known().join(", ");
        let message = match kind {
            Some(kind) => format!("the content type {kind} is not known; known are {known}"),
            None => format!("the message says no content type; set one of {known}"),
        };
        CodecError::new(CodecErrorKind::UnknownContentType, message)
    }
}

impl<T: DeserializeOwned> Codecs<T> {
    /// Makes the default with other limits.
    #[must_use]
    pub fn limited(limits: Limits) -> Self {
        let codecs = Self::new(Json::new().limits(limits));
        #[cfg(feature = "msgpack")]
        let codecs = codecs.with(crate::msgpack::MessagePack::new().limits(limits));
        codecs
    }
}

impl<T: DeserializeOwned> Default for Codecs<T> {
    fn default() -> Self {
        Self::limited(Limits::default())
    }
}

impl<T> Clone for Codecs<T> {
    fn clone(&self) -> Self {
        Self { codecs: self.codecs.clone(), strict: self.strict }
    }
}

impl<T> fmt::Debug for Codecs<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Codecs").field("codecs", &self.known()).field("strict", &self.strict).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{CONTENT_ENCODING, Encode as _};
    use crate::raw::Raw;

    fn kind(result: Result<Vec<u8>, CodecError>) -> CodecErrorKind {
        result.unwrap_err().kind()
    }

    #[test]
    fn the_content_type_chooses() {
        let codecs = Codecs::<Vec<u8>>::default();
        for content_type in [
            "application/json",
            "Application/JSON; charset=utf-8",
            "text/json",
            "application/vnd.order+json",
            "",
            "application/octet-stream",
        ] {
            assert_eq!(codecs.read(&Message::new("[7]").content_type(content_type)).unwrap(), [7]);
        }
        assert_eq!(
            kind(codecs.read(&Message::new("[7]").content_type("text/xml"))),
            CodecErrorKind::UnknownContentType
        );
    }

    #[cfg(feature = "msgpack")]
    #[test]
    fn each_format_is_read_as_what_it_says() {
        let (codecs, msgpack) = (Codecs::<Vec<u8>>::default(), crate::msgpack::MessagePack::new());
        let message = msgpack.message(&[7]).unwrap();
        assert_eq!(codecs.read(&message).unwrap(), [7]);
        assert_eq!(
            kind(codecs.read(&message.clone().content_type("application/json"))),
            CodecErrorKind::Malformed
        );
        // The first reads what says nothing.
        let turned = Codecs::<Vec<u8>>::new(msgpack).with(Json::new());
        assert_eq!(turned.read(&Message::new(message.payload)).unwrap(), [7]);
    }

    #[test]
    fn strict_wants_a_content_type() {
        let strict = Codecs::<Vec<u8>>::default().strict();
        assert_eq!(kind(strict.read(&Message::new("[7]"))), CodecErrorKind::UnknownContentType);
        assert_eq!(strict.read(&Json::new().message(&[7]).unwrap()).unwrap(), [7]);
    }

    #[test]
    fn what_is_compressed_is_not_read() {
        let message = Message::new("[7]").header(CONTENT_ENCODING, "gzip");
        assert_eq!(kind(Codecs::default().read(&message)), CodecErrorKind::UnknownEncoding);
        assert_eq!(kind(Json::new().read(&message)), CodecErrorKind::UnknownEncoding);
        assert!(Raw.read(&message).is_err());
        assert!(
            Codecs::<Vec<u8>>::default()
                .read(&Message::new("[7]").header(CONTENT_ENCODING, "identity"))
                .is_ok()
        );
    }

    #[test]
    fn a_codec_alone_refuses_another_content_type() {
        let message = Message::new("[7]").content_type("application/protobuf");
        let error = Decode::<Vec<u8>>::read(&Json::new(), &message).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the content type is application/protobuf and JSON is expected, which is application/json"
        );
        assert_eq!(Raw.read(&message).unwrap().as_ref(), b"[7]");
    }
}

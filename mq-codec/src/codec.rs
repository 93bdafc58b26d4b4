//! What a codec is.

use bytes::Bytes;
use mq_core::Message;

use crate::error::{CodecError, CodecErrorKind};

/// The header that says how a payload is compressed.
pub const CONTENT_ENCODING: &str = "content-encoding";

/// A format: its name, and the media types that it writes and reads.
pub trait Format {
    /// Returns its name, for errors.
    fn name(&self) -> &'static str;

    /// Returns the media type that it sets.
    fn content_type(&self) -> &'static str;

    /// Returns whether it reads a media type, given in lower case and without parameters.
    fn accepts(&self, media_type: &str) -> bool {
        media_type == self.content_type()
    }
}

/// Writes values of a type.
pub trait Encode<T: ?Sized>: Format {
    /// Writes a value.
    ///
    /// # Errors
    /// It cannot be written in this format, or is over a limit.
    fn encode(&self, value: &T) -> Result<Bytes, CodecError>;

    /// Makes a message of a value, with the content type set.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    fn message(&self, value: &T) -> Result<Message, CodecError> {
        Ok(Message::new(self.encode(value)?).content_type(self.content_type()))
    }
}

/// Reads values of a type.
pub trait Decode<T>: Format {
    /// Reads a value from a whole payload.
    ///
    /// # Errors
    /// The payload is not what was asked for, or over a limit.
    fn decode(&self, payload: &Bytes) -> Result<T, CodecError>;

    /// Reads the payload of a message, unless its headers say that it is something else.
    ///
    /// # Errors
    /// As [`decode`](Self::decode); the content type is another one, or the payload is still compressed.
    fn read(&self, message: &Message) -> Result<T, CodecError> {
        refuse_encoded(message)?;
        if let Some(kind) = media_type(message)
            && !self.accepts(&kind)
        {
            let (name, own) = (self.name(), self.content_type());
            let message = format!("the content type is {kind} and {name} is expected, which is {own}");
            return Err(CodecError::new(CodecErrorKind::UnknownContentType, message));
        }
        self.decode(&message.payload)
    }
}

/// Writes and reads values of a type: whatever does both.
///
/// ```
/// use mq_codec::{Decode, Encode, Json};
///
/// let message = Json::new().message(&["a book"]).unwrap();
/// assert_eq!(message.content_type.as_deref(), Some("application/json"));
/// let items: Vec<String> = Json::new().read(&message).unwrap();
/// assert_eq!(items, ["a book"]);
/// ```
pub trait Codec<T>: Encode<T> + Decode<T> {}

impl<T, C: Encode<T> + Decode<T> + ?Sized> Codec<T> for C {}

/// The media type of a message in lower case, without parameters; `None` where it says nothing or, with
/// `application/octet-stream`, next to nothing.
pub(crate) fn media_type(message: &Message) -> Option<String> {
    let kind = message.content_type.as_deref()?;
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    (!kind.is_empty() && kind != crate::raw::OCTETS).then_some(kind)
}

/// Refuses what is still compressed.
pub(crate) fn refuse_encoded(message: &Message) -> Result<(), CodecError> {
    match message.headers.get_str(CONTENT_ENCODING).map(str::trim) {
        None | Some("" | "identity") => Ok(()),
        Some(encoding) => {
            let message = format!("the payload is still encoded as {encoding}; decompress it first");
            Err(CodecError::new(CodecErrorKind::UnknownEncoding, message))
        }
    }
}

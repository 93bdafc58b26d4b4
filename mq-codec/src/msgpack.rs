//! MessagePack.

use bytes::Bytes;
use rmp_serde::decode::Error;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::codec::{Decode, Encode, Format};
use crate::error::{CodecError, CodecErrorKind};
use crate::limits::{Limits, too_deep};

/// The deepest, unless the limits say otherwise.
const DEPTH: usize = 127;
const MSGPACK: &str = "application/vnd.msgpack";

/// MessagePack, of any type with serde; structs are written as maps with the names of their fields. Reads
/// `application/vnd.msgpack`, `application/msgpack` and `application/x-msgpack`.
#[derive(Clone, Copy, Debug, Default)]
pub struct MessagePack {
    limits: Limits,
}

impl MessagePack {
    /// Makes the codec with default limits.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the limits.
    #[must_use]
    pub const fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }
}

impl Format for MessagePack {
    fn name(&self) -> &'static str {
        "MessagePack"
    }

    fn content_type(&self) -> &'static str {
        MSGPACK
    }

    fn accepts(&self, media_type: &str) -> bool {
        matches!(media_type, MSGPACK | "application/msgpack" | "application/x-msgpack")
    }
}

impl<T: Serialize + ?Sized> Encode<T> for MessagePack {
    fn encode(&self, value: &T) -> Result<Bytes, CodecError> {
        let payload =
            rmp_serde::to_vec_named(value).map_err(|error| CodecError::not_written(self.name(), error))?;
        self.limits.check_payload(payload.len())?;
        Ok(payload.into())
    }
}

impl<T: DeserializeOwned> Decode<T> for MessagePack {
    fn decode(&self, payload: &Bytes) -> Result<T, CodecError> {
        self.limits.check_payload(payload.len())?;
        let depth = self.limits.depth.unwrap_or(DEPTH);
        let mut rest = &payload[..];
        let mut reader = rmp_serde::Deserializer::new(&mut rest);
        // It counts down and refuses what finds it at zero.
        reader.set_max_depth(depth.saturating_add(1));
        let value = T::deserialize(&mut reader).map_err(|error| match error {
            Error::DepthLimitExceeded => too_deep(depth),
            error => CodecError::malformed(self.name(), error),
        })?;
        if !rest.is_empty() {
            let message = format!("{} bytes follow the MessagePack value", rest.len());
            return Err(CodecError::new(CodecErrorKind::Malformed, message));
        }
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn depth_at_the_limit_and_one_over() {
        for limit in [1, 5, 127] {
            let codec = MessagePack::new().limits(Limits::default().depth(limit));
            let nested = |levels: usize| Bytes::from([vec![0x91; levels], vec![1]].concat());
            assert!(Decode::<Value>::decode(&codec, &nested(limit)).is_ok(), "{limit}");
            let error = Decode::<Value>::decode(&codec, &nested(limit + 1)).unwrap_err();
            assert_eq!(error.kind(), CodecErrorKind::OverLimit, "{limit}: {error}");
        }
    }

    #[test]
    fn size_at_the_limit_and_one_over() {
        let codec = MessagePack::new().limits(Limits::default().payload(4));
        let three = codec.encode("abc").unwrap();
        assert_eq!(Decode::<String>::decode(&codec, &three).unwrap(), "abc");
        let four = MessagePack::new().encode("abcd").unwrap();
        for error in [Decode::<String>::decode(&codec, &four).err(), codec.encode("abcd").err()] {
            assert_eq!(error.unwrap().kind(), CodecErrorKind::OverLimit);
        }
    }

    #[test]
    fn what_is_cut_or_goes_on_is_malformed() {
        let value = json!({"list": [1, 2.5, "text", null, true], "map": {"negative": -5}});
        let whole = MessagePack::new().encode(&value).unwrap();
        assert_eq!(Decode::<Value>::decode(&MessagePack::new(), &whole).unwrap(), value);
        let longer = Bytes::from([&whole[..], &[0]].concat());
        for end in 0..whole.len() {
            let error = Decode::<Value>::decode(&MessagePack::new(), &whole.slice(..end)).unwrap_err();
            assert_eq!(error.kind(), CodecErrorKind::Malformed, "{end}");
        }
        let error = Decode::<Value>::decode(&MessagePack::new(), &longer).unwrap_err();
        assert_eq!(error.to_string(), "1 bytes follow the MessagePack value");
    }

    #[test]
    fn a_length_that_lies_allocates_next_to_nothing() {
        // An array, a map, a string and bytes that claim 4 GiB.
        for marker in [0xdd, 0xdf, 0xdb, 0xc6] {
            let lie = Bytes::from(vec![marker, 0xff, 0xff, 0xff, 0xff, 1]);
            let error = Decode::<Value>::decode(&MessagePack::new(), &lie).unwrap_err();
            assert_eq!(error.kind(), CodecErrorKind::Malformed);
        }
    }
}

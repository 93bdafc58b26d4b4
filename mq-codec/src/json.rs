//! JSON.

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::codec::{Decode, Encode, Format};
use crate::error::CodecError;
use crate::limits::{Limits, too_deep};

/// The deepest that the parser goes.
const PARSER_DEPTH: usize = 127;

/// JSON, of any type with serde. Reads `application/json`, `text/json` and what ends in `+json`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Json {
    limits: Limits,
}

impl Json {
    /// Makes the codec with default limits.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the limits; a depth over 127 is 127.
    #[must_use]
    pub const fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }
}

impl Format for Json {
    fn name(&self) -> &'static str {
        "JSON"
    }

    fn content_type(&self) -> &'static str {
        mq_core::JSON
    }

    fn accepts(&self, media_type: &str) -> bool {
        matches!(media_type, mq_core::JSON | "text/json") || media_type.ends_with("+json")
    }
}

impl<T: Serialize + ?Sized> Encode<T> for Json {
    fn encode(&self, value: &T) -> Result<Bytes, CodecError> {
        let payload =
            serde_json::to_vec(value).map_err(|error| CodecError::not_written(self.name(), error))?;
        self.limits.check_payload(payload.len())?;
        Ok(payload.into())
    }
}

impl<T: DeserializeOwned> Decode<T> for Json {
    fn decode(&self, payload: &Bytes) -> Result<T, CodecError> {
        self.limits.check_payload(payload.len())?;
        let depth = self.limits.depth.map_or(PARSER_DEPTH, |depth| depth.min(PARSER_DEPTH));
        if !nested_within(payload, depth) {
            return Err(too_deep(depth));
        }
        serde_json::from_slice(payload).map_err(|error| CodecError::malformed(self.name(), error))
    }
}

/// Whether no brackets are nested deeper; strings are passed over.
fn nested_within(json: &[u8], limit: usize) -> bool {
    let (mut depth, mut bytes) = (0_usize, json.iter());
    while let Some(byte) = bytes.next() {
        match byte {
            b'[' | b'{' if depth == limit => return false,
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            b'"' => {
                while let Some(byte) = bytes.next() {
                    match byte {
                        b'"' => break,
                        b'\\' => drop(bytes.next()),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::error::CodecErrorKind;

    fn nested(levels: usize) -> Bytes {
        let (open, close) = ("[{\"[{\\\"\":".repeat(levels / 2), "}]".repeat(levels / 2));
        let [open_one, close_one] = if levels % 2 == 1 { ["[", "]"] } else { ["", ""] };
        format!("{open}{open_one}1{close_one}{close}").into()
    }

    #[test]
    fn depth_at_the_limit_and_one_over() {
        for limit in [1, 2, 7, 127, 1000] {
            let json = Json::new().limits(Limits::default().depth(limit));
            let most = limit.min(127);
            assert!(Decode::<Value>::decode(&json, &nested(most)).is_ok(), "{limit}");
            let error = Decode::<Value>::decode(&json, &nested(most + 1)).unwrap_err();
            assert_eq!(error.kind(), CodecErrorKind::OverLimit, "{limit}: {error}");
        }
    }

    #[test]
    fn size_at_the_limit_and_one_over() {
        let json = Json::new().limits(Limits::default().payload(4));
        assert_eq!(Decode::<u32>::decode(&json, &"1234".into()).unwrap(), 1234);
        let over = [Decode::<u32>::decode(&json, &" 1234".into()).err(), json.encode(&12345).err()];
        for error in over.map(Option::unwrap) {
            assert_eq!(error.kind(), CodecErrorKind::OverLimit);
            assert!(error.to_string().contains("5 bytes and 4 are allowed"), "{error}");
        }
    }

    #[test]
    fn errors_name_the_place() {
        let error = Decode::<Vec<u8>>::decode(&Json::new(), &"[1, x]".into()).unwrap_err();
        assert_eq!(error.kind(), CodecErrorKind::Malformed);
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert!(source.contains("line 1 column 5"), "{source}");
        let map = std::collections::BTreeMap::from([([1], 2)]);
        assert_eq!(Json::new().encode(&map).unwrap_err().kind(), CodecErrorKind::InvalidInput);
    }
}

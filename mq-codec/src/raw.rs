//! Bytes as they are.

use bytes::Bytes;

use crate::codec::{Decode, Encode, Format};
use crate::error::CodecError;

pub(crate) const OCTETS: &str = "application/octet-stream";

/// Bytes as they are, not copied. Reads any content type, writes `application/octet-stream`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Raw;

impl Format for Raw {
    fn name(&self) -> &'static str {
        "bytes"
    }

    fn content_type(&self) -> &'static str {
        OCTETS
    }

    fn accepts(&self, _: &str) -> bool {
        true
    }
}

impl Encode<Bytes> for Raw {
    fn encode(&self, value: &Bytes) -> Result<Bytes, CodecError> {
        Ok(value.clone())
    }
}

impl Decode<Bytes> for Raw {
    fn decode(&self, payload: &Bytes) -> Result<Bytes, CodecError> {
        Ok(payload.clone())
    }
}

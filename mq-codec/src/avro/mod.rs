//! Avro, in single-object encoding.

#[cfg(test)]
mod tests;
mod wire;
mod written;

use std::collections::HashMap;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use apache_avro::schema_compatibility::Compatibility;
use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::codec::{Decode, Encode, Format};
use crate::error::{CodecError, CodecErrorKind};
use crate::limits::Limits;

pub(crate) use written::{AVRO, Written};

const CONTENT_TYPE: &str = "application/avro";
/// What a value in single-object encoding begins with; the fingerprint of its schema follows.
const MARKER: [u8; 2] = [0xc3, 0x01];

/// Avro in single-object encoding: two bytes, the schema's fingerprint (CRC-64-AVRO), the value. Reads
/// `application/avro`, `application/x-avro`, `application/vnd.apache.avro` and `avro/binary`.
///
/// Values are written with one schema. What was written with another one that is [known](Self::known) is read as the own one
/// sees it: with defaults for what is missing. Clones share their schemas.
///
/// ```
/// use mq_codec::{Avro, Decode, Encode};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct Order { item: String, count: i32 }
///
/// let first = r#"{"type":"record","name":"Order","fields":[{"name":"item","type":"string"}]}"#;
/// let second = r#"{"type":"record","name":"Order","fields":[
///     {"name":"item","type":"string"}, {"name":"count","type":"int","default":1}]}"#;
/// let orders = Avro::<Order>::new(second)?.known(first)?;
/// let message = orders.message(&Order { item: "book".into(), count: 2 })?;
/// assert_eq!(orders.read(&message)?.count, 2);
/// # Ok::<(), mq_codec::CodecError>(())
/// ```
pub struct Avro<T> {
    own: Arc<Written>,
    header: [u8; 10],
    known: Arc<HashMap<[u8; 8], Arc<Written>>>,
    limits: Limits,
    values: PhantomData<fn() -> T>,
}

impl<T> Avro<T> {
    /// Makes the codec of a schema, given in JSON.
    ///
    /// # Errors
    /// It is not a schema.
    pub fn new(schema: &str) -> Result<Self, CodecError> {
        let own = Arc::new(Written::parse(schema)?);
        let fingerprint = own.fingerprint();
        let mut header = [0; 10];
        header[..2].copy_from_slice(&MARKER);
        header[2..].copy_from_slice(&fingerprint);
        let known = Arc::new(HashMap::from([(fingerprint, own.clone())]));
        Ok(Self { own, header, known, limits: Limits::default(), values: PhantomData })
    }

    /// Adds a schema that messages may be written with.
    ///
    /// # Errors
    /// It is not a schema, or none of its values can be read with the own one.
    pub fn known(mut self, schema: &str) -> Result<Self, CodecError> {
        let written = Written::parse(schema)?;
        let fingerprint = written.fingerprint();
        written.readable(&self.own, Compatibility::Partial)?;
        let mut known = HashMap::clone(&self.known);
        known.entry(fingerprint).or_insert_with(|| Arc::new(written));
        self.known = Arc::new(known);
        Ok(self)
    }

    /// Sets the limits.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Checks that every value written with a schema can be read with the own one; for the tests of a service.
    ///
    /// # Errors
    /// [`CodecErrorKind::Incompatible`], or it is not a schema.
    pub fn check_compatible(&self, writer: &str) -> Result<(), CodecError> {
        Written::parse(writer)?.readable(&self.own, Compatibility::Full)
    }
}

impl<T> Clone for Avro<T> {
    fn clone(&self) -> Self {
        let (own, known) = (self.own.clone(), self.known.clone());
        Self { own, header: self.header, known, limits: self.limits, values: PhantomData }
    }
}

impl<T> fmt::Debug for Avro<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fingerprint = hex(&self.header[2..]);
        f.debug_struct("Avro").field("fingerprint", &fingerprint).field("known", &self.known.len()).finish()
    }
}

impl<T> Format for Avro<T> {
    fn name(&self) -> &'static str {
        AVRO
    }

    fn content_type(&self) -> &'static str {
        CONTENT_TYPE
    }

    fn accepts(&self, media_type: &str) -> bool {
        matches!(
            media_type,
            CONTENT_TYPE | "application/x-avro" | "application/vnd.apache.avro" | "avro/binary"
        )
    }
}

impl<T: Serialize> Encode<T> for Avro<T> {
    fn encode(&self, value: &T) -> Result<Bytes, CodecError> {
        self.own.encode(&self.header, value, &self.limits)
    }
}

impl<T: DeserializeOwned> Decode<T> for Avro<T> {
    fn decode(&self, payload: &Bytes) -> Result<T, CodecError> {
        self.limits.check_payload(payload.len())?;
        let fingerprint = payload.strip_prefix(&MARKER).and_then(<[u8]>::split_first_chunk::<8>);
        let Some((fingerprint, body)) = fingerprint else {
            let message = "the payload is not Avro in single-object encoding: it does not begin with C3 01 and a fingerprint";
            return Err(CodecError::new(CodecErrorKind::Malformed, message));
        };
        let written = self.known.get(fingerprint).ok_or_else(|| {
            let fingerprint = hex(fingerprint);
            let message = format!(
                "the payload was written with the schema of fingerprint {fingerprint}, which is not known; add it with `known`"
            );
            CodecError::new(CodecErrorKind::UnknownSchema, message)
        })?;
        written.decode(body, &self.own, &self.limits)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

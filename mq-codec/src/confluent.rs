//! Avro as Confluent's serializers write it.

use std::collections::HashMap;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use apache_avro::schema_compatibility::Compatibility;
use bytes::Bytes;
use parking_lot::Mutex;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::avro::{AVRO, Written};
use crate::codec::{Decode, Encode, Format};
use crate::error::{CodecError, CodecErrorKind};
use crate::limits::Limits;
use crate::registry::SchemaRegistry;

const CONTENT_TYPE: &str = "application/vnd.confluent.avro";
/// What every payload begins with; the schema's id follows, big-endian.
const MAGIC: u8 = 0;

/// Avro as Confluent's serializers write it: a zero byte, the schema's id in four bytes, the value. Writes
/// `application/vnd.confluent.avro` (no type is registered) and also reads `application/avro` and `avro/binary`.
///
/// The registry is asked once for each schema: at the first value that is written, and at the first payload of each id. These
/// calls block their thread for the registry's timeout at most; in async code [`connect`](Self::connect) and
/// [`learn`](Self::learn) ask beforehand, on a thread where that is allowed. Answers are kept, refusals are not. Clones share
/// what was learnt.
///
/// ```
/// use mq_codec::{ConfluentAvro, Decode, Encode, MemoryRegistry};
///
/// let registry = MemoryRegistry::default(); // or HttpRegistry::new("http://registry:8081")
/// let prices = ConfluentAvro::<i64, _>::new("prices-value", "\"long\"", registry)?;
/// let message = prices.message(&1999)?;
/// assert_eq!(message.payload[..5], [0, 0, 0, 0, 1]);
/// assert_eq!(prices.read(&message)?, 1999);
/// # Ok::<(), mq_codec::CodecError>(())
/// ```
pub struct ConfluentAvro<T, R> {
    shared: Arc<Shared<R>>,
    limits: Limits,
    values: PhantomData<fn() -> T>,
}

struct Shared<R> {
    subject: String,
    schema: String,
    own: Written,
    registry: R,
    /// The own schema's id, once it is registered.
    id: Mutex<Option<u32>>,
    known: Mutex<HashMap<u32, Arc<Written>>>,
}

impl<T, R: SchemaRegistry> ConfluentAvro<T, R> {
    /// Makes the codec of a schema, given in JSON, which values are written with and read as. It is registered under `subject`, by
    /// convention `{topic}-value`, before the first value is written.
    ///
    /// # Errors
    /// It is not a schema.
    pub fn new(subject: impl Into<String>, schema: &str, registry: R) -> Result<Self, CodecError> {
        let own = Written::parse(schema)?;
        let (subject, schema) = (subject.into(), schema.to_owned());
        let shared = Shared { subject, schema, own, registry, id: Mutex::default(), known: Mutex::default() };
        Ok(Self { shared: Arc::new(shared), limits: Limits::default(), values: PhantomData })
    }

    /// Sets the limits.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Registers the own schema, unless that is done; returns its id.
    ///
    /// # Errors
    /// The registry cannot be reached or refuses.
    pub fn connect(&self) -> Result<u32, CodecError> {
        let known = *self.shared.id.lock();
        if let Some(id) = known {
            return Ok(id);
        }
        let id = self.shared.registry.register(&self.shared.subject, &self.shared.schema)?;
        *self.shared.id.lock() = Some(id);
        Ok(id)
    }

    /// Fetches the schema of an id, unless that is done.
    ///
    /// # Errors
    /// The registry cannot be reached or does not know it, or what it writes cannot be read.
    pub fn learn(&self, id: u32) -> Result<(), CodecError> {
        self.written(id).map(drop)
    }

    fn written(&self, id: u32) -> Result<Arc<Written>, CodecError> {
        let known = self.shared.known.lock().get(&id).cloned();
        if let Some(written) = known {
            return Ok(written);
        }
        let written = Written::parse(&self.shared.registry.schema(id)?)?;
        written.readable(&self.shared.own, Compatibility::Partial)?;
        let written = Arc::new(written);
        self.shared.known.lock().insert(id, written.clone());
        Ok(written)
    }
}

impl<T, R> Clone for ConfluentAvro<T, R> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone(), limits: self.limits, values: PhantomData }
    }
}

impl<T, R> fmt::Debug for ConfluentAvro<T, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConfluentAvro").field("subject", &self.shared.subject).finish_non_exhaustive()
    }
}

impl<T, R> Format for ConfluentAvro<T, R> {
    fn name(&self) -> &'static str {
        AVRO
    }

    fn content_type(&self) -> &'static str {
        CONTENT_TYPE
    }

    fn accepts(&self, media_type: &str) -> bool {
        matches!(media_type, CONTENT_TYPE | "application/avro" | "avro/binary")
    }
}

impl<T: Serialize, R: SchemaRegistry> Encode<T> for ConfluentAvro<T, R> {
    fn encode(&self, value: &T) -> Result<Bytes, CodecError> {
        let id = self.connect()?.to_be_bytes();
        self.shared.own.encode(&[MAGIC, id[0], id[1], id[2], id[3]], value, &self.limits)
    }
}

impl<T: DeserializeOwned, R: SchemaRegistry> Decode<T> for ConfluentAvro<T, R> {
    fn decode(&self, payload: &Bytes) -> Result<T, CodecError> {
        self.limits.check_payload(payload.len())?;
        let id = payload.strip_prefix(&[MAGIC]).and_then(<[u8]>::split_first_chunk::<4>);
        let Some((id, body)) = id else {
            let message =
                "the payload is not Confluent's Avro: it does not begin with a zero byte and a schema's id";
            return Err(CodecError::new(CodecErrorKind::Malformed, message));
        };
        self.written(u32::from_be_bytes(*id))?.decode(body, &self.shared.own, &self.limits)
    }
}

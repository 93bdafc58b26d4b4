//! Values as one schema writes them.

use apache_avro::rabin::Rabin;
use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::schema_compatibility::{Compatibility, SchemaCompatibility};
use apache_avro::writer::datum::GenericDatumWriter;
use apache_avro::{Schema, from_value};
use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::wire::Wire;
use crate::error::{CodecError, CodecErrorKind};
use crate::limits::Limits;

pub(crate) const AVRO: &str = "Avro";

/// A schema, and how its values look on the wire.
#[derive(Debug)]
pub(crate) struct Written {
    schema: Schema,
    wire: Wire,
}

impl Written {
    /// Reads a schema in JSON.
    pub(crate) fn parse(schema: &str) -> Result<Self, CodecError> {
        let wrong = || CodecError::new(CodecErrorKind::InvalidInput, "this is not an Avro schema");
        let schema = Schema::parse_str(schema).map_err(|error| wrong().with_source(error))?;
        let wire = Wire::parse(&schema.canonical_form()).ok_or_else(wrong)?;
        Ok(Self { schema, wire })
    }

    /// The fingerprint of single-object encoding: CRC-64-AVRO of the canonical form.
    pub(crate) fn fingerprint(&self) -> [u8; 8] {
        let bytes = self.schema.fingerprint::<Rabin>().bytes;
        std::array::from_fn(|place| bytes.get(place).copied().unwrap_or_default())
    }

    /// Writes a value behind a header.
    pub(crate) fn encode(
        &self,
        header: &[u8],
        value: &impl Serialize,
        limits: &Limits,
    ) -> Result<Bytes, CodecError> {
        let mut payload = header.to_vec();
        let writer = GenericDatumWriter::builder(&self.schema).build();
        let written = writer.and_then(|writer| writer.write_ser(&mut payload, value));
        written.map_err(|error| CodecError::not_written(AVRO, error))?;
        limits.check_payload(payload.len())?;
        Ok(payload.into())
    }

    /// Reads what this schema wrote as `reader` sees it.
    pub(crate) fn decode<T: DeserializeOwned>(
        &self,
        mut body: &[u8],
        reader: &Self,
        limits: &Limits,
    ) -> Result<T, CodecError> {
        self.wire.check(body, limits)?;
        let reader = (!std::ptr::eq(self, reader)).then_some(&reader.schema);
        let value = GenericDatumReader::builder(&self.schema).maybe_reader_schema(reader).build();
        let value = value.and_then(|reader| reader.read_value(&mut body));
        value.and_then(|value| from_value(&value)).map_err(|error| CodecError::malformed(AVRO, error))
    }

    /// Checks that `reader` can read what this schema writes: all of it, or `some`.
    pub(crate) fn readable(&self, reader: &Self, some: Compatibility) -> Result<(), CodecError> {
        let incompatible = |message: &str| CodecError::new(CodecErrorKind::Incompatible, message);
        match SchemaCompatibility::can_read(&self.schema, &reader.schema) {
            Ok(Compatibility::Partial) if some == Compatibility::Full => Err(incompatible(
                "some values of the writer's schema cannot be read: its unions or enums have more than the reader's",
            )),
            Ok(_) => Ok(()),
            Err(error) => Err(incompatible("the writer's schema cannot be read").with_source(error)),
        }
    }
}

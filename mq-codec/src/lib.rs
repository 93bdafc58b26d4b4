#![doc = include_str!("../README.md")]

#[cfg(feature = "avro")]
mod avro;
mod codec;
mod codecs;
#[cfg(feature = "compression")]
mod compression;
#[cfg(feature = "schema-registry")]
mod confluent;
mod error;
mod json;
mod limits;
#[cfg(feature = "msgpack")]
mod msgpack;
#[cfg(feature = "protobuf")]
mod protobuf;
mod raw;
#[cfg(feature = "schema-registry")]
mod registry;
mod version;

#[cfg(feature = "avro")]
pub use avro::Avro;
pub use codec::{CONTENT_ENCODING, Codec, Decode, Encode, Format};
pub use codecs::Codecs;
#[cfg(feature = "compression")]
pub use compression::{Compression, THRESHOLD, compress, compress_from, decompress};
#[cfg(feature = "schema-registry")]
pub use confluent::ConfluentAvro;
pub use error::{CodecError, CodecErrorKind};
pub use json::Json;
pub use limits::Limits;
#[cfg(feature = "msgpack")]
pub use msgpack::MessagePack;
#[cfg(feature = "protobuf")]
pub use protobuf::Protobuf;
pub use raw::Raw;
#[cfg(feature = "schema-registry")]
pub use registry::{HttpRegistry, MemoryRegistry, SchemaRegistry};
pub use version::{SCHEMA_VERSION, TYPE, Upcasters, check_compatible, schema_version, versioned};

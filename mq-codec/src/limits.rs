//! How much a payload may ask for.

use crate::error::{CodecError, CodecErrorKind};

/// How much a payload may ask for before it is refused.
///
/// ```
/// use mq_codec::{Decode, Json, Limits};
///
/// let json = Json::new().limits(Limits::default().payload(1024).depth(8));
/// let refused: Result<serde_json::Value, _> = json.decode(&vec![b' '; 1025].into());
/// assert!(refused.unwrap_err().to_string().contains("1025 bytes"));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// The longest payload, in bytes, encoded or decoded. Default: 16 MiB.
    pub payload: usize,
    /// How deep lists, maps and records may be nested. Default: what the format allows, 127 for JSON, which is also the most there, 127 for
    /// MessagePack, 16 for Avro, whose library needs up to 80 KiB of stack a level in programs that are not optimised. Protobuf has a limit
    /// of its own, 100.
    pub depth: Option<usize>,
    /// Items of all lists and maps together, of Avro alone: there an item may take no byte at all. Default: 1,000,000.
    pub items: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { payload: 16 << 20, depth: None, items: 1_000_000 }
    }
}

impl Limits {
    /// Sets the longest payload, in bytes.
    #[must_use]
    pub const fn payload(mut self, bytes: usize) -> Self {
        self.payload = bytes;
        self
    }

    /// Sets how deep lists, maps and records may be nested.
    #[must_use]
    pub const fn depth(mut self, levels: usize) -> Self {
        self.depth = Some(levels);
        self
    }

    /// Sets how many items all lists and maps of an Avro value may have together.
    #[must_use]
    pub const fn items(mut self, items: usize) -> Self {
        self.items = items;
        self
    }

    pub(crate) fn check_payload(&self, bytes: usize) -> Result<(), CodecError> {
        if bytes <= self.payload {
            return Ok(());
        }
        let limit = self.payload;
        let message =
            format!("the payload has {bytes} bytes and {limit} are allowed; raise the limit `payload`");
        Err(CodecError::new(CodecErrorKind::OverLimit, message))
    }
}

/// The payload is nested deeper than allowed.
pub(crate) fn too_deep(levels: usize) -> CodecError {
    let message = format!("the payload is nested deeper than {levels} levels; raise the limit `depth`");
    CodecError::new(CodecErrorKind::OverLimit, message)
}

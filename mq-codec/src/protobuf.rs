//! Protocol Buffers.

use bytes::Bytes;
use prost::Message;

use crate::codec::{Decode, Encode, Format};
use crate::error::CodecError;
use crate::limits::Limits;

const PROTOBUF: &str = "application/protobuf";

/// Protocol Buffers, of types that prost made. Reads `application/protobuf`, `application/x-protobuf` and
/// `application/vnd.google.protobuf`. Nested 100 deep at most.
#[derive(Clone, Copy, Debug, Default)]
pub struct Protobuf {
    limits: Limits,
}

impl Protobuf {
    /// Makes the codec with default limits.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the limits; of these the payload's counts.
    #[must_use]
    pub const fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }
}

impl Format for Protobuf {
    fn name(&self) -> &'static str {
        "Protobuf"
    }

    fn content_type(&self) -> &'static str {
        PROTOBUF
    }

    fn accepts(&self, media_type: &str) -> bool {
        matches!(media_type, PROTOBUF | "application/x-protobuf" | "application/vnd.google.protobuf")
    }
}

impl<T: Message> Encode<T> for Protobuf {
    fn encode(&self, value: &T) -> Result<Bytes, CodecError> {
        self.limits.check_payload(value.encoded_len())?;
        Ok(value.encode_to_vec().into())
    }
}

impl<T: Message + Default> Decode<T> for Protobuf {
    fn decode(&self, payload: &Bytes) -> Result<T, CodecError> {
        self.limits.check_payload(payload.len())?;
        // Fields of type `Bytes` share the payload.
        T::decode(payload.clone()).map_err(|error| CodecError::malformed(self.name(), error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::CodecErrorKind;

    #[derive(Clone, PartialEq, Message)]
    struct Node {
        #[prost(string, tag = "1")]
        name: String,
        #[prost(message, optional, boxed, tag = "2")]
        next: Option<Box<Node>>,
    }

    fn chain(nodes: usize) -> Node {
        (1..nodes).fold(Node::default(), |next, _| Node { name: String::new(), next: Some(Box::new(next)) })
    }

    #[test]
    fn size_at_the_limit_and_one_over() {
        let codec = Protobuf::new().limits(Limits::default().payload(6));
        let of = |name: &str| Node { name: name.into(), next: None };
        let four = codec.encode(&of("four")).unwrap();
        assert_eq!(Decode::<Node>::decode(&codec, &four).unwrap(), of("four"));
        let fifth = Protobuf::new().encode(&of("fifth")).unwrap();
        for error in [Decode::<Node>::decode(&codec, &fifth).err(), codec.encode(&of("fifth")).err()] {
            assert_eq!(error.unwrap().kind(), CodecErrorKind::OverLimit);
        }
    }

    #[test]
    fn the_deepest_and_one_over() {
        let codec = Protobuf::new();
        let deepest = codec.encode(&chain(101)).unwrap();
        assert_eq!(Decode::<Node>::decode(&codec, &deepest).unwrap(), chain(101));
        let deeper = codec.encode(&chain(102)).unwrap();
        let error = Decode::<Node>::decode(&codec, &deeper).unwrap_err();
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert!(source.contains("recursion limit"), "{source}");
    }

    #[test]
    fn what_is_cut_is_malformed() {
        let whole = Protobuf::new().encode(&chain(3)).unwrap();
        let named = Protobuf::new().encode(&Node { name: "name".into(), next: None }).unwrap();
        for cut in [whole.slice(..1), named.slice(..3)] {
            let error = Decode::<Node>::decode(&Protobuf::new(), &cut).unwrap_err();
            assert_eq!(error.kind(), CodecErrorKind::Malformed);
        }
    }
}

//! Payloads that are compressed, said in the header `content-encoding`.

use std::io::{self, Read, Write};

use mq_core::Message;

use crate::codec::CONTENT_ENCODING;
use crate::error::{CodecError, CodecErrorKind};

/// Payloads shorter than this, in bytes, are left as they are by [`compress`].
pub const THRESHOLD: usize = 256;

/// The most encodings on top of each other that are undone.
const STACK: usize = 4;
/// Read at once, in bytes.
const CHUNK: usize = 16 << 10;
/// The largest window of zstd, in bits, whatever the limit: what every decoder should support, 8 MiB.
const ZSTD_WINDOW: u32 = 23;

/// How a payload is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Compression {
    /// `gzip`, RFC 1952, level 6.
    Gzip,
    /// `zstd`, RFC 8878, level 3.
    Zstd,
    /// `lz4`: the LZ4 frame format, with a checksum of the content.
    Lz4,
    /// `snappy`: the Snappy framing format, not bare blocks.
    Snappy,
}

impl Compression {
    /// All that there are.
    pub const ALL: [Self; 4] = [Self::Gzip, Self::Zstd, Self::Lz4, Self::Snappy];

    /// Returns its name in the header `content-encoding`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
            Self::Lz4 => "lz4",
            Self::Snappy => "snappy",
        }
    }

    /// Finds it by name; upper case and `x-gzip` are as good.
    fn by_name(name: &str) -> Result<Self, CodecError> {
        let known = |kind: &Self| name.eq_ignore_ascii_case(kind.name());
        let found = Self::ALL.into_iter().find(known);
        found.or_else(|| name.eq_ignore_ascii_case("x-gzip").then_some(Self::Gzip)).ok_or_else(|| {
            let known = Self::ALL.map(Self::name).join(", ");
            let message = format!("the content encoding {name:?} is not known; known are {known}");
            CodecError::new(CodecErrorKind::UnknownEncoding, message)
        })
    }

    fn pack(self, payload: &[u8]) -> io::Result<Vec<u8>> {
        match self {
            Self::Gzip => {
                let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
                packer.write_all(payload)?;
                packer.finish()
            }
            Self::Zstd => zstd::encode_all(payload, zstd::DEFAULT_COMPRESSION_LEVEL),
            Self::Lz4 => {
                let info = lz4_flex::frame::FrameInfo::new().content_checksum(true);
                let mut packer = lz4_flex::frame::FrameEncoder::with_frame_info(info, Vec::new());
                packer.write_all(payload)?;
                Ok(packer.finish()?)
            }
            Self::Snappy => {
                let mut packer = snap::write::FrameEncoder::new(Vec::new());
                packer.write_all(payload)?;
                packer.into_inner().map_err(snap::write::IntoInnerError::into_error)
            }
        }
    }

    fn unpack(self, packed: &[u8], limit: usize) -> Result<Vec<u8>, CodecError> {
        let mut rest = packed;
        let unpacked = match self {
            Self::Gzip => read_to(limit, flate2::bufread::MultiGzDecoder::new(&mut rest)),
            Self::Zstd => read_zstd(&mut rest, limit),
            Self::Lz4 => read_to(limit, lz4_flex::frame::FrameDecoder::new(&mut rest)),
            Self::Snappy => read_to(limit, snap::read::FrameDecoder::new(&mut rest)),
        };
        let name = self.name();
        match unpacked.map_err(|error| CodecError::malformed(name, error))? {
            Some(_) if !rest.is_empty() => {
                let message = format!("{} bytes follow what is compressed with {name}", rest.len());
                Err(CodecError::new(CodecErrorKind::Malformed, message))
            }
            Some(unpacked) => Ok(unpacked),
            None => {
                let message =
                    format!("the payload has more than {limit} bytes when decompressed; raise the limit");
                Err(CodecError::new(CodecErrorKind::OverLimit, message))
            }
        }
    }
}

fn read_zstd(rest: &mut &[u8], limit: usize) -> io::Result<Option<Vec<u8>>> {
    let mut reader = zstd::Decoder::with_buffer(rest)?;
    reader.window_log_max(ZSTD_WINDOW)?;
    read_to(limit, reader)
}

/// Reads all, or `None` if that is more than `limit` bytes; no more than these are ever held.
fn read_to(limit: usize, mut reader: impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut chunk = vec![0; CHUNK];
    let mut all = Vec::new();
    loop {
        let read = match reader.read(&mut chunk) {
            Ok(0) => return Ok(Some(all)),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let room = limit - all.len();
        if read > room {
            return Ok(None);
        }
        if all.capacity() - all.len() < read {
            all.reserve_exact(all.len().max(read).min(room));
        }
        all.extend_from_slice(&chunk[..read]);
    }
}

/// Compresses the payload and says so in the header `content-encoding`. A message is left as it is if its payload is
/// shorter than [`THRESHOLD`], would not become shorter, or is encoded already.
///
/// ```
/// use mq_codec::{Compression, compress, decompress};
/// use mq_core::Message;
///
/// let message = compress(Message::new("book ".repeat(1000)), Compression::Gzip).unwrap();
/// assert!(message.payload.len() < 100);
/// assert_eq!(message.headers.get_str("content-encoding"), Some("gzip"));
/// let message = decompress(message, 5000).unwrap(); // 5,000 bytes at most
/// assert_eq!(message.payload, "book ".repeat(1000));
/// ```
///
/// # Errors
/// The compressor fails.
pub fn compress(message: Message, with: Compression) -> Result<Message, CodecError> {
    compress_from(message, with, THRESHOLD)
}

/// As [`compress`], with another threshold in bytes.
///
/// # Errors
/// As [`compress`].
pub fn compress_from(
    mut message: Message,
    with: Compression,
    threshold: usize,
) -> Result<Message, CodecError> {
    if message.payload.len() < threshold || message.headers.get(CONTENT_ENCODING).is_some() {
        return Ok(message);
    }
    let packed = with.pack(&message.payload).map_err(|error| CodecError::not_written(with.name(), error))?;
    if packed.len() < message.payload.len() {
        message.payload = packed.into();
        message.headers.push(CONTENT_ENCODING, with.name());
    }
    Ok(message)
}

/// Undoes the encodings that the header `content-encoding` lists, the last one first, four at most, and removes the header. A message
/// without it is returned as it is, of whatever size.
///
/// At no time more than `limit` bytes are held of what comes out, and of zstd 8 MiB beside it.
///
/// # Errors
/// An encoding is not known, the payload is not what the header says, or longer than `limit` bytes at any step.
pub fn decompress(mut message: Message, limit: usize) -> Result<Message, CodecError> {
    let Some(listed) = message.headers.get(CONTENT_ENCODING) else { return Ok(message) };
    let listed = String::from_utf8_lossy(listed).into_owned();
    let names = listed.split(',').map(str::trim).filter(|name| !matches!(*name, "" | "identity"));
    let encodings = names.map(Compression::by_name).collect::<Result<Vec<_>, _>>()?;
    if encodings.len() > STACK {
        let message =
            format!("{} content encodings are on top of each other and {STACK} are allowed", encodings.len());
        return Err(CodecError::new(CodecErrorKind::OverLimit, message));
    }
    for encoding in encodings.into_iter().rev() {
        message.payload = encoding.unpack(&message.payload, limit)?.into();
    }
    message.headers.remove(CONTENT_ENCODING);
    Ok(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers that look like chance, always the same.
    fn chance() -> impl Iterator<Item = u64> {
        std::iter::successors(Some(0x9e37_79b9_7f4a_7c15_u64), |state| {
            let state = state ^ (state << 13);
            let state = state ^ (state >> 7);
            Some(state ^ (state << 17))
        })
    }

    fn text(bytes: usize) -> Vec<u8> {
        const WORDS: [&str; 4] = ["consumers ", "messages ", "of brokers ", "delivered "];
        chance().flat_map(|number| WORDS[number as usize % 4].bytes()).take(bytes).collect()
    }

    fn packed(with: Compression, payload: &[u8]) -> Message {
        let message = compress_from(Message::new(payload.to_vec()), with, 0).unwrap();
        assert_eq!(message.headers.get_str(CONTENT_ENCODING), Some(with.name()));
        message
    }

    #[test]
    fn each_brings_back_what_it_was_given() {
        for with in Compression::ALL {
            for bytes in [1000, CHUNK - 1, CHUNK, CHUNK + 1, 300_000] {
                let payload = text(bytes);
                let message = packed(with, &payload).header("other", "kept");
                assert!(message.payload.len() < bytes);
                let back = decompress(message, bytes).unwrap();
                assert_eq!(back.payload, payload, "{with:?}");
                assert_eq!((back.headers.len(), back.headers.get_str("other")), (1, Some("kept")));
            }
        }
    }

    #[test]
    fn one_byte_over_the_limit_is_refused() {
        for with in Compression::ALL {
            for bytes in [1000, CHUNK, 100_000] {
                let error = decompress(packed(with, &text(bytes)), bytes - 1).unwrap_err();
                assert_eq!(error.kind(), CodecErrorKind::OverLimit, "{with:?}");
                assert!(error.to_string().contains(&format!("more than {} bytes", bytes - 1)), "{error}");
            }
        }
    }

    #[test]
    fn what_is_cut_damaged_or_goes_on_is_malformed() {
        for with in Compression::ALL {
            let whole = packed(with, &text(1000));
            let unpacked = |payload: Vec<u8>| {
                let mut message = whole.clone();
                message.payload = payload.into();
                decompress(message, 2000)
            };
            let broken = |payload| {
                assert_eq!(unpacked(payload).unwrap_err().kind(), CodecErrorKind::Malformed, "{with:?}");
            };
            let last = whole.payload.len() - 1;
            broken(whole.payload[..last].to_vec());
            broken(whole.payload[..20].to_vec());
            broken([&whole.payload[..], b"more"].concat());
            broken(b"plain text".to_vec());
            let mut damaged = whole.payload.to_vec();
            damaged[last / 2] ^= 0x10;
            // Of zstd's frames only those with a checksum would notice each damage.
            match unpacked(damaged) {
                Ok(message) => assert!(with == Compression::Zstd && message.payload != text(1000)),
                Err(error) => assert_ne!(error.kind(), CodecErrorKind::UnknownEncoding),
            }
        }
    }

    #[test]
    fn short_encoded_and_incompressible_payloads_are_left() {
        let random: Vec<u8> = chance().take(1000).map(|number| (number >> 32) as u8).collect();
        for with in Compression::ALL {
            let short = Message::new(text(THRESHOLD - 1));
            assert_eq!(compress(short.clone(), with).unwrap(), short);
            assert!(compress(Message::new(text(THRESHOLD)), with).unwrap().payload.len() < THRESHOLD);
            let random = Message::new(random.clone());
            assert_eq!(compress(random.clone(), with).unwrap(), random);
            let encoded = packed(Compression::Gzip, &text(5000));
            assert_eq!(compress(encoded.clone(), with).unwrap(), encoded);
        }
    }

    #[test]
    fn encodings_stack_and_unknown_ones_are_named() {
        let mut message = packed(Compression::Lz4, &text(1000));
        message.payload = Compression::Zstd.pack(&message.payload).unwrap().into();
        message.headers.remove(CONTENT_ENCODING);
        let both = message.clone().header(CONTENT_ENCODING, "LZ4, identity ,zstd");
        assert_eq!(decompress(both, 1000).unwrap().payload, text(1000));
        let error = decompress(message.clone().header(CONTENT_ENCODING, "br"), 1000).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the content encoding \"br\" is not known; known are gzip, zstd, lz4, snappy"
        );
        let error =
            decompress(message.header(CONTENT_ENCODING, "gzip,gzip,gzip,gzip,gzip"), 1000).unwrap_err();
        assert_eq!(error.kind(), CodecErrorKind::OverLimit);
        let plain = Message::new("plain").header(CONTENT_ENCODING, "identity");
        let plain = decompress(plain, 0).unwrap();
        assert_eq!((plain.payload.as_ref(), plain.headers.len()), (&b"plain"[..], 0));
    }
}

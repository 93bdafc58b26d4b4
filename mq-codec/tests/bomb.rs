//! A bomb costs no more memory than its limit allows. A process of its own, so that what it took at the most can be read.
#![cfg(target_os = "linux")]

use std::io::Write as _;

use mq_codec::{CodecErrorKind, Compression, compress, decompress};
use mq_core::Message;

const MIB: usize = 1 << 20;
const LIMIT: usize = 16 * MIB;

/// The most memory that the process had so far, in bytes.
fn peak() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}

/// A GiB of zeros in a megabyte or less: members or frames that follow each other.
fn bomb(with: Compression) -> Message {
    let mut piece = compress(Message::new(vec![0; MIB]), with).unwrap();
    let payload = match with {
        Compression::Gzip | Compression::Zstd => piece.payload.repeat(1024),
        Compression::Lz4 => lz4(),
        _ => snappy(&piece.payload),
    };
    piece.payload = payload.into();
    piece
}

/// One frame of a GiB.
fn lz4() -> Vec<u8> {
    let mut packer = lz4_flex::frame::FrameEncoder::new(Vec::new());
    for _ in 0..1024 {
        packer.write_all(&[0; MIB]).unwrap();
    }
    packer.finish().unwrap()
}

/// The chunks of one frame, over and over; the first ten bytes say what it is.
fn snappy(piece: &[u8]) -> Vec<u8> {
    let (begin, chunks) = piece.split_at(10);
    [begin, &chunks.repeat(1024)].concat()
}

#[test]
fn a_bomb_costs_its_limit_at_most() {
    for with in Compression::ALL {
        let bomb = bomb(with);
        let size = bomb.payload.len();
        assert!(size < 64 * MIB);
        let before = peak();
        let error = decompress(bomb, LIMIT).unwrap_err();
        assert_eq!(error.kind(), CodecErrorKind::OverLimit);
        let more = peak() - before;
        // Beside the limit: the window of zstd, and what decoders buffer.
        assert!(more < LIMIT + 12 * MIB, "{with:?}: {size} bytes took {more} more");
    }
}

//! The replies to reads, decoded while they arrive: no I/O.
//!
//! The client makes a value of its own of every name and every value of an entry; here an entry is one
//! block of bytes and where its fields are in it.

use std::ops::Range;

use mq_core::{Error, ErrorKind, Result};

use crate::entry::EntryId;

fn malformed() -> Error {
    Error::new(ErrorKind::Malformed, "the server's reply to a read cannot be read")
}

/// The first line of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Head {
    kind: u8,
    number: i64,
    end: usize,
}

/// Reads the line at `at`, if it is there to its end; the number of a text is 0.
fn head(bytes: &[u8], at: usize) -> Result<Option<Head>> {
    let Some((kind, rest)) = bytes.get(at..).and_then(<[u8]>::split_first) else { return Ok(None) };
    let text = matches!(kind, b'+' | b'-');
    let (mut number, mut negative) = (0i64, false);
    for (place, byte) in rest.iter().enumerate() {
        match byte {
            b'\r' if place + 1 == rest.len() => return Ok(None),
            b'\r' if rest[place + 1] == b'\n' => {
                let number = if negative { -number } else { number };
                return Ok(Some(Head { kind: *kind, number, end: at + place + 3 }));
            }
            _ if text => {}
            b'-' if place == 0 => negative = true,
            b'0'..=b'9' => {
                let next = number.checked_mul(10).and_then(|tens| tens.checked_add(i64::from(byte - b'0')));
                number = next.ok_or_else(malformed)?;
            }
            _ => return Err(malformed()),
        }
    }
    Ok(None)
}

/// Reads the string at `at`, if it is there to its end; what is nil is empty.
fn string(bytes: &[u8], at: usize) -> Result<Option<(Range<usize>, usize)>> {
    let Some(Head { kind, number, end }) = head(bytes, at)? else { return Ok(None) };
    match (kind, usize::try_from(number)) {
        (b'$', Ok(length)) => {
            let last = end.checked_add(length).ok_or_else(malformed)?;
            Ok((bytes.len() >= last + 2).then_some((end..last, last + 2)))
        }
        (b'$', Err(_)) => Ok(Some((end..end, end))),
        (b':' | b'+', _) => Ok(Some((at + 1..end - 2, end))),
        _ => Err(malformed()),
    }
}

/// Returns the length of the first value, if it is there to its end.
pub(crate) fn length(bytes: &[u8]) -> Result<Option<usize>> {
    let (mut at, mut left) = (0, 1usize);
    while left > 0 {
        let Some(Head { kind, number, end }) = head(bytes, at)? else { return Ok(None) };
        let number = usize::try_from(number).unwrap_or(0);
        left -= 1;
        at = match kind {
            b'*' => {
                left = left.checked_add(number).ok_or_else(malformed)?;
                end
            }
            b'$' => match string(bytes, at)? {
                Some((_, next)) => next,
                None => return Ok(None),
            },
            b':' | b'+' | b'-' => end,
            _ => return Err(malformed()),
        };
    }
    Ok((at <= bytes.len()).then_some(at))
}

/// A part of the reply to a read; what it says of bytes is relative to those it was read from.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// The reply is an error, a text of this length.
    Error(usize),
    /// How many streams brought something.
    Streams(usize),
    /// A stream begins: its name, and how many entries it brought.
    Stream(Range<usize>, usize),
    /// An entry: its id, and the bytes its fields are in.
    Entry(EntryId, Range<usize>),
    /// An entry that was deleted.
    Deleted,
    /// The reply is over.
    End,
}

/// Reads the reply to a read part by part.
#[derive(Debug, Default)]
pub(crate) struct ReadReply {
    begun: bool,
    streams: usize,
    entries: usize,
    fields: Vec<Range<usize>>,
}

impl ReadReply {
    /// Where the names and values of the last entry are in its bytes, by turns.
    pub(crate) fn fields(&self) -> &[Range<usize>] {
        &self.fields
    }

    /// Reads the next part, if it is there to its end, and how many bytes it takes.
    pub(crate) fn next(&mut self, bytes: &[u8]) -> Result<Option<(Part, usize)>> {
        if !self.begun {
            return self.begin(bytes);
        }
        if self.entries > 0 {
            return self.entry(bytes);
        }
        if self.streams > 0 {
            return self.stream(bytes);
        }
        Ok(Some((Part::End, 0)))
    }

    fn begin(&mut self, bytes: &[u8]) -> Result<Option<(Part, usize)>> {
        let Some(Head { kind, number, end }) = head(bytes, 0)? else { return Ok(None) };
        self.begun = true;
        match kind {
            b'-' => Ok(Some((Part::Error(end), 0))),
            b'$' | b'_' if number > 0 => Err(malformed()),
            b'*' | b'$' | b'_' => {
                self.streams = usize::try_from(number).unwrap_or(0);
                Ok(Some((Part::Streams(self.streams), end)))
            }
            _ => Err(malformed()),
        }
    }

    fn stream(&mut self, bytes: &[u8]) -> Result<Option<(Part, usize)>> {
        let Some(pair) = head(bytes, 0)? else { return Ok(None) };
        let Some((name, at)) = string(bytes, pair.end)? else { return Ok(None) };
        let Some(entries) = head(bytes, at)? else { return Ok(None) };
        if (pair.kind, pair.number, entries.kind) != (b'*', 2, b'*') {
            return Err(malformed());
        }
        self.streams -= 1;
        self.entries = usize::try_from(entries.number).unwrap_or(0);
        Ok(Some((Part::Stream(name, self.entries), entries.end)))
    }

    fn entry(&mut self, bytes: &[u8]) -> Result<Option<(Part, usize)>> {
        let Some(pair) = head(bytes, 0)? else { return Ok(None) };
        let Some((id, at)) = string(bytes, pair.end)? else { return Ok(None) };
        let Some(fields) = head(bytes, at)? else { return Ok(None) };
        if (pair.kind, pair.number, fields.kind) != (b'*', 2, b'*') {
            return Err(malformed());
        }
        let Ok(count) = usize::try_from(fields.number) else {
            self.entries -= 1;
            return Ok(Some((Part::Deleted, fields.end)));
        };
        self.fields.clear();
        let (start, mut at) = (fields.end, fields.end);
        for _ in 0..count {
            let Some((field, next)) = string(bytes, at)? else { return Ok(None) };
            self.fields.push(field.start - start..field.end - start);
            at = next;
        }
        let id = EntryId::parse(&bytes[id]).ok_or_else(malformed)?;
        self.entries -= 1;
        Ok(Some((Part::Entry(id, start..at), at)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Entries = Vec<(EntryId, Vec<Vec<u8>>)>;

    fn bulk(out: &mut Vec<u8>, value: &[u8]) {
        out.extend_from_slice(format!("${}\r\n", value.len()).as_bytes());
        out.extend_from_slice(value);
        out.extend_from_slice(b"\r\n");
    }

    fn encode(streams: &[(Vec<u8>, Entries)]) -> Vec<u8> {
        let mut out = format!("*{}\r\n", streams.len()).into_bytes();
        for (name, entries) in streams {
            out.extend_from_slice(b"*2\r\n");
            bulk(&mut out, name);
            out.extend_from_slice(format!("*{}\r\n", entries.len()).as_bytes());
            for (id, fields) in entries {
                out.extend_from_slice(b"*2\r\n");
                bulk(&mut out, id.to_string().as_bytes());
                out.extend_from_slice(format!("*{}\r\n", fields.len()).as_bytes());
                fields.iter().for_each(|field| bulk(&mut out, field));
            }
        }
        out
    }

    /// Reads a reply that arrives in pieces; returns what was in it and how many bytes it took.
    fn decode(mut bytes: &[u8], piece: usize) -> (Vec<(Vec<u8>, Entries)>, usize) {
        let (mut reply, mut streams) = (ReadReply::default(), Vec::new());
        let (mut seen, mut taken) = (0, 0);
        loop {
            let Some((part, used)) = reply.next(&bytes[..seen]).unwrap() else {
                assert!(seen < bytes.len());
                seen = bytes.len().min(seen + piece);
                continue;
            };
            match part {
                Part::Streams(_) => {}
                Part::Stream(name, _) => streams.push((bytes[name].to_vec(), Vec::new())),
                Part::Entry(id, block) => {
                    let block = &bytes[block];
                    let fields = reply.fields().iter().map(|field| block[field.clone()].to_vec()).collect();
                    streams.last_mut().unwrap().1.push((id, fields));
                }
                Part::End => return (streams, taken),
                part => panic!("{part:?}"),
            }
            bytes = &bytes[used..];
            (seen, taken) = (seen - used, taken + used);
        }
    }

    fn entries() -> impl Strategy<Value = Entries> {
        let field =
            prop_oneof![proptest::collection::vec(any::<u8>(), 0..9), Just(b"a\r\n*2\r\n$-1".to_vec())];
        let id = (any::<u64>(), any::<u64>()).prop_map(|(ms, seq)| EntryId { ms, seq });
        proptest::collection::vec((id, proptest::collection::vec(field, 0..5)), 1..4)
    }

    proptest! {
        /// Whatever the pieces, the same comes out, and nothing of the next reply is taken.
        #[test]
        fn pieces_do_not_matter(
            streams in proptest::collection::vec((proptest::collection::vec(any::<u8>(), 0..5), entries()), 0..3),
            piece in 1usize..40,
        ) {
            let mut bytes = encode(&streams);
            let size = bytes.len();
            prop_assert_eq!(length(&bytes).unwrap(), Some(size));
            prop_assert_eq!(length(&bytes[..size - 1]).unwrap(), None);
            bytes.extend_from_slice(b"*-1\r\n");
            prop_assert_eq!(decode(&bytes, piece), (streams, size));
        }

        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(prop_oneof![any::<u8>(), Just(b'\r'), Just(b'\n'),
            Just(b'*'), Just(b'$'), Just(b'-'), Just(b'1'), Just(b'2')], 0..40)) {
            let (mut reply, mut at) = (ReadReply::default(), 0);
            while let Ok(Some((part, used))) = reply.next(&bytes[at..]) {
                if matches!(part, Part::End | Part::Error(_)) {
                    break;
                }
                at += used;
            }
            let _ = length(&bytes);
        }
    }

    #[test]
    fn nothing_an_error_and_what_was_deleted() {
        for nothing in ["*-1\r\n", "*0\r\n", "$-1\r\n"] {
            let mut reply = ReadReply::default();
            assert_eq!(reply.next(nothing.as_bytes()).unwrap(), Some((Part::Streams(0), nothing.len())));
            assert_eq!(reply.next(b"").unwrap(), Some((Part::End, 0)));
        }
        assert_eq!(ReadReply::default().next(b"-NOGROUP no\r\n").unwrap(), Some((Part::Error(13), 0)));
        let bytes = b"*1\r\n*2\r\n$1\r\ns\r\n*1\r\n*2\r\n$3\r\n1-0\r\n*-1\r\n";
        let (mut reply, mut at) = (ReadReply::default(), 0);
        let mut parts = Vec::new();
        while parts.last() != Some(&Part::End) {
            let (part, used) = reply.next(&bytes[at..]).unwrap().unwrap();
            at += used;
            parts.push(part);
        }
        assert_eq!(parts, [Part::Streams(1), Part::Stream(8..9, 1), Part::Deleted, Part::End]);
    }
}

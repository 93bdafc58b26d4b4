//! Entry ids and replies, read straight from the client's values.

use std::fmt;
use std::ops::Range;

use bytes::Bytes;
use mq_core::{Error, ErrorKind, Position, Result};
use redis::Value;

use crate::kept::Kept;

/// An entry id, `ms-seq`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct EntryId {
    /// The server's milliseconds since the Unix epoch.
    pub(crate) ms: u64,
    /// The number within the millisecond.
    pub(crate) seq: u64,
}

impl EntryId {
    pub(crate) fn parse(text: &[u8]) -> Option<Self> {
        let (ms, seq) = std::str::from_utf8(text).ok()?.split_once('-')?;
        Some(Self { ms: ms.parse().ok()?, seq: seq.parse().ok()? })
    }

    pub(crate) fn position(self, partition: u32) -> Position {
        Position { partition, offset: self.ms, sub: Some(self.seq) }
    }

    /// Calls `read` with the id's text, without allocating.
    pub(crate) fn with_text<R>(self, read: impl FnOnce(&[u8]) -> R) -> R {
        let mut text = [0u8; 41];
        let mut start = text.len();
        for (last, mut number) in [(true, self.seq), (false, self.ms)] {
            loop {
                start -= 1;
                text[start] = b'0' + (number % 10) as u8;
                number /= 10;
                if number == 0 {
                    break;
                }
            }
            if last {
                start -= 1;
                text[start] = b'-';
            }
        }
        read(&text[start..])
    }
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.ms, self.seq)
    }
}

/// An entry as the server gave it.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) id: EntryId,
    pub(crate) block: Bytes,
    /// Where names and values are in the block, by turns.
    pub(crate) fields: Vec<Range<usize>>,
}

impl Entry {
    /// Puts names and values into one block; what is no string is empty.
    pub(crate) fn new(id: EntryId, values: Vec<Value>) -> Self {
        let (mut block, mut fields) = (Vec::new(), Vec::with_capacity(values.len()));
        for value in values {
            let start = block.len();
            match value {
                Value::BulkString(bytes) => block.extend_from_slice(&bytes),
                other => block.extend(bytes(other).unwrap_or_default()),
            }
            fields.push(start..block.len());
        }
        Self { id, block: block.into(), fields }
    }
}

/// An entry that was pending before, with what the group knows of it.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) entry: Entry,
    /// Deliveries, that is one more than the deaths with it.
    pub(crate) count: u32,
    /// Whether it was started alone.
    pub(crate) started: bool,
    /// What was recorded of it, if it holds its key.
    pub(crate) kept: Option<Kept>,
}

/// The error for a reply that is not what the command answers.
pub(crate) fn unexpected(what: &'static str) -> Error {
    Error::new(ErrorKind::Malformed, format!("the server's reply to {what} cannot be read"))
}

pub(crate) fn array(value: Value) -> Vec<Value> {
    match value {
        Value::Array(values) | Value::Set(values) => values,
        Value::Map(pairs) => pairs.into_iter().flat_map(|(key, value)| [key, value]).collect(),
        _ => Vec::new(),
    }
}

pub(crate) fn integer(value: &Value) -> Option<i64> {
    match value {
        Value::Int(number) => Some(*number),
        Value::BulkString(text) => std::str::from_utf8(text).ok()?.parse().ok(),
        Value::SimpleString(text) => text.parse().ok(),
        _ => None,
    }
}

pub(crate) fn bytes(value: Value) -> Option<Vec<u8>> {
    match value {
        Value::BulkString(bytes) => Some(bytes),
        Value::SimpleString(text) => Some(text.into_bytes()),
        Value::Int(number) => Some(number.to_string().into_bytes()),
        _ => None,
    }
}

pub(crate) fn text(value: Value) -> Option<String> {
    String::from_utf8(bytes(value)?).ok()
}

pub(crate) fn id(value: &Value) -> Option<EntryId> {
    match value {
        Value::BulkString(text) => EntryId::parse(text),
        Value::SimpleString(text) => EntryId::parse(text.as_bytes()),
        _ => None,
    }
}

/// Reads an entry; one that was deleted has no fields and is `None`.
pub(crate) fn entry(value: Value) -> Option<Entry> {
    let mut parts = array(value).into_iter();
    let id = id(&parts.next()?)?;
    match parts.next()? {
        fields @ (Value::Array(_) | Value::Map(_)) => Some(Entry::new(id, array(fields))),
        _ => None,
    }
}

pub(crate) fn pending(value: Value) -> Option<Pending> {
    let mut parts = array(value);
    let started = parts.get(3).and_then(integer) == Some(1);
    let kept = parts.get(4).and_then(integer).zip(parts.get(5).cloned().and_then(text));
    let kept = kept.and_then(|(left, history)| Kept::read(left, &history));
    let count = parts.get(2).and_then(integer).and_then(|count| u32::try_from(count).ok())?;
    parts.truncate(2);
    Some(Pending { entry: entry(Value::Array(parts))?, count, started, kept })
}

/// Reads the reply of a script that starts with a status; the rest follows.
pub(crate) fn status(value: Value, what: &'static str) -> Result<(i64, std::vec::IntoIter<Value>)> {
    let mut parts = array(value).into_iter();
    match parts.next().as_ref().and_then(integer) {
        Some(status) => Ok((status, parts)),
        None => Err(unexpected(what)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn ids_read_back(ms: u64, seq: u64) {
            let id = EntryId { ms, seq };
            prop_assert_eq!(id.with_text(EntryId::parse), Some(id));
            prop_assert_eq!(id.to_string().into_bytes(), id.with_text(<[u8]>::to_vec));
        }
    }

    #[test]
    fn odd_ids_are_not_read() {
        for text in ["", "1", "-1", "1-", "x-1", "1-99999999999999999999"] {
            assert_eq!(EntryId::parse(text.as_bytes()), None, "{text}");
        }
    }
}

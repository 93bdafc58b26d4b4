//! Messages as stream entries: `body` is the payload, everything else is a field of its own name.

use std::borrow::Cow;
use std::ops::Range;

use bytes::Bytes;
use mq_core::envelope::{self, Decoder, Envelope, NativeFields};
use mq_core::{Clock, Message};
use redis::Cmd;

use crate::entry::{Entry, EntryId};

/// The field of the payload.
const BODY: &str = "body";
/// Stands before the name of a user's header that could be taken for a field of ours.
const ESCAPE: &str = "mq-header-";
/// The most headers of a message: its fields pass through a script's stack.
pub(crate) const MAX_HEADERS: usize = 1000;

/// Calls `put` with each field of a message.
pub(crate) fn fields(message: &Message, envelope: &Envelope, mut put: impl FnMut(&[u8], &[u8])) {
    put(BODY.as_bytes(), &message.payload);
    envelope::encode(message, envelope, NativeFields::default(), |name, value| put(name.as_bytes(), value));
    for (name, value) in message.headers.iter() {
        if name == BODY || name.starts_with(ESCAPE) {
            put(format!("{ESCAPE}{name}").as_bytes(), value);
        } else {
            put(name.as_bytes(), value);
        }
    }
}

/// About how many arguments and bytes the fields of a message take.
pub(crate) fn room(message: &Message) -> (usize, usize) {
    (22 + 2 * message.headers.len(), message.size() + 160)
}

/// Adds the fields of a message to a command.
pub(crate) fn append(cmd: &mut Cmd, message: &Message, envelope: &Envelope) {
    fields(message, envelope, |name, value| {
        cmd.arg(name).arg(value);
    });
}

/// Reads an entry, of which `fields` are the names and values by turns; the message keeps parts of `block`.
/// What is not ours stays a header; nothing makes it fail.
pub(crate) fn decode(id: EntryId, block: &Bytes, fields: &[Range<usize>]) -> (Message, Envelope) {
    // `body`, `mq-id` and `mq-published-at` are in every entry of ours, `mq-key` in most.
    let mut decoder = Decoder::new((fields.len() / 2).saturating_sub(4));
    let mut payload = None;
    for pair in fields.chunks(2) {
        let name = &block[pair[0].clone()];
        let value = pair.get(1).map_or(0..0, Range::clone);
        if payload.is_none() && name == BODY.as_bytes() {
            payload = Some(block.slice(value));
        } else if decoder.key.is_none() && name == envelope::KEY.as_bytes() {
            decoder.key = Some(block.slice(value));
        } else {
            let name = header_name(name);
            decoder.header_with(&name, &block[value], |part| keep(block, part));
        }
    }
    decoder.finish(payload.unwrap_or_default(), || id.to_string().into())
}

/// Shares what is a part of the block.
fn keep(block: &Bytes, part: &[u8]) -> Bytes {
    if block.as_ptr_range().contains(&part.as_ptr()) {
        block.slice_ref(part)
    } else {
        Bytes::copy_from_slice(part)
    }
}

fn header_name(name: &[u8]) -> Cow<'_, str> {
    match String::from_utf8_lossy(name) {
        Cow::Borrowed(name) => Cow::Borrowed(name.strip_prefix(ESCAPE).unwrap_or(name)),
        Cow::Owned(name) => match name.strip_prefix(ESCAPE) {
            Some(escaped) => Cow::Owned(escaped.to_owned()),
            None => Cow::Owned(name),
        },
    }
}

/// Reads an entry that was read on its own.
pub(crate) fn decode_entry(entry: &Entry) -> (Message, Envelope) {
    decode(entry.id, &entry.block, &entry.fields)
}

/// A message that the server held until it was due: no clock of ours may hold it longer.
pub(crate) fn due((mut message, envelope): (Message, Envelope), clock: &Clock) -> (Message, Envelope) {
    if let Some(at) = message.deliver_at {
        message.deliver_at = Some(at.min(clock.now()));
    }
    (message, envelope)
}

/// Writes what waits in a ZSET: 16 bytes that keep equal due times in order, then a MessagePack
/// array of the partition and the fields, which the moving script adds to the stream.
pub(crate) fn delayed(order: [u8; 16], partition: u32, message: &Message, envelope: &Envelope) -> Vec<u8> {
    const COUNT: usize = 17;
    let mut blob = Vec::with_capacity(room(message).1 + 64);
    blob.extend_from_slice(&order);
    blob.extend_from_slice(&[0xdd, 0, 0, 0, 0]);
    let mut count = 1u32;
    string(&mut blob, partition.to_string().as_bytes());
    fields(message, envelope, |name, value| {
        string(&mut blob, name);
        string(&mut blob, value);
        count += 2;
    });
    blob[COUNT..COUNT + 4].copy_from_slice(&count.to_be_bytes());
    blob
}

fn string(blob: &mut Vec<u8>, value: &[u8]) {
    blob.push(0xdb);
    blob.extend_from_slice(&u32::try_from(value.len()).unwrap_or(u32::MAX).to_be_bytes());
    blob.extend_from_slice(value);
}

#[cfg(test)]
mod tests {
    use mq_core::Timestamp;
    use mq_core::envelope::Death;
    use proptest::prelude::*;
    use redis::Value;

    use super::*;

    fn entry_of(message: &Message, envelope: &Envelope) -> Entry {
        let mut values = Vec::new();
        fields(message, envelope, |name, value| {
            values.extend([Value::BulkString(name.to_vec()), Value::BulkString(value.to_vec())]);
        });
        Entry::new(EntryId { ms: 5, seq: 1 }, values)
    }

    proptest! {
        #[test]
        fn messages_survive(
            payload in proptest::collection::vec(any::<u8>(), 0..50),
            key in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..9)),
            headers in proptest::collection::vec(
                (prop_oneof![Just("body".to_owned()), Just("mq-header-body".to_owned()), "[a-z]{0,4}"],
                 proptest::collection::vec(any::<u8>(), 0..9)), 0..5),
            attempt in 1u32..9, dead: bool,
        ) {
            let mut message = Message::with_id(payload, "id");
            message.key = key.map(Bytes::from);
            message.headers = headers.into_iter().collect();
            let death = dead.then(|| Death { reason: "no".into(), at: Timestamp::from_millis(7) });
            let envelope = Envelope { attempt, death, ..Envelope::default() };
            prop_assert_eq!(decode_entry(&entry_of(&message, &envelope)), (message, envelope));
        }

        #[test]
        fn foreign_entries_never_fail(
            values in proptest::collection::vec(
                prop_oneof![
                    proptest::collection::vec(any::<u8>(), 0..9).prop_map(Value::BulkString),
                    Just(Value::Nil), any::<i64>().prop_map(Value::Int),
                    Just(Value::BulkString(b"mq-attempt".to_vec())), Just(Value::BulkString(b"body".to_vec())),
                ], 0..9),
        ) {
            let (message, _) = decode_entry(&Entry::new(EntryId { ms: 5, seq: 1 }, values));
            prop_assert!(!message.id.to_string().is_empty() || message.headers.is_empty());
        }
    }

    #[test]
    fn a_foreign_entry_is_named_by_its_entry_id() {
        let fields = ["a", "1", "b", "2"].map(|text| Value::BulkString(text.as_bytes().to_vec())).to_vec();
        let (message, envelope) = decode_entry(&Entry::new(EntryId { ms: 5, seq: 1 }, fields));
        assert_eq!((message.id.to_string().as_str(), message.payload.len()), ("5-1", 0));
        assert_eq!((message.headers.get_str("a"), message.headers.get_str("b")), (Some("1"), Some("2")));
        assert_eq!(envelope.attempt, 1);
    }

    #[test]
    fn a_delayed_blob_counts_its_parts() {
        let blob = delayed([1; 16], 3, &Message::with_id("x", "id"), &Envelope::default());
        assert_eq!(blob[16..26], [0xdd, 0, 0, 0, 5, 0xdb, 0, 0, 0, 1]);
    }
}

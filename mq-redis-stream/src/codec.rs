//! Messages as stream entries: `body` is the payload, everything else is a field of its own name.

use bytes::Bytes;
use bytestring::ByteString;
use mq_core::envelope::{self, Decoder, Envelope, NativeFields};
use mq_core::{Clock, Message};
use redis::{Cmd, Value};

use crate::entry::Entry;

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

/// Reads an entry. What is not ours stays a header; nothing makes it fail.
pub(crate) fn decode(entry: Entry) -> (Message, Envelope) {
    let id = entry.id;
    // `body`, `mq-id` and `mq-published-at` are in every entry of ours.
    let mut decoder = Decoder::new((entry.fields.len() / 2).saturating_sub(3));
    let mut payload = None;
    let mut fields = entry.fields.into_iter();
    while let Some(name) = fields.next() {
        let (name, value) = (as_bytes(name), as_bytes(fields.next().unwrap_or_default()));
        if payload.is_none() && name == BODY.as_bytes() {
            payload = Some(Bytes::from(value));
            continue;
        }
        decoder.owned_header(header_name(name), value.into());
    }
    decoder.finish(payload.unwrap_or_default(), || id.to_string().into())
}

fn header_name(name: Vec<u8>) -> ByteString {
    let name = String::from_utf8(name)
        .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned());
    match name.strip_prefix(ESCAPE) {
        Some(escaped) => escaped.into(),
        None => name.into(),
    }
}

/// Reads an entry that the server held until it was due: no clock of ours may hold it longer.
pub(crate) fn decode_due(entry: Entry, clock: &Clock) -> (Message, Envelope) {
    let (mut message, envelope) = decode(entry);
    if let Some(at) = message.deliver_at {
        message.deliver_at = Some(at.min(clock.now()));
    }
    (message, envelope)
}

fn as_bytes(value: Value) -> Vec<u8> {
    crate::entry::bytes(value).unwrap_or_default()
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

    use super::*;
    use crate::entry::EntryId;

    fn entry_of(message: &Message, envelope: &Envelope) -> Entry {
        let mut values = Vec::new();
        fields(message, envelope, |name, value| {
            values.extend([Value::BulkString(name.to_vec()), Value::BulkString(value.to_vec())]);
        });
        Entry { id: EntryId { ms: 5, seq: 1 }, fields: values }
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
            prop_assert_eq!(decode(entry_of(&message, &envelope)), (message, envelope));
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
            let (message, _) = decode(Entry { id: EntryId { ms: 5, seq: 1 }, fields: values });
            prop_assert!(!message.id.to_string().is_empty() || message.headers.is_empty());
        }
    }

    #[test]
    fn a_foreign_entry_is_named_by_its_entry_id() {
        let fields = ["a", "1", "b", "2"].map(|text| Value::BulkString(text.as_bytes().to_vec())).to_vec();
        let (message, envelope) = decode(Entry { id: EntryId { ms: 5, seq: 1 }, fields });
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

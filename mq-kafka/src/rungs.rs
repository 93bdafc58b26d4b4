//! The delay ladder's topics and records.

use std::time::Duration;

use mq_core::envelope::{Envelope, TARGET};
use mq_core::ladder::{COUNT, RUNGS};
use mq_core::{Message, Timestamp, TopicName};
use rdkafka::message::{Header, Headers as _, OwnedHeaders};

use crate::codec::{self, Name, Record};

/// The group that forwards what is due.
pub(crate) const GROUP: &str = "mq..delay";
/// Partitions of each rung: the most processes that share the forwarding of one.
pub(crate) const PARTITIONS: i32 = 4;
/// How much longer than its delay a rung keeps records: so long all forwarders may be away.
const GRACE: Duration = Duration::from_secs(7 * 86_400);

/// Returns the topic of a rung: `mq..delay..64s`.
pub(crate) fn topic(rung: usize) -> String {
    format!("mq..delay..{}s", RUNGS[rung].as_secs())
}

/// Returns all rungs' topics.
pub(crate) fn topics() -> Vec<String> {
    (0..COUNT).map(topic).collect()
}

/// Returns how long a rung keeps records, in milliseconds.
pub(crate) fn retention(rung: usize) -> String {
    (RUNGS[rung] + GRACE).as_millis().to_string()
}

/// Makes the record that puts a message on a rung at `now`, to go to `target` in the end.
pub(crate) fn delayed(
    rung: usize,
    target: Name,
    message: &Message,
    envelope: &Envelope,
    now: Timestamp,
) -> Record {
    let envelope = Envelope { target: Some(target), ..envelope.clone() };
    codec::copy(topic(rung).into(), None, message, &envelope, now)
}

/// As [`delayed`], for a message that is published.
pub(crate) fn delayed_first(rung: usize, topic: &TopicName, message: &Message, now: Timestamp) -> Record {
    delayed(rung, codec::target(topic.as_str(), None), message, &Envelope::default(), now)
}

/// Copies a waiting record's headers for its target, which needs no directions.
pub(crate) fn without_target(headers: &OwnedHeaders) -> OwnedHeaders {
    headers
        .iter()
        .filter(|header| header.key != TARGET)
        .fold(OwnedHeaders::new_with_capacity(headers.count()), |kept, Header { key, value }| {
            kept.insert(Header { key, value })
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_waiting_record_knows_where_it_goes() {
        let topic = TopicName::new("orders").unwrap();
        let record = delayed_first(3, &topic, &Message::new("x"), Timestamp::from_millis(7));
        assert_eq!((record.topic.as_str(), record.timestamp), ("mq..delay..64s", Some(7)));
        let headers = record.headers.unwrap();
        let target = headers.iter().find(|header| header.key == TARGET).and_then(|header| header.value);
        assert_eq!(target, Some(&b"orders"[..]));
        assert_eq!(without_target(&headers).count(), headers.count() - 1);
    }

    #[test]
    fn rungs_keep_records_longer_than_they_hold_them() {
        assert!((0..COUNT).all(|rung| retention(rung).parse::<u128>().unwrap() > RUNGS[rung].as_millis()));
        assert_eq!(topics().len(), COUNT);
    }
}

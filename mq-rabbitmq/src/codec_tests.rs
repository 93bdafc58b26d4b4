use mq_core::TopicName;
use mq_core::envelope::Death;
use proptest::prelude::*;

use mq_core::Terms;

use super::*;
use crate::passing::Passing;

fn deliver(publication: Publication, returned: Option<i64>) -> Delivery {
    let Publication { exchange, routing_key, properties, payload, .. } = publication;
    let mut delivery = Delivery::mock(1, exchange, routing_key, false, payload.to_vec());
    let mut table = properties.headers().clone().unwrap_or_default();
    if let Some(returned) = returned {
        table.insert(DELIVERY_COUNT.into(), AMQPValue::LongLongInt(returned));
    }
    delivery.properties = properties.with_headers(table);
    delivery
}

fn topic(message: Message) -> Outgoing {
    Outgoing { topic: TopicName::new("orders").unwrap(), message, terms: Terms::default() }
}

fn with_headers(headers: &[(&str, AMQPValue)]) -> Delivery {
    let mut delivery = Delivery::mock(1, "orders".into(), "a.b".into(), false, b"x".to_vec());
    let mut table = FieldTable::default();
    for (name, value) in headers {
        table.insert((*name).into(), value.clone());
    }
    delivery.properties = BasicProperties::default().with_headers(table);
    delivery
}

prop_compose! {
    fn any_message()(
        id in ".{0,90}", key in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..20)),
        subject in proptest::option::of("[a-z.]{0,20}"), at in proptest::option::of(any::<u32>()),
        kind in proptest::option::of("[a-z/]{0,300}"), payload in proptest::collection::vec(any::<u8>(), 0..50),
        headers in proptest::collection::vec(("[a-d]{0,2}", proptest::collection::vec(any::<u8>(), 0..9)), 0..6),
    ) -> Message {
        let mut message = Message::with_id(payload, id);
        message.key = key.map(Bytes::from);
        message.subject = subject.map(Into::into);
        message.content_type = kind.map(Into::into);
        message.deliver_at = at.map(|at| Timestamp::from_millis(at.into()));
        message.published_at = at.map(|at| Timestamp::from_millis(at.into()));
        message.headers = headers.into_iter().collect();
        message
    }
}

proptest! {
    #[test]
    fn a_sent_message_survives(message in any_message()) {
        let received = decode(deliver(to_topic(topic(message.clone())).unwrap(), None));
        prop_assert_eq!((received.message, received.envelope, received.returned), (message, Envelope::default(), 0));
    }

    #[test]
    fn a_copy_survives(message in any_message(), attempt in 1u32.., returned in 0i64..1000) {
        let envelope = Envelope {
            attempt,
            first_seen: Some(Timestamp::from_millis(7)),
            error: Some("no".into()),
            target: Some("queue:q".into()),
            death: Some(Death { reason: "x".into(), at: Timestamp::from_millis(8) }),
        };
        let publication = to_queue("orders..billing", message.clone(), &envelope).unwrap();
        prop_assert!(publication.mandatory);
        let received = decode(deliver(publication, Some(returned)));
        prop_assert_eq!(i64::from(received.returned), returned);
        prop_assert_eq!((received.message, received.envelope), (message, envelope));
    }
}

#[test]
fn a_delayed_message_travels_and_arrives_as_it_was_sent() {
    let mut message = Message::new("x").subject("a.b").key("k").header("z", "1").header("a", "2");
    message.deliver_at = Some(Timestamp::from_millis(5000));
    let envelope = Envelope { target: Some("topic:orders".into()), ..Envelope::default() };
    let publication = to_queue("mq.delay.0.0", message.clone(), &envelope).unwrap();
    let passing = Passing::read(deliver(publication, Some(3)));
    assert_eq!((passing.deliver_at.as_millis(), passing.target.as_deref()), (5000, Some("topic:orders")));
    let hop = passing.publication("", "mq.delay.1.0", false);
    assert!(hop.mandatory);
    let passing = Passing::read(deliver(hop, None));
    let arrival = passing.publication("orders", &passing.subject, true);
    assert!(!arrival.mandatory);
    let table = arrival.properties.headers().clone().unwrap();
    assert!(!table.contains_key(envelope::TARGET) && !table.contains_key(envelope::SUBJECT));
    let received = decode(deliver(arrival, None));
    assert_eq!((received.message, received.envelope), (message, Envelope::default()));
}

#[test]
fn foreign_values_become_text() {
    let array = FieldArray::from(vec![AMQPValue::LongInt(1), AMQPValue::LongString("b".into())]);
    let mut table = FieldTable::default();
    table.insert("k".into(), AMQPValue::Boolean(true));
    let received = decode(with_headers(&[
        ("a-int", AMQPValue::LongInt(-5)),
        ("b-bool", AMQPValue::Boolean(true)),
        ("c-double", AMQPValue::Double(1.5)),
        ("d-array", AMQPValue::FieldArray(array)),
        ("e-table", AMQPValue::FieldTable(table)),
        ("f-void", AMQPValue::Void),
        ("g-bytes", AMQPValue::ByteArray(vec![0xff, 0].into())),
        ("h-empty", AMQPValue::FieldArray(FieldArray::default())),
        ("i-time", AMQPValue::Timestamp(9)),
        ("CC", AMQPValue::FieldArray(vec![AMQPValue::LongString("q".into())].into())),
    ]));
    let headers = received.message.headers;
    for (name, value) in [
        ("a-int", &b"-5"[..]),
        ("b-bool", b"true"),
        ("c-double", b"1.5"),
        ("d-array", b"[1,\"b\"]"),
        ("e-table", b"{\"k\":true}"),
        ("f-void", b""),
        ("g-bytes", &[0xff, 0]),
        ("h-empty", b"[]"),
        ("i-time", b"9"),
        ("cc", b"q"),
    ] {
        assert_eq!(headers.get(name).map(AsRef::as_ref), Some(value), "{name}");
    }
    assert_eq!(received.message.subject.as_deref(), Some("a.b"));
}

#[test]
fn foreign_properties_become_headers_and_ids_are_stable() {
    let make = |count: Option<i64>| {
        let mut delivery = with_headers(&[]);
        let mut table = FieldTable::default();
        if let Some(count) = count {
            table.insert(DELIVERY_COUNT.into(), AMQPValue::LongLongInt(count));
        }
        delivery.properties = BasicProperties::default()
            .with_correlation_id("c".into())
            .with_timestamp(7)
            .with_content_encoding("gzip".into())
            .with_headers(table);
        decode(delivery)
    };
    let (first, second) = (make(None), make(Some(2)));
    assert_eq!(first.message.id, second.message.id);
    assert!(first.message.id.to_string().starts_with("amqp-"));
    assert_eq!(first.message.headers.get_str("correlation-id"), Some("c"));
    assert_eq!(first.message.headers.get_str("content-encoding"), Some("gzip"));
    assert_eq!(first.message.published_at, Some(Timestamp::from_millis(7000)));
    assert_eq!(second.returned, 2);
}

#[test]
fn what_does_not_fit_is_refused() {
    let message = Message::new("x");
    for bad in [
        message.clone().subject("s".repeat(256)),
        message.clone().header("n".repeat(256), "v"),
        message.clone().header("CC", "v"),
    ] {
        assert_eq!(to_topic(topic(bad)).unwrap_err().kind(), ErrorKind::InvalidInput);
    }
}

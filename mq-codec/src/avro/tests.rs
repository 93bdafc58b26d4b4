use std::collections::BTreeMap;

use serde::Deserialize;

use super::*;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Channel {
    Web,
    Shop,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Item {
    name: String,
    cents: i64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Order {
    id: i32,
    channel: Channel,
    items: Vec<Item>,
    notes: BTreeMap<String, String>,
    discount: Option<f64>,
    paid: bool,
}

const ORDER: &str = r#"{"type":"record","name":"Order","namespace":"shop","fields":[
    {"name":"id","type":"int"},
    {"name":"channel","type":{"type":"enum","name":"Channel","symbols":["Web","Shop"]}},
    {"name":"items","type":{"type":"array","items":{"type":"record","name":"Item","fields":[
        {"name":"name","type":"string"},{"name":"cents","type":"long"}]}}},
    {"name":"notes","type":{"type":"map","values":"string"}},
    {"name":"discount","type":["null","double"],"default":null},
    {"name":"paid","type":"boolean"}]}"#;

fn order(items: usize) -> Order {
    let item = |number| Item { name: format!("item {number}"), cents: -(number as i64) << 40 };
    let items: Vec<Item> = (0..items).map(item).collect();
    let notes = BTreeMap::from([("gift".into(), "yes".into()), (String::new(), "✓".into())]);
    Order { id: -7, channel: Channel::Shop, items, notes, discount: Some(0.25), paid: true }
}

fn codec() -> Avro<Order> {
    Avro::new(ORDER).unwrap()
}

fn kind<T: std::fmt::Debug>(result: Result<T, CodecError>) -> CodecErrorKind {
    result.unwrap_err().kind()
}

#[test]
fn values_come_back() {
    for order in [order(0), order(1), order(300), Order { discount: None, ..order(2) }] {
        let payload = codec().encode(&order).unwrap();
        assert_eq!(payload[..2], MARKER);
        assert_eq!(codec().decode(&payload).unwrap(), order);
    }
}

/// The fingerprint and the bytes of the specification's own example: a record of `a`, a long, and `b`, a string.
#[test]
fn bytes_are_those_of_the_specification() {
    #[derive(Serialize)]
    struct Test {
        a: i64,
        b: &'static str,
    }
    let schema = r#"{"type":"record","name":"test","fields":[{"name":"a","type":"long"},{"name":"b","type":"string"}]}"#;
    let payload = Avro::<Test>::new(schema).unwrap().encode(&Test { a: 27, b: "foo" }).unwrap();
    assert_eq!(payload[10..], [0x36, 0x06, 0x66, 0x6f, 0x6f]);
    // CRC-64-AVRO of "int" with its quotes, as in the specification's table of test cases.
    let int = Avro::<i32>::new("\"int\"").unwrap().encode(&1).unwrap();
    assert_eq!(int[2..10], 0x7275_d51a_3f39_5c8f_u64.to_le_bytes());
}

#[test]
fn every_cut_and_whatever_follows_is_malformed() {
    let whole = codec().encode(&order(2)).unwrap();
    for end in 0..whole.len() {
        assert_eq!(kind(codec().decode(&whole.slice(..end))), CodecErrorKind::Malformed, "{end}");
    }
    let longer = Bytes::from([&whole[..], &[0]].concat());
    assert_eq!(codec().decode(&longer).unwrap_err().to_string(), "1 bytes follow the Avro value");
}

#[test]
fn older_schemas_are_read_by_fingerprint_with_defaults() {
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Old {
        id: i32,
        gone: String,
    }
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct New {
        id: i64,
        currency: String,
    }
    let old_schema = r#"{"type":"record","name":"O","fields":[{"name":"id","type":"int"},{"name":"gone","type":"string"}]}"#;
    let new_schema = r#"{"type":"record","name":"O","fields":[{"name":"id","type":"long"},
        {"name":"currency","type":"string","default":"EUR"}]}"#;
    let old = Avro::<Old>::new(old_schema).unwrap().encode(&Old { id: 5, gone: "x".into() }).unwrap();
    let new = Avro::<New>::new(new_schema).unwrap();
    let error = new.decode(&old).unwrap_err();
    assert_eq!(error.kind(), CodecErrorKind::UnknownSchema);
    assert!(error.to_string().contains(&hex(&old[2..10])), "{error}");
    let new = new.known(old_schema).unwrap();
    assert_eq!(new.decode(&old).unwrap(), New { id: 5, currency: "EUR".into() });
    new.check_compatible(old_schema).unwrap();
}

#[test]
fn incompatible_schemas_are_refused() {
    let reader = Avro::<i32>::new("\"int\"").unwrap();
    assert_eq!(kind(reader.check_compatible("\"string\"")), CodecErrorKind::Incompatible);
    // Some values can be read, so it may be known, and is not compatible.
    let some = r#"["null","int"]"#;
    assert_eq!(kind(reader.check_compatible(some)), CodecErrorKind::Incompatible);
    assert_eq!(kind(reader.clone().known("\"string\"")), CodecErrorKind::Incompatible);
    let written = Avro::<Option<i32>>::new(some).unwrap().encode(&Some(4)).unwrap();
    assert_eq!(reader.known(some).unwrap().decode(&written).unwrap(), 4);
    assert_eq!(kind(Avro::<i32>::new("{}")), CodecErrorKind::InvalidInput);
}

#[test]
fn items_at_the_limit_and_one_over() {
    // Ten items and two notes.
    let payload = codec().encode(&order(10)).unwrap();
    assert_eq!(codec().limits(Limits::default().items(12)).decode(&payload).unwrap(), order(10));
    let error = codec().limits(Limits::default().items(11)).decode(&payload).unwrap_err();
    assert_eq!(
        (error.kind(), error.to_string().contains("more than 11 items")),
        (CodecErrorKind::OverLimit, true)
    );
}

#[test]
fn size_at_the_limit_and_one_over() {
    let payload = codec().encode(&order(3)).unwrap();
    let exact = codec().limits(Limits::default().payload(payload.len()));
    assert_eq!(exact.decode(&exact.encode(&order(3)).unwrap()).unwrap(), order(3));
    let less = codec().limits(Limits::default().payload(payload.len() - 1));
    assert_eq!(kind(less.decode(&payload)), CodecErrorKind::OverLimit);
    assert_eq!(kind(less.encode(&order(3))), CodecErrorKind::OverLimit);
}

#[test]
fn a_list_of_nothing_that_claims_a_billion_items_is_refused() {
    let nulls = Avro::<Vec<()>>::new(r#"{"type":"array","items":"null"}"#).unwrap();
    let mut bomb = nulls.encode(&vec![]).unwrap()[..10].to_vec();
    // 2^30 in zigzag, then the end.
    bomb.extend([0x80, 0x80, 0x80, 0x80, 0x08, 0]);
    assert_eq!(kind(nulls.decode(&bomb.into())), CodecErrorKind::OverLimit);
}

#[test]
fn depth_at_the_limit_and_one_over() {
    #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
    struct Node {
        next: Option<Box<Node>>,
    }
    let schema =
        r#"{"type":"record","name":"Node","fields":[{"name":"next","type":["null","Node"],"default":null}]}"#;
    let nodes = Avro::<Node>::new(schema).unwrap();
    let chain = |levels: usize| -> Bytes {
        let header = nodes.encode(&Node::default()).unwrap().slice(..10);
        // Each node but the last chooses the second branch.
        [&header[..], &vec![2; levels - 1], &[0]].concat().into()
    };
    for levels in [1, 2, 20] {
        let limited = nodes.clone().limits(Limits::default().depth(levels));
        let mut node = limited.decode(&chain(levels)).unwrap();
        let mut depth = 1;
        while let Some(next) = node.next {
            (node, depth) = (*next, depth + 1);
        }
        assert_eq!(depth, levels);
        assert_eq!(kind(limited.decode(&chain(levels + 1))), CodecErrorKind::OverLimit);
    }
    // Unless said otherwise it is 16; a million would overflow the stack.
    assert!(nodes.decode(&chain(16)).is_ok());
    assert_eq!(kind(nodes.decode(&chain(17))), CodecErrorKind::OverLimit);
    assert_eq!(kind(nodes.decode(&chain(1_000_000))), CodecErrorKind::OverLimit);
}

#[test]
fn logical_types_names_in_namespaces_and_repeated_types() {
    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    struct Point {
        x: f32,
        y: f64,
    }
    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    struct Event {
        at: i64,
        day: i32,
        first: Channel,
        second: Channel,
        from: Point,
        to: Vec<Point>,
        by_name: BTreeMap<String, Vec<Option<i64>>>,
    }
    let schema = r#"{"type":"record","name":"a.b.Event","fields":[
        {"name":"at","type":{"type":"long","logicalType":"timestamp-millis"}},
        {"name":"day","type":{"type":"int","logicalType":"date"}},
        {"name":"first","type":{"type":"enum","name":"Channel","symbols":["Web","Shop"]}},
        {"name":"second","type":"Channel"},
        {"name":"from","type":{"type":"record","name":"c.Point","fields":[{"name":"x","type":"float"},{"name":"y","type":"double"}]}},
        {"name":"to","type":{"type":"array","items":"c.Point"}},
        {"name":"by_name","type":{"type":"map","values":{"type":"array","items":["null","long"]}}}]}"#;
    let point = Point { x: 1.5, y: -2.25 };
    let event = Event {
        at: 1_764_115_200_000,
        day: 20_418,
        first: Channel::Web,
        second: Channel::Shop,
        from: point.clone(),
        to: vec![point; 3],
        by_name: BTreeMap::from([
            ("a".into(), vec![Some(i64::MIN), None, Some(i64::MAX)]),
            ("b".into(), vec![]),
        ]),
    };
    let codec = Avro::<Event>::new(schema).unwrap();
    let payload = codec.encode(&event).unwrap();
    assert_eq!(codec.decode(&payload).unwrap(), event);
    for end in 10..payload.len() {
        assert_eq!(kind(codec.decode(&payload.slice(..end))), CodecErrorKind::Malformed, "{end}");
    }
}

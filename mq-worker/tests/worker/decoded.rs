//! Payloads in formats, compressed and of old versions.

use mq_codec::{
    CodecErrorKind, Codecs, Compression, Decode, Encode as _, Format, Json, Limits, MessagePack, Protobuf,
    Upcasters, compress, versioned,
};
use mq_core::{Client, ErrorKind, Message};
use mq_worker::layers::{Decompress, SchemaCheck, Upcast};
use mq_worker::{Avro, Backoff, Body, Extension, Handler, MsgPack, Proto, Report, State, Text, Worker};
use serde::{Deserialize, Serialize};

use crate::support::{Notes, SECOND, client, dead, epitaph, refused, serve};

#[derive(Clone, PartialEq, prost::Message, Serialize, Deserialize)]
struct Order {
    #[prost(string, tag = "1")]
    item: String,
    #[prost(int32, tag = "2")]
    count: i32,
}

const SCHEMA: &str = r#"{"type":"record","name":"Order","fields":[{"name":"item","type":"string"},{"name":"count","type":"int"}]}"#;

fn order(count: i32) -> Order {
    Order { item: "book".into(), count }
}

fn avro() -> mq_codec::Avro<Order> {
    mq_codec::Avro::new(SCHEMA).unwrap()
}

fn cut_at(message: &Message, end: usize) -> Message {
    let mut cut = message.clone();
    cut.payload.truncate(end);
    cut
}

async fn body(Body(order): Body<Order>, State(notes): State<Notes>) {
    notes.add(format!("{} {}", order.count, order.item));
}

async fn text(Text(text): Text, State(notes): State<Notes>) {
    notes.add(format!("{} bytes", text.len()));
}

/// Runs handlers of one message that can be read and one that cannot, and returns why the second is dead.
async fn one_good_one_bad(worker: impl FnOnce(&Client) -> Worker, good: Message, bad: Message) -> String {
    let (client, notes) = (client(), Notes::default());
    // The bad one is first: the next one proceeds.
    let report = serve(&client, worker(&client).state(notes.clone()), [bad.clone(), good]).await;
    assert_eq!((report.handled, report.dead, report.retried), (1, 1, 0));
    assert_eq!(notes.all().len(), 1);
    assert_eq!(dead(&client, "in").await[0].message.payload, bad.payload, "as it was delivered");
    epitaph(&client).await.0
}

#[tokio::test(start_paused = true)]
async fn each_extractor_reads_its_format_and_rejects_the_rest() {
    async fn proto(Proto(order): Proto<Order>, State(notes): State<Notes>) {
        notes.add(order.item);
    }
    async fn msgpack(MsgPack(order): MsgPack<Order>, State(notes): State<Notes>) {
        notes.add(order.item);
    }
    async fn single(Avro(order): Avro<Order>, State(notes): State<Notes>) {
        notes.add(order.item);
    }
    let message = Protobuf::new().message(&order(1)).unwrap();
    let cut = cut_at(&message, 3);
    let reason = one_good_one_bad(|client| Worker::new(client, "g").on("in", proto), message, cut).await;
    assert!(reason.contains("the payload is not the Protobuf expected: "), "{reason}");

    let message = MessagePack::new().message(&order(1)).unwrap();
    let other = message.clone().content_type("application/json");
    let reason = one_good_one_bad(|client| Worker::new(client, "g").on("in", msgpack), message, other).await;
    assert!(reason.contains("application/json and MessagePack is expected"), "{reason}");

    let message = avro().message(&order(1)).unwrap();
    let cut = cut_at(&message, message.payload.len() - 1);
    let worker = |client: &Client| Worker::new(client, "g").on("in", single).state(avro());
    let reason = one_good_one_bad(worker, message, cut).await;
    assert!(reason.contains("ends in the middle of an Avro value"), "{reason}");
}

#[tokio::test(start_paused = true)]
async fn a_worker_without_the_schema_does_not_start() {
    async fn single(Avro(_): Avro<Order>) {}
    let client = client();
    let error = refused(Worker::new(&client, "g").on("in", single)).await;
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.to_string().contains("no Avro schema for"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_body_is_read_by_its_content_type() {
    let (client, notes) = (client(), Notes::default());
    let messages = [
        Json::new().message(&order(1)).unwrap(),
        MessagePack::new().message(&order(2)).unwrap(),
        Message::new(r#"{"item":"book","count":3}"#),
        Message::new("<order/>").content_type("text/xml"),
    ];
    let report =
        serve(&client, Worker::new(&client, "g").on("in", body).state(notes.clone()), messages).await;
    assert_eq!((report.handled, report.dead), (3, 1));
    let mut seen = notes.all();
    seen.sort();
    assert_eq!(seen, ["1 book", "2 book", "3 book"]);
    let reason = epitaph(&client).await.0;
    let says = "the content type text/xml is not known; known are application/json, application/vnd.msgpack";
    assert!(reason.contains(says), "{reason}");
}

#[tokio::test(start_paused = true)]
async fn a_body_is_read_by_the_workers_own_codecs_and_limits() {
    let small = Json::new().limits(Limits::default().payload(40));
    let codecs = Codecs::<Order>::new(avro()).with(small);
    let (good, long) = (avro().message(&order(1)).unwrap(), " ".repeat(41));
    let worker = |client: &Client| Worker::new(client, "g").on("in", body).state(codecs);
    let reason = one_good_one_bad(worker, good, Message::new(long).content_type("application/json")).await;
    assert!(reason.contains("41 bytes and 40 are allowed"), "{reason}");
}

#[tokio::test(start_paused = true)]
async fn limits_are_the_workers() {
    async fn msgpack(MsgPack(_): MsgPack<Order>, State(notes): State<Notes>) {
        notes.add("");
    }
    let fits = MessagePack::new().message(&order(1)).unwrap();
    let limits = Limits::default().payload(fits.payload.len());
    let over = MessagePack::new().message(&order(1000)).unwrap();
    let worker = |client: &Client| Worker::new(client, "g").on("in", msgpack).state(limits);
    assert!(one_good_one_bad(worker, fits, over).await.contains("raise the limit `payload`"));
}

#[tokio::test(start_paused = true)]
async fn compressed_payloads_are_handled_up_to_the_limit() {
    for with in Compression::ALL {
        let of = |bytes: usize| compress(Message::new(vec![b'a'; bytes]), with).unwrap();
        let worker =
            |client: &Client| Worker::new(client, "g").on("in", text.layer(Decompress::up_to(10_000)));
        let reason = one_good_one_bad(worker, of(10_000), of(10_001)).await;
        assert!(reason.contains("more than 10000 bytes when decompressed"), "{reason}");
        let broken = Message::new("not compressed").header("content-encoding", with.name());
        let reason = one_good_one_bad(worker, of(500), broken).await;
        assert!(reason.contains(&format!("the payload is not the {} expected", with.name())), "{reason}");
    }
}

#[tokio::test(start_paused = true)]
async fn without_the_layer_what_is_compressed_is_rejected() {
    let plain = Json::new().message(&order(1)).unwrap();
    let packed =
        compress(Json::new().message(&Order { item: "a".repeat(999), count: 1 }).unwrap(), Compression::Gzip);
    let reason =
        one_good_one_bad(|client| Worker::new(client, "g").on("in", body), plain, packed.unwrap()).await;
    assert!(reason.contains("still encoded as gzip; decompress it first"), "{reason}");
}

fn orders() -> Upcasters {
    Upcasters::of("order").then(|mut order| {
        let count = order["items"].as_array().ok_or("no items")?.len();
        order["item"] = order["items"][0].take();
        order["count"] = count.into();
        Ok(order)
    })
}

async fn versions(messages: Vec<Message>) -> (Report, Vec<String>, Client) {
    let (client, notes) = (client(), Notes::default());
    let worker = Worker::new(&client, "g").on("in", body.layer(Upcast::new(orders()))).state(notes.clone());
    let report = serve(&client, worker, messages).await;
    (report, notes.all(), client)
}

#[tokio::test(start_paused = true)]
async fn old_versions_are_brought_up_to_date_and_newer_ones_are_dead() {
    let old = versioned(Message::new(r#"{"items":["pen","book"]}"#), "order", 1);
    let current = versioned(Json::new().message(&order(7)).unwrap(), "order", 2);
    let newer = versioned(Message::new("{}"), "order", 3);
    let (report, mut seen, client) = versions(vec![newer, old, current]).await;
    seen.sort();
    assert_eq!((report.handled, report.dead, seen), (2, 1, vec!["2 pen".to_owned(), "7 book".to_owned()]));
    let reason = epitaph(&client).await.0;
    assert!(reason.contains("version 3 of order is newer than 2"), "{reason}");
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_brought_up_to_date_is_dead_and_other_types_pass() {
    let broken = versioned(Message::new("{}"), "order", 1);
    let other = versioned(Json::new().message(&order(5)).unwrap(), "offer", 9);
    let (report, seen, client) = versions(vec![broken, other]).await;
    assert_eq!((report.handled, report.dead, seen), (1, 1, vec!["5 book".to_owned()]));
    let reason = epitaph(&client).await.0;
    assert!(reason.contains("version 1 of order cannot be made version 2: no items"), "{reason}");
}

#[tokio::test(start_paused = true)]
async fn a_schema_check_leaves_the_value() {
    async fn checked(Extension(order): Extension<Order>, State(notes): State<Notes>) {
        notes.add(order.item);
    }
    let check = || SchemaCheck::<Order>::by_content_type(Codecs::default());
    let worker = |client: &Client| Worker::new(client, "g").on("in", checked.layer(check()));
    let good = MessagePack::new().message(&order(1)).unwrap();
    let bad = Json::new().message(&["no", "order"]).unwrap();
    let reason = one_good_one_bad(worker, good, bad).await;
    assert!(reason.contains("the payload is not the JSON expected: "), "{reason}");
}

/// Cannot be asked at first, as a registry that is down.
#[derive(Default)]
struct LateRegistry(std::sync::atomic::AtomicU32);

impl Format for LateRegistry {
    fn name(&self) -> &'static str {
        "late"
    }

    fn content_type(&self) -> &'static str {
        "application/x-late"
    }
}

impl Decode<Order> for LateRegistry {
    fn decode(&self, _: &mq_core::Bytes) -> Result<Order, mq_codec::CodecError> {
        match self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed) {
            0..3 => Err(mq_codec::CodecError::new(CodecErrorKind::Unavailable, "down")),
            _ => Ok(order(1)),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_is_down_costs_attempts_and_no_message() {
    async fn checked(Extension(_): Extension<Order>) {}
    let client = client();
    let route = checked.layer(SchemaCheck::new(LateRegistry::default()));
    let worker = Worker::new(&client, "g").on("in", route.retry(Backoff::constant(SECOND).attempts(5)));
    let report = serve(&client, worker, [Message::new("")]).await;
    assert_eq!((report.handled, report.retried, report.dead), (1, 3, 0));
}

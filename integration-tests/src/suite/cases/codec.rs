//! Formats and compression: 329 real webhooks go through each, on the broker, and come back as they were.

mod handling;
mod refused;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::OnceLock;

use anyhow::{Context as _, Result, ensure};
use mq::codec::{
    Avro, Compression, ConfluentAvro, Decode, Encode, Json, MemoryRegistry, MessagePack, Protobuf, Raw,
    compress_from, decompress,
};
use mq::{Bytes, Message};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::suite::context::{Context, take};
use crate::suite::manifest::Verdict;

pub(crate) use handling::{by_content_type, dispatched, filtered, subjects, upcast};
pub(crate) use refused::{
    bomb, limits, newer_version, schema_check, still_compressed, undecodable, unknown_content_type,
};

/// See `data/README.md`.
const WEBHOOKS: &[u8] = include_bytes!("../../../data/github-webhooks.jsonl.gz");
/// What the data has, so that a row cannot pass on less.
const COUNT: usize = 329;

/// A webhook: its event, and its body as the JSON text that it was. JSON has no schema that Avro or Protobuf could say, so there it
/// is a text in a record.
#[derive(Clone, PartialEq, prost::Message, Serialize, Deserialize)]
struct Webhook {
    #[prost(string, tag = "1")]
    event: String,
    #[prost(string, tag = "2")]
    body: String,
}

const SCHEMA: &str = r#"{"type":"record","name":"Webhook","fields":[{"name":"event","type":"string"},{"name":"body","type":"string"}]}"#;

impl Webhook {
    fn value(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_default()
    }
}

fn webhooks() -> Result<&'static [Webhook]> {
    static READ: OnceLock<Vec<Webhook>> = OnceLock::new();
    if let Some(webhooks) = READ.get() {
        return Ok(webhooks);
    }
    let packed = Message::new(WEBHOOKS).header("content-encoding", "gzip");
    let lines = decompress(packed, 8 << 20)?.payload;
    let webhooks = std::str::from_utf8(&lines)?.lines().map(webhook).collect::<Result<Vec<_>>>()?;
    ensure!(
        webhooks.len() == COUNT && webhooks.iter().all(|webhook| webhook.value().is_object()),
        "the data is damaged"
    );
    Ok(READ.get_or_init(|| webhooks))
}

/// Reads a line; the body's bytes stay as they are.
fn webhook(line: &str) -> Result<Webhook> {
    let rest = line.strip_prefix("{\"subject\":\"").context("a line without a subject")?;
    let (event, rest) = rest.split_once("\",\"body\":").context("a line without a body")?;
    let body = rest.strip_suffix('}').context("a line without an end")?;
    Ok(Webhook { event: event.into(), body: body.into() })
}

/// Shapes a message as all rows send it: its id says which webhook it is, its subject is the event.
fn shaped(message: Message, number: usize, webhook: &Webhook) -> Message {
    message.id(format!("webhook-{number}")).subject(webhook.event.clone())
}

/// Sends each webhook as `write` makes it, and checks that `read` makes of what comes what `expected` says.
async fn round_trip<T: PartialEq + Debug>(
    context: &Context,
    write: impl Fn(&Webhook) -> Result<Message>,
    read: impl Fn(Message) -> Result<T>,
    expected: impl Fn(&Webhook) -> T,
) -> Result<Verdict> {
    let topic = context.topic();
    let subscriber = context.subscribe(&topic, "g").await?;
    let mut sent = Vec::new();
    let mut left = BTreeMap::new();
    for (number, webhook) in webhooks()?.iter().enumerate() {
        sent.push(shaped(write(webhook)?, number, webhook));
        left.insert(format!("webhook-{number}"), webhook);
    }
    let headers = sent.first().map(|message| (message.content_type.clone(), message.headers.clone()));
    for verdict in context.publisher(&topic).await?.send_batch(sent).await {
        verdict?;
    }
    let deliveries = take(&subscriber, COUNT).await?;
    for delivery in &deliveries {
        let message = delivery.message().clone();
        let webhook =
            left.remove(&message.id.to_string()).with_context(|| format!("{} came twice", message.id))?;
        ensure!(
            message.subject.as_deref() == Some(&webhook.event),
            "{:?} of {}",
            message.subject,
            webhook.event
        );
        ensure!(headers == Some((message.content_type.clone(), message.headers.clone())), "{message:?}");
        let (read, expected) = (read(message)?, expected(webhook));
        ensure!(read == expected, "{read:?} instead of {expected:?}");
    }
    let acked = mq::ack_all(deliveries).await;
    ensure!(acked.is_ok(), "{acked:?}");
    context.until_empty(&topic, "g").await?;
    Ok(Verdict::Pass)
}

/// A round trip of values of a type.
async fn values<T: PartialEq + Debug>(
    context: &Context,
    codec: impl Encode<T> + Decode<T>,
    value: impl Fn(&Webhook) -> T,
) -> Result<Verdict> {
    let write = |webhook: &Webhook| Ok(codec.message(&value(webhook))?);
    round_trip(context, write, |message| Ok(codec.read(&message)?), &value).await
}

pub(crate) async fn bytes(context: Context) -> Result<Verdict> {
    values(&context, Raw, |webhook| Bytes::copy_from_slice(webhook.body.as_bytes())).await
}

pub(crate) async fn json(context: Context) -> Result<Verdict> {
    values(&context, Json::new(), Webhook::value).await
}

pub(crate) async fn msgpack(context: Context) -> Result<Verdict> {
    values(&context, MessagePack::new(), Webhook::value).await
}

pub(crate) async fn protobuf(context: Context) -> Result<Verdict> {
    values(&context, Protobuf::new(), Webhook::clone).await
}

pub(crate) async fn avro(context: Context) -> Result<Verdict> {
    values(&context, Avro::<Webhook>::new(SCHEMA)?, Webhook::clone).await
}

pub(crate) async fn confluent(context: Context) -> Result<Verdict> {
    let registry = MemoryRegistry::default();
    let writer = ConfluentAvro::<Webhook, _>::new("webhooks-value", SCHEMA, registry.clone())?;
    // Another process, with a schema that has one field more.
    let schema = SCHEMA.replace("]}", r#",{"name":"source","type":"string","default":"GitHub"}]}"#);
    let reader = ConfluentAvro::<BTreeMap<String, String>, _>::new("webhooks-value", &schema, registry)?;
    let expected = |webhook: &Webhook| {
        let fields = [("event", webhook.event.as_str()), ("body", &webhook.body), ("source", "GitHub")];
        fields.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
    };
    round_trip(
        &context,
        |webhook| Ok(writer.message(webhook)?),
        |message| Ok(reader.read(&message)?),
        expected,
    )
    .await
}

/// Compressed and back, byte for byte, and shorter in between.
async fn compressed(context: &Context, with: Compression) -> Result<Verdict> {
    let write = |webhook: &Webhook| {
        let message = Message::new(webhook.body.clone());
        let packed = compress_from(message, with, 0)?;
        ensure!(packed.payload.len() < webhook.body.len(), "{} did not become shorter", webhook.event);
        Ok(packed)
    };
    let read = |message| {
        let message = decompress(message, 64 << 10)?;
        ensure!(message.headers.is_empty(), "{message:?}");
        Ok(message.payload)
    };
    round_trip(context, write, read, |webhook| Bytes::copy_from_slice(webhook.body.as_bytes())).await
}

pub(crate) async fn gzip(context: Context) -> Result<Verdict> {
    compressed(&context, Compression::Gzip).await
}

pub(crate) async fn zstd(context: Context) -> Result<Verdict> {
    compressed(&context, Compression::Zstd).await
}

pub(crate) async fn lz4(context: Context) -> Result<Verdict> {
    compressed(&context, Compression::Lz4).await
}

pub(crate) async fn snappy(context: Context) -> Result<Verdict> {
    compressed(&context, Compression::Snappy).await
}

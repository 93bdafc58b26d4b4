//! What cannot be read is a dead letter with the reason, and the next message proceeds.

use anyhow::{Context as _, Result, ensure};
use mq::codec::{Codecs, Compression, Encode, Json, Limits, compress, versioned};
use mq::worker::layers::{Decompress, SchemaCheck, Upcast};
use mq::worker::{Body, Handler, Route, State, Worker};
use mq::{Message, MessageId, Page};
use serde_json::{Value, json};

use super::handling::{Tally, count, serve, versions};
use super::{Webhook, webhooks};
use crate::suite::context::Context;
use crate::suite::manifest::Verdict;

async fn note(Body(_): Body<Value>, State(tally): State<Tally>) {
    count(&tally, "handled");
}

fn first() -> Result<&'static Webhook> {
    webhooks()?.first().context("there are no webhooks")
}

fn as_json(payload: impl Into<mq::Bytes>) -> Message {
    Message::new(payload).content_type(mq::JSON)
}

/// Handles, one at a time, bad messages with a good one behind each: the bad ones are dead, as they were sent, for reasons that say what
/// stands beside them, and the good ones are handled.
async fn refuses(
    context: &Context,
    route: Route,
    good: &Message,
    bad: &[(Message, &str)],
) -> Result<Verdict> {
    let (topic, group, tally) = (context.topic(), context.group("g"), Tally::default());
    let pair = |message: &Message| [message.clone(), good.clone().id(MessageId::generate())];
    let sent: Vec<Message> = bad.iter().flat_map(|(message, _)| pair(message)).collect();
    let worker = Worker::new(&context.client, group.clone())
        .on(topic.clone(), route.concurrency(1))
        .state(tally.clone());
    let report = serve(context, std::slice::from_ref(&topic), worker, &sent).await?;
    let half = bad.len() as u64;
    ensure!((report.handled, report.dead, report.retried) == (half, half, 0), "{report:?}");
    ensure!(tally.lock().get("handled") == Some(&bad.len()), "{tally:?}");
    let letters = context.admin().dead_letters(&topic, &group, Page { offset: 0, limit: 100 }).await?;
    ensure!(letters.len() == bad.len(), "{} dead letters", letters.len());
    for (message, says) in bad {
        let letter = letters.iter().find(|letter| letter.message.id == message.id);
        let letter = letter.with_context(|| format!("no dead letter of {says:?}"))?;
        let reason = letter.envelope.death.as_ref().map(|death| death.reason.to_string()).unwrap_or_default();
        ensure!(reason.contains(says), "{reason:?} does not say {says:?}");
        let (dead, sent) = (&letter.message, (&message.payload, &message.headers));
        ensure!((&dead.payload, &dead.headers) == sent, "{dead:?}");
    }
    Ok(Verdict::Pass)
}

pub(crate) async fn undecodable(context: Context) -> Result<Verdict> {
    let body = first()?.body.as_str();
    let bad = [
        (as_json(&body.as_bytes()[..body.len() / 2]), "EOF while parsing"),
        (as_json(format!("{body}{body}")), "trailing characters"),
        (as_json(vec![0xff, 0xfe, 0x00]), "the payload is not the JSON expected"),
        (as_json(""), "EOF while parsing"),
        (as_json(body).content_type("application/vnd.msgpack"), "MessagePack"),
    ];
    refuses(&context, note.concurrency(1), &as_json(body), &bad).await
}

pub(crate) async fn schema_check(context: Context) -> Result<Verdict> {
    let good = Json::new().message(first()?)?;
    let bad = [
        (as_json(r#"{"event":"push"}"#), "missing field `body`"),
        (as_json(r#"{"event":1,"body":""}"#), "invalid type: integer `1`, expected a string"),
    ];
    refuses(&context, note.layer(SchemaCheck::<Webhook>::new(Json::new())), &good, &bad).await
}

pub(crate) async fn unknown_content_type(context: Context) -> Result<Verdict> {
    let good = as_json(first()?.body.as_str());
    let of = |kind: &'static str| {
        let message = good.clone().id(MessageId::generate()).content_type(kind);
        (message, "is not known; known are application/json, application/vnd.msgpack")
    };
    refuses(
        &context,
        note.concurrency(1),
        &good,
        &["text/xml", "application/protobuf", "application/avro"].map(of),
    )
    .await
}

pub(crate) async fn still_compressed(context: Context) -> Result<Verdict> {
    let good = as_json(first()?.body.as_str());
    let bad = Compression::ALL.map(|with| compress(good.clone().id(MessageId::generate()), with));
    let bad = bad.into_iter().map(|message| Ok((message?, "decompress it first")));
    refuses(&context, note.concurrency(1), &good, &bad.collect::<Result<Vec<_>>>()?).await
}

pub(crate) async fn bomb(context: Context) -> Result<Verdict> {
    const LIMIT: usize = 1 << 20;
    let mut bad = Vec::new();
    for with in Compression::ALL {
        // Snappy packs zeros to a twentieth, LZ4 to a 250th; brokers take less than 1 MB.
        let bytes = if with == Compression::Snappy { 8 << 20 } else { 16 << 20 };
        let bomb = compress(Message::new(vec![0; bytes]), with)?;
        bad.push((bomb, "more than 1048576 bytes when decompressed"));
    }
    let encoded = |encoding: &'static str| as_json("{}").header("content-encoding", encoding);
    bad.push((encoded("gzip"), "the payload is not the gzip expected"));
    bad.push((encoded("br"), "known are gzip, zstd, lz4, snappy"));
    bad.push((encoded("zstd, zstd, zstd, zstd, zstd"), "5 content encodings are on top of each other"));
    let good = compress(as_json(first()?.body.as_str()), Compression::Zstd)?;
    refuses(&context, note.layer(Decompress::up_to(LIMIT)), &good, &bad).await
}

pub(crate) async fn newer_version(context: Context) -> Result<Verdict> {
    let current = Json::new().message(&json!({ "event": "push", "sender": "ada", "content": {} }))?;
    let fresh = || current.clone().id(MessageId::generate());
    let bad = [
        (versioned(fresh(), "webhook", 4), "version 4 of webhook is newer than 3"),
        (versioned(fresh(), "webhook", 0), "version 0 of webhook is older than 1"),
        (versioned(fresh(), "webhook", 1).content_type("text/xml"), "text/xml and JSON is expected"),
        (fresh().header("schema-version", "two"), "is \"two\" and not a number"),
    ];
    let good = versioned(current.clone(), "webhook", 3);
    refuses(&context, note.layer(Upcast::new(versions())), &good, &bad).await
}

pub(crate) async fn limits(context: Context) -> Result<Verdict> {
    let webhooks = webhooks()?;
    let longest = webhooks.iter().max_by_key(|webhook| webhook.body.len()).context("none")?;
    let deepest = webhooks.iter().map(|webhook| depth(&webhook.value())).max().context("none")?;
    let sent: Vec<Message> = webhooks.iter().map(|webhook| as_json(webhook.body.clone())).collect();
    let longer = as_json(format!("{} ", longest.body));
    let exact = Limits::default().payload(longest.body.len()).depth(deepest);
    let shallow = webhooks.iter().filter(|webhook| depth(&webhook.value()) < deepest).count();
    // All at the limit; one byte over; one level over.
    let cases = [
        (exact, sent.clone(), webhooks.len()),
        (exact, vec![longer], 0),
        (exact.depth(deepest - 1), sent, shallow),
    ];
    ensure!((1..webhooks.len()).contains(&shallow), "{shallow} are less deep than {deepest}");
    for (limits, messages, handled) in cases {
        let topic = context.topic();
        let worker = Worker::new(&context.client, context.group("g"))
            .on(topic.clone(), note)
            .state(Codecs::<Value>::limited(limits))
            .state(Tally::default());
        let report = serve(&context, std::slice::from_ref(&topic), worker, &messages).await?;
        let dead = messages.len() - handled;
        ensure!((report.handled, report.dead) == (handled as u64, dead as u64), "{limits:?}: {report:?}");
    }
    unpacked(&context, &longest.body).await
}

/// The limit of what comes out of a compressed payload.
async fn unpacked(context: &Context, body: &str) -> Result<Verdict> {
    let topic = context.topic();
    let route = note.layer(Decompress::up_to(body.len()));
    let worker =
        Worker::new(&context.client, context.group("g")).on(topic.clone(), route).state(Tally::default());
    let mut messages = Vec::new();
    for with in Compression::ALL {
        messages.push(compress(as_json(body.to_owned()), with)?);
        messages.push(compress(as_json(format!("{body} ")), with)?);
    }
    let report = serve(context, std::slice::from_ref(&topic), worker, &messages).await?;
    ensure!((report.handled, report.dead) == (4, 4), "{report:?}");
    Ok(Verdict::Pass)
}

/// How deep lists and maps are nested.
fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or_default(),
        Value::Object(fields) => 1 + fields.values().map(depth).max().unwrap_or_default(),
        _ => 0,
    }
}

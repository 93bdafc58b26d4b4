//! Webhooks in a worker: by content type, subject, header, content and version.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Result, ensure};
use mq::codec::{Avro, Codecs, Encode, Json, MessagePack, Upcasters, versioned};
use mq::worker::layers::{Filter, Upcast};
use mq::worker::{
    Body, Context as Handled, Dispatch, Handler as _, Layer, Next, Outcome, Report, State, Topic, Worker,
};
use mq::{Message, TopicName};
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::{COUNT, SCHEMA, Webhook, shaped, webhooks};
use crate::suite::cases::worker::run;
use crate::suite::context::Context;
use crate::suite::manifest::Verdict;

/// How often each name was counted.
pub(super) type Tally = Arc<Mutex<BTreeMap<String, usize>>>;

pub(super) fn count(tally: &Tally, name: impl Into<String>) {
    *tally.lock().entry(name.into()).or_default() += 1;
}

/// Counts messages that ended, however.
struct Ended(Arc<AtomicUsize>);

impl Layer for Ended {
    async fn call(&self, context: &mut Handled<'_>, next: Next<'_>) -> Outcome {
        let outcome = next.run(context).await;
        self.0.fetch_add(1, Ordering::Relaxed);
        outcome
    }
}

/// Sends messages to each topic and runs the worker until all ended.
pub(super) async fn serve(
    context: &Context,
    topics: &[TopicName],
    worker: Worker,
    messages: &[Message],
) -> Result<Report> {
    let ended = Arc::<AtomicUsize>::default();
    let all = messages.len() * topics.len();
    let worker = worker.layer(Ended(ended.clone()));
    run(worker, async || {
        for topic in topics {
            for verdict in context.publisher(topic).await?.send_batch(messages.to_vec()).await {
                verdict?;
            }
        }
        context
            .until(|| async {
                let ended = ended.load(Ordering::Relaxed);
                ensure!(ended == all, "{ended} of {all} ended");
                Ok(())
            })
            .await
    })
    .await
}

/// Each webhook as a message.
fn messages(write: impl Fn(usize, &Webhook) -> Result<Message>) -> Result<Vec<Message>> {
    let numbered = webhooks()?.iter().enumerate();
    numbered.map(|(number, webhook)| Ok(shaped(write(number, webhook)?, number, webhook))).collect()
}

fn plain() -> Result<Vec<Message>> {
    messages(|_, webhook| Ok(Message::new(webhook.body.clone()).content_type(mq::JSON)))
}

/// How many webhooks a plain reading of their events chooses.
fn chosen(fits: impl Fn(&[&str]) -> bool) -> Result<usize> {
    let fits = |webhook: &&Webhook| fits(&webhook.event.split('.').collect::<Vec<_>>());
    Ok(webhooks()?.iter().filter(fits).count())
}

async fn by_topic(Topic(topic): Topic, State(tally): State<Tally>) {
    count(&tally, topic.to_string());
}

pub(crate) async fn by_content_type(context: Context) -> Result<Verdict> {
    async fn note(Body(webhook): Body<Webhook>, State(tally): State<Tally>) {
        count(&tally, format!("{} {}", webhook.event, webhook.body));
    }
    let (topic, avro) = (context.topic(), Avro::<Webhook>::new(SCHEMA)?);
    let sent = messages(|number, webhook| {
        let message = match number % 3 {
            0 => Json::new().message(webhook),
            1 => MessagePack::new().message(webhook),
            _ => avro.message(webhook),
        };
        Ok(message?)
    })?;
    let codecs = Codecs::<Webhook>::new(Json::new()).with(MessagePack::new()).with(avro.clone()).strict();
    let tally = Tally::default();
    let worker = Worker::new(&context.client, context.group("g"))
        .on(topic.clone(), note)
        .state(codecs)
        .state(tally.clone());
    let report = serve(&context, &[topic], worker, &sent).await?;
    ensure!(report.handled == COUNT as u64 && report.dead == 0, "{report:?}");
    let expected = Tally::default();
    webhooks()?.iter().for_each(|webhook| count(&expected, format!("{} {}", webhook.event, webhook.body)));
    ensure!(*tally.lock() == *expected.lock(), "webhooks came back otherwise than they were");
    Ok(Verdict::Pass)
}

pub(crate) async fn subjects(context: Context) -> Result<Verdict> {
    let patterns = [
        ("issues.*", chosen(|words| words.len() == 2 && words[0] == "issues")?),
        ("#.created", chosen(|words| words.last() == Some(&"created"))?),
        ("pull_request.#", chosen(|words| words[0] == "pull_request")?),
        ("*", chosen(|words| words.len() == 1)?),
    ];
    let topics = patterns.map(|_| context.topic());
    let tally = Tally::default();
    let mut worker = Worker::new(&context.client, context.group("g")).state(tally.clone());
    for (topic, (pattern, _)) in topics.iter().zip(patterns) {
        worker = worker.on(topic.clone(), by_topic.layer(Filter::subject(pattern)));
    }
    let report = serve(&context, &topics, worker, &plain()?).await?;
    let handled: usize = patterns.iter().map(|(_, count)| count).sum();
    ensure!((report.handled, report.skipped) == (handled as u64, (4 * COUNT - handled) as u64), "{report:?}");
    for (topic, (pattern, expected)) in topics.iter().zip(patterns) {
        let count = tally.lock().get(&topic.to_string()).copied().unwrap_or_default();
        ensure!(count == expected && (1..COUNT).contains(&count), "{pattern}: {count} of {expected}");
    }
    Ok(Verdict::Pass)
}

pub(crate) async fn dispatched(context: Context) -> Result<Verdict> {
    async fn issues(State(tally): State<Tally>) {
        count(&tally, "issues");
    }
    async fn opened(State(tally): State<Tally>) {
        count(&tally, "opened");
    }
    async fn rest(State(tally): State<Tally>) {
        count(&tally, "rest");
    }
    let (topic, tally) = (context.topic(), Tally::default());
    let dispatch = Dispatch::by_subject().on("issues.#", issues).on("*.opened", opened).otherwise(rest);
    let worker =
        Worker::new(&context.client, context.group("g")).on(topic.clone(), dispatch).state(tally.clone());
    let report = serve(&context, &[topic], worker, &plain()?).await?;
    ensure!(report.handled == COUNT as u64, "{report:?}");
    let of_issues = chosen(|words| words[0] == "issues")?;
    let of_opened = chosen(|words| words[0] != "issues" && words.len() == 2 && words[1] == "opened")?;
    let expected = [("issues", of_issues), ("opened", of_opened), ("rest", COUNT - of_issues - of_opened)];
    let expected = expected.map(|(name, count)| (name.to_owned(), count)).into();
    ensure!(*tally.lock() == expected && of_opened > 0, "{tally:?} instead of {expected:?}");
    Ok(Verdict::Pass)
}

pub(crate) async fn filtered(context: Context) -> Result<Verdict> {
    fn from_user(body: &Value) -> bool {
        body["sender"]["type"] == "User"
    }
    let by_content = |message: &Message| message.parse_json::<Value>().is_ok_and(|body| from_user(&body));
    let [by_header_topic, by_content_topic] = [context.topic(), context.topic()];
    let sent = messages(|_, webhook| {
        let action = webhook.event.split_once('.').map_or("none", |(_, action)| action);
        Ok(Message::new(webhook.body.clone()).header("action", action.to_owned()))
    })?;
    let tally = Tally::default();
    let worker = Worker::new(&context.client, context.group("g"))
        .on(by_header_topic.clone(), by_topic.layer(Filter::header("action", "created")))
        .on(by_content_topic.clone(), by_topic.layer(Filter::new(by_content)))
        .state(tally.clone());
    let report = serve(&context, &[by_header_topic.clone(), by_content_topic.clone()], worker, &sent).await?;
    let created = chosen(|words| words.len() == 2 && words[1] == "created")?;
    let by_users = webhooks()?.iter().filter(|webhook| from_user(&webhook.value())).count();
    ensure!(report.handled == (created + by_users) as u64 && report.dead == 0, "{report:?}");
    for (topic, expected) in [(by_header_topic, created), (by_content_topic, by_users)] {
        let count = tally.lock().get(&topic.to_string()).copied().unwrap_or_default();
        ensure!(count == expected && (1..COUNT).contains(&count), "{count} of {expected}");
    }
    Ok(Verdict::Pass)
}

/// 1: the body alone; 2: with its event; 3: under new names.
pub(super) fn versions() -> Upcasters {
    Upcasters::of("webhook").then(|body| Ok(json!({ "event": null, "body": body }))).then(|mut webhook| {
        let body = webhook["body"].take();
        Ok(json!({ "event": webhook["event"], "sender": body["sender"]["login"], "content": body }))
    })
}

fn in_version(number: usize, webhook: &Webhook) -> Value {
    let body = webhook.value();
    match number % 3 {
        0 => body,
        1 => json!({ "event": webhook.event, "body": body }),
        _ => current(number, webhook),
    }
}

fn current(number: usize, webhook: &Webhook) -> Value {
    let (body, event) = (webhook.value(), (!number.is_multiple_of(3)).then_some(&webhook.event));
    json!({ "event": event, "sender": body["sender"]["login"], "content": body })
}

pub(crate) async fn upcast(context: Context) -> Result<Verdict> {
    async fn note(Body(webhook): Body<Value>, State(tally): State<Tally>) {
        count(&tally, webhook.to_string());
    }
    let (topic, tally) = (context.topic(), Tally::default());
    let sent = messages(|number, webhook| {
        let message = Json::new().message(&in_version(number, webhook))?;
        Ok(versioned(message, "webhook", number as u32 % 3 + 1))
    })?;
    let worker = Worker::new(&context.client, context.group("g"))
        .on(topic.clone(), note.layer(Upcast::new(versions())))
        .state(tally.clone());
    let report = serve(&context, &[topic], worker, &sent).await?;
    ensure!(report.handled == COUNT as u64 && report.dead == 0, "{report:?}");
    let expected = Tally::default();
    for (number, webhook) in webhooks()?.iter().enumerate() {
        count(&expected, current(number, webhook).to_string());
    }
    ensure!(*tally.lock() == *expected.lock(), "not every version became the current one");
    Ok(Verdict::Pass)
}

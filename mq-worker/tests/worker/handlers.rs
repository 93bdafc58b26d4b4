//! What handlers may ask for.

use mq_core::{ErrorKind, Message};
use mq_worker::{
    Attempt, Context, Extension, Failure, Group, Handler, Headers, Id, Json, Key, Layer, Next, Outcome,
    Payload, PublishedAt, Redelivered, Rejection, State, Subject, Text, Topic, Worker,
};
use serde::Deserialize;

use crate::support::{Notes, client, dead, epitaph, refused, serve};

#[derive(Debug, Deserialize)]
struct Order {
    item: String,
}

struct Leave(&'static str);

impl Layer for Leave {
    async fn call(&self, context: &mut Context<'_>, next: Next<'_>) -> Outcome {
        context.extensions.insert(self.0);
        next.run(context).await
    }
}

#[tokio::test(start_paused = true)]
async fn every_part_of_a_message() {
    #[expect(clippy::too_many_arguments, reason = "the most there may be")]
    async fn eight(
        Json(order): Json<Order>,
        Payload(payload): Payload,
        Key(key): Key,
        Subject(subject): Subject,
        Headers(headers): Headers,
        Id(id): Id,
        State(notes): State<Notes>,
        Extension(left): Extension<&'static str>,
    ) {
        let source = headers.get_str("source").unwrap();
        let length = payload.len();
        let key = String::from_utf8_lossy(&key).into_owned();
        notes.add(format!("{} {length} {key} {subject} {source} {id} {left}", order.item));
    }
    async fn others(
        Text(text): Text,
        Attempt(attempt): Attempt,
        Redelivered(redelivered): Redelivered,
        PublishedAt(at): PublishedAt,
        Topic(topic): Topic,
        Group(group): Group,
        State(notes): State<Notes>,
    ) {
        notes.add(format!("{text} {attempt} {redelivered} {} {topic} {group}", at.as_millis() > 0));
    }
    let (client, notes) = (client(), Notes::default());
    let worker = Worker::new(&client, "g")
        .on("in", eight.layer(Leave("left")))
        .on("other", others)
        .state(notes.clone());
    let message =
        Message::new(r#"{"item":"book"}"#).key("k").subject("a.b").header("source", "web").id("id-1");
    let other = client.publisher("other").await.unwrap();
    let report = worker.run_until(async {
        other.send(Message::new("text")).await.unwrap();
        crate::support::send_and_wait(&client, "in", vec![message]).await;
    });
    assert_eq!(report.await.unwrap().handled, 2);
    let mut notes = notes.all();
    notes.sort();
    assert_eq!(notes, ["book 15 k a.b web id-1 left", "text 1 false true other g"]);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_read_is_a_dead_letter_and_the_next_one_proceeds() {
    async fn read(Json(order): Json<Order>, State(notes): State<Notes>) {
        notes.add(order.item);
    }
    let (client, notes) = (client(), Notes::default());
    let worker = Worker::new(&client, "g").on("in", read.concurrency(1)).state(notes.clone());
    let messages = ["{", r#"{"item":"book"}"#].map(Message::new);
    let report = serve(&client, worker, messages).await;
    assert_eq!((report.dead, report.handled, report.retried), (1, 1, 0));
    assert_eq!(notes.all(), ["book"]);
    let (reason, _) = epitaph(&client).await;
    assert!(reason.starts_with("the payload is not the JSON expected: EOF"), "{reason}");
}

#[tokio::test(start_paused = true)]
async fn each_extractor_says_what_is_missing() {
    async fn text(_: Text) {}
    async fn key(_: Key) {}
    async fn subject(_: Subject) {}
    async fn extension(_: Extension<u8>) {}
    let cases = [
        (text.route(), "not UTF-8"),
        (key.route(), "no key"),
        (subject.route(), "no subject"),
        (extension.route(), "no layer left a u8; add"),
    ];
    for (route, says) in cases {
        let client = client();
        let worker = Worker::new(&client, "g");
        serve(&client, worker.on("in", route), [Message::new(&b"\xff"[..])]).await;
        let (reason, _) = epitaph(&client).await;
        assert!(reason.contains(says), "{reason}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_option_is_for_what_is_absent_and_a_result_for_what_is_wrong() {
    async fn lenient(key: Option<Key>, order: Result<Json<Order>, Rejection>, State(notes): State<Notes>) {
        notes.add(format!("{} {}", key.is_some(), order.is_ok()));
    }
    async fn strict(_: Option<Json<Order>>) {}
    let (client, notes) = (client(), Notes::default());
    let worker = Worker::new(&client, "g").on("in", lenient.concurrency(1)).state(notes.clone());
    serve(&client, worker, [Message::new("{"), Message::new(r#"{"item":"book"}"#).key("k")]).await;
    assert_eq!(notes.all(), ["false false", "true true"]);

    let worker = Worker::new(&client, "g").on("in", strict);
    serve(&client, worker, [Message::new("{")]).await;
    assert_eq!(dead(&client, "in").await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_worker_without_the_state_its_handlers_want_does_not_start() {
    async fn wants(_: State<u16>) -> Result<(), Failure> {
        Ok(())
    }
    let client = client();
    let error = refused(Worker::new(&client, "g").on("in", wants)).await;
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.to_string().contains("no state of type u16; give it one with `.state(…)`"), "{error}");
}

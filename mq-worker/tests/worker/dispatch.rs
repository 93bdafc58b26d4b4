//! Several handlers for one topic.

use mq_core::{ErrorKind, Message};
use mq_worker::{Dispatch, State, Text, Worker};

use crate::support::{Notes, client, epitaph, refused, serve};

async fn first(Text(text): Text, State(notes): State<Notes>) {
    notes.add(format!("first {text}"));
}

async fn second(Text(text): Text, State(notes): State<Notes>) {
    notes.add(format!("second {text}"));
}

#[tokio::test(start_paused = true)]
async fn by_subject_the_first_that_fits() {
    let (client, notes) = (client(), Notes::default());
    let dispatch = Dispatch::by_subject().on("order.*", first).on("order.#", second);
    let worker = Worker::new(&client, "g").on("in", dispatch.route().concurrency(1)).state(notes.clone());
    let messages =
        ["order.made", "order.line.made", "bill.made"].map(|subject| Message::new(subject).subject(subject));
    let report = serve(&client, worker, messages).await;
    assert_eq!(notes.all(), ["first order.made", "second order.line.made"]);
    assert_eq!((report.handled, report.dead), (2, 1));
    let (reason, _) = epitaph(&client).await;
    assert!(reason.starts_with(r#"no handler for a message with subject "bill.made"; add one"#), "{reason}");
}

#[tokio::test(start_paused = true)]
async fn by_header_and_otherwise() {
    let (client, notes) = (client(), Notes::default());
    let dispatch = Dispatch::by_header("type").on("Made", first).otherwise(second);
    let worker = Worker::new(&client, "g").on("in", dispatch.route().concurrency(1)).state(notes.clone());
    let messages =
        [Message::new("1").header("type", "Made"), Message::new("2").header("type", "*"), Message::new("3")];
    serve(&client, worker, messages).await;
    assert_eq!(notes.all(), ["first 1", "second 2", "second 3"]);
}

#[tokio::test(start_paused = true)]
async fn what_is_put_together_wrongly_does_not_start() {
    let client = client();
    let worker = || Worker::new(&client, "g").state(Notes::default());
    let wrong = [
        (worker(), "no handler; give it one"),
        (worker().on("in", first).on("in", second), "put them into one `Dispatch`"),
        (worker().on("in", Dispatch::by_subject().on("a..b", first)), "empty word"),
        (Worker::new(&client, "g").on("in", Dispatch::by_subject().on("a", first)), "no state of type"),
        (worker().on("no topic", first), "allowed are letters"),
        (Worker::new(&client, "no group").on("in", first), "allowed are letters"),
    ];
    for (worker, says) in wrong {
        let error = refused(worker).await;
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().contains(says), "{error}");
    }
}

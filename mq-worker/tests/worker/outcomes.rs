//! What handlers may return.

use std::time::Duration;

use mq_core::{Client, ClientOptions, Message};
use mq_worker::{Backoff, Done, Failure, Handler, Publish, State, Text, Worker};

use crate::support::{Notes, SECOND, backend, client, dead, epitaph, numbered, serve, texts};

#[tokio::test(start_paused = true)]
async fn unit_ok_and_done_ack() {
    async fn unit() {}
    async fn ok() -> Result<(), std::io::Error> {
        Ok(())
    }
    async fn skip() -> anyhow::Result<Option<Done>> {
        Ok(Some(Done::skipped()))
    }
    let client = client();
    for route in [unit.route(), ok.route()] {
        let report = serve(&client, Worker::new(&client, "g").on("in", route), numbered(3)).await;
        assert_eq!((report.handled, report.skipped), (3, 0));
    }
    let report = serve(&client, Worker::new(&client, "g").on("in", skip), numbered(3)).await;
    assert_eq!((report.handled, report.skipped), (0, 3));
    let stats = client.admin().stats(&"in".try_into().unwrap(), &"g".try_into().unwrap()).await.unwrap();
    assert_eq!((stats.ready, stats.in_flight, stats.dead), (Some(0), Some(0), Some(0)));
}

#[tokio::test(start_paused = true)]
async fn a_failure_says_whether_a_retry_is_worth_it() {
    async fn handle(Text(text): Text, State(notes): State<Notes>) -> Result<(), Failure> {
        let calls = notes.add(&*text);
        match &*text {
            "retry" if calls == 1 => Err(Failure::retry(30 * SECOND).because("busy")),
            "defer" if calls < 10 => Err(Failure::defer(SECOND)),
            "reject" => Err(Failure::reject("no use")),
            _ => Ok(()),
        }
    }
    for (text, seconds, what) in [
        ("retry", vec![0, 30], [1, 1, 0, 0]),
        ("defer", (0..10).collect(), [1, 0, 0, 9]),
        ("reject", vec![0], [0, 0, 1, 0]),
    ] {
        let (client, notes) = (client(), Notes::default());
        let worker = Worker::new(&client, "g").on("in", handle).state(notes.clone());
        let report = serve(&client, worker, [Message::new(text)]).await;
        assert_eq!(notes.seconds(), seconds, "{text}");
        assert_eq!([report.handled, report.retried, report.dead, report.deferred], what, "{text}");
        if text == "reject" {
            assert_eq!(epitaph(&client).await.0, "no use");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_returned_is_published_before_the_source_is_acked() {
    async fn split(Text(text): Text) -> Result<Vec<Publish>, Failure> {
        Ok(text.split(' ').map(|word| Publish::new("words", Message::new(word.to_owned()))).collect())
    }
    async fn count(Text(word): Text, State(notes): State<Notes>) -> Option<Publish> {
        notes.add(&*word);
        None
    }
    let (client, notes) = (client(), Notes::default());
    let worker = Worker::new(&client, "g").on("in", split).on("words", count).state(notes.clone());
    let report = serve(&client, worker, [Message::new("to be")]).await;
    assert_eq!(report.handled, 3);
    let mut words = notes.all();
    words.sort();
    assert_eq!(words, ["be", "to"]);
}

#[tokio::test(start_paused = true)]
async fn a_source_whose_message_cannot_be_published_is_tried_again() {
    async fn copy(State(notes): State<Notes>) -> [Publish; 2] {
        let topic = if notes.add("") == 1 { "no topic" } else { "out" };
        [Publish::new("out", Message::new("1")), Publish::new(topic, Message::new("2"))]
    }
    let (client, notes) = (client(), Notes::default());
    let worker = Worker::new(&client, "g").on("in", copy).state(notes.clone());
    let report = serve(&client, worker.retry(Backoff::constant(SECOND)), numbered(1)).await;
    assert_eq!((report.retried, report.handled), (1, 1));
    assert_eq!(notes.seconds(), [0, 1]);
}

/// In real time: a blocked thread is what keeps the worker from renewing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_published_once_the_lease_is_lost() {
    async fn copy(Text(text): Text, State(notes): State<Notes>) -> Publish {
        if text == "slow" {
            std::thread::sleep(Duration::from_millis(400));
        }
        notes.add(&*text);
        Publish::new("out", Message::new(text.into_bytes()))
    }
    let (client, notes) = (client(), Notes::default());
    let out = client.subscriber("out", "reader").open().await.unwrap();
    let route = copy.lease(Duration::from_millis(100)).retry(Backoff::default().attempts(1)).concurrency(1);
    let publisher = client.publisher("in").await.unwrap();
    let report = Worker::new(&client, "g").on("in", route).state(notes.clone()).run_until(async {
        // The first one opens the publisher; the last one is handled once the slow one is settled.
        for text in ["first", "slow", "last"] {
            publisher.send(Message::new(text)).await.unwrap();
        }
        notes.reached(3).await;
    });
    let report = report.await.unwrap();
    assert_eq!((report.handled, report.stale), (2, 1));
    assert_eq!(dead(&client, "in").await.len(), 1);
    assert_eq!(texts(&out).await, ["first", "last"]);
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_floods_waits_for_room() {
    async fn flood() -> Vec<Publish> {
        (0..10_000).map(|number| Publish::new("out", Message::new(number.to_string()))).collect()
    }
    let client = Client::new(backend(), ClientOptions::default().in_flight(8, 1 << 20));
    let out = client.subscriber("out", "reader").open().await.unwrap();
    let report = serve(&client, Worker::new(&client, "g").on("in", flood), numbered(1)).await;
    assert_eq!((report.handled, report.retried), (1, 0));
    for number in 0..10_000 {
        let delivery = out.receive().await.unwrap();
        assert_eq!(delivery.payload(), number.to_string().as_bytes());
        delivery.ack().await.unwrap();
    }
}

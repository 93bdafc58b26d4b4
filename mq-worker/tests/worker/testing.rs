//! The helpers that test a service, tested.

use std::time::Duration;

use mq_core::{ErrorKind, Message};
use mq_worker::testing::Bench;
use mq_worker::{Attempt, Failure, Handler, Publish, Text, Worker};

use crate::support::{HOUR, client};

async fn ship(Text(order): Text, Attempt(attempt): Attempt) -> Result<Publish, Failure> {
    match (&*order, attempt) {
        ("", _) => Err(Failure::reject("an empty order")),
        ("slow", 1) => Err(Failure::retry(5 * HOUR)),
        (order, _) => Ok(Publish::new("parcels", Message::new(order.to_owned()))),
    }
}

#[tokio::test(start_paused = true)]
async fn a_bench_sees_what_a_worker_does_however_long_it_takes() {
    let client = client();
    let start = std::time::Instant::now();
    let bench = Bench::new(&client).watch("parcels").await.unwrap();
    let worker = Worker::new(&client, "g").on("orders", ship).on("orders", ship.group("twin"));
    let seen = bench.run(worker, ["a", "", "slow"].map(|text| ("orders", Message::new(text)))).await.unwrap();
    assert_eq!((seen.report.handled, seen.report.retried, seen.report.dead), (4, 2, 2));
    let mut texts = seen.texts("parcels");
    texts.sort();
    assert_eq!(texts, ["a", "a", "slow", "slow"]);
    assert_eq!(seen.published("parcels").len(), 4);
    for group in ["g", "twin"] {
        assert_eq!(seen.reasons("orders", group), ["an empty order"]);
        assert_eq!(seen.dead("orders", group)[0].message.payload.len(), 0);
    }
    assert!(start.elapsed() < Duration::from_secs(20));
}

#[tokio::test(start_paused = true)]
async fn what_is_left_and_what_cannot_start_are_errors() {
    async fn never() {
        std::future::pending::<()>().await;
    }
    let client = client();
    let bench = Bench::new(&client).patience(Duration::from_secs(5));
    let worker = Worker::new(&client, "g").on("in", never).drain(Duration::from_secs(1));
    let left = bench.run(worker, [("in", Message::new(""))]).await.unwrap_err();
    assert_eq!(left.kind(), ErrorKind::Timeout);
    let wrong =
        Bench::new(&client).run(Worker::new(&client, "g").on("a b", never), [("in", Message::new(""))]).await;
    assert_eq!(wrong.unwrap_err().kind(), ErrorKind::InvalidInput);
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "is not watched")]
async fn a_topic_that_is_not_watched_is_a_mistake_of_the_test() {
    let client = client();
    let seen = Bench::new(&client)
        .run(Worker::new(&client, "g").on("orders", ship), [("orders", Message::new("a"))]);
    let _ = seen.await.unwrap().published("parcels");
}

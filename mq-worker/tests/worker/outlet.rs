//! What goes around a publisher.

use std::time::Duration;

use futures_util::future::join_all;
use mq_core::{ErrorKind, Message};
use mq_worker::layers::RateLimit;
use mq_worker::{Batching, Outlet};
use tokio::time::Instant;

use crate::support::{SECOND, client, texts};

#[tokio::test(start_paused = true)]
async fn headers_are_defaults_and_steps_run_in_order() {
    let client = client();
    let subscriber = client.subscriber("out", "g").open().await.unwrap();
    let outlet = Outlet::new(client.publisher("out").await.unwrap())
        .header("source", "shop")
        .filter(|message| !message.payload.is_empty())
        .map(|message| match message.payload.len() {
            0..5 => Ok(message.header("checked", "yes")),
            _ => Err("too long"),
        });
    assert!(outlet.send(Message::new("a").header("source", "mine")).await.unwrap().is_some());
    assert!(outlet.send(Message::new("b")).await.unwrap().is_some());
    assert!(outlet.send(Message::new("")).await.unwrap().is_none());
    let refused = outlet.send(Message::new("long enough")).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InvalidInput);
    let deliveries = subscriber.receive_batch(10, SECOND).await.unwrap();
    let header = |n: usize, name| deliveries[n].message().headers.get_str(name);
    assert_eq!(deliveries.len(), 2);
    assert_eq!((header(0, "source"), header(1, "source")), (Some("mine"), Some("shop")));
    assert_eq!((header(0, "checked"), header(1, "checked")), (Some("yes"), Some("yes")));
}

#[tokio::test(start_paused = true)]
async fn a_steady_pace() {
    let client = client();
    let outlet = Outlet::new(client.publisher("out").await.unwrap()).rate_limit(RateLimit::new(10, SECOND));
    let start = Instant::now();
    for sent in join_all((0..11).map(|n| outlet.send(Message::new(n.to_string())))).await {
        sent.unwrap();
    }
    assert_eq!(start.elapsed(), SECOND);
}

#[tokio::test(start_paused = true)]
async fn batches_by_count_bytes_and_time_lose_nothing_when_a_sender_is_dropped() {
    let client = client();
    let subscriber = client.subscriber("out", "g").open().await.unwrap();
    let batching = Batching::new(4, 10_000, 5 * SECOND);
    let outlet = Outlet::new(client.publisher("out").await.unwrap()).batch(batching);
    let start = Instant::now();
    let send = |text: String| outlet.send(Message::new(text));
    // By count at once; the rest when the time is over.
    join_all((0..4).map(|n| send(n.to_string()))).await.into_iter().for_each(|sent| drop(sent.unwrap()));
    assert_eq!(start.elapsed(), Duration::ZERO);
    assert!(send("4".into()).await.unwrap().is_some());
    assert_eq!(start.elapsed(), 5 * SECOND);
    // By bytes.
    join_all([5, 6].map(|n: u32| send(format!("{n}{}", "x".repeat(6000))))).await;
    assert_eq!(start.elapsed(), 10 * SECOND);
    // Who leads a batch is dropped while it waits: who followed leads.
    let leader = tokio::time::timeout(SECOND, send("dropped".into()));
    let (dropped, followed) = tokio::join!(leader, send("7".into()));
    assert!(dropped.is_err() && followed.unwrap().is_some());
    let mut told: Vec<String> = texts(&subscriber).await.iter().map(|text| text[..1].to_owned()).collect();
    told.sort();
    assert_eq!(told, ["0", "1", "2", "3", "4", "5", "6", "7"]);
}

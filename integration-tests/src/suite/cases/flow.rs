use std::time::Duration;

use anyhow::{Result, ensure};
use mq::Message;

use crate::suite::context::{Context, QUIET, body, drain, one, quiet, send, take};
use crate::suite::manifest::Verdict;

pub(crate) async fn prefetch_in_messages(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    let subscriber = context.subscriber(&topic, "g").prefetch(10).open().await?;
    send(&context.publisher(&topic).await?, "m", 50).await?;
    let held = take(&subscriber, 10).await?;
    quiet(&subscriber).await?;
    for delivery in held {
        delivery.ack().await?;
    }
    drain(&subscriber, 40).await?;
    Ok(Verdict::Pass)
}

pub(crate) async fn prefetch_in_bytes(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    let subscriber = context.subscriber(&topic, "g").prefetch_bytes(100_000).open().await?;
    let publisher = context.publisher(&topic).await?;
    for _ in 0..40 {
        publisher.send(Message::new(vec![b'x'; 20_000])).await?;
    }
    // The first may take as long as joining the group does.
    let mut held = vec![one(&subscriber).await?];
    while let Ok(delivery) = tokio::time::timeout(QUIET, subscriber.receive()).await {
        held.push(delivery?);
    }
    ensure!(held.len() < 40, "{} messages of 20 kB in a window of 100 kB", held.len());
    let mut seen = held.len();
    for delivery in held {
        delivery.ack().await?;
    }
    while seen < 40 {
        one(&subscriber).await?.ack().await?;
        seen += 1;
    }
    Ok(Verdict::Pass)
}

pub(crate) async fn a_held_message_stops_nobody(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    let subscriber = context.subscriber(&topic, "g").prefetch(50).open().await?;
    let publisher = context.publisher(&topic).await?;
    send(&publisher, "held", 1).await?;
    let held = one(&subscriber).await?;
    let sent = send(&publisher, "m", 3000).await?;
    ensure!(drain(&subscriber, 3000).await? == sent, "others stopped");
    held.ack().await?;
    context.until_empty(&topic, "g").await?;
    Ok(Verdict::Pass)
}

pub(crate) async fn batch_up_to_max(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    let subscriber = context.subscribe(&topic, "g").await?;
    let begun = std::time::Instant::now();
    ensure!(subscriber.receive_batch(10, Duration::from_millis(300)).await?.is_empty(), "something came");
    ensure!(begun.elapsed() >= Duration::from_millis(290), "it did not wait");
    send(&context.publisher(&topic).await?, "m", 25).await?;
    let mut seen = 0;
    while seen < 25 {
        let batch = subscriber.receive_batch(10, Duration::from_secs(20)).await?;
        ensure!(!batch.is_empty() && batch.len() <= 10, "a batch of {}", batch.len());
        seen += batch.len();
        for delivery in batch {
            delivery.ack().await?;
        }
    }
    Ok(Verdict::Pass)
}

pub(crate) async fn cancelled_receive_loses_nothing(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    let subscriber = context.subscribe(&topic, "g").await?;
    let publisher = context.publisher(&topic).await?;
    let mut seen = Vec::new();
    let mut sent = Vec::new();
    for round in 0..1000 {
        if round % 10 == 0 {
            sent.extend(send(&publisher, &format!("r{round:04}-"), 3).await?);
        }
        let wait = Duration::from_micros(fastrand::u64(0..500));
        if let Ok(delivery) = tokio::time::timeout(wait, subscriber.receive()).await {
            let delivery = delivery?;
            seen.push(body(&delivery));
            delivery.ack().await?;
        }
    }
    seen.extend(drain(&subscriber, sent.len() - seen.len()).await?);
    seen.sort();
    ensure!(seen == sent, "lost or doubled");
    Ok(Verdict::Pass)
}

pub(crate) async fn dropped_ack_still_holds(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    let subscriber = context.subscribe(&topic, "g").await?;
    send(&context.publisher(&topic).await?, "m", 100).await?;
    for delivery in take(&subscriber, 100).await? {
        drop(delivery.ack());
    }
    context.until_empty(&topic, "g").await?;
    quiet(&subscriber).await?;
    Ok(Verdict::Pass)
}

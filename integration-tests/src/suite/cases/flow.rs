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

pub(crate) async fn pause_and_resume(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    let (paused, other) = (context.subscribe(&topic, "g").await?, context.subscribe(&topic, "other").await?);
    let publisher = context.publisher(&topic).await?;
    send(&publisher, "first", 1).await?;
    let held = one(&paused).await?;
    paused.pause();
    let sent = send(&publisher, "m", 200).await?;
    held.ack().await?;
    drain(&other, 201).await?;
    quiet(&paused).await?;
    let waiting = {
        let paused = paused.clone();
        tokio::spawn(async move { one(&paused).await?.ack().await.map_err(anyhow::Error::from) })
    };
    paused.resume();
    waiting.await??;
    ensure!(drain(&paused, 199).await?.len() == sent.len() - 1, "not all came after the pause");
    context.until_empty(&topic, "g").await?;
    Ok(Verdict::Pass)
}

pub(crate) async fn clones_share(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    let subscriber = context.subscriber(&topic, "g").prefetch(100).open().await?;
    let sent = send(&context.publisher(&topic).await?, "m", 2000).await?;
    let mut tasks = Vec::new();
    let seen = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    for _ in 0..8 {
        let (subscriber, seen) = (subscriber.clone(), seen.clone());
        tasks.push(tokio::spawn(async move {
            while let Ok(delivery) = subscriber.receive().await {
                seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(body(&delivery));
                delivery.ack().await?;
            }
            anyhow::Ok(())
        }));
    }
    // What is in hand is not counted everywhere: an empty queue does not say that all was received.
    let received = async || {
        let count = seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner).len();
        ensure!(count >= sent.len(), "{count} messages for {} sent", sent.len());
        Ok(())
    };
    context.until(received).await?;
    context.until_empty(&topic, "g").await?;
    subscriber.close(Duration::from_secs(10)).await?;
    for task in tasks {
        task.await??;
    }
    let mut seen = std::mem::take(&mut *seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
    seen.sort();
    ensure!(seen == sent, "{} messages for {} sent", seen.len(), sent.len());
    Ok(Verdict::Pass)
}

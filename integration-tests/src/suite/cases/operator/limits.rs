//! A broker without memory, disk or room in a queue.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Result, anyhow, ensure};
use mq::{GroupSettings, Message, Publisher, Subscriber};

use super::go_on;
use crate::brokers::BrokerKind;
use crate::suite::context::{Context, body, one, send, take};
use crate::suite::harm::Operator;
use crate::suite::manifest::Verdict;

/// Without memory a broker takes no more, and says so or keeps senders waiting; what it holds is
/// delivered and acked all the same.
pub(crate) async fn out_of_memory(context: Context) -> Result<Verdict> {
    let Some(broker) = context.harness.broker() else { return Ok(Verdict::Unsupported) };
    let topic = context.topic();
    let subscriber = context.subscribe(&topic, "g").await?;
    let publisher = context.publisher(&topic).await?;
    send(&publisher, "m", 60).await?;
    let held = take(&subscriber, 30).await?;
    if !Operator(broker).starve(true).await? {
        return Ok(Verdict::Unsupported);
    }
    let starved = starved(&publisher, &subscriber, held).await;
    Operator(broker).starve(false).await?;
    starved?;
    go_on(&context, &publisher, &subscriber).await?;
    context.until_empty(&topic, "g").await?;
    Ok(Verdict::Pass)
}

async fn starved(publisher: &Publisher, subscriber: &Subscriber, held: Vec<mq::Delivery>) -> Result<()> {
    refused(publisher, Message::new("too much")).await?;
    for delivery in held.into_iter().chain(take(subscriber, 30).await?) {
        let acked = tokio::time::timeout(Duration::from_secs(10), delivery.ack()).await;
        acked.map_err(|_| anyhow!("an ack hangs"))??;
    }
    // Longer than a session: whoever cannot tell that it lives would be taken for dead.
    let silent = tokio::time::timeout(Duration::from_secs(14), subscriber.receive()).await;
    match silent {
        Err(_) => Ok(()),
        // The one that was sent, if the broker took it after all.
        Ok(Ok(delivery)) if body(&delivery) == "too much" => Ok(delivery.ack().await?),
        Ok(other) => anyhow::bail!("{other:?} though nothing was sent"),
    }
}

/// With a full disk a broker takes no more, and says so or keeps senders waiting. Redis writes no acks either:
/// they are answered once it can.
pub(crate) async fn disk_full(context: Context) -> Result<Verdict> {
    let Some(broker) = context.harness.broker() else { return Ok(Verdict::Unsupported) };
    let topic = context.topic();
    let subscriber = context.subscribe(&topic, "g").await?;
    let publisher = context.publisher(&topic).await?;
    let mut missing: BTreeSet<String> = send(&publisher, "m", 60).await?.into_iter().collect();
    let held = take(&subscriber, 30).await?;
    for delivery in &held {
        missing.remove(&body(delivery));
    }
    if !Operator(broker).fill_disk(true).await? {
        return Ok(Verdict::Unsupported);
    }
    let full = full(&context, &publisher, held, &mut missing).await;
    Operator(broker).fill_disk(false).await?;
    if let Some(acks) = full? {
        let answers = tokio::time::timeout(Duration::from_secs(10), acks).await;
        answers.map_err(|_| anyhow!("acks hang though there is room"))??;
    }
    while !missing.is_empty() {
        let delivery = one(&subscriber).await?;
        missing.remove(&body(&delivery));
        delivery.ack().await?;
    }
    go_on(&context, &publisher, &subscriber).await?;
    context.until_empty(&topic, "g").await?;
    Ok(Verdict::Pass)
}

/// Returns the acks that are not answered. What Redis answers before it first fails to write, it writes later.
async fn full(
    context: &Context,
    publisher: &Publisher,
    held: Vec<mq::Delivery>,
    confirmed: &mut BTreeSet<String>,
) -> Result<Option<impl Future<Output = mq::Result<()>> + use<>>> {
    let redis = context.harness.broker().is_some_and(|broker| broker.kind() == BrokerKind::Redis);
    // Each is more than fits into what is left of a page.
    let bodies = (0..).map(|number| format!("{number}{}", "x".repeat(16 << 10)));
    for body in bodies.take(if redis { 10 } else { 0 }) {
        if publisher.send(Message::new(body.clone())).await.is_err() {
            break;
        }
        confirmed.insert(body);
    }
    refused(publisher, Message::new("too much")).await?;
    let mut acks = Box::pin(futures_util::future::try_join_all(held.into_iter().map(mq::Delivery::ack)));
    // Longer than a session: whoever cannot tell that it lives would be taken for dead.
    match tokio::time::timeout(Duration::from_secs(14), &mut acks).await {
        Ok(answers) => answers.map(|_| None).map_err(Into::into),
        Err(_) if redis => Ok(Some(async { acks.await.map(drop) })),
        Err(_) => Err(anyhow!("acks wait for the disk")),
    }
}

/// Sends a message, which must not be confirmed.
async fn refused(publisher: &Publisher, message: Message) -> Result<()> {
    match tokio::time::timeout(Duration::from_secs(8), publisher.send(message)).await {
        // It waits for the broker.
        Err(_) => {}
        Ok(Err(error)) => ensure!(error.is_retryable(), "{error}"),
        Ok(Ok(_)) => anyhow::bail!("a broker that cannot store a message confirmed it"),
    }
    Ok(())
}

/// One group's queue is full: what is refused is never said to be stored, and the other group has
/// whatever was confirmed.
pub(crate) async fn queue_full(context: Context) -> Result<Verdict> {
    let Some(broker) = context.harness.broker() else { return Ok(Verdict::Unsupported) };
    let topic = context.topic();
    let (full, other) = (context.subscriber(&topic, "full"), context.subscribe(&topic, "other").await?);
    context.admin().ensure_group(&topic, &context.group("full"), &GroupSettings::default()).await?;
    if !Operator(broker).limit(&topic, &context.group("full"), Some(20)).await? {
        return Ok(Verdict::Unsupported);
    }
    let publisher = context.publisher(&topic).await?;
    let mut confirmed = BTreeSet::new();
    let mut refused = 0;
    for number in 0..60 {
        let text = format!("m{number:02}");
        match publisher.send(Message::new(text.clone())).await {
            Ok(_) => drop(confirmed.insert(text)),
            Err(error) => {
                ensure!(error.is_unknown_outcome(), "{error}");
                refused += 1;
            }
        }
    }
    ensure!(refused > 20 && confirmed.len() >= 20, "{refused} refused, {} confirmed", confirmed.len());
    Operator(broker).limit(&topic, &context.group("full"), None).await?;
    let full = full.open().await?;
    for subscriber in [&full, &other] {
        let mut missing = confirmed.clone();
        while !missing.is_empty() {
            let delivery = one(subscriber).await?;
            missing.remove(&body(&delivery));
            delivery.ack().await?;
        }
    }
    go_on(&context, &publisher, &full).await?;
    Ok(Verdict::Pass)
}

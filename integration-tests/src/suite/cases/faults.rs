use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Result, ensure};
use mq::{Message, Subscriber};

use crate::brokers::Broker;
use crate::suite::context::{Context, body, one, send};
use crate::suite::manifest::Verdict;

/// Sends and receives while `hurt` happens to the broker; everything confirmed must come, and both
/// sides must go on afterwards.
async fn through(context: &Context, hurt: impl AsyncFnOnce(&Broker) -> Result<()>) -> Result<Verdict> {
    let Some(broker) = context.harness.broker() else { return Ok(Verdict::Unsupported) };
    let topic = context.topic();
    let subscriber = context.subscribe(&topic, "g").await?;
    let publisher = context.publisher(&topic).await?;
    let mut confirmed: BTreeSet<String> = send(&publisher, "before", 50).await?.into_iter().collect();
    let held = one(&subscriber).await?;
    let held_body = body(&held);
    let sender = tokio::spawn({
        let publisher = publisher.clone();
        async move {
            let mut confirmed = Vec::new();
            for number in 0..600 {
                let body = format!("during{number:05}");
                if publisher.send(Message::new(body.clone())).await.is_ok() {
                    confirmed.push(body);
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            confirmed
        }
    });
    hurt(broker).await?;
    confirmed.extend(sender.await?);
    let after = context.until(|| async { Ok(publisher.send(Message::new("after")).await?) }).await;
    after.map_err(|error| error.context("publishing does not go on"))?;
    confirmed.insert("after".into());
    // Whatever the broker decided, a settlement is answered.
    let kept = tokio::time::timeout(Duration::from_secs(30), held.ack()).await;
    let kept = kept.map_err(|_| anyhow::anyhow!("a settlement is never answered"))?.is_ok();
    if kept {
        confirmed.remove(&held_body);
    }
    receive_all(&subscriber, confirmed).await?;
    Ok(Verdict::Pass)
}

async fn receive_all(subscriber: &Subscriber, mut missing: BTreeSet<String>) -> Result<()> {
    while !missing.is_empty() {
        let Ok(delivery) = tokio::time::timeout(Duration::from_secs(60), subscriber.receive()).await else {
            let some: Vec<_> = missing.iter().take(10).collect();
            anyhow::bail!("{} confirmed messages never came, such as {some:?}", missing.len());
        };
        let delivery = delivery?;
        missing.remove(&body(&delivery));
        // Stale if the broker took it back; then it comes again.
        drop(delivery.ack().await);
    }
    Ok(())
}

pub(crate) async fn broker_restarted(context: Context) -> Result<Verdict> {
    through(&context, async |broker| broker.restart().await).await
}

pub(crate) async fn broker_killed(context: Context) -> Result<Verdict> {
    through(&context, async |broker| {
        broker.kill().await?;
        broker.start().await?;
        broker.wait_until_ready().await
    })
    .await
}

pub(crate) async fn broker_paused(context: Context) -> Result<Verdict> {
    through(&context, async |broker| {
        broker.pause().await?;
        tokio::time::sleep(Duration::from_secs(5)).await;
        broker.unpause().await
    })
    .await
}

pub(crate) async fn delayed_survives_a_restart(context: Context) -> Result<Verdict> {
    let Some(broker) = context.harness.broker() else { return Ok(Verdict::Unsupported) };
    let topic = context.topic();
    let subscriber = context.subscribe(&topic, "g").await?;
    let publisher = context.publisher(&topic).await?;
    let due = mq::Timestamp::from(std::time::SystemTime::now()).plus(Duration::from_secs(8));
    publisher.send(Message::new("delayed").deliver_at(due)).await?;
    publisher.send(Message::new("retried")).await?;
    let retried = one(&subscriber).await?;
    ensure!(body(&retried) == "retried", "{retried:?}");
    retried.retry(Duration::from_secs(8)).await?;
    broker.restart().await?;
    let mut seen = BTreeSet::new();
    while seen.len() < 2 {
        let delivery = tokio::time::timeout(Duration::from_secs(60), subscriber.receive()).await??;
        ensure!(mq::Timestamp::from(std::time::SystemTime::now()) >= due, "{delivery:?} is early");
        seen.insert(body(&delivery));
        drop(delivery.ack().await);
    }
    Ok(Verdict::Pass)
}

use std::time::Duration;

use anyhow::{Result, ensure};
use mq::{GroupSettings, Page};

use crate::suite::context::{Context, body, drain, one, quiet, send, take};
use crate::suite::manifest::Verdict;
use crate::suite::victim::Plan;

const ALL: Page = Page { offset: 0, limit: 1000 };

pub(crate) async fn exactly_max_attempts(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    let subscriber = context.subscriber(&topic, "g").max_attempts(4).open().await?;
    send(&context.publisher(&topic).await?, "m", 1).await?;
    for attempt in 1..=4 {
        let delivery = one(&subscriber).await?;
        ensure!(delivery.attempt() == attempt, "expected attempt {attempt}: {delivery:?}");
        delivery.retry_because(Duration::ZERO, format!("failure {attempt}")).await?;
    }
    quiet(&subscriber).await?;
    let letters = context.admin().dead_letters(&topic, &context.group("g"), ALL).await?;
    ensure!(letters.len() == 1, "{letters:?}");
    ensure!(letters[0].envelope.attempt == 4, "{letters:?}");
    ensure!(letters[0].envelope.error.as_deref() == Some("failure 4"), "{letters:?}");
    Ok(Verdict::Pass)
}

pub(crate) async fn counted_across_restarts(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    let settings = GroupSettings::default().max_attempts(3);
    drop(context.subscribe_as(&topic, "g", settings.clone()).await?);
    send(&context.publisher(&topic).await?, "m", 1).await?;
    for attempt in 1..=3 {
        let subscriber = context.subscribe_as(&topic, "g", settings.clone()).await?;
        let delivery = one(&subscriber).await?;
        ensure!(delivery.attempt() == attempt, "expected attempt {attempt}: {delivery:?}");
        delivery.retry(Duration::ZERO).await?;
        subscriber.close(Duration::from_secs(10)).await?;
    }
    let stats = context.stats(&topic, "g").await?;
    ensure!(stats.dead == Some(1), "{stats:?}");
    Ok(Verdict::Pass)
}

pub(crate) async fn clean_close_counts_nothing(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    let settings = GroupSettings::default().max_attempts(2);
    drop(context.subscribe_as(&topic, "g", settings.clone()).await?);
    let sent = send(&context.publisher(&topic).await?, "m", 20).await?;
    for _ in 0..4 {
        let subscriber = context.subscribe_as(&topic, "g", settings.clone()).await?;
        let held = take(&subscriber, 3).await?;
        subscriber.close(Duration::from_millis(50)).await?;
        drop(held);
    }
    let subscriber = context.subscribe_as(&topic, "g", settings).await?;
    let mut seen = Vec::new();
    for delivery in take(&subscriber, 20).await? {
        ensure!(delivery.attempt() == 1, "{delivery:?}");
        seen.push(body(&delivery));
        delivery.ack().await?;
    }
    seen.sort();
    ensure!(seen == sent, "{seen:?}");
    Ok(Verdict::Pass)
}

pub(crate) async fn a_crash_counts_one(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    let settings = GroupSettings::default().max_attempts(5);
    context.subscribe_as(&topic, "g", settings.clone()).await?.close(Duration::from_secs(10)).await?;
    send(&context.publisher(&topic).await?, "m", 10).await?;
    for _ in 0..2 {
        context
            .harness
            .victim(Plan::hold(&topic, &context.group("g"), settings.clone(), 10))
            .await?
            .kill()
            .await?;
    }
    let subscriber = context.subscribe_as(&topic, "g", settings).await?;
    for delivery in take(&subscriber, 10).await? {
        ensure!(delivery.attempt() == 3, "two crashes: {delivery:?}");
        delivery.ack().await?;
    }
    Ok(Verdict::Pass)
}

pub(crate) async fn a_killer_is_dead_lettered_alone(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    let settings = GroupSettings::default().max_attempts(2);
    let subscriber = context.subscribe_as(&topic, "g", settings.clone()).await?;
    subscriber.close(Duration::from_secs(10)).await?;
    let publisher = context.publisher(&topic).await?;
    send(&publisher, "a", 20).await?;
    publisher.send(mq::Message::new("killer")).await?;
    send(&publisher, "b", 20).await?;
    for _ in 0..2 {
        let mut plan = Plan::hold(&topic, &context.group("g"), settings.clone(), 0);
        plan.prefetch = 50;
        plan.dies_of = Some("killer".into());
        context.harness.victim(plan).await?.wait().await?;
    }
    let subscriber = context.subscribe_as(&topic, "g", settings).await?;
    let letters = context
        .until(|| async {
            let letters = context.admin().dead_letters(&topic, &context.group("g"), ALL).await?;
            ensure!(!letters.is_empty(), "no dead letter yet");
            Ok(letters)
        })
        .await?;
    ensure!(
        letters.len() == 1 && letters[0].message.payload.as_ref() == b"killer",
        "an innocent died: {letters:?}"
    );
    ensure!(letters[0].envelope.attempt == 2, "{letters:?}");
    // What the victims acked is gone; the rest comes, and nothing else dies.
    while let Ok(delivery) = tokio::time::timeout(Duration::from_secs(1), subscriber.receive()).await {
        let delivery = delivery?;
        ensure!(delivery.payload().as_ref() != b"killer", "the killer came back");
        delivery.ack().await?;
    }
    context.until_empty(&topic, "g").await?;
    let stats = context.stats(&topic, "g").await?;
    ensure!(stats.dead == Some(1), "{stats:?}");
    Ok(Verdict::Pass)
}

pub(crate) async fn retries_lose_nothing(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    let subscriber = context.subscribe(&topic, "g").await?;
    let sent = send(&context.publisher(&topic).await?, "m", 300).await?;
    for _ in 0..2 {
        for delivery in take(&subscriber, 300).await? {
            delivery.retry(Duration::from_millis(fastrand::u64(0..50))).await?;
        }
    }
    ensure!(drain(&subscriber, 300).await? == sent, "something was lost or doubled");
    quiet(&subscriber).await?;
    Ok(Verdict::Pass)
}

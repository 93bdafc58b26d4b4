//! What a publisher asks for beside storing.

use std::time::{Duration, SystemTime};

use anyhow::{Result, ensure};
use mq::{Capability, Durability, ErrorKind, GroupSettings, Message, SendRetry, TopicSpec};

use crate::suite::cases::faults::{fate, so_far};
use crate::suite::context::{Context, body, drain, expect_kind, one, quiet, send, send_with};
use crate::suite::harm::Operator;
use crate::suite::manifest::Verdict;

pub(crate) async fn no_group_is_unroutable(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    let publisher = context.client.publisher(&topic).require_group().await?;
    expect_kind(publisher.send(Message::new("nobody's")).await, ErrorKind::Unroutable)?;
    for verdict in publisher.send_batch((0..20).map(|_| Message::new("nobody's")).collect()).await {
        expect_kind(verdict, ErrorKind::Unroutable)?;
    }
    context.publisher(&topic).await?.send(Message::new("not required")).await?;
    let delayed = Message::new("delayed").deliver_at(SystemTime::now() + Duration::from_secs(60));
    expect_kind(publisher.send(delayed).await, ErrorKind::Rejected)?;
    let subscriber = context.subscribe(&topic, "g").await?;
    let sent = send(&publisher, "m", 100).await?;
    ensure!(drain(&subscriber, 100).await? == sent, "not what was sent once there was a group");
    quiet(&subscriber).await?;
    Ok(Verdict::Pass)
}

pub(crate) async fn missing_topic_is_not_unroutable(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    let policy = mq::Policy::Assume;
    let publisher = context.client.publisher(&topic).policy(policy).require_group().await?;
    expect_kind(publisher.send(Message::new("nowhere")).await, ErrorKind::NotFound)?;
    Ok(Verdict::Pass)
}

pub(crate) async fn required_in_order(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    let spec = TopicSpec::default().partitions(4);
    let settings = GroupSettings::default().ordered();
    let subscriber = context.subscriber(&topic, "g").settings(settings).spec(spec).open().await?;
    let publisher = context.client.publisher(&topic).require_group().await?;
    let mut sending = Vec::new();
    for number in 0..600 {
        let message = Message::new(number.to_string()).key("k");
        sending.push(publisher.enqueue(message).await?);
    }
    for sent in sending {
        sent.await?;
    }
    for number in 0..600 {
        let delivery = one(&subscriber).await?;
        ensure!(body(&delivery) == number.to_string(), "{} instead of {number}", body(&delivery));
        delivery.ack().await?;
    }
    Ok(Verdict::Pass)
}

pub(crate) async fn synced(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    let builder = context.client.publisher(&topic).durability(Durability::Synced);
    if !context.has(Capability::Synced) {
        expect_kind(builder.await.map(drop), ErrorKind::Unsupported)?;
        return Ok(Verdict::Unsupported);
    }
    if let Some(broker) = context.harness.broker() {
        Operator(broker).sync(true).await?;
    }
    let publisher = builder.await?;
    let subscriber = context.subscribe(&topic, "g").await?;
    let mut sent = send(&publisher, "m", 1200).await?;
    publisher.send(Message::new("single")).await?;
    publisher.send(Message::new("later").deliver_at(SystemTime::now() + Duration::from_millis(300))).await?;
    sent.extend(["later".into(), "single".into()]);
    sent.sort();
    ensure!(drain(&subscriber, sent.len()).await? == sent, "not what was sent");
    if let Some(broker) = context.harness.broker() {
        Operator(broker).sync(false).await?;
    }
    Ok(Verdict::Pass)
}

pub(crate) async fn transient(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    let subscriber = context.subscribe(&topic, "g").await?;
    let publisher = context.client.publisher(&topic).durability(Durability::Transient).await?;
    let sent = send_with(&publisher, "m", 500, |_, message| message.key("k")).await?;
    ensure!(drain(&subscriber, 500).await? == sent, "not what was sent");
    Ok(Verdict::Pass)
}

/// A broker that is away for a while: with a retry each send is confirmed in the end.
pub(crate) async fn retried_until_the_broker_is_back(context: Context) -> Result<Verdict> {
    let Some(broker) = context.harness.broker() else { return Ok(Verdict::Unsupported) };
    let topic = context.topic();
    let subscriber = context.subscribe(&topic, "g").await?;
    let retry = SendRetry::any(Duration::from_secs(120));
    let publisher = context.client.publisher(&topic).retry(retry).await?;
    send(&publisher, "before", 10).await?;
    let events = context.client.events();
    broker.kill().await?;
    let sending = tokio::spawn({
        let publisher = publisher.clone();
        async move {
            let batch = (0..50).map(|number| Message::new(format!("batch{number}"))).collect();
            let (single, batch) = futures_util::future::join(
                publisher.send(Message::new("single")),
                publisher.send_batch(batch),
            )
            .await;
            single.map(drop)?;
            batch.into_iter().try_for_each(|verdict| verdict.map(drop))
        }
    });
    broker.start().await?;
    broker.wait_until_ready().await?;
    sending.await??;
    let mut missing: std::collections::BTreeSet<String> = (0..50).map(|n| format!("batch{n}")).collect();
    missing.insert("single".into());
    while !missing.is_empty() {
        let delivery = match one(&subscriber).await {
            Ok(delivery) => delivery,
            Err(error) => {
                let missing: Vec<String> = missing.into_iter().collect();
                let fate = fate(&context, &topic, &missing).await?;
                return Err(error.context(format!("{fate}; events {:?}", so_far(events))));
            }
        };
        missing.remove(&body(&delivery));
        // Stale if it was fetched before the broker was killed.
        drop(delivery.ack().await);
    }
    Ok(Verdict::Pass)
}

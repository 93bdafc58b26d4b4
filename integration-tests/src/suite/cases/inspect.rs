use std::time::Duration;

use anyhow::{Result, ensure};
use futures_util::{StreamExt, stream};
use mq::{Capability, ErrorKind, Message, Page, Start, TopicSpec};

use crate::suite::context::{Context, drain, expect_kind, send, take};
use crate::suite::manifest::Verdict;

pub(crate) async fn counts(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    let subscriber = context.subscriber(&topic, "g").prefetch(4).open().await?;
    send(&context.publisher(&topic).await?, "m", 10).await?;
    let mut held = take(&subscriber, 4).await?;
    for delivery in held.drain(..2) {
        delivery.dead_letter("x").await?;
    }
    held.extend(take(&subscriber, 2).await?);
    context
        .until(|| async {
            let stats = context.stats(&topic, "g").await?;
            ensure!(stats.dead == Some(2), "{stats:?}");
            let waiting = stats.ready.unwrap_or(0) + stats.in_flight.unwrap_or(4);
            ensure!(waiting == 8, "{stats:?}");
            if context.has(Capability::InFlightCount) {
                ensure!(stats.in_flight == Some(4) && stats.ready == Some(4), "{stats:?}");
            } else {
                ensure!(stats.in_flight.is_none(), "a guess: {stats:?}");
            }
            Ok(())
        })
        .await?;
    for delivery in held {
        delivery.ack().await?;
    }
    Ok(Verdict::Pass)
}

pub(crate) async fn asked_in_vain(context: Context) -> Result<Verdict> {
    const TIMES: usize = 2500;
    const AT_ONCE: usize = 16;
    let topic = context.topic();
    let subscriber = context.subscribe(&topic, "g").await?;
    let (admin, nobody) = (context.admin(), context.group("nobody"));
    let mut answers =
        stream::iter(0..TIMES).map(|_| admin.group_settings(&topic, &nobody)).buffer_unordered(AT_ONCE);
    while let Some(answer) = answers.next().await {
        expect_kind(answer, ErrorKind::NotFound)?;
    }
    send(&context.publisher(&topic).await?, "m", 1).await?;
    drain(&subscriber, 1).await?;
    context.until_empty(&topic, "g").await?;
    admin.group_settings(&topic, &context.group("g")).await?;
    Ok(Verdict::Pass)
}

pub(crate) async fn delayed_count(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    let subscriber = context.subscribe(&topic, "g").await?;
    send(&context.publisher(&topic).await?, "m", 3).await?;
    for delivery in take(&subscriber, 3).await? {
        delivery.retry(Duration::from_secs(600)).await?;
    }
    let stats = context.stats(&topic, "g").await?;
    if !context.has(Capability::DelayedCount) {
        ensure!(stats.delayed.is_none(), "a guess: {stats:?}");
        return Ok(Verdict::Unsupported);
    }
    ensure!(stats.delayed == Some(3) && stats.ready == Some(0), "{stats:?}");
    Ok(Verdict::Pass)
}

pub(crate) async fn zero_in_the_end(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    let subscriber = context.subscribe(&topic, "g").await?;
    send(&context.publisher(&topic).await?, "m", 100).await?;
    for (number, delivery) in take(&subscriber, 100).await?.into_iter().enumerate() {
        match number % 3 {
            0 => delivery.ack().await?,
            1 => delivery.retry(Duration::ZERO).await?,
            _ => delivery.defer(Duration::ZERO).await?,
        }
    }
    for delivery in take(&subscriber, 66).await? {
        delivery.ack().await?;
    }
    context.until_empty(&topic, "g").await?;
    ensure!(context.stats(&topic, "g").await?.dead == Some(0), "dead letters");
    Ok(Verdict::Pass)
}

pub(crate) async fn peek_disturbs_nobody(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    let spec = TopicSpec::default().retention(Duration::from_secs(3600));
    let publisher = match context.has(Capability::Peek) {
        true => context.client.publisher(&topic).spec(spec).await?,
        false => context.publisher(&topic).await?,
    };
    let subscriber = context.subscribe(&topic, "g").await?;
    publisher.send(Message::new("looked at").key("k")).await?;
    let looked = context.admin().peek(&topic, Start::Earliest, 10).await;
    if !context.has(Capability::Peek) {
        expect_kind(looked, ErrorKind::Unsupported)?;
        return Ok(Verdict::Unsupported);
    }
    let looked = looked?;
    ensure!(looked.len() == 1 && looked[0].0.payload.as_ref() == b"looked at", "{looked:?}");
    let delivery = crate::suite::context::one(&subscriber).await?;
    ensure!(delivery.attempt() == 1 && !delivery.redelivered(), "{delivery:?}");
    delivery.ack().await?;
    Ok(Verdict::Pass)
}

pub(crate) async fn topics_are_listed(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    drop(context.subscribe(&topic, "g").await?);
    let listed = context.admin().topics().await;
    if !context.has(Capability::List) {
        expect_kind(listed, ErrorKind::Unsupported)?;
        return Ok(Verdict::Unsupported);
    }
    let listed = listed?;
    ensure!(listed.iter().any(|info| info.topic == topic.as_str()), "{topic} is not listed");
    ensure!(!listed.iter().any(|info| mq::derived::is_derived(&info.topic)), "derived names are listed");
    Ok(Verdict::Pass)
}

pub(crate) async fn delete_group(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    let group = context.group("g");
    let subscriber = context.subscribe(&topic, "g").await?;
    send(&context.publisher(&topic).await?, "m", 3).await?;
    subscriber.close(Duration::from_secs(10)).await?;
    context.admin().delete_group(&topic, &group).await?;
    expect_kind(context.admin().stats(&topic, &group).await, ErrorKind::NotFound)?;
    expect_kind(context.admin().delete_group(&topic, &group).await, ErrorKind::NotFound)?;
    // Declared anew, with other settings, it begins anew.
    let again = context.subscriber(&topic, "g").max_attempts(9).open().await?;
    crate::suite::context::quiet(&again).await?;
    Ok(Verdict::Pass)
}

pub(crate) async fn delete_topic(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    context.subscribe(&topic, "g").await?.close(Duration::from_secs(10)).await?;
    context.admin().topic(&topic).await?;
    context.admin().delete_topic(&topic).await?;
    context
        .until(|| async {
            expect_kind(context.admin().topic(&topic).await, ErrorKind::NotFound)?;
            Ok(())
        })
        .await?;
    Ok(Verdict::Pass)
}

pub(crate) async fn pending(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    let group = context.group("g");
    let page = |offset, limit| Page { offset, limit };
    let subscriber = context.subscriber(&topic, "g").prefetch(30).open().await?;
    if !context.has(Capability::Pending) {
        let listed = context.admin().pending(&topic, &group, page(0, 10)).await;
        expect_kind(listed, ErrorKind::Unsupported)?;
        return Ok(Verdict::Unsupported);
    }
    send(&context.publisher(&topic).await?, "m", 25).await?;
    let mut held = take(&subscriber, 25).await?;
    for delivery in held.drain(..5) {
        delivery.retry(Duration::ZERO).await?;
    }
    held.extend(take(&subscriber, 5).await?);
    for _ in 0..20 {
        let mut listed = context.admin().pending(&topic, &group, page(0, 10)).await?;
        listed.extend(context.admin().pending(&topic, &group, page(10, 100)).await?);
        ensure!(listed.len() == 25, "{} listed", listed.len());
        for delivery in &held {
            let Some(entry) = listed.iter().find(|entry| entry.id == delivery.message().id) else {
                anyhow::bail!("{delivery:?} is held and not listed");
            };
            ensure!(entry.attempt == delivery.attempt() && !entry.owner.is_empty(), "{entry:?} {delivery:?}");
            ensure!(entry.idle.is_none_or(|idle| idle < Duration::from_secs(60)), "{entry:?}");
        }
    }
    ensure!(context.admin().pending(&topic, &group, page(25, 10)).await?.is_empty(), "beyond the end");
    for delivery in held {
        delivery.ack().await?;
    }
    ensure!(context.admin().pending(&topic, &group, page(0, 10)).await?.is_empty(), "settled and listed");
    let unknown = context.admin().pending(&topic, &context.group("unknown"), page(0, 10)).await;
    expect_kind(unknown, ErrorKind::NotFound)?;
    Ok(Verdict::Pass)
}

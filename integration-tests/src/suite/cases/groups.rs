use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use mq::{Capability, ErrorKind, GroupSettings, Message, Policy, Start, TopicSpec};

use crate::suite::context::{Context, body, drain, expect_kind, one, quiet, send, take};
use crate::suite::manifest::Verdict;

pub(crate) async fn topics_are_isolated(context: Context) -> Result<Verdict> {
    let (a, b) = (context.topic(), context.topic());
    let (in_a, in_b) = (context.subscribe(&a, "g").await?, context.subscribe(&b, "g").await?);
    let sent_a = send(&context.publisher(&a).await?, "a", 50).await?;
    let sent_b = send(&context.publisher(&b).await?, "b", 50).await?;
    ensure!(drain(&in_a, 50).await? == sent_a && drain(&in_b, 50).await? == sent_b, "messages crossed");
    quiet(&in_a).await?;
    quiet(&in_b).await?;
    Ok(Verdict::Pass)
}

pub(crate) async fn every_group_gets_everything(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    let groups = [
        context.subscribe(&topic, "one").await?,
        context.subscribe(&topic, "two").await?,
        context.subscribe(&topic, "three").await?,
    ];
    let sent = send(&context.publisher(&topic).await?, "m", 100).await?;
    for group in &groups {
        ensure!(drain(group, 100).await? == sent, "a group missed something");
    }
    Ok(Verdict::Pass)
}

pub(crate) async fn one_group_shares(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    let settings = GroupSettings::default();
    let spec = TopicSpec::default().partitions(4);
    let open =
        || context.subscriber(&topic, "g").settings(settings.clone()).spec(spec.clone()).prefetch(5).open();
    let members = [open().await?, open().await?];
    let publisher = context.publisher(&topic).await?;
    // Until both have work: a member that has just joined may not have its share yet.
    let mut seen = [BTreeSet::new(), BTreeSet::new()];
    let mut sent = BTreeSet::new();
    for round in 0..60 {
        sent.extend(send(&publisher, &format!("r{round}-"), 20).await?);
        for (member, seen) in members.iter().zip(&mut seen) {
            for delivery in member.receive_batch(100, Duration::from_millis(200)).await? {
                ensure!(seen.insert(body(&delivery)), "{delivery:?} came twice");
                delivery.ack().await?;
            }
        }
        if seen.iter().all(|seen| !seen.is_empty()) {
            break;
        }
    }
    while seen[0].len() + seen[1].len() < sent.len() {
        for (member, seen) in members.iter().zip(&mut seen) {
            for delivery in member.receive_batch(100, Duration::from_millis(200)).await? {
                ensure!(seen.insert(body(&delivery)), "{delivery:?} came twice");
                delivery.ack().await?;
            }
        }
    }
    for member in &members {
        let more = member.receive_batch(100, Duration::from_millis(200)).await?;
        ensure!(more.is_empty(), "came twice: {more:?}");
    }
    ensure!(seen.iter().all(|seen| !seen.is_empty()), "one member had nothing to do");
    ensure!(seen[0].is_disjoint(&seen[1]), "both members got the same message");
    Ok(Verdict::Pass)
}

/// A member that has joined after another one soon has a fair share of what comes.
pub(crate) async fn shares_are_fair(context: Context) -> Result<Verdict> {
    const ROUND: usize = 400;
    let topic = context.topic();
    let spec = TopicSpec::default().partitions(4);
    let mut members = Vec::new();
    for _ in 0..2 {
        let member = context.subscriber(&topic, "g").spec(spec.clone()).prefetch(20).open().await?;
        let handled = Arc::new(AtomicUsize::new(0));
        members.push(handled.clone());
        tokio::spawn(async move {
            while let Ok(delivery) = member.receive().await {
                // As if there was something to do: nobody takes all there is before the other one looks.
                tokio::time::sleep(Duration::from_millis(1)).await;
                if delivery.ack().await.is_ok() {
                    handled.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        // The first one has it all for a while.
        context.until_empty(&topic, "g").await?;
    }
    let publisher = context.publisher(&topic).await?;
    let fair = context.until(|| async {
        let before: Vec<usize> = members.iter().map(|handled| handled.load(Ordering::Relaxed)).collect();
        let message = |n: usize| Message::new(n.to_string()).key(n.to_string());
        for verdict in publisher.send_batch((0..ROUND).map(message).collect()).await {
            verdict?;
        }
        context.until_empty(&topic, "g").await?;
        let share = |(handled, before): (&Arc<AtomicUsize>, &usize)| handled.load(Ordering::Relaxed) - before;
        let shares: Vec<usize> = members.iter().zip(&before).map(share).collect();
        ensure!(
            shares.iter().all(|share| *share >= ROUND / 8),
            "of {ROUND} messages they handled {shares:?}"
        );
        Ok(())
    });
    fair.await?;
    Ok(Verdict::Pass)
}

pub(crate) async fn many_consumers(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    let spec = TopicSpec::default().partitions(4);
    let mut members = Vec::new();
    for _ in 0..12 {
        members.push(context.subscriber(&topic, "g").spec(spec.clone()).prefetch(20).open().await?);
    }
    let sent = send(&context.publisher(&topic).await?, "m", 2000).await?;
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    for member in &members {
        let (member, tell) = (member.clone(), tell.clone());
        tokio::spawn(async move {
            while let Ok(delivery) = member.receive().await {
                let body = body(&delivery);
                if delivery.ack().await.is_ok() && tell.send(body).is_err() {
                    return;
                }
            }
        });
    }
    let mut seen = BTreeSet::new();
    while seen.len() < sent.len() {
        match tokio::time::timeout(Duration::from_secs(30), told.recv()).await {
            Ok(Some(body)) => drop(seen.insert(body)),
            _ => anyhow::bail!("{} of {} messages came", seen.len(), sent.len()),
        }
    }
    Ok(Verdict::Pass)
}

pub(crate) async fn declared_group_keeps_messages(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    let publisher = context.publisher(&topic).await?;
    send(&publisher, "before", 5).await?;
    context.admin().ensure_group(&topic, &context.group("g"), &GroupSettings::default()).await?;
    let sent = send(&publisher, "after", 20).await?;
    let subscriber = context.subscribe(&topic, "g").await?;
    ensure!(drain(&subscriber, 20).await? == sent, "not exactly what was sent after the group was declared");
    quiet(&subscriber).await?;
    Ok(Verdict::Pass)
}

pub(crate) async fn start_earliest(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    let spec = TopicSpec::default().retention(Duration::from_secs(3600));
    let open = || context.subscriber(&topic, "late").spec(spec.clone()).start(Start::Earliest).open();
    if !context.has(Capability::StartEarliest) {
        context.publisher(&topic).await?;
        let plain = context.subscriber(&topic, "late").start(Start::Earliest).open().await;
        expect_kind(plain.map(drop), ErrorKind::Unsupported)?;
        return Ok(Verdict::Unsupported);
    }
    let publisher = context.client.publisher(&topic).spec(spec.clone()).await?;
    let sent = send(&publisher, "m", 30).await?;
    ensure!(drain(&open().await?, 30).await? == sent, "the past is not complete");
    Ok(Verdict::Pass)
}

pub(crate) async fn start_at_a_time(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    let spec = TopicSpec::default().retention(Duration::from_secs(3600));
    if !context.has(Capability::StartTime) {
        context.publisher(&topic).await?;
        let at = Start::At(mq::Timestamp::from_millis(1));
        let plain = context.subscriber(&topic, "late").start(at).open().await;
        expect_kind(plain.map(drop), ErrorKind::Unsupported)?;
        return Ok(Verdict::Unsupported);
    }
    let publisher = context.client.publisher(&topic).spec(spec.clone()).await?;
    send(&publisher, "old", 10).await?;
    tokio::time::sleep(Duration::from_millis(50)).await;
    let at = mq::Timestamp::from(std::time::SystemTime::now());
    tokio::time::sleep(Duration::from_millis(50)).await;
    let sent = send(&publisher, "new", 10).await?;
    let subscriber = context.subscriber(&topic, "late").spec(spec).start(Start::At(at)).open().await?;
    ensure!(drain(&subscriber, 10).await? == sent, "not exactly what was sent from that time on");
    quiet(&subscriber).await?;
    Ok(Verdict::Pass)
}

pub(crate) async fn start_latest(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    let publisher = context.publisher(&topic).await?;
    send(&publisher, "old", 10).await?;
    let subscriber = context.subscribe(&topic, "g").await?;
    let sent = send(&publisher, "new", 10).await?;
    ensure!(drain(&subscriber, 10).await? == sent, "not exactly what was sent after the group began");
    quiet(&subscriber).await?;
    Ok(Verdict::Pass)
}

pub(crate) async fn broadcast(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    let publisher = context.publisher(&topic).await?;
    send(&publisher, "old", 3).await?;
    let members =
        [context.client.broadcast(&topic).open().await?, context.client.broadcast(&topic).open().await?];
    let sent = send(&publisher, "new", 20).await?;
    for member in &members {
        ensure!(drain(member, 20).await? == sent, "a broadcast member missed something");
    }
    let group = members[0].group().clone();
    members[0].close(Duration::from_secs(10)).await?;
    expect_kind(context.admin().stats(&topic, &group).await, ErrorKind::NotFound)?;
    Ok(Verdict::Pass)
}

pub(crate) async fn settings_must_agree(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    let member = context.subscriber(&topic, "g").max_attempts(3).lease(Duration::from_secs(7)).open().await?;
    let other = context.subscriber(&topic, "g").max_attempts(4).lease(Duration::from_secs(7)).open().await;
    let error = expect_kind(other.map(drop), ErrorKind::Mismatch)?;
    ensure!(error.to_string().contains("max_attempts is 3, not 4"), "{error}");
    let other = context.subscriber(&topic, "g").max_attempts(3).lease(Duration::from_secs(8)).open().await;
    expect_kind(other.map(drop), ErrorKind::Mismatch)?;
    drop(member);
    let settings = context.admin().group_settings(&topic, &context.group("g")).await?;
    ensure!(settings.max_attempts == 3 && settings.lease == Duration::from_secs(7), "{settings:?}");
    Ok(Verdict::Pass)
}

pub(crate) async fn missing_group_by_policy(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    context.publisher(&topic).await?;
    let verify = || context.subscriber(&topic, "g").policy(Policy::Verify).open();
    expect_kind(verify().await.map(drop), ErrorKind::NotFound)?;
    drop(context.subscribe(&topic, "g").await?);
    verify().await?;
    Ok(Verdict::Pass)
}

pub(crate) async fn many_topics_one_consumer(context: Context) -> Result<Verdict> {
    let (a, b) = (context.topic(), context.topic());
    let subscriber = context.subscriber(&a, "g").and_topic(&b).open().await?;
    send(&context.publisher(&a).await?, "a", 20).await?;
    send(&context.publisher(&b).await?, "b", 20).await?;
    let mut seen = BTreeSet::new();
    for delivery in take(&subscriber, 40).await? {
        let body = body(&delivery);
        ensure!(
            subscriber.topics()[delivery.subscription()]
                == if body.starts_with('a') { a.clone() } else { b.clone() },
            "{body}"
        );
        seen.insert(body);
        delivery.ack().await?;
    }
    ensure!(seen.len() == 40, "{seen:?}");
    let publisher = context.publisher(&b).await?;
    publisher.send(Message::new("again")).await?;
    one(&subscriber).await?.retry(Duration::ZERO).await?;
    let again = one(&subscriber).await?;
    ensure!(again.attempt() == 2 && again.subscription() == 1, "{again:?}");
    again.ack().await?;
    Ok(Verdict::Pass)
}

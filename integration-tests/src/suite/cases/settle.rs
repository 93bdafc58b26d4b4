use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Result, anyhow, ensure};
use futures_util::StreamExt;
use mq::{AckMode, ErrorKind, GroupSettings, Message, Page};

use crate::suite::context::{Context, body, drain, expect_kind, one, quiet, send, take};
use crate::suite::manifest::Verdict;
use crate::suite::victim::Plan;

pub(crate) async fn acked_never_comes_back(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    let subscriber = context.subscribe(&topic, "g").await?;
    let publisher = context.publisher(&topic).await?;
    send(&publisher, "m", 100).await?;
    drain(&subscriber, 100).await?;
    subscriber.close(Duration::from_secs(10)).await?;
    let again = context.subscribe(&topic, "g").await?;
    send(&publisher, "new", 1).await?;
    ensure!(drain(&again, 1).await? == ["new00000"], "an acked message came back");
    quiet(&again).await?;
    Ok(Verdict::Pass)
}

pub(crate) async fn retry_at_once(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    let subscriber = context.subscribe(&topic, "g").await?;
    let sent = Message::new("m").key("k").subject("a.b").header("h", "v").content_type("text/plain");
    context.publisher(&topic).await?.send(sent.clone()).await?;
    let first = one(&subscriber).await?;
    let published_at = first.message().published_at;
    first.retry_because(Duration::ZERO, "not this time").await?;
    let second = one(&subscriber).await?;
    ensure!(second.attempt() == 2 && second.redelivered(), "{second:?}");
    ensure!(second.last_error() == Some("not this time"), "{:?}", second.last_error());
    ensure!(second.first_seen().is_some(), "no first_seen");
    let got = second.message();
    ensure!(
        got.published_at == published_at,
        "published_at changed from {published_at:?} to {:?}",
        got.published_at
    );
    let same =
        (got.id == sent.id, got.key == sent.key, got.subject == sent.subject, got.headers == sent.headers);
    ensure!(
        same == (true, true, true, true)
            && got.content_type == sent.content_type
            && got.payload == sent.payload,
        "sent {sent:?}\n got {got:?}"
    );
    second.ack().await?;
    quiet(&subscriber).await?;
    Ok(Verdict::Pass)
}

pub(crate) async fn put_back(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    let subscriber = context.subscribe(&topic, "g").await?;
    send(&context.publisher(&topic).await?, "m", 20).await?;
    let mut all = take(&subscriber, 20).await?;
    let rest = all.split_off(5);
    let expected: Vec<String> = rest.iter().map(body).collect();
    rest.into_iter().rev().for_each(mq::Delivery::put_back);
    let again = take(&subscriber, 15).await?;
    ensure!(again.iter().map(body).collect::<Vec<_>>() == expected, "{again:?}, not {expected:?}");
    ensure!(again.iter().all(|delivery| delivery.attempt() == 1), "it counted: {again:?}");
    mq::ack_all(all).await.map_err(|failures| anyhow!("{failures:?}"))?;
    again.into_iter().for_each(mq::Delivery::put_back);
    subscriber.close(Duration::from_secs(10)).await?;
    let next = context.subscribe(&topic, "g").await?;
    let last = take(&next, 15).await?;
    let came: BTreeSet<String> = last.iter().map(body).collect();
    ensure!(came == expected.into_iter().collect(), "after a close came {last:?}");
    ensure!(last.iter().all(|delivery| delivery.attempt() == 1), "a close counted: {last:?}");
    mq::ack_all(last).await.map_err(|failures| anyhow!("{failures:?}"))?;
    quiet(&next).await?;
    Ok(Verdict::Pass)
}

pub(crate) async fn retry_after_a_delay(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    let subscriber = context.subscribe(&topic, "g").await?;
    send(&context.publisher(&topic).await?, "m", 1).await?;
    let begun = std::time::Instant::now();
    one(&subscriber).await?.retry(Duration::from_millis(700)).await?;
    let second = one(&subscriber).await?;
    ensure!(begun.elapsed() >= Duration::from_millis(690), "it came after {:?}", begun.elapsed());
    ensure!(second.attempt() == 2, "{second:?}");
    second.ack().await?;
    Ok(Verdict::Pass)
}

pub(crate) async fn defer_does_not_count(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    let subscriber = context.subscriber(&topic, "g").max_attempts(2).open().await?;
    send(&context.publisher(&topic).await?, "m", 1).await?;
    for _ in 0..5 {
        let delivery = one(&subscriber).await?;
        ensure!(delivery.attempt() == 1, "{delivery:?}");
        delivery.defer(Duration::ZERO).await?;
    }
    one(&subscriber).await?.ack().await?;
    Ok(Verdict::Pass)
}

pub(crate) async fn dropped_comes_back_at_once(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    let subscriber = context.subscribe(&topic, "g").await?;
    send(&context.publisher(&topic).await?, "m", 1).await?;
    drop(one(&subscriber).await?);
    let begun = std::time::Instant::now();
    let again = one(&subscriber).await?;
    ensure!(begun.elapsed() < Duration::from_secs(5), "it took {:?}, the lease is 30 s", begun.elapsed());
    ensure!(again.attempt() == 2 && again.redelivered(), "{again:?}");
    again.ack().await?;
    Ok(Verdict::Pass)
}

pub(crate) async fn any_order(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    let subscriber = context.subscribe(&topic, "g").await?;
    send(&context.publisher(&topic).await?, "m", 200).await?;
    let mut held = take(&subscriber, 200).await?;
    fastrand::Rng::with_seed(context.seed).shuffle(&mut held);
    for delivery in held {
        delivery.ack().await?;
    }
    context.until_empty(&topic, "g").await?;
    Ok(Verdict::Pass)
}

pub(crate) async fn out_of_order_then_crash(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    let settings = mq::GroupSettings::default();
    drop(context.subscribe(&topic, "g").await?);
    let sent = send(&context.publisher(&topic).await?, "m", 100).await?;
    let mut plan = Plan::hold(&topic, &context.group("g"), settings, 100);
    plan.ack = (0..100).filter(|place| place % 3 != 0).rev().collect();
    context.harness.victim(plan).await?.kill().await?;
    let subscriber = context.subscribe(&topic, "g").await?;
    let mut back = BTreeSet::new();
    for delivery in take(&subscriber, 34).await? {
        ensure!(delivery.attempt() == 2, "{delivery:?}");
        ensure!(back.insert(body(&delivery)), "{delivery:?} came twice");
        delivery.ack().await?;
    }
    ensure!(back.iter().all(|body| sent.contains(body)), "{back:?}");
    quiet(&subscriber).await?;
    context.until_empty(&topic, "g").await?;
    Ok(Verdict::Pass)
}

pub(crate) async fn one_held_many_acked_then_crash(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    drop(context.subscribe(&topic, "g").await?);
    send(&context.publisher(&topic).await?, "m", 2000).await?;
    let mut plan = Plan::hold(&topic, &context.group("g"), mq::GroupSettings::default(), 2000);
    plan.ack = (1..2000).collect();
    context.harness.victim(plan).await?.kill().await?;
    let subscriber = context.subscribe(&topic, "g").await?;
    let back = one(&subscriber).await?;
    ensure!(back.attempt() == 2, "{back:?}");
    back.ack().await?;
    quiet(&subscriber).await?;
    Ok(Verdict::Pass)
}

pub(crate) async fn batch_ack(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    let subscriber = context.subscribe(&topic, "g").await?;
    send(&context.publisher(&topic).await?, "m", 500).await?;
    let mut acked = 0;
    while acked < 500 {
        let batch = subscriber.receive_batch(100, Duration::from_secs(20)).await?;
        ensure!(!batch.is_empty() && batch.len() <= 100, "a batch of {}", batch.len());
        acked += batch.len();
        mq::ack_all(batch).await.map_err(|failures| anyhow!("{failures:?}"))?;
    }
    ensure!(subscriber.receive_batch(10, Duration::from_millis(50)).await?.is_empty(), "more than was sent");
    context.until_empty(&topic, "g").await?;
    Ok(Verdict::Pass)
}

pub(crate) async fn as_a_stream(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    let subscriber = context.subscribe(&topic, "g").await?;
    send(&context.publisher(&topic).await?, "m", 50).await?;
    let mut stream = std::pin::pin!(subscriber.clone().into_stream());
    for _ in 0..50 {
        let next = tokio::time::timeout(Duration::from_secs(30), stream.next()).await?;
        next.ok_or_else(|| anyhow!("the stream ended"))??.ack().await?;
    }
    subscriber.close(Duration::from_secs(10)).await?;
    ensure!(stream.next().await.is_none(), "the stream goes on after close");
    Ok(Verdict::Pass)
}

pub(crate) async fn after_close_is_stale(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    let subscriber = context.subscribe(&topic, "g").await?;
    send(&context.publisher(&topic).await?, "m", 1).await?;
    let held = one(&subscriber).await?;
    let report = subscriber.close(Duration::from_millis(100)).await?;
    ensure!(report.given_back == 1, "{report:?}");
    expect_kind(held.ack().await, ErrorKind::StaleDelivery)?;
    let again = one(&context.subscribe(&topic, "g").await?).await?;
    ensure!(again.payload().as_ref() == b"m00000", "{again:?}");
    again.ack().await?;
    Ok(Verdict::Pass)
}

pub(crate) async fn retry_is_isolated(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    let (failing, other) =
        (context.subscribe(&topic, "failing").await?, context.subscribe(&topic, "other").await?);
    let sent = send(&context.publisher(&topic).await?, "m", 20).await?;
    for _ in 0..2 {
        for delivery in take(&failing, 20).await? {
            delivery.retry(Duration::ZERO).await?;
        }
    }
    ensure!(drain(&other, 20).await? == sent, "the other group got something else");
    quiet(&other).await?;
    ensure!(drain(&failing, 20).await? == sent, "the failing group lost something");
    Ok(Verdict::Pass)
}

pub(crate) async fn acked_before_the_hand_over(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    let open = || context.subscriber(&topic, "g").ack_mode(AckMode::Auto).prefetch(20).open();
    let subscriber = open().await?;
    let publisher = context.publisher(&topic).await?;
    let sent = send(&publisher, "m", 30).await?;
    let mut seen = Vec::new();
    for delivery in take(&subscriber, 9).await? {
        seen.push(body(&delivery));
        drop(delivery);
    }
    let late = one(&subscriber).await?;
    seen.push(body(&late));
    expect_kind(late.ack().await, ErrorKind::StaleDelivery)?;
    // Who stops waiting leaves what was acked for it to the next.
    for _ in 0..20 {
        let _ = tokio::time::timeout(Duration::from_micros(300), subscriber.receive())
            .await
            .map(|delivery| delivery.map(|delivery| seen.push(body(&delivery))));
    }
    seen.extend(subscriber.receive_batch(3, Duration::from_secs(20)).await?.iter().map(body));
    subscriber.close(Duration::from_secs(10)).await?;
    while let Ok(delivery) = subscriber.receive().await {
        seen.push(body(&delivery));
    }
    let again = open().await?;
    while seen.len() < sent.len() {
        seen.push(body(&one(&again).await?));
    }
    quiet(&again).await?;
    seen.sort();
    ensure!(seen == sent, "handed over {seen:?}");
    context.until_empty(&topic, "g").await?;
    Ok(Verdict::Pass)
}

pub(crate) async fn each_of_a_batch_its_own_way(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    let subscriber = context.subscribe(&topic, "g").await?;
    send(&context.publisher(&topic).await?, "m", 200).await?;
    let mut settled = Vec::new();
    for (number, delivery) in take(&subscriber, 200).await?.into_iter().enumerate() {
        settled.push(match number % 4 {
            0 => delivery.ack(),
            1 => delivery.retry(Duration::ZERO),
            2 => delivery.defer(Duration::ZERO),
            _ => delivery.dead_letter("every fourth"),
        });
    }
    for settled in settled {
        settled.await?;
    }
    let again = take(&subscriber, 100).await?;
    let retried = again.iter().filter(|delivery| delivery.attempt() == 2).count();
    ensure!(retried == 50, "{retried} of 50 retried, the rest deferred");
    mq::ack_all(again).await.map_err(|failures| anyhow!("{failures:?}"))?;
    context.until_empty(&topic, "g").await?;
    let stats = context.stats(&topic, "g").await?;
    ensure!(stats.dead == Some(50), "{stats:?}");
    Ok(Verdict::Pass)
}

pub(crate) async fn fifty_retries(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    let settings = GroupSettings::default().max_attempts(50);
    let subscriber = context.subscribe_as(&topic, "g", settings).await?;
    send(&context.publisher(&topic).await?, "m", 1).await?;
    for attempt in 1..=50 {
        let delivery = one(&subscriber).await?;
        ensure!(delivery.attempt() == attempt, "attempt {} for {attempt}", delivery.attempt());
        delivery.retry(Duration::ZERO).await?;
    }
    let page = Page { offset: 0, limit: 10 };
    let letters = context.admin().dead_letters(&topic, &context.group("g"), page).await?;
    ensure!(letters.len() == 1 && letters[0].envelope.attempt == 50, "{letters:?}");
    quiet(&subscriber).await?;
    Ok(Verdict::Pass)
}

/// A copy carries the error with it: where that makes it too large for the broker, the message must still be there.
pub(crate) async fn refused_copy_is_not_lost(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    let subscriber = context.subscribe(&topic, "g").await?;
    send(&context.publisher(&topic).await?, "m", 1).await?;
    let error = "x".repeat(3 << 20);
    match one(&subscriber).await?.retry_because(Duration::ZERO, error.clone()).await {
        Ok(()) => {
            let again = one(&subscriber).await?;
            ensure!(again.attempt() == 2 && body(&again) == "m00000", "{again:?}");
            again.ack().await?;
        }
        Err(refused) => {
            ensure!(matches!(refused.kind(), ErrorKind::Rejected | ErrorKind::InvalidInput), "{refused}");
            let all = Page { offset: 0, limit: 10 };
            let letters = context
                .until(|| async {
                    let letters = context.admin().dead_letters(&topic, &context.group("g"), all).await?;
                    ensure!(letters.len() == 1, "{} dead letters after: {refused}", letters.len());
                    Ok(letters)
                })
                .await?;
            let death = letters[0].envelope.death.as_ref().map(|death| &*death.reason);
            ensure!(death == Some(mq_core::policy::REFUSED), "{death:?}");
            ensure!(letters[0].message.payload.as_ref() == b"m00000", "{letters:?}");
        }
    }
    context.until_empty(&topic, "g").await?;
    quiet(&subscriber).await?;
    Ok(Verdict::Pass)
}

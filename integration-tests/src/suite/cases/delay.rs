use std::time::{Duration, SystemTime};

use anyhow::{Result, ensure};
use mq::{Capability, ErrorKind, GroupSettings, Message, Publisher, Subscriber, Timestamp};

use crate::suite::context::{Context, body, drain, expect_kind, one, quiet, send, send_with, take};
use crate::suite::manifest::Verdict;
use crate::suite::runner::is_long;

fn now() -> Timestamp {
    SystemTime::now().into()
}

/// How early a delivery may seem to be: the client's clock and the broker's are the same here, but
/// both count whole milliseconds.
const EARLY: u64 = 2;

pub(crate) async fn never_early_never_late(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    let subscriber = context.subscribe(&topic, "g").await?;
    let publisher = context.publisher(&topic).await?;
    let delays = [1u64, 100, 400, 900, 1500, 3000];
    let base = now();
    let sent = send_with(&publisher, "d", delays.len() * 5, |number, message| {
        message.deliver_at(base.plus(Duration::from_millis(500 + delays[number % delays.len()])))
    })
    .await?;
    // Nobody can deliver what is not confirmed.
    let confirmed = now().since(base).as_millis() as u64;
    let mut seen = Vec::new();
    while seen.len() < sent.len() {
        let delivery = one(&subscriber).await?;
        let number: usize = body(&delivery)[1..].parse()?;
        let due = 500 + delays[number % delays.len()];
        let at = now().since(base).as_millis() as u64;
        ensure!(at + EARLY >= due, "due after {due} ms, came after {at}");
        let late = at.saturating_sub(due.max(confirmed));
        ensure!(late <= 1000, "due after {due} ms, confirmed after {confirmed}, came after {at}");
        seen.push(body(&delivery));
        delivery.ack().await?;
    }
    seen.sort();
    ensure!(seen == sent, "{seen:?}");
    Ok(Verdict::Pass)
}

pub(crate) async fn long_blocks_no_short(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    let subscriber = context.subscribe(&topic, "g").await?;
    let publisher = context.publisher(&topic).await?;
    publisher.send(Message::new("hour").deliver_at(now().plus(Duration::from_secs(3600)))).await?;
    publisher.send(Message::new("minute").deliver_at(now().plus(Duration::from_secs(60)))).await?;
    let begun = now();
    publisher.send(Message::new("soon").deliver_at(begun.plus(Duration::from_millis(300)))).await?;
    publisher.send(Message::new("now")).await?;
    ensure!(drain(&subscriber, 2).await? == ["now", "soon"], "a long delay came first");
    let took = now().since(begun);
    ensure!(took < Duration::from_secs(3), "it took {took:?}");
    Ok(Verdict::Pass)
}

pub(crate) async fn survives_its_publisher(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    context.admin().ensure_topic(&topic, &mq::TopicSpec::default()).await?;
    context.admin().ensure_group(&topic, &context.group("g"), &GroupSettings::default()).await?;
    let client = context.harness.client().await?;
    let due = now().plus(Duration::from_millis(2500));
    client.publisher(&topic).await?.send(Message::new("m").deliver_at(due)).await?;
    client.close(Duration::from_secs(10)).await?;
    let subscriber = context.subscribe(&topic, "g").await?;
    let delivery = one(&subscriber).await?;
    ensure!(now().as_millis() + EARLY >= due.as_millis(), "early");
    delivery.ack().await?;
    Ok(Verdict::Pass)
}

pub(crate) async fn retry_survives_its_consumer(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    let first = context.subscribe(&topic, "g").await?;
    context.publisher(&topic).await?.send(Message::new("m")).await?;
    let due = now().plus(Duration::from_millis(2000));
    one(&first).await?.retry(Duration::from_millis(2000)).await?;
    first.close(Duration::from_secs(10)).await?;
    let second = context.harness.client().await?.subscriber(&topic, context.group("g")).open().await?;
    let delivery = one(&second).await?;
    ensure!(now().as_millis() + EARLY >= due.as_millis(), "early");
    ensure!(delivery.attempt() == 2, "{delivery:?}");
    delivery.ack().await?;
    Ok(Verdict::Pass)
}

/// How many messages are due in one instant.
const DUE_AT_ONCE: usize = 10_000;

pub(crate) async fn many_due_at_once(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    let subscriber = context.subscribe(&topic, "g").await?;
    let publisher = context.publisher(&topic).await?;
    // The backend's delaying machinery is made when it is first used.
    publisher.send(Message::new("first").deliver_at(now().plus(Duration::from_millis(600)))).await?;
    one(&subscriber).await?.ack().await?;
    send(&publisher, "p", DUE_AT_ONCE).await?;
    let begun = std::time::Instant::now();
    drain(&subscriber, DUE_AT_ONCE).await?;
    let plain = begun.elapsed();
    let due = now().plus(Duration::from_secs(6));
    let sent = send_with(&publisher, "d", DUE_AT_ONCE, |_, message| message.deliver_at(due)).await?;
    ensure!(now() < due, "{DUE_AT_ONCE} messages were not sent within 6 s");
    let held = take(&subscriber, 1).await?;
    ensure!(now().as_millis() + EARLY >= due.as_millis(), "early");
    let mut seen = vec![body(&held[0])];
    mq::ack_all(held).await.map_err(|failures| anyhow::anyhow!("{failures:?}"))?;
    seen.extend(drain(&subscriber, DUE_AT_ONCE - 1).await?);
    seen.sort();
    ensure!(seen == sent, "lost or doubled");
    let (took, bound) = (now().since(due), plain + Duration::from_secs(2));
    ensure!(took < bound, "took {took:?}; without delay as many take {plain:?}");
    Ok(Verdict::Pass)
}

/// So many a second are due in [`on_time_beside_a_backlog`], for so many seconds.
const DUE_A_SECOND: usize = 1000;
const FOR: usize = 15;
/// How late 99 of 100 of them may be.
const LATE: u64 = 250;

/// Returns how many messages wait for a far day: 100,000, or a million where `MQ_LONG` is set.
fn backlog() -> usize {
    if is_long() { 1_000_000 } else { 100_000 }
}

/// Sends and receives without delay; returns how long that took.
async fn without_delay(publisher: &Publisher, subscriber: &Subscriber) -> Result<Duration> {
    let begun = std::time::Instant::now();
    send(publisher, "p", 5000).await?;
    drain(subscriber, 5000).await?;
    Ok(begun.elapsed())
}

pub(crate) async fn on_time_beside_a_backlog(context: Context) -> Result<Verdict> {
    let (topic, waiting) = (context.topic(), context.topic());
    let subscriber = context.subscribe(&topic, "g").await?;
    let publisher = context.publisher(&topic).await?;
    let far = context.publisher(&waiting).await?;
    let before = without_delay(&publisher, &subscriber).await?;
    if is_long() {
        // Delays in each range once, to nobody: RabbitMQ makes a range's queues when it is first used, and makes none
        // while it writes what a million messages left in its log.
        let used = now();
        send_with(&far, "w", 11, |number, message| {
            message.deliver_at(used.plus(Duration::from_secs(number as u64)))
        })
        .await?;
    }
    for _ in 0..backlog() / 10_000 {
        send_with(&far, "far", 10_000, |number, message| {
            let days = 40 + u64::try_from(number % 20).unwrap_or(0);
            message.deliver_at(now().plus(Duration::from_secs(days * 24 * 3600)))
        })
        .await?;
    }
    let after = without_delay(&publisher, &subscriber).await?;
    ensure!(
        after < 2 * before + Duration::from_secs(1),
        "{before:?} without and {after:?} beside the backlog"
    );
    let first = now().plus(Duration::from_secs(5));
    let due = |number: usize| first.plus(Duration::from_millis((number * 1000 / DUE_A_SECOND) as u64));
    let count = FOR * DUE_A_SECOND;
    send_with(&publisher, "d", count, |number, message| message.deliver_at(due(number))).await?;
    ensure!(now() < first, "{count} messages were not sent within 5 s");
    let mut late = Vec::with_capacity(count);
    while late.len() < count {
        let delivery = one(&subscriber).await?;
        let at = now();
        let due = due(body(&delivery)[1..].parse()?);
        ensure!(at.as_millis() + EARLY >= due.as_millis(), "{} is early", body(&delivery));
        late.push(at.as_millis().saturating_sub(due.as_millis()));
        drop(delivery.ack());
    }
    late.sort_unstable();
    let p99 = late[count * 99 / 100];
    ensure!(p99 <= LATE, "p99 is {p99} ms late, p50 {}, the last {}", late[count / 2], late[count - 1]);
    context.admin().delete_topic(&waiting).await?;
    Ok(Verdict::Pass)
}

pub(crate) async fn every_group_gets_it(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    let (one_group, two) = (context.subscribe(&topic, "one").await?, context.subscribe(&topic, "two").await?);
    let due = now().plus(Duration::from_millis(1300));
    context
        .publisher(&topic)
        .await?
        .send(Message::new("m").key("k").subject("a.b").header("h", "v").deliver_at(due))
        .await?;
    for subscriber in [&one_group, &two] {
        let delivery = one(subscriber).await?;
        ensure!(now().as_millis() + EARLY >= due.as_millis(), "early");
        let message = delivery.message();
        ensure!(delivery.attempt() == 1 && message.key.as_deref() == Some(b"k"), "{delivery:?} {message:?}");
        ensure!(
            message.subject.as_deref() == Some("a.b") && message.headers.get_str("h") == Some("v"),
            "{message:?}"
        );
        delivery.ack().await?;
    }
    Ok(Verdict::Pass)
}

pub(crate) async fn longer_than_the_lease(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    let settings = GroupSettings::default().lease(Duration::from_millis(400));
    let subscriber = context.subscribe_as(&topic, "g", settings).await?;
    context.publisher(&topic).await?.send(Message::new("m")).await?;
    one(&subscriber).await?.retry(Duration::from_millis(2000)).await?;
    let again = one(&subscriber).await?;
    ensure!(again.attempt() == 2, "{again:?}");
    again.ack().await?;
    context.until_empty(&topic, "g").await?;
    Ok(Verdict::Pass)
}

pub(crate) async fn defer_waits(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    let subscriber = context.subscribe(&topic, "g").await?;
    context.publisher(&topic).await?.send(Message::new("m")).await?;
    let due = now().plus(Duration::from_millis(600));
    one(&subscriber).await?.defer(Duration::from_millis(600)).await?;
    let again = one(&subscriber).await?;
    ensure!(now().as_millis() + EARLY >= due.as_millis() && again.attempt() == 1, "{again:?}");
    again.ack().await?;
    Ok(Verdict::Pass)
}

pub(crate) async fn past_and_short(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    let subscriber = context.subscribe(&topic, "g").await?;
    let publisher = context.publisher(&topic).await?;
    let send = |body: &'static str, at| publisher.send(Message::new(body).deliver_at(at));
    send("0", Timestamp::from_millis(0)).await?;
    send("1", now()).await?;
    send("2", now().plus(Duration::from_millis(20))).await?;
    let sent = std::time::Instant::now();
    ensure!(drain(&subscriber, 3).await? == ["0", "1", "2"], "not all came");
    ensure!(sent.elapsed() < Duration::from_secs(10), "they took {:?}", sent.elapsed());
    Ok(Verdict::Pass)
}

pub(crate) async fn years(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    let subscriber = context.subscribe(&topic, "g").await?;
    let publisher = context.publisher(&topic).await?;
    let year = Duration::from_secs(365 * 24 * 3600);
    for years in [1, 30] {
        let at = now().plus(year * years);
        publisher.send(Message::new("far").deliver_at(at)).await?;
    }
    send(&publisher, "now", 1).await?;
    let delivery = one(&subscriber).await?;
    ensure!(body(&delivery) == "now00000", "{} came", body(&delivery));
    delivery.defer(year * 10).await?;
    quiet(&subscriber).await?;
    let delayed = context.stats(&topic, "g").await?.delayed;
    // What is sent for later may be counted for the topic's groups only when it is due.
    ensure!(delayed.is_none_or(|delayed| (1..=3).contains(&delayed)), "{delayed:?} delayed");
    Ok(Verdict::Pass)
}

pub(crate) async fn cancel(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    let subscriber = context.subscribe(&topic, "g").await?;
    let (admin, publisher) = (context.admin(), context.publisher(&topic).await?);
    if !context.has(Capability::CancelDelayed) {
        expect_kind(admin.cancel_delayed(&topic, &"x".into()).await, ErrorKind::Unsupported)?;
        return Ok(Verdict::Unsupported);
    }
    let later = |id: &str, delay| Message::with_id(id.to_owned(), id).deliver_at(SystemTime::now() + delay);
    publisher.send(Message::with_id("retried", "retried")).await?;
    one(&subscriber).await?.retry(Duration::from_millis(900)).await?;
    for number in 0..1200 {
        publisher.enqueue(later(&format!("far{number}"), Duration::from_secs(3600))).await?.await?;
    }
    publisher.send(later("cancelled", Duration::from_millis(900))).await?;
    publisher.send(later("cancelled2", Duration::from_millis(900))).await?;
    ensure!(!admin.cancel_delayed(&topic, &"unknown".into()).await?, "cancelled what is not there");
    ensure!(!admin.cancel_delayed(&topic, &"retried".into()).await?, "cancelled a retry");
    ensure!(admin.cancel_delayed(&topic, &"cancelled".into()).await?, "did not cancel");
    ensure!(!admin.cancel_delayed(&topic, &"cancelled".into()).await?, "cancelled twice");
    ensure!(admin.cancel_delayed(&topic, &"far1100".into()).await?, "did not cancel one of many");
    let came = drain(&subscriber, 2).await?;
    ensure!(came == ["cancelled2", "retried"], "{came:?}");
    quiet(&subscriber).await?;
    Ok(Verdict::Pass)
}

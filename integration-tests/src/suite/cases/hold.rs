//! A retried message holds its key: `hold_key`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Result, bail, ensure};
use mq::{Capability, Delivery, ErrorKind, GroupSettings, Message, Page, Subscriber, TopicName, TopicSpec};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::suite::context::{Context, body, expect_kind, one, quiet, send_with};
use crate::suite::manifest::Verdict;
use crate::suite::victim::Plan;

/// Moments are whole milliseconds: so much earlier than an [`Instant`] a delivery may seem to be.
const EARLY: Duration = Duration::from_millis(2);
const KEYS: usize = 12;
const EACH: usize = 20;

fn settings() -> GroupSettings {
    GroupSettings::default().ordered().hold_key(true)
}

async fn open_as(context: &Context, topic: &TopicName, settings: GroupSettings) -> Result<Subscriber> {
    let spec = TopicSpec::default().partitions(8);
    Ok(context.subscriber(topic, "g").settings(settings).spec(spec).prefetch(40).open().await?)
}

async fn open(context: &Context, topic: &TopicName) -> Result<Subscriber> {
    open_as(context, topic, settings()).await
}

/// Returns whether the backend refuses the setting, as it declares.
async fn unsupported(context: &Context) -> Result<bool> {
    if context.has(Capability::HoldKey) {
        return Ok(false);
    }
    expect_kind(
        context.subscriber(&context.topic(), "g").settings(settings()).open().await,
        ErrorKind::Unsupported,
    )?;
    Ok(true)
}

/// Sends `count` messages `{key}00000`, `{key}00001`, … of one key.
async fn send_key(context: &Context, topic: &TopicName, key: &'static str, count: usize) -> Result<()> {
    let publisher = context.publisher(topic).await?;
    send_with(&publisher, key, count, |_, message| message.key(key)).await?;
    Ok(())
}

/// Receives one message that must be `expected`, on this attempt.
async fn expect(subscriber: &Subscriber, expected: &str, attempt: u32) -> Result<Delivery> {
    let delivery = one(subscriber).await?;
    ensure!(body(&delivery) == expected, "expected {expected}: {delivery:?} is {}", body(&delivery));
    ensure!(delivery.attempt() == attempt, "expected attempt {attempt} of {expected}: {delivery:?}");
    ensure!(delivery.redelivered() || attempt == 1, "{delivery:?} is redelivered");
    Ok(delivery)
}

pub(crate) async fn other_keys_pass(context: Context) -> Result<Verdict> {
    const AFTER: Duration = Duration::from_secs(3);
    if unsupported(&context).await? {
        return Ok(Verdict::Unsupported);
    }
    let topic = context.topic();
    let subscriber = open(&context, &topic).await?;
    send_key(&context, &topic, "a", 3).await?;
    let first = expect(&subscriber, "a00000", 1).await?;
    let since = Instant::now();
    first.retry_because(AFTER, "not yet").await?;
    send_key(&context, &topic, "b", 3).await?;
    for number in 0..3 {
        expect(&subscriber, &format!("b{number:05}"), 1).await?.ack().await?;
    }
    ensure!(since.elapsed() < AFTER, "the other key took {:?}", since.elapsed());
    let again = expect(&subscriber, "a00000", 2).await?;
    let waited = since.elapsed();
    ensure!(waited + EARLY >= AFTER, "early: after {waited:?}");
    ensure!(again.last_error() == Some("not yet"), "{:?}", again.last_error());
    again.ack().await?;
    for number in 1..3 {
        expect(&subscriber, &format!("a{number:05}"), 1).await?.ack().await?;
    }
    context.until_empty(&topic, "g").await?;
    Ok(Verdict::Pass)
}

pub(crate) async fn defer_drop_and_lease(context: Context) -> Result<Verdict> {
    if unsupported(&context).await? {
        return Ok(Verdict::Unsupported);
    }
    let topic = context.topic();
    let subscriber = open_as(&context, &topic, settings().lease(Duration::from_secs(2))).await?;
    send_key(&context, &topic, "a", 2).await?;
    let since = Instant::now();
    expect(&subscriber, "a00000", 1).await?.defer(Duration::from_millis(600)).await?;
    let deferred = expect(&subscriber, "a00000", 1).await?;
    ensure!(since.elapsed() + EARLY >= Duration::from_millis(600), "early: after {:?}", since.elapsed());
    ensure!(deferred.redelivered(), "{deferred:?}");
    drop(deferred);
    let late = expect(&subscriber, "a00000", 2).await?;
    let again = expect(&subscriber, "a00000", 3).await?;
    expect_kind(late.ack().await, ErrorKind::StaleDelivery)?;
    again.ack().await?;
    expect(&subscriber, "a00001", 1).await?.ack().await?;
    context.until_empty(&topic, "g").await?;
    Ok(Verdict::Pass)
}

pub(crate) async fn counts(context: Context) -> Result<Verdict> {
    if unsupported(&context).await? {
        return Ok(Verdict::Unsupported);
    }
    let topic = context.topic();
    let subscriber = open_as(&context, &topic, settings().max_attempts(3)).await?;
    send_key(&context, &topic, "a", 2).await?;
    for attempt in 1..=3 {
        let failed = expect(&subscriber, "a00000", attempt).await?;
        failed.retry_because(Duration::from_millis(50), format!("failure {attempt}")).await?;
    }
    expect(&subscriber, "a00001", 1).await?.ack().await?;
    let all = Page { offset: 0, limit: 10 };
    let letters = context.admin().dead_letters(&topic, &context.group("g"), all).await?;
    ensure!(letters.len() == 1 && letters[0].envelope.attempt == 3, "{letters:?}");
    ensure!(letters[0].envelope.error.as_deref() == Some("failure 3"), "{letters:?}");
    // Without a key there is nothing to hold: it is moved, and counted as elsewhere.
    context.publisher(&topic).await?.send(Message::new("keyless")).await?;
    expect(&subscriber, "keyless", 1).await?.retry(Duration::ZERO).await?;
    expect(&subscriber, "keyless", 2).await?.ack().await?;
    quiet(&subscriber).await?;
    context.until_empty(&topic, "g").await?;
    Ok(Verdict::Pass)
}

pub(crate) async fn moves(context: Context) -> Result<Verdict> {
    const AFTER: Duration = Duration::from_secs(4);
    if unsupported(&context).await? {
        return Ok(Verdict::Unsupported);
    }
    let topic = context.topic();
    let first = open(&context, &topic).await?;
    send_key(&context, &topic, "a", 3).await?;
    expect(&first, "a00000", 1).await?.retry(Duration::ZERO).await?;
    let since = Instant::now();
    expect(&first, "a00000", 2).await?.retry_because(AFTER, "not yet").await?;
    let closing = Instant::now();
    first.close(Duration::from_secs(20)).await?;
    ensure!(closing.elapsed() < AFTER, "the close waited for the held message: {:?}", closing.elapsed());
    // The second has it waiting and leaves, too: nothing is counted and nothing is forgotten.
    let second = open(&context, &topic).await?;
    quiet(&second).await?;
    second.close(Duration::from_secs(20)).await?;
    let third = open(&context, &topic).await?;
    let again = expect(&third, "a00000", 3).await?;
    ensure!(since.elapsed() + EARLY >= AFTER, "early: after {:?}", since.elapsed());
    again.ack().await?;
    for number in 1..3 {
        expect(&third, &format!("a{number:05}"), 1).await?.ack().await?;
    }
    third.close(Duration::from_secs(20)).await?;
    let fourth = open(&context, &topic).await?;
    quiet(&fourth).await?;
    Ok(Verdict::Pass)
}

pub(crate) async fn survives_a_kill(context: Context) -> Result<Verdict> {
    if unsupported(&context).await? {
        return Ok(Verdict::Unsupported);
    }
    let topic = context.topic();
    open(&context, &topic).await?.close(Duration::from_secs(10)).await?;
    send_key(&context, &topic, "a", 3).await?;
    // Later than others may have it, so that it would show if it came early.
    let wait = context.harness.session_bound() + Duration::from_secs(6);
    let due = SystemTime::now() + wait;
    let mut plan = Plan::hold(&topic, &context.group("g"), settings(), 0);
    plan.prefetch = 40;
    plan.retry_until = Some(u64::try_from(due.duration_since(SystemTime::UNIX_EPOCH)?.as_millis())?);
    context.harness.victim(plan).await?.kill().await?;
    let subscriber = open(&context, &topic).await?;
    let again = one(&subscriber).await?;
    let early = due.duration_since(SystemTime::now()).unwrap_or_default();
    ensure!(early <= EARLY, "{early:?} early: {again:?}");
    ensure!(body(&again) == "a00000" && (3..=4).contains(&again.attempt()), "{again:?}");
    again.ack().await?;
    for number in 1..3 {
        let next = one(&subscriber).await?;
        ensure!(body(&next) == format!("a{number:05}") && next.attempt() <= 2, "{next:?} is {}", body(&next));
        next.ack().await?;
    }
    context.until_empty(&topic, "g").await?;
    Ok(Verdict::Pass)
}

pub(crate) async fn declared(context: Context) -> Result<Verdict> {
    if unsupported(&context).await? {
        return Ok(Verdict::Unsupported);
    }
    let topic = context.topic();
    let loose = GroupSettings::default().hold_key(true);
    let error =
        expect_kind(context.subscriber(&topic, "g").settings(loose).open().await, ErrorKind::InvalidInput)?;
    ensure!(error.to_string().contains("ordered()"), "{error}");
    let member = open(&context, &topic).await?;
    let other = context.subscriber(&topic, "g").settings(GroupSettings::default().ordered()).open().await;
    let error = expect_kind(other.map(drop), ErrorKind::Mismatch)?;
    ensure!(error.to_string().contains("hold_key is true, not false"), "{error}");
    drop(member);
    let settings = context.admin().group_settings(&topic, &context.group("g")).await?;
    ensure!(settings.hold_key && settings.ordered, "{settings:?}");
    Ok(Verdict::Pass)
}

/// What the members of a group saw together, by key.
#[derive(Debug, Default)]
struct Ledger {
    /// How many of each key were about to be acked.
    ended: HashMap<usize, usize>,
    /// How many attempts of each message failed.
    failed: HashMap<usize, u32>,
    busy: HashMap<usize, usize>,
    wrong: Vec<String>,
}

impl Ledger {
    /// Takes note of a hand-out; returns whether this attempt is to fail.
    fn begin(&mut self, number: usize, attempt: u32) -> bool {
        let (key, place) = (number % KEYS, number / KEYS);
        if let Some(other) = self.busy.insert(key, number) {
            self.wrong.push(format!("{number} came while {other} was in hand"));
        }
        let ended = self.ended.get(&key).copied().unwrap_or(0);
        if place > ended {
            self.wrong.push(format!("{number} came before {} had ended", ended * KEYS + key));
        }
        let failed = self.failed.entry(number).or_default();
        if attempt != *failed + 1 {
            self.wrong.push(format!("{number} came on attempt {attempt}, after {failed} had failed"));
        }
        *failed < 3 && fastrand::u8(0..3) == 0
    }

    /// Takes note that a message is about to be settled.
    fn end(&mut self, number: usize, fails: bool) {
        let key = number % KEYS;
        if fails {
            *self.failed.entry(number).or_default() += 1;
        } else {
            self.ended.insert(key, number / KEYS + 1);
        }
        self.busy.remove(&key);
    }
}

fn work(subscriber: Subscriber, ledger: Arc<Mutex<Ledger>>) {
    tokio::spawn(async move {
        while let Ok(delivery) = subscriber.receive().await {
            let ledger = ledger.clone();
            tokio::spawn(async move {
                let Ok(number) = body(&delivery)[1..].parse() else { return };
                let fails = ledger.lock().begin(number, delivery.attempt());
                tokio::time::sleep(Duration::from_millis(fastrand::u64(0..4))).await;
                ledger.lock().end(number, fails);
                let after = Duration::from_millis(fastrand::u64(0..300));
                let settled = if fails { delivery.retry(after) } else { delivery.ack() };
                if let Err(error) = settled.await {
                    ledger.lock().wrong.push(format!("{number}, fails {fails}: {error}"));
                }
            });
        }
    });
}

pub(crate) async fn many_members(context: Context) -> Result<Verdict> {
    if unsupported(&context).await? {
        return Ok(Verdict::Unsupported);
    }
    let topic = context.topic();
    let first = open(&context, &topic).await?;
    let publisher = context.publisher(&topic).await?;
    send_with(&publisher, "m", KEYS * EACH, |number, message| message.key((number % KEYS).to_string()))
        .await?;
    let ledger = Arc::new(Mutex::default());
    work(first.clone(), Arc::clone(&ledger));
    let second = open(&context, &topic).await?;
    work(second.clone(), Arc::clone(&ledger));
    first.close(Duration::from_secs(20)).await?;
    work(open(&context, &topic).await?, Arc::clone(&ledger));
    second.close(Duration::from_secs(20)).await?;
    let end = Instant::now() + Duration::from_secs(90);
    loop {
        {
            let ledger = ledger.lock();
            ensure!(ledger.wrong.is_empty(), "{:?}", ledger.wrong);
            if ledger.ended.values().filter(|ended| **ended == EACH).count() == KEYS {
                break;
            }
            if Instant::now() > end {
                bail!("not all ended: {:?}", ledger.ended);
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    context.until_empty(&topic, "g").await?;
    let ledger = ledger.lock();
    ensure!(ledger.wrong.is_empty(), "{:?}", ledger.wrong);
    Ok(Verdict::Pass)
}

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use mq::{GroupSettings, Subscriber, TopicName, TopicSpec};
use parking_lot::Mutex;

use crate::suite::context::{Context, body, one, send_with, take};
use crate::suite::manifest::Verdict;
use crate::suite::victim::Plan;

const KEYS: usize = 20;

/// What the members of an ordered group saw together.
#[derive(Debug, Default)]
struct Ledger {
    last: HashMap<usize, usize>,
    busy: HashSet<usize>,
    seen: HashSet<usize>,
    wrong: Vec<String>,
}

impl Ledger {
    fn begin(&mut self, number: usize, attempt: u32) {
        let key = number % KEYS;
        if !self.busy.insert(key) {
            self.wrong.push(format!("{number}: key {key} had another message in hand"));
        }
        if attempt > 1 || self.seen.contains(&number) {
            return;
        }
        if let Some(last) = self.last.insert(key, number).filter(|last| *last > number) {
            self.wrong.push(format!("{number} came after {last} of the same key"));
        }
    }

    fn end(&mut self, number: usize) {
        self.busy.remove(&(number % KEYS));
        self.seen.insert(number);
    }
}

fn settings() -> GroupSettings {
    GroupSettings::default().ordered()
}

async fn open(context: &Context, topic: &TopicName) -> Result<Subscriber> {
    let spec = TopicSpec::default().partitions(8);
    Ok(context.subscriber(topic, "g").settings(settings()).spec(spec).prefetch(40).open().await?)
}

fn work(subscriber: Subscriber, ledger: Arc<Mutex<Ledger>>) {
    tokio::spawn(async move {
        while let Ok(delivery) = subscriber.receive().await {
            let ledger = ledger.clone();
            tokio::spawn(async move {
                let Ok(number) = body(&delivery)[1..].parse() else { return };
                ledger.lock().begin(number, delivery.attempt());
                tokio::time::sleep(Duration::from_millis(fastrand::u64(0..4))).await;
                ledger.lock().end(number);
                // A stale ack comes back as another delivery, which the ledger sees.
                drop(delivery.ack().await);
            });
        }
    });
}

async fn all_seen(ledger: &Mutex<Ledger>, count: usize) -> Result<()> {
    let end = tokio::time::Instant::now() + Duration::from_secs(90);
    loop {
        {
            let ledger = ledger.lock();
            ensure!(ledger.wrong.is_empty(), "{:?}", ledger.wrong);
            if ledger.seen.len() == count {
                return Ok(());
            }
        }
        if tokio::time::Instant::now() > end {
            bail!("{} of {count} were seen", ledger.lock().seen.len());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub(crate) async fn single_consumer(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    let subscriber = open(&context, &topic).await?;
    let publisher = context.publisher(&topic).await?;
    send_with(&publisher, "m", 600, |number, message| message.key((number % KEYS).to_string())).await?;
    let ledger = Arc::new(Mutex::default());
    work(subscriber, Arc::clone(&ledger));
    all_seen(&ledger, 600).await?;
    Ok(Verdict::Pass)
}

pub(crate) async fn one_in_hand_per_key(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    let subscriber = open(&context, &topic).await?;
    let publisher = context.publisher(&topic).await?;
    send_with(&publisher, "m", 10, |_, message| message.key("same")).await?;
    for number in 0..10 {
        let held = one(&subscriber).await?;
        ensure!(body(&held) == format!("m{number:05}"), "{held:?}");
        let second = tokio::time::timeout(Duration::from_millis(50), subscriber.receive()).await;
        ensure!(second.is_err(), "a second message of the key was handed out: {second:?}");
        held.ack().await?;
    }
    Ok(Verdict::Pass)
}

pub(crate) async fn keys_run_in_parallel(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    let subscriber = open(&context, &topic).await?;
    let publisher = context.publisher(&topic).await?;
    send_with(&publisher, "m", KEYS, |number, message| message.key(number.to_string())).await?;
    for delivery in take(&subscriber, KEYS).await? {
        delivery.ack().await?;
    }
    Ok(Verdict::Pass)
}

pub(crate) async fn members_join_and_leave(context: Context) -> Result<Verdict> {
    const COUNT: usize = 3000;
    let topic = context.topic();
    let first = open(&context, &topic).await?;
    let publisher = context.publisher(&topic).await?;
    let ledger = Arc::new(Mutex::default());
    work(first.clone(), Arc::clone(&ledger));
    let sender = tokio::spawn(async move {
        for chunk in 0..COUNT / 100 {
            let bodies = (0..100).map(|number| chunk * 100 + number);
            let messages = bodies
                .map(|number| mq::Message::new(format!("m{number:05}")).key((number % KEYS).to_string()));
            for verdict in publisher.send_batch(messages.collect()).await {
                verdict?;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok::<(), mq::Error>(())
    });
    let second = open(&context, &topic).await?;
    work(second.clone(), Arc::clone(&ledger));
    tokio::time::sleep(Duration::from_secs(1)).await;
    work(open(&context, &topic).await?, Arc::clone(&ledger));
    first.close(Duration::from_secs(20)).await?;
    second.close(Duration::from_secs(20)).await?;
    sender.await??;
    all_seen(&ledger, COUNT).await?;
    Ok(Verdict::Pass)
}

pub(crate) async fn survives_a_crash(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    open(&context, &topic).await?.close(Duration::from_secs(10)).await?;
    let publisher = context.publisher(&topic).await?;
    send_with(&publisher, "m", 400, |number, message| message.key((number % KEYS).to_string())).await?;
    let mut plan = Plan::hold(&topic, &context.group("g"), settings(), 3);
    plan.prefetch = 100;
    plan.ack = vec![0, 1];
    context.harness.victim(plan).await?.kill().await?;
    let ledger: Arc<Mutex<Ledger>> = Arc::default();
    work(open(&context, &topic).await?, Arc::clone(&ledger));
    // Two were acked by the victim.
    all_seen(&ledger, 398).await?;
    Ok(Verdict::Pass)
}

pub(crate) async fn retry_lets_others_pass(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    let subscriber = open(&context, &topic).await?;
    let publisher = context.publisher(&topic).await?;
    send_with(&publisher, "m", 5, |_, message| message.key("same")).await?;
    let first = one(&subscriber).await?;
    ensure!(body(&first) == "m00000", "{first:?}");
    first.retry(Duration::from_secs(2)).await?;
    for number in 1..5 {
        let next = one(&subscriber).await?;
        ensure!(body(&next) == format!("m{number:05}"), "{next:?}");
        next.ack().await?;
    }
    let last = one(&subscriber).await?;
    ensure!(body(&last) == "m00000" && last.attempt() == 2, "{last:?}");
    last.ack().await?;
    Ok(Verdict::Pass)
}

pub(crate) async fn messages_without_a_key(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    let subscriber = open(&context, &topic).await?;
    let publisher = context.publisher(&topic).await?;
    send_with(&publisher, "m", 30, |_, message| message).await?;
    // They need no order: all may be in hand at once.
    for delivery in take(&subscriber, 30).await? {
        delivery.ack().await?;
    }
    Ok(Verdict::Pass)
}

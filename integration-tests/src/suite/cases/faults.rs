use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use mq::{Client, ErrorKind, Event, Message, Page, Publisher, Subscriber, TopicName};
use parking_lot::Mutex;
use tokio::sync::broadcast::{self, error::TryRecvError};

use crate::brokers::Broker;
use crate::suite::context::{Context, body, one, send};
use crate::suite::faulty::Faulty;
use crate::suite::harm::Operator;
use crate::suite::manifest::Verdict;
use crate::suite::planted;

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
    let events = context.client.events();
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
    let all = receive_all(context, &topic, &subscriber, confirmed).await;
    all.map_err(|error| error.context(format!("events {:?}", so_far(events))))?;
    Ok(Verdict::Pass)
}

/// Returns what happened, as far as it was kept.
pub(in crate::suite) fn so_far(mut events: broadcast::Receiver<Event>) -> Vec<String> {
    let mut seen = Vec::new();
    loop {
        match events.try_recv() {
            Ok(event) => seen.push(format!("{event:?}")),
            Err(TryRecvError::Lagged(missed)) => seen.push(format!("{missed} more")),
            Err(_) => return seen,
        }
    }
}

async fn receive_all(
    context: &Context,
    topic: &TopicName,
    subscriber: &Subscriber,
    mut missing: BTreeSet<String>,
) -> Result<()> {
    let (mut acked, mut refused) = (0, None);
    while !missing.is_empty() {
        let Ok(delivery) = tokio::time::timeout(Duration::from_secs(60), subscriber.receive()).await else {
            let missing: Vec<String> = missing.into_iter().collect();
            let fate = fate(context, topic, &missing).await?;
            anyhow::bail!("{fate}; {acked} were acked, the last refusal was {refused:?}");
        };
        let delivery = delivery?;
        missing.remove(&body(&delivery));
        // Stale if the broker took it back; then it comes again.
        match delivery.ack().await {
            Ok(()) => acked += 1,
            Err(error) => refused = Some(error),
        }
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

/// How often [`connections_cut`] cuts.
const CUTS: usize = 20;
/// How much goes through between two cuts, at least.
const BETWEEN_CUTS: usize = 5;
/// How long [`half_open`] lasts.
const HALF_OPEN: Duration = Duration::from_secs(8);

/// What was confirmed, and what of it came and was acked.
#[derive(Debug, Default)]
struct Ledger {
    confirmed: Mutex<BTreeSet<String>>,
    came: Mutex<BTreeSet<String>>,
}

impl Ledger {
    fn counts(&self) -> [usize; 2] {
        [self.confirmed.lock().len(), self.came.lock().len()]
    }

    fn missing(&self) -> Vec<String> {
        self.confirmed.lock().difference(&self.came.lock()).cloned().collect()
    }
}

/// Sends, one after the other, until `stop` says so or is gone.
async fn keep_sending(publisher: Publisher, ledger: Arc<Ledger>, stop: tokio::sync::watch::Receiver<bool>) {
    for number in 0.. {
        if stop.has_changed().unwrap_or(true) {
            return;
        }
        let body = format!("m{number:05}");
        match publisher.send(Message::new(body.clone())).await {
            Ok(_) => drop(ledger.confirmed.lock().insert(body)),
            // As a program would that has something else to do meanwhile.
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

/// Receives and acks until the subscriber is closed.
async fn keep_receiving(subscriber: Subscriber, ledger: Arc<Ledger>) -> mq::Result<()> {
    loop {
        match subscriber.receive().await {
            Ok(delivery) => {
                ledger.came.lock().insert(body(&delivery));
                // Stale if the broker took it back; then it comes again.
                drop(delivery.ack().await);
            }
            Err(error) if error.kind() == ErrorKind::Closed => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

/// Tells where messages are that were confirmed and never came.
pub(super) async fn fate(context: &Context, topic: &TopicName, missing: &[String]) -> Result<String> {
    let stats = context.stats(topic, "g").await?;
    let page = Page { offset: 0, limit: 100 };
    let dead = context.admin().dead_letters(topic, &context.group("g"), page).await?;
    let dead: Vec<String> = dead
        .iter()
        .map(|letter| format!("{} {:?}", String::from_utf8_lossy(&letter.message.payload), letter.envelope))
        .collect();
    let some: Vec<_> = missing.iter().take(10).collect();
    let broker = match context.harness.broker() {
        Some(broker) => Operator(broker).tell(topic).await?,
        None => String::new(),
    };
    Ok(format!("{} missing, such as {some:?}; {stats:?}; dead letters {dead:?}; {broker}", missing.len()))
}

pub(crate) async fn connections_cut(context: Context) -> Result<Verdict> {
    let Some(faulty) = context.harness.faulty().await? else { return Ok(Verdict::Unsupported) };
    faulty.recover().await?;
    let context = Context::new(faulty.harness(), "faults.connections_cut", context.seed).await?;
    let topic = context.topic();
    let subscriber = context.subscribe(&topic, "g").await?;
    let publisher = context.publisher(&topic).await?;
    let ledger = Arc::new(Ledger::default());
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let sending = tokio::spawn(keep_sending(publisher, ledger.clone(), stopped));
    let receiving = tokio::spawn(keep_receiving(subscriber.clone(), ledger.clone()));
    for cut in 0..=CUTS {
        let before = ledger.counts();
        let gone_on = context.until(|| async {
            let now = ledger.counts();
            let goes_on = now.iter().zip(before).all(|(now, before)| *now >= before + BETWEEN_CUTS);
            ensure!(goes_on, "after {cut} cuts: confirmed and received {before:?}, then {now:?}");
            Ok(())
        });
        gone_on.await?;
        if cut < CUTS {
            ensure!(faulty.proxy().connections() > 0, "there is no connection to cut");
            faulty.proxy().cut();
        }
    }
    stop.send(true)?;
    sending.await?;
    let all = context.until(|| async {
        ensure!(ledger.missing().is_empty(), "some confirmed never came");
        Ok(())
    });
    if let Err(error) = all.await {
        return Err(error.context(fate(&context, &topic, &ledger.missing()).await?));
    }
    subscriber.close(Duration::from_secs(10)).await?;
    receiving.await??;
    context.client.close(Duration::from_secs(5)).await?;
    Ok(Verdict::Pass)
}

/// Sends until a send is confirmed and the message comes; both within the bound from `healed` on.
async fn goes_on(
    faulty: &Faulty,
    healed: Instant,
    publisher: &Publisher,
    subscriber: &Subscriber,
) -> Result<()> {
    let end = tokio::time::Instant::from_std(healed) + faulty.goes_on_within();
    let goes_on = async {
        while publisher.send(Message::new("after")).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        loop {
            let delivery = subscriber.receive().await?;
            let body = body(&delivery);
            // Stale if the broker took it back; then it comes again.
            drop(delivery.ack().await);
            if body == "after" {
                return anyhow::Ok(());
            }
        }
    };
    let gone_on = tokio::time::timeout_at(end, goes_on).await;
    gone_on.map_err(|_| anyhow::anyhow!("it does not go on within {:?}", faulty.goes_on_within()))?
}

pub(crate) async fn half_open(context: Context) -> Result<Verdict> {
    let Some(faulty) = context.harness.faulty().await? else { return Ok(Verdict::Unsupported) };
    faulty.recover().await?;
    let client = planted::connect(faulty.url(true)).await?;
    let topic = context.topic();
    let subscriber = client.subscriber(&topic, context.group("g")).open().await?;
    let publisher = client.publisher(&topic).await?;
    publisher.send(Message::new("before")).await?;
    one(&subscriber).await?.ack().await?;
    faulty.proxy().stall();
    let stalled = Instant::now();
    for number in 0..2 {
        let begun = Instant::now();
        let left = HALF_OPEN.saturating_sub(stalled.elapsed());
        let Ok(answer) = tokio::time::timeout(left, publisher.send(Message::new("during"))).await else {
            // The first has its whole time; the second may be cut short by the end of the stall.
            ensure!(number > 0, "a send hangs on a half-open connection for {:?}", begun.elapsed());
            break;
        };
        let Err(error) = answer else { anyhow::bail!("a send is confirmed by nobody") };
        let kinds = [ErrorKind::UnknownOutcome, ErrorKind::Unavailable];
        ensure!(kinds.contains(&error.kind()), "after {:?}: {error}", begun.elapsed());
    }
    tokio::time::sleep(HALF_OPEN.saturating_sub(stalled.elapsed())).await;
    faulty.proxy().heal().await?;
    goes_on(&faulty, Instant::now(), &publisher, &subscriber).await?;
    subscriber.close(Duration::from_secs(10)).await?;
    client.close(Duration::from_secs(5)).await?;
    Ok(Verdict::Pass)
}

/// Connects and opens both sides.
async fn open_both(
    url: &str,
    context: &Context,
    topic: &mq::TopicName,
) -> mq::Result<(Client, Publisher, Subscriber)> {
    let client = planted::connect(url).await?;
    let publisher = client.publisher(topic).await?;
    let subscriber = client.subscriber(topic, context.group("g")).open().await?;
    Ok((client, publisher, subscriber))
}

/// How long [`slow_to_connect`] lets a first connection wait for an answer, and how long none may wait.
const ANSWERS_AFTER: Duration = Duration::from_secs(7);
const GIVEN_UP_AFTER: Duration = Duration::from_secs(13);

pub(crate) async fn slow_to_connect(context: Context) -> Result<Verdict> {
    let Some(faulty) = context.harness.faulty().await? else { return Ok(Verdict::Unsupported) };
    faulty.recover().await?;
    let (url, topic) = (faulty.url(false), context.topic());
    faulty.proxy().stall();
    let begun = Instant::now();
    let answered_by_nobody = planted::connect(url.clone()).await.map(drop);
    let took = begun.elapsed();
    let error = crate::suite::context::expect_kind(answered_by_nobody, ErrorKind::Unavailable)?;
    ensure!(took < GIVEN_UP_AFTER, "{error} came after {took:?}");
    let connecting = tokio::spawn(planted::connect(url));
    tokio::time::sleep(ANSWERS_AFTER).await;
    ensure!(!connecting.is_finished(), "{:?} though nobody answered", connecting.await?.map(drop));
    faulty.proxy().heal().await?;
    let client = connecting.await??;
    let subscriber = client.subscriber(&topic, context.group("g")).open().await?;
    client.publisher(&topic).await?.send(Message::new("after")).await?;
    one(&subscriber).await?.ack().await?;
    client.close(Duration::from_secs(10)).await?;
    Ok(Verdict::Pass)
}

pub(crate) async fn unreachable_then_back(context: Context) -> Result<Verdict> {
    let Some(faulty) = context.harness.faulty().await? else { return Ok(Verdict::Unsupported) };
    faulty.recover().await?;
    let (url, topic) = (faulty.url(false), context.topic());
    faulty.proxy().refuse().await;
    faulty.proxy().cut();
    let begun = Instant::now();
    let refused = open_both(&url, &context, &topic).await.map(drop);
    let took = begun.elapsed();
    let error = crate::suite::context::expect_kind(refused, ErrorKind::Unavailable)?;
    ensure!(took < Duration::from_secs(6), "{error} came after {took:?}");
    faulty.proxy().heal().await?;
    let (client, publisher, subscriber) = open_both(&url, &context, &topic).await?;
    publisher.send(Message::new("before")).await?;
    one(&subscriber).await?.ack().await?;
    // Away while both sides are at work: longer than a first attempt to connect again.
    faulty.proxy().refuse().await;
    faulty.proxy().cut();
    let away = tokio::time::timeout(Duration::from_secs(3), subscriber.receive()).await;
    ensure!(away.is_err(), "a consumer ended, or got something from nowhere: {away:?}");
    faulty.proxy().heal().await?;
    goes_on(&faulty, Instant::now(), &publisher, &subscriber).await?;
    client.close(Duration::from_secs(10)).await?;
    Ok(Verdict::Pass)
}

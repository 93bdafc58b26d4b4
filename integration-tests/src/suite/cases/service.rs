//! More of the worker on a backend: batches, groups, a stop under load, and what goes around handlers and publishers.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use mq::worker::layers::{AeadCipher, Cipher as _, Decrypt, RateLimit};
use mq::worker::{
    Attempt, Backoff, Batching, Failure, Group, Handler as _, Outlet, State, Text, Worker, batch,
};
use mq::{GroupSettings, Message, Page};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::worker::run;
use crate::suite::context::{Context, PATIENCE, body, send, take};
use crate::suite::manifest::Verdict;

/// What handlers saw.
type Seen = Arc<Mutex<Vec<String>>>;

async fn note(Text(body): Text, State(seen): State<Seen>) {
    seen.lock().push(body.to_string());
}

/// Waits until so much was seen.
async fn until_seen(context: &Context, seen: &Seen, count: usize) -> Result<()> {
    context
        .until(|| async {
            let now = seen.lock().len();
            ensure!(now >= count, "{now} of {count} were handled");
            Ok(())
        })
        .await
}

/// Stores what is even, tries again what is odd, refuses what is divisible by ten.
async fn store(
    rows: Vec<(Text, Attempt)>,
    State(sizes): State<Arc<Mutex<Vec<usize>>>>,
) -> Vec<Result<(), Failure>> {
    sizes.lock().push(rows.len());
    let verdict = |(Text(row), Attempt(attempt)): (Text, Attempt)| {
        let number: u32 = row[1..].parse()?;
        match (number % 10, number % 2, attempt) {
            (0, ..) => Err(Failure::reject("divisible by ten")),
            (_, 1, 1) => Err(Failure::retry(Duration::from_millis(50))),
            _ => Ok(()),
        }
    };
    rows.into_iter().map(verdict).collect()
}

pub(crate) async fn batches(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    let sizes = Arc::new(Mutex::new(Vec::new()));
    let group = context.group("g");
    let worker = Worker::new(&context.client, group.clone())
        .on(topic.clone(), batch(store).size(50).within(Duration::from_millis(50)))
        .retry(Backoff::default().attempts(3))
        .state(sizes.clone());
    let publisher = context.publisher(&topic).await?;
    let report = run(worker, async || {
        send(&publisher, "m", 300).await?;
        context
            .until(|| async {
                let handled: usize = sizes.lock().iter().sum();
                ensure!(handled == 450, "{handled} of 450 were in batches");
                Ok(())
            })
            .await?;
        context.until_empty(&topic, "g").await
    });
    let report = report.await?;
    ensure!((report.handled, report.retried, report.dead) == (270, 150, 30), "{report:?}");
    let sizes = sizes.lock();
    ensure!(sizes.iter().all(|size| (1..=50).contains(size)), "{sizes:?}");
    ensure!(sizes.iter().any(|size| *size > 10), "hardly anything came together: {sizes:?}");
    Ok(Verdict::Pass)
}

async fn note_group(Group(group): Group, State(seen): State<Seen>) {
    seen.lock().push(group.to_string());
}

pub(crate) async fn groups(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    let seen = Seen::default();
    let (one, two) = (context.group("one"), context.group("two"));
    let worker = Worker::new(&context.client, one.clone())
        .on(topic.clone(), note_group)
        .on(topic.clone(), note_group.group(two.clone()).concurrency(2))
        .state(seen.clone());
    let publisher = context.publisher(&topic).await?;
    let report = run(worker, async || {
        send(&publisher, "m", 100).await?;
        until_seen(&context, &seen, 200).await
    });
    ensure!(report.await?.handled == 200);
    let of_one = seen.lock().iter().filter(|group| **group == one.to_string()).count();
    ensure!(of_one == 100, "{of_one} of 200 were of group one");
    Ok(Verdict::Pass)
}

async fn slow(Text(body): Text, State(seen): State<Seen>) {
    tokio::time::sleep(Duration::from_millis(20)).await;
    seen.lock().push(body.to_string());
}

/// A worker that stops under load finishes what is under way; the rest is there for the next one, uncounted.
pub(crate) async fn stops_under_load(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    let seen = Seen::default();
    let route = slow.concurrency(8).prefetch(100);
    let worker =
        Worker::new(&context.client, context.group("g")).on(topic.clone(), route).state(seen.clone());
    let publisher = context.publisher(&topic).await?;
    let mut sent = Vec::new();
    let report = run(worker, async || {
        sent = send(&publisher, "m", 300).await?;
        until_seen(&context, &seen, 50).await
    });
    let report = report.await?;
    let mut handled: Vec<String> = seen.lock().clone();
    ensure!(
        report.handled == handled.len() as u64 && report.given_back == 0,
        "{report:?}, {}",
        handled.len()
    );
    ensure!(handled.len() < 300, "it handled all before it stopped");
    let settings = GroupSettings::default();
    let subscriber = context.subscribe_as(&topic, "g", settings).await?;
    for delivery in take(&subscriber, 300 - handled.len()).await? {
        ensure!(delivery.attempt() == 1, "a stop counts no attempt: {delivery:?}");
        handled.push(body(&delivery));
        delivery.ack().await?;
    }
    let (handled, sent): (BTreeSet<String>, BTreeSet<String>) =
        (handled.into_iter().collect(), sent.into_iter().collect());
    ensure!(handled == sent, "something was lost or came twice");
    Ok(Verdict::Pass)
}

pub(crate) async fn outlet(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    let subscriber = context.subscribe(&topic, "g").await?;
    let outlet = Outlet::new(context.publisher(&topic).await?)
        .header("source", "suite")
        .filter(|message| !message.payload.ends_with(b"0"))
        .rate_limit(RateLimit::new(500, Duration::from_secs(1)).burst(50))
        .batch(Batching::new(40, 1 << 20, Duration::from_millis(20)));
    let start = Instant::now();
    let sends = (0..200).map(|number| outlet.send(Message::new(format!("m{number}"))));
    let receipts = futures_util::future::try_join_all(sends).await?;
    ensure!(receipts.iter().flatten().count() == 180, "a filter kept something else back");
    ensure!(start.elapsed() >= Duration::from_millis(260), "180 in {:?}", start.elapsed());
    let mut bodies = BTreeSet::new();
    for delivery in take(&subscriber, 180).await? {
        ensure!(delivery.message().headers.get_str("source") == Some("suite"), "{delivery:?}");
        bodies.insert(body(&delivery));
        delivery.ack().await?;
    }
    ensure!(bodies.len() == 180 && !bodies.iter().any(|body| body.ends_with('0')), "{bodies:?}");
    Ok(Verdict::Pass)
}

/// Sealed payloads are read after a retry, too; what cannot be read is a dead letter, byte for byte.
pub(crate) async fn sealed(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    let group = context.group("g");
    let (seen, cipher) = (Seen::default(), AeadCipher::new("new", &[1; 32]).and("old", &[2; 32]));
    let (old, foreign) = (AeadCipher::new("old", &[2; 32]), AeadCipher::new("new", &[3; 32]));
    let worker = Worker::new(&context.client, group.clone())
        .on(topic.clone(), note.layer(Decrypt::new(cipher.clone())))
        .state(seen.clone());
    let publisher = context.publisher(&topic).await?;
    let lost = foreign.seal(Message::new("lost"))?;
    let report = run(worker, async || {
        for number in 0..20 {
            let message = Message::new(format!("secret {number}")).key("k").header("h", "v");
            publisher.send(if number % 2 == 0 { cipher.seal(message)? } else { old.seal(message)? }).await?;
        }
        publisher.send(lost.clone()).await?;
        until_seen(&context, &seen, 20).await?;
        context.until_empty(&topic, "g").await
    });
    let report = report.await?;
    ensure!((report.handled, report.dead) == (20, 1), "{report:?}");
    ensure!(seen.lock().iter().all(|text| text.starts_with("secret ")), "{:?}", seen.lock());
    let dead = context.admin().dead_letters(&topic, &group, Page { offset: 0, limit: 10 }).await?;
    ensure!(dead.len() == 1 && dead[0].message.payload == lost.payload, "{dead:?}");
    Ok(Verdict::Pass)
}

/// How many calls a partner takes at once.
const PARTNER: usize = 4;

#[derive(Clone, Default)]
struct Partner(Arc<(AtomicUsize, AtomicUsize)>);

/// Fails when too many call at once.
async fn call(State(Partner(partner)): State<Partner>) -> Result<()> {
    let calls = partner.0.fetch_add(1, Ordering::Relaxed) + 1;
    tokio::time::sleep(Duration::from_millis(5)).await;
    partner.0.fetch_sub(1, Ordering::Relaxed);
    ensure!(calls <= PARTNER, "busy");
    partner.1.fetch_add(1, Ordering::Relaxed);
    Ok(())
}

/// Concurrency that adapts loses nothing to a partner that refuses the fifth call.
pub(crate) async fn adapts(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    let partner = Partner::default();
    let worker = Worker::new(&context.client, context.group("g"))
        .on(topic.clone(), call.concurrency(1..=32))
        .retry(Backoff::exponential(Duration::from_millis(20)..=Duration::from_millis(100)).attempts(30))
        .state(partner.clone());
    let publisher = context.publisher(&topic).await?;
    let report = run(worker, async || {
        send(&publisher, "m", 300).await?;
        let done = tokio::time::timeout(PATIENCE, async {
            while partner.0.1.load(Ordering::Relaxed) < 300 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        done.await.map_err(|_| anyhow::anyhow!("{:?} of 300", partner.0.1))
    });
    let report = report.await?;
    ensure!((report.handled, report.dead) == (300, 0), "{report:?}");
    // One place fewer and one more: a failure each time it finds the limit, not one a message.
    ensure!(report.retried < 300, "it does not learn: {report:?}");
    Ok(Verdict::Pass)
}

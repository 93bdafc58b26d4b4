//! The worker on a backend: it knows none, so a few rows see that what it asks for is there.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use mq::worker::{Attempt, Backoff, Failure, Handler as _, Publish, State, Text, Worker};
use mq::{Message, Page};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::suite::context::{Context, drain, send, send_with};
use crate::suite::manifest::Verdict;

/// How often each body was handled.
type Seen = Arc<Mutex<BTreeMap<String, u32>>>;

/// Runs a worker until `done`, and hands its report on.
pub(super) async fn run(
    worker: Worker,
    done: impl AsyncFnOnce() -> Result<()>,
) -> Result<mq::worker::Report> {
    let (stop, stopped) = oneshot::channel::<()>();
    let (opened, until_open) = oneshot::channel();
    let until = async move {
        // Polled once all topics are subscribed to.
        let _ = opened.send(());
        let _ = stopped.await;
    };
    let running = tokio::spawn(worker.run_until(until));
    until_open.await?;
    let done = done().await;
    // The worker may have ended by itself; its report says why.
    let _ = stop.send(());
    let report = running.await??;
    done.map(|()| report)
}

/// What the handlers of [`outcomes`] share.
#[derive(Clone)]
struct Book {
    seen: Seen,
    results: String,
}

/// Ends each message as its number says.
async fn by_number(
    Text(body): Text,
    Attempt(attempt): Attempt,
    State(book): State<Book>,
) -> Result<Publish, Failure> {
    *book.seen.lock().entry(body.to_string()).or_default() += 1;
    let number: u32 = body[1..].parse()?;
    match number % 4 {
        0 => Err(Failure::reject("divisible by four")),
        1 if attempt == 1 => Err(Failure::retry(Duration::from_millis(50))),
        // A panic that prints nothing.
        2 if attempt == 1 => std::panic::resume_unwind(Box::new("on purpose")),
        _ => Ok(Publish::new(book.results, Message::new(body.into_bytes()))),
    }
}

/// Notes the order in which messages are handled.
async fn note(Text(body): Text, State(order): State<Arc<Mutex<Vec<usize>>>>) -> Result<(), Failure> {
    tokio::time::sleep(Duration::from_millis(fastrand::u64(0..3))).await;
    order.lock().push(body[1..].parse()?);
    Ok(())
}

pub(crate) async fn outcomes(context: Context) -> Result<Verdict> {
    let (topic, results) = (context.topic(), context.topic());
    let seen = Seen::default();
    let output = context.subscribe(&results, "out").await?;
    let backoff = Backoff::exponential(Duration::from_millis(20)..=Duration::from_millis(200)).attempts(3);
    let group = context.group("g");
    let worker = Worker::new(&context.client, group.clone())
        .on(topic.clone(), by_number.concurrency(8))
        .retry(backoff)
        .state(Book { seen: seen.clone(), results: results.to_string() });
    let publisher = context.publisher(&topic).await?;
    let report = run(worker, async || {
        send(&publisher, "m", 100).await?;
        ensure!(drain(&output, 75).await?.len() == 75, "a result is missing");
        context.until_empty(&topic, "g").await
    })
    .await?;
    ensure!(report.dead == 25 && report.handled == 75 && report.retried == 50, "{report:?}");
    let dead = context.admin().dead_letters(&topic, &group, Page { offset: 0, limit: 100 }).await?;
    ensure!(dead.len() == 25, "{} dead letters", dead.len());
    let reason = dead[0].envelope.death.as_ref().map(|death| death.reason.to_string());
    ensure!(reason.is_some_and(|reason| reason.contains("divisible by four")), "{:?}", dead[0]);
    let seen = seen.lock();
    ensure!(seen.len() == 100 && seen.values().sum::<u32>() == 150, "{seen:?}");
    Ok(Verdict::Pass)
}

pub(crate) async fn ordered(context: Context) -> Result<Verdict> {
    const KEYS: usize = 10;
    let topic = context.topic();
    let order = Arc::new(Mutex::new(Vec::<usize>::new()));
    let worker = Worker::new(&context.client, context.group("g"))
        .on(topic.clone(), note.concurrency(16).ordered())
        .state(order.clone());
    let publisher = context.publisher(&topic).await?;
    let report = run(worker, async || {
        send_with(&publisher, "m", 500, |number, message| message.key((number % KEYS).to_string())).await?;
        context
            .until(|| async {
                let handled = order.lock().len();
                ensure!(handled == 500, "{handled} of 500 were handled");
                Ok(())
            })
            .await
    })
    .await?;
    ensure!(report.handled == 500, "{report:?}");
    let order = order.lock();
    for key in 0..KEYS {
        let of_key: Vec<usize> = order.iter().copied().filter(|number| number % KEYS == key).collect();
        ensure!(of_key.is_sorted() && of_key.len() == 50, "key {key}: {of_key:?}");
    }
    Ok(Verdict::Pass)
}

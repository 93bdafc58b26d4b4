//! A fast producer, a slow consumer: the client's memory stays within its windows.
//!
//! Each test starts itself as a child that does the work, and watches the child's resident memory: at
//! most the baseline, the two windows in bytes, and 32 MiB. It takes 20 s; with `MQ_LONG` set (`cargo xtask
//! test --long`) 10 min, and then the memory must not grow in the second half either.
//!
//! Not on memory: there the broker's log, which grows as it should, is in the same process.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use mq::driver::Context;
use mq::{Client, ClientOptions, Message, MessageId, Publisher, Subscriber, TopicName};
use mq_integration_tests::brokers::{BrokerKind, shared};

const URL: &str = "MQ_BOUNDED_URL";
const LONG: &str = "MQ_LONG";
const READY: &str = "ready for load";
const DONE: &str = "load:";

const MIB: u64 = 1 << 20;
/// Of sends that are not answered.
const IN_FLIGHT: u64 = 8 * MIB;
/// Of messages that are not settled.
const PREFETCH: u64 = 8 * MIB;
/// Beside the windows: what the runtime, the native client and the allocator take for their work.
const SLACK: u64 = 32 * MIB;
/// Bytes of a message.
const SIZE: u64 = 2048;
/// How far the producer runs ahead; it starts again when half is left.
const AHEAD: u64 = 96 * MIB / SIZE;
/// How long the consumer takes over 8 messages.
const SLOW: Duration = Duration::from_millis(4);

/// The clients side by side: each is a process of its own, and they mostly wait.
#[test]
fn each_client_stays_within_its_windows() -> Result<()> {
    if let Ok(url) = std::env::var(URL) {
        return tokio::runtime::Runtime::new()?.block_on(load(&url));
    }
    let kinds = [BrokerKind::Kafka, BrokerKind::RabbitMq, BrokerKind::Redis];
    std::thread::scope(|scope| {
        let watched = kinds.map(|kind| (kind, scope.spawn(move || stays_within(kind))));
        for (kind, watching) in watched {
            let stayed = watching.join().unwrap_or_else(|_| Err(anyhow::anyhow!("it panicked")));
            stayed.with_context(|| kind.name())?;
        }
        Ok(())
    })
}

fn stays_within(kind: BrokerKind) -> Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    let url = runtime.block_on(async { anyhow::Ok(shared(kind).await?.url().to_owned()) })?;
    let long = std::env::var_os(LONG).is_some();
    let time = if long { Duration::from_secs(600) } else { Duration::from_secs(20) };

    let mut command = Command::new(std::env::current_exe()?);
    // What the client holds is asked for, not what glibc's arenas keep of what each thread freed: with its default
    // of one arena a thread, Redis Streams rose from 11 to 79 MiB on 2 cores, with one arena to 56.
    command
        .args(["--exact", "each_client_stays_within_its_windows", "--nocapture"])
        .env(URL, url)
        .env("MALLOC_ARENA_MAX", "1");
    let mut child = Running(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?);
    let stdout = child.0.stdout.take().context("no standard output")?;
    let mut lines = BufReader::new(stdout).lines();
    line(&mut lines, READY)?;
    let baseline = resident(child.0.id())?;
    let mut stdin = child.0.stdin.take().context("no standard input")?;
    stdin.write_all(b"go\n")?;
    let samples = watch(child.0.id(), time)?;
    drop(stdin);
    let done = line(&mut lines, DONE)?;
    ensure!(child.0.wait()?.success(), "the child failed");

    let highest = samples.iter().map(|(_, bytes)| *bytes).max().context("no samples")?;
    let slope = slope(&samples[samples.len() / 2..]);
    let mib = |bytes: u64| bytes as f64 / MIB as f64;
    println!(
        "{}: {done}, baseline {:.1} MiB, highest {:.1} MiB, second half {slope:+.2} MiB/min",
        kind.name(),
        mib(baseline),
        mib(highest)
    );
    let limit = baseline + IN_FLIGHT + PREFETCH + SLACK;
    ensure!(highest <= limit, "{:.1} MiB are resident, {:.1} are the limit", mib(highest), mib(limit));
    ensure!(!long || slope < 1.0, "the second half grows by {slope:.2} MiB/min");
    Ok(())
}

/// A child that does not outlive a failed test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It has ended already unless the test failed.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Reads up to a line that contains `what`, and returns what follows it.
fn line(lines: &mut impl Iterator<Item = std::io::Result<String>>, what: &str) -> Result<String> {
    for line in lines {
        if let Some((_, rest)) = line?.split_once(what) {
            return Ok(rest.trim().to_owned());
        }
    }
    anyhow::bail!("the child ended without {what:?}")
}

/// Notes the resident memory, in bytes, several times a second.
fn watch(process: u32, time: Duration) -> Result<Vec<(Duration, u64)>> {
    let start = Instant::now();
    let mut samples = Vec::new();
    while start.elapsed() < time {
        samples.push((start.elapsed(), resident(process)?));
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(samples)
}

fn resident(process: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).context("the child is gone")?;
    let fields: BTreeMap<&str, &str> = status.lines().filter_map(|line| line.split_once(':')).collect();
    let resident = fields.get("VmRSS").context("no VmRSS: the child has ended")?;
    let kibibytes: u64 = resident.trim().trim_end_matches(" kB").parse()?;
    Ok(kibibytes * 1024)
}

/// The slope of the line of least squares, in MiB per minute.
fn slope(samples: &[(Duration, u64)]) -> f64 {
    let points: Vec<(f64, f64)> =
        samples.iter().map(|(at, bytes)| (at.as_secs_f64() / 60.0, *bytes as f64 / MIB as f64)).collect();
    let count = points.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
    let (x, y) = (mean(|point| point.0), mean(|point| point.1));
    let over: f64 = points.iter().map(|point| (point.0 - x) * (point.1 - y)).sum();
    over / points.iter().map(|point| (point.0 - x).powi(2)).sum::<f64>()
}

#[test]
fn a_slope_is_per_minute() {
    let samples: Vec<_> =
        (0..60).map(|second| (Duration::from_secs(second), 7 * MIB + second * MIB)).collect();
    assert!((slope(&samples) - 60.0).abs() < 1e-6);
}

/// The child's work: until its standard input is closed.
async fn load(url: &str) -> Result<()> {
    let options = ClientOptions::default().in_flight(1 << 16, IN_FLIGHT as usize);
    let client = mq::connect_with(url, options, Context::default()).await?;
    let topic = format!("bounded-{}", MessageId::generate());
    let subscriber = client.subscriber(topic.as_str(), topic.as_str());
    let subscriber = subscriber.prefetch(1 << 16).prefetch_bytes(PREFETCH as usize).open().await?;
    let publisher = client.publisher(topic.as_str()).await?;
    publisher.send(Message::new("first")).await?;
    subscriber.receive().await?.ack().await?;

    println!("{READY}");
    let go = tokio::task::spawn_blocking(|| std::io::stdin().lines().next());
    go.await?.context("nobody said go")??;
    let closed = tokio::task::spawn_blocking(|| std::io::stdin().lines().for_each(drop));
    let received = Arc::new(AtomicU64::new(0));
    let producer = tokio::spawn(produce(client.clone(), publisher, received.clone()));
    let consumer = tokio::spawn(consume(subscriber, received.clone()));
    closed.await?;
    ensure!(!producer.is_finished() && !consumer.is_finished(), "producer or consumer gave up");
    producer.abort();
    consumer.abort();

    let (sent, received) = (client.counts().sent, received.load(Ordering::Relaxed));
    println!("{DONE} {sent} sent, {received} received, of {SIZE} bytes");
    let counts = client.counts();
    ensure!(counts.rejected + counts.unknown == 0, "sends failed: {counts:?}");
    // Else neither window was ever full.
    ensure!(sent * SIZE > 3 * (IN_FLIGHT + PREFETCH), "too little was sent to fill the windows");
    ensure!(sent.saturating_sub(received) * SIZE > PREFETCH, "the consumer was not slow");
    client.admin().delete_topic(&TopicName::new(topic)?).await.context("delete the topic")
}

/// Sends as fast as the window lets it until it is far ahead, then waits until half of that is left.
async fn produce(client: Client, publisher: Publisher, received: Arc<AtomicU64>) -> Result<()> {
    let mut sent = 0;
    loop {
        while sent < received.load(Ordering::Relaxed) + AHEAD {
            drop(publisher.enqueue(Message::new(vec![b'x'; SIZE as usize])).await?);
            sent += 1;
        }
        while sent > received.load(Ordering::Relaxed) + AHEAD / 2 {
            ensure!(client.counts().rejected == 0, "a send was refused");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

async fn consume(subscriber: Subscriber, received: Arc<AtomicU64>) -> Result<()> {
    loop {
        for _ in 0..8 {
            drop(subscriber.receive().await?.ack());
            received.fetch_add(1, Ordering::Relaxed);
        }
        tokio::time::sleep(SLOW).await;
    }
}

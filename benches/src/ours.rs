//! The side of `mq`, through its public API alone: the same code for every broker.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use mq::{Client, Publisher, SettledAll, Subscriber};

use crate::load::{Handled, Load};
use crate::meter::{Latencies, Meter, Report};
use crate::spec::{Mode, PACE, Spec, WINDOW};

/// Messages of one `send_batch`.
const BATCH: usize = 1000;
/// Batches in flight: the window of the client is full.
const SENDERS: usize = WINDOW / BATCH;
/// Messages of one `receive_batch`.
const TAKE: usize = 1000;
/// The most deliveries in hand, those whose acks are not answered included; half of them may be such. What is
/// acked waits for a commit on Kafka: with fewer the client runs dry meanwhile, more do not stay in the caches.
pub(crate) fn prefetch(spec: &Spec) -> usize {
    if spec.bytes > 512 { 10_000 } else { 12_000 }
}

/// How long nothing may come.
const SILENCE: Duration = Duration::from_secs(30);

/// Does a run.
pub(crate) async fn run(spec: &Spec) -> Result<Report> {
    let client = mq::connect(&spec.url).await?;
    let load = Arc::new(Load::new(spec.bytes));
    let report = match spec.mode {
        Mode::Publish => publish(&client, spec, load).await?,
        Mode::Consume => consume(&client, spec).await?,
        Mode::Latency => latency(&client, spec, &load).await?,
        Mode::Delivery => delivery(&client, spec, load).await?,
        Mode::Worker => bail!("the worker is no client of a broker"),
    };
    client.close(Duration::from_secs(10)).await?;
    Ok(report)
}

async fn publish(client: &Client, spec: &Spec, load: Arc<Load>) -> Result<Report> {
    let publisher = client.publisher(spec.topic.as_str()).await?;
    send_all(&publisher, &load, spec.warm_up).await?;
    let meter = Meter::start();
    send_all(&publisher, &load, spec.count).await?;
    Ok(meter.stop(spec.count))
}

/// Sends `count` messages, in batches of several tasks.
async fn send_all(publisher: &Publisher, load: &Arc<Load>, count: usize) -> Result<()> {
    let next = Arc::new(AtomicUsize::new(0));
    let mut tasks = Vec::new();
    for _ in 0..SENDERS {
        let (publisher, load, next) = (publisher.clone(), load.clone(), next.clone());
        tasks.push(tokio::spawn(async move {
            loop {
                let first = next.fetch_add(BATCH, Ordering::Relaxed);
                if first >= count {
                    return Ok::<_, mq::Error>(());
                }
                let batch = (first..count.min(first + BATCH)).map(|n| load.message(n)).collect();
                for verdict in publisher.send_batch(batch).await {
                    verdict?;
                }
            }
        }));
    }
    for task in tasks {
        task.await??;
    }
    Ok(())
}

async fn subscribe(client: &Client, spec: &Spec) -> Result<Subscriber> {
    let builder = client.subscriber(spec.topic.as_str(), spec.group.as_str()).prefetch(prefetch(spec));
    Ok(builder.open().await?)
}

async fn consume(client: &Client, spec: &Spec) -> Result<Report> {
    let subscriber = subscribe(client, spec).await?;
    let total = spec.warm_up + spec.count;
    let mut handled = Handled::default();
    let mut acks: VecDeque<(usize, SettledAll)> = VecDeque::new();
    let mut open = 0;
    let mut started = None;
    while handled.count < total {
        let batch = subscriber.receive_batch(TAKE, SILENCE).await?;
        ensure!(!batch.is_empty(), "{} of {total} messages came", handled.count);
        if started.is_none() && handled.count >= spec.warm_up {
            started = Some((Meter::start(), handled.count));
        }
        for delivery in &batch {
            let message = delivery.message();
            let key = message.key.as_deref().unwrap_or_default();
            handled.take(message.id.as_uuid().is_some(), key, &message.payload, message.headers.len());
        }
        open += batch.len();
        acks.push_back((batch.len(), mq::ack_all(batch)));
        while open > prefetch(spec) / 2
            && let Some((many, oldest)) = acks.pop_front()
        {
            settled(oldest).await?;
            open -= many;
        }
    }
    for (_, rest) in acks {
        settled(rest).await?;
    }
    let (meter, before) = started.context("the warm-up took all")?;
    let report = meter.stop(handled.count - before);
    handled.check(spec.bytes)?;
    Ok(report)
}

async fn settled(acks: SettledAll) -> Result<()> {
    if let Err(failures) = acks.await {
        let many = failures.len();
        bail!("{many} acks failed, the first: {:?}", failures.into_iter().next());
    }
    Ok(())
}

async fn latency(client: &Client, spec: &Spec, load: &Load) -> Result<Report> {
    let publisher = client.publisher(spec.topic.as_str()).await?;
    for n in 0..spec.warm_up {
        publisher.send(load.message(n)).await?;
    }
    let mut latencies = Latencies::start()?;
    let mut n = 0;
    while latencies.elapsed() < spec.within {
        n += 1;
        let start = Instant::now();
        publisher.send(load.message(n)).await?;
        latencies.add(start.elapsed());
    }
    Ok(latencies.stop())
}

async fn delivery(client: &Client, spec: &Spec, load: Arc<Load>) -> Result<Report> {
    let subscriber = subscribe(client, spec).await?;
    let publisher = client.publisher(spec.topic.as_str()).await?;
    let messages = spec.within.as_millis() as usize * PACE as usize / 1000;
    let total = spec.warm_up + messages;
    let sender = tokio::spawn(async move {
        let mut pace = tokio::time::interval(Duration::from_secs(1) / PACE);
        let mut sending = VecDeque::new();
        for n in 0..total {
            pace.tick().await;
            let mut message = load.message(n);
            message.payload = crate::stamp::write(&message.payload);
            sending.push_back(publisher.enqueue(message).await?);
            while sending.len() > PACE as usize {
                if let Some(sent) = sending.pop_front() {
                    sent.await?;
                }
            }
        }
        for sent in sending {
            sent.await?;
        }
        Ok::<_, mq::Error>(())
    });
    let mut latencies = Latencies::start()?;
    for n in 0..total {
        let delivery = tokio::time::timeout(SILENCE, subscriber.receive()).await??;
        if n == spec.warm_up {
            latencies = Latencies::start()?;
        }
        latencies.add(crate::stamp::age(delivery.payload()));
        // The answer is not waited for; the subscriber's close does that.
        drop(delivery.ack());
    }
    let report = latencies.stop();
    sender.await??;
    Ok(report)
}

//! The worker with an empty handler beside a bare loop of receive and ack: both sides are `mq`.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use anyhow::{Context as _, Result, ensure};
use mq::worker::{Handler as _, State, Worker};
use mq::{Client, GroupName, GroupSettings, Settled, TopicName, TopicSpec};
use tokio::sync::Notify;

use crate::load::Load;
use crate::meter::{Meter, Report};
use crate::ours::prefetch;
use crate::spec::{Backend, Side, Spec};

/// Messages of one `send_batch`, where this process fills the topic.
const BATCH: usize = 1000;

/// Does a run.
pub(crate) async fn run(spec: &Spec) -> Result<Report> {
    let client = mq::connect(&spec.url).await?;
    if spec.backend == Backend::Memory {
        fill(&client, spec).await?;
    }
    let report = match spec.side {
        Side::Raw => bare(&client, spec).await?,
        Side::Mq => worker(&client, spec).await?,
    };
    client.close(std::time::Duration::from_secs(10)).await?;
    Ok(report)
}

async fn fill(client: &Client, spec: &Spec) -> Result<()> {
    let (topic, group) = (TopicName::new(spec.topic.as_str())?, GroupName::new(spec.group.as_str())?);
    client.admin().ensure_topic(&topic, &TopicSpec::default()).await?;
    client.admin().ensure_group(&topic, &group, &GroupSettings::default()).await?;
    let (publisher, load) = (client.publisher(&topic).await?, Load::new(spec.bytes));
    let total = spec.warm_up + spec.count;
    for first in (0..total).step_by(BATCH) {
        let batch = (first..total.min(first + BATCH)).map(|n| load.message(n)).collect();
        for verdict in publisher.send_batch(batch).await {
            verdict?;
        }
    }
    Ok(())
}

/// Receives one message after the other; the answers to the acks are awaited behind.
async fn bare(client: &Client, spec: &Spec) -> Result<Report> {
    let subscriber =
        client.subscriber(spec.topic.as_str(), spec.group.as_str()).prefetch(prefetch(spec)).open().await?;
    let mut acks: VecDeque<Settled> = VecDeque::new();
    let mut meter = None;
    for handled in 0..spec.warm_up + spec.count {
        if handled == spec.warm_up {
            meter = Some(Meter::start());
        }
        acks.push_back(subscriber.receive().await?.ack());
        if acks.len() > prefetch(spec) / 2
            && let Some(oldest) = acks.pop_front()
        {
            oldest.await?;
        }
    }
    for ack in acks {
        ack.await?;
    }
    Ok(meter.context("nothing to measure")?.stop(spec.count))
}

/// What the handler counts.
#[derive(Debug, Default)]
struct Progress {
    handled: AtomicUsize,
    warm_up: usize,
    total: usize,
    meter: OnceLock<Meter>,
    done: Notify,
}

async fn handle(State(progress): State<Arc<Progress>>) {
    let handled = progress.handled.fetch_add(1, Ordering::Relaxed);
    if handled == progress.warm_up {
        progress.meter.get_or_init(Meter::start);
    }
    if handled + 1 == progress.total {
        progress.done.notify_one();
    }
}

async fn worker(client: &Client, spec: &Spec) -> Result<Report> {
    let total = spec.warm_up + spec.count;
    let progress = Arc::new(Progress { warm_up: spec.warm_up, total, ..Progress::default() });
    let worker = Worker::new(client, spec.group.as_str())
        .on(spec.topic.as_str(), handle.route().prefetch(prefetch(spec)))
        .state(progress.clone());
    let done = worker.run_until(progress.done.notified()).await?;
    let report = progress.meter.get().context("nothing to measure")?.stop(spec.count);
    // A log may hold more than a run reads.
    ensure!(done.handled >= total as u64, "{done:?} of {total}");
    Ok(report)
}

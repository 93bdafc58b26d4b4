//! Kafka, sending.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::Thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer as _, ProducerContext, ThreadedProducer};
use rdkafka::{ClientConfig, ClientContext};

use super::with_id;
use crate::load::{HEADERS, Load};
use crate::meter::{Latencies, Meter, Report};
use crate::spec::{Spec, WINDOW};

/// How long the last confirmations may take.
const FLUSH: Duration = Duration::from_secs(30);
/// How long to wait while the window is full: a small part of the time it takes to empty.
const PAUSE: Duration = Duration::from_micros(200);

/// Counts confirmations; nothing per message is boxed, sent or woken.
struct Confirms {
    confirmed: AtomicUsize,
    failed: AtomicBool,
    /// Who waits for each single confirmation, when latency is measured.
    waiter: Option<Thread>,
}

impl ClientContext for Confirms {}

impl ProducerContext for Confirms {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if result.is_err() {
            self.failed.store(true, Ordering::Relaxed);
        }
        self.confirmed.fetch_add(1, Ordering::Release);
        if let Some(waiter) = &self.waiter {
            waiter.unpark();
        }
    }
}

/// A producer and what it sent.
pub(super) struct Sender {
    native: ThreadedProducer<Confirms>,
    topic: String,
    sent: usize,
}

/// Returns what every native client is made with.
pub(super) fn config(spec: &Spec) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", spec.url.trim_start_matches("kafka://"));
    config.set("socket.nagle.disable", "true");
    config
}

impl Sender {
    /// Connects. The same durability, compression and window as `mq`'s; a linger of 5 ms fills
    /// batches when throughput is wanted, 0 when latency is.
    pub(super) fn new(spec: &Spec, linger: &str, waiter: Option<Thread>) -> Result<Self> {
        let context = Confirms { confirmed: AtomicUsize::new(0), failed: AtomicBool::new(false), waiter };
        let native = config(spec)
            .set("acks", "all")
            .set("enable.idempotence", "true")
            .set("partitioner", "murmur2_random")
            .set("compression.type", "lz4")
            .set("linger.ms", linger)
            .set("queue.buffering.max.messages", "1000000")
            .set("queue.buffering.max.kbytes", "1048576")
            .create_with_context(context)?;
        Ok(Self { native, topic: spec.topic.clone(), sent: 0 })
    }

    /// Queues a message; the time of publishing is the record's own, set by the native client.
    pub(super) fn send(&mut self, key: &[u8], payload: &[u8]) -> Result<()> {
        let mut headers = OwnedHeaders::new_with_capacity(HEADERS.len() + 1);
        headers = with_id(|id| headers.insert(Header { key: "mq-id", value: Some(id) }));
        for (name, value) in HEADERS {
            headers = headers.insert(Header { key: name, value: Some(value) });
        }
        let mut record = BaseRecord::to(&self.topic).key(key).payload(payload).headers(headers);
        loop {
            match self.native.send(record) {
                Ok(()) => break,
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), refused)) => {
                    record = refused;
                    std::thread::sleep(PAUSE);
                }
                Err((error, _)) => return Err(error.into()),
            }
        }
        self.sent += 1;
        Ok(())
    }

    /// Waits until at most `open` messages are unconfirmed.
    fn wait(&self, open: usize) -> Result<()> {
        let confirms = self.native.context();
        let start = Instant::now();
        while self.sent - confirms.confirmed.load(Ordering::Acquire) > open {
            ensure!(start.elapsed() < FLUSH, "the broker confirms too slowly");
            std::thread::sleep(PAUSE);
        }
        if confirms.failed.load(Ordering::Relaxed) {
            bail!("a message was not confirmed");
        }
        Ok(())
    }

    fn send_all(&mut self, load: &Load, count: usize) -> Result<()> {
        for n in 0..count {
            self.send(load.key(n), load.payload(n))?;
            if n % 64 == 0 {
                self.wait(WINDOW - 64)?;
            }
        }
        self.wait(0)
    }

    /// Waits for what is unconfirmed.
    pub(super) fn flush(self) -> Result<()> {
        self.wait(0)?;
        self.native.flush(FLUSH).context("flushing")
    }
}

/// Confirmed messages a second.
pub(super) fn publish(spec: &Spec, load: &Load) -> Result<Report> {
    let mut sender = Sender::new(spec, "5", None)?;
    sender.send_all(load, spec.warm_up)?;
    let meter = Meter::start();
    sender.send_all(load, spec.count)?;
    let report = meter.stop(spec.count);
    sender.flush()?;
    Ok(report)
}

/// One at a time.
pub(super) fn latency(spec: &Spec, load: &Load) -> Result<Report> {
    let mut sender = Sender::new(spec, "0", Some(std::thread::current()))?;
    let one = |sender: &mut Sender, n: usize| {
        let start = Instant::now();
        sender.send(load.key(n), load.payload(n))?;
        while sender.native.context().confirmed.load(Ordering::Acquire) < sender.sent {
            std::thread::park();
        }
        Ok::<_, anyhow::Error>(start.elapsed())
    };
    for n in 0..spec.warm_up {
        one(&mut sender, n)?;
    }
    let mut latencies = Latencies::start()?;
    let mut n = 0;
    while latencies.elapsed() < spec.within {
        n += 1;
        latencies.add(one(&mut sender, n)?);
    }
    let report = latencies.stop();
    sender.flush()?;
    Ok(report)
}

//! Sending: one native producer with a thread of its own, records in, verdicts out.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use mq_core::driver::Context;
use mq_core::{Event, Events, Result};
use parking_lot::{Mutex, RwLock};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseRecord, Producer as _, ProducerContext, ThreadedProducer};
use rdkafka::{ClientConfig, ClientContext, Message as _};
use tokio::sync::oneshot;

use crate::codec::Record;
use crate::config::KafkaConfig;
use crate::error::from_native;
use crate::link::Link;
use crate::native::{self, release};
use crate::verdicts::{Batches, Done, Ticket, Verdict};

type Native = ThreadedProducer<Reports>;

/// What the native producer calls back.
pub(crate) struct Reports {
    batches: Batches,
    /// Records that found the native queue full, in order.
    backlog: Mutex<VecDeque<(Ticket, Record)>>,
    backlogged: AtomicBool,
    /// Set when the native producer can't go on.
    fatal: AtomicBool,
    native: OnceLock<Weak<Native>>,
    pub(crate) link: Link,
}

impl ClientContext for Reports {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.link.log_line(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.link.error_event(&error, reason);
    }

    fn stats_raw(&self, statistics: &[u8]) {
        self.link.statistics(statistics);
    }
}

impl ProducerContext for Reports {
    type DeliveryOpaque = Ticket;

    fn delivery(&self, result: &DeliveryResult<'_>, ticket: Ticket) {
        let verdict = match result {
            // The native client believes that it was stored before and does not know where: it may not be there.
            Ok(stored) if stored.offset() < 0 => Verdict::Failed(Code::PurgeInflight),
            Ok(stored) => Verdict::Stored { partition: stored.partition(), offset: stored.offset() },
            Err((error, _)) => Verdict::Failed(error.rdkafka_error_code().unwrap_or(Code::Unknown)),
        };
        match verdict {
            Verdict::Failed(Code::Fatal) => self.fatal.store(true, Ordering::Release),
            Verdict::Stored { .. } => self.link.answered(),
            _ => {}
        }
        self.batches.record(ticket, verdict);
        // What is reported has left the queue: there is room.
        if self.backlogged.load(Ordering::Acquire) {
            self.drain();
        }
    }
}

impl Reports {
    /// Whether a new native producer is needed.
    fn is_over(&self) -> bool {
        self.fatal.load(Ordering::Acquire) || self.link.is_stranded()
    }

    /// Moves records from the backlog into the native queue, as many as it takes.
    fn drain(&self) {
        let native = self.native.get().and_then(Weak::upgrade);
        self.drain_into(native.as_deref());
        // This is the native producer's own thread, which must not wait for itself to end.
        if let Some(last) = native.and_then(Arc::into_inner) {
            release(last);
        }
    }

    fn drain_into(&self, native: Option<&Native>) {
        let mut backlog = self.backlog.lock();
        while let Some((ticket, record)) = backlog.pop_front() {
            let Some(native) = native else {
                self.batches.record(ticket, Verdict::Failed(Code::PurgeQueue));
                continue;
            };
            if let Err(record) = self.offer(native, ticket, record) {
                backlog.push_front((ticket, record));
                return;
            }
        }
        self.backlogged.store(false, Ordering::Release);
    }

    /// Gives the record back if the native queue is full.
    #[allow(clippy::result_large_err, reason = "it goes straight back into the backlog")]
    fn offer(&self, native: &Native, ticket: Ticket, mut record: Record) -> std::result::Result<(), Record> {
        let mut offered = BaseRecord::<[u8], [u8], Ticket>::with_opaque_to(record.topic.as_str(), ticket);
        offered.partition = record.partition;
        offered.payload = record.payload.as_deref();
        offered.key = record.key.as_deref();
        offered.timestamp = record.timestamp;
        offered.headers = record.headers.take();
        match native.send(offered) {
            Ok(()) => Ok(()),
            Err((KafkaError::MessageProduction(Code::QueueFull), refused)) => {
                let headers = refused.headers;
                record.headers = headers;
                Err(record)
            }
            Err((error, _)) => {
                let code = error.rdkafka_error_code().unwrap_or(Code::InvalidArgument);
                if code == Code::Fatal {
                    self.fatal.store(true, Ordering::Release);
                }
                self.batches.record(ticket, Verdict::Failed(code));
                Ok(())
            }
        }
    }
}

/// Hands records to the native producer, which it replaces if that can't go on.
pub(crate) struct Sender {
    config: ClientConfig,
    events: Events,
    native: RwLock<Arc<Native>>,
    flush_within: Duration,
}

impl fmt::Debug for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").finish_non_exhaustive()
    }
}

impl Sender {
    pub(crate) fn new(config: &KafkaConfig, context: &Context) -> Result<Self> {
        Self::with(native::producer(config, context.in_flight.bytes), config, &context.events)
    }

    /// Makes one whose records belong to transactions, which the broker ends after `open`.
    pub(crate) fn transactional(
        config: &KafkaConfig,
        context: &Context,
        id: &str,
        open: Duration,
    ) -> Result<Self> {
        let mut native = native::producer(config, context.in_flight.bytes);
        native
            .set("transactional.id", id)
            .set("transaction.timeout.ms", open.as_millis().to_string())
            // All of a transaction is there at once: nothing more comes to wait for.
            .set("linger.ms", "0");
        Self::with(native, config, &context.events)
    }

    fn with(native: ClientConfig, config: &KafkaConfig, events: &Events) -> Result<Self> {
        Ok(Self {
            native: RwLock::new(create(&native, events)?),
            config: native,
            events: events.clone(),
            flush_within: config.send_timeout + Duration::from_secs(1),
        })
    }

    /// Sends records: they are queued in order before this returns; the future resolves to a verdict for each.
    pub(crate) fn send(&self, records: Vec<Record>) -> impl Future<Output = Vec<Verdict>> + Send + use<> {
        let (done, verdicts) = oneshot::channel();
        let len = records.len();
        // The caller may have lost interest.
        self.enqueue(records, Box::new(move |verdicts| drop(done.send(verdicts))));
        async move { verdicts.await.unwrap_or_else(|_| vec![Verdict::Failed(Code::PurgeInflight); len]) }
    }

    /// Queues records in order; `done` is called with a verdict for each, from any thread.
    pub(crate) fn enqueue(&self, records: Vec<Record>, done: Done) {
        if records.is_empty() {
            return done(Vec::new());
        }
        let native = self.native();
        let reports: &Reports = native.context();
        if reports.link.refuses() {
            return done(vec![Verdict::Failed(Code::SaslAuthenticationFailed); records.len()]);
        }
        let first = reports.batches.register(records.len(), done);
        let mut backlog = reports.backlog.lock();
        for (ticket, record) in (first..).zip(records) {
            let refused =
                if backlog.is_empty() { reports.offer(&native, ticket, record) } else { Err(record) };
            if let Err(record) = refused {
                backlog.push_back((ticket, record));
            }
        }
        if !backlog.is_empty() {
            reports.backlogged.store(true, Ordering::Release);
        }
    }

    /// Returns the native producer, also for questions about the cluster; a new one if it can't go on.
    pub(crate) fn native(&self) -> Arc<Native> {
        let native = self.native.read().clone();
        if !native.context().is_over() {
            return native;
        }
        let mut slot = self.native.write();
        if !slot.context().is_over() {
            return slot.clone();
        }
        match create(&self.config, &self.events) {
            Ok(fresh) => {
                release(std::mem::replace(&mut *slot, fresh));
                self.events.emit(Event::Rebuilt { what: "producer".into() });
            }
            Err(error) => self.events.failed("rebuild producer", &error),
        }
        slot.clone()
    }

    /// Waits until all that was sent is confirmed or failed; messages time out, so this ends.
    pub(crate) async fn flush(&self) {
        let native = self.native();
        let within = self.flush_within;
        let flushed = tokio::task::spawn_blocking(move || native.flush(within)).await;
        if let Ok(Err(error)) = flushed {
            self.events.failed("flush", &from_native(&error));
        }
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        release(self.native.get_mut().clone());
    }
}

fn create(config: &ClientConfig, events: &Events) -> Result<Arc<Native>> {
    let reports = Reports {
        batches: Batches::default(),
        backlog: Mutex::default(),
        backlogged: false.into(),
        fatal: false.into(),
        native: OnceLock::new(),
        link: Link::new("producer", events.clone()),
    };
    let native: Native = config.create_with_context(reports).map_err(|error| from_native(&error))?;
    let native = Arc::new(native);
    native.context().native.get_or_init(|| Arc::downgrade(&native));
    Ok(native)
}

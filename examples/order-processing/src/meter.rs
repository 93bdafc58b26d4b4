//! Counts what a service does, for whoever watches it.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use hdrhistogram::Histogram;
use mq::Timestamp;
use serde::Serialize;

/// The counters of one service.
#[derive(Debug)]
pub(crate) struct Meter {
    stage: &'static str,
    finished: AtomicUsize,
    waiting: AtomicUsize,
    known: AtomicU64,
    stale: AtomicU64,
    out_of_order: AtomicU64,
    work: Mutex<Work>,
}

#[derive(Debug)]
struct Work {
    handled: u64,
    span: Option<(Instant, Instant)>,
    /// Milliseconds.
    latency: Option<Histogram<u64>>,
}

/// What a service did since this process started.
#[derive(Debug, Serialize)]
pub(crate) struct Figures {
    pub(crate) stage: &'static str,
    /// Effects that were new.
    pub(crate) handled: u64,
    pub(crate) per_second: u64,
    /// From the send to the confirmed end of the stage's work, orders at their first attempt.
    /// `None` if there were none.
    pub(crate) p50_ms: Option<u64>,
    pub(crate) p99_ms: Option<u64>,
    /// Deliveries of what was done before; without effect.
    pub(crate) duplicates: u64,
    /// Settlements that came after the lease.
    pub(crate) stale: u64,
    pub(crate) out_of_order: u64,
}

impl Meter {
    pub(crate) fn new(stage: &'static str) -> Self {
        let work = Work { handled: 0, span: None, latency: Histogram::new(3).ok() };
        Self {
            stage,
            finished: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            known: AtomicU64::new(0),
            stale: AtomicU64::new(0),
            out_of_order: AtomicU64::new(0),
            work: Mutex::new(work),
        }
    }

    /// Says how far the service is, restarts included.
    pub(crate) fn progress(&self, finished: usize, waiting: usize) {
        self.finished.store(finished, Ordering::Relaxed);
        self.waiting.store(waiting, Ordering::Relaxed);
    }

    /// Counts a batch whose work is done.
    pub(crate) fn handled(&self, effects: usize, sent_at: &[Timestamp]) {
        let (instant, now) = (Instant::now(), Timestamp::from(SystemTime::now()));
        let mut work = self.work();
        work.handled += effects as u64;
        work.span = Some((work.span.map_or(instant, |(first, _)| first), instant));
        if let Some(latency) = &mut work.latency {
            for at in sent_at {
                // Fails only if there is no memory to widen the histogram.
                let _ = latency.record(u64::try_from(now.since(*at).as_millis()).unwrap_or(u64::MAX));
            }
        }
    }

    pub(crate) fn known(&self) {
        self.known.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn stale(&self, count: u64) {
        self.stale.store(count, Ordering::Relaxed);
    }

    pub(crate) fn out_of_order(&self, count: u64) {
        self.out_of_order.store(count, Ordering::Relaxed);
    }

    pub(crate) fn finished(&self) -> usize {
        self.finished.load(Ordering::Relaxed)
    }

    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Returns a number that grows with everything the service does.
    pub(crate) fn activity(&self) -> u64 {
        self.work().handled + self.known.load(Ordering::Relaxed)
    }

    pub(crate) fn figures(&self) -> Figures {
        let work = self.work();
        let seconds = work.span.map_or(0.0, |(first, last)| (last - first).as_secs_f64());
        let latency = work.latency.as_ref().filter(|latency| !latency.is_empty());
        let quantile = |q| latency.map(|latency| latency.value_at_quantile(q));
        Figures {
            stage: self.stage,
            handled: work.handled,
            per_second: if seconds > 0.0 { (work.handled as f64 / seconds) as u64 } else { work.handled },
            p50_ms: quantile(0.5),
            p99_ms: quantile(0.99),
            duplicates: self.known.load(Ordering::Relaxed),
            stale: self.stale.load(Ordering::Relaxed),
            out_of_order: self.out_of_order.load(Ordering::Relaxed),
        }
    }

    fn work(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

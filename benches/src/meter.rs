//! What a run reports.

use std::time::{Duration, Instant};

use anyhow::Result;
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::allocations;

/// What a child prints, as one line of JSON.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Report {
    /// Messages measured.
    pub(crate) messages: usize,
    /// How long they took.
    pub(crate) seconds: f64,
    /// Heap allocations a message.
    pub(crate) allocations: f64,
    /// Microseconds of this process's CPU time a message; 0 where the system does not tell.
    pub(crate) cpu: f64,
    /// Latencies in microseconds; 0 where a rate is measured.
    pub(crate) p50: f64,
    /// As `p50`.
    pub(crate) p99: f64,
}

impl Report {
    /// Returns messages a second.
    pub(crate) fn rate(&self) -> f64 {
        self.messages as f64 / self.seconds
    }
}

/// A clock and a count of allocations, from a start on.
#[derive(Debug)]
pub(crate) struct Meter {
    start: Instant,
    allocations: u64,
    cpu: Duration,
}

impl Meter {
    /// Starts.
    pub(crate) fn start() -> Self {
        Self { allocations: allocations::total(), cpu: cpu_time(), start: Instant::now() }
    }

    /// Returns the time since the start.
    pub(crate) fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// Stops after so many messages.
    pub(crate) fn stop(&self, messages: usize) -> Report {
        let seconds = self.elapsed().as_secs_f64();
        let each = messages.max(1) as f64;
        let allocations = (allocations::total() - self.allocations) as f64 / each;
        let cpu = (cpu_time() - self.cpu).as_secs_f64() * 1e6 / each;
        Report { messages, seconds, allocations, cpu, ..Report::default() }
    }
}

/// Returns the CPU time of this process so far, in steps of 10 ms; nothing where there is no `/proc`.
fn cpu_time() -> Duration {
    const TICK: Duration = Duration::from_millis(10);
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The second field, a name in parentheses, may hold anything.
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
    let ticks: u32 = fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<u32>().ok()).sum();
    TICK * ticks
}

/// Latencies of single messages.
#[derive(Debug)]
pub(crate) struct Latencies {
    histogram: Histogram<u64>,
    meter: Meter,
}

impl Latencies {
    /// Starts.
    pub(crate) fn start() -> Result<Self> {
        Ok(Self { histogram: Histogram::new_with_max(60_000_000_000, 3)?, meter: Meter::start() })
    }

    /// Returns the time since the start.
    pub(crate) fn elapsed(&self) -> Duration {
        self.meter.elapsed()
    }

    /// Adds one.
    pub(crate) fn add(&mut self, latency: Duration) {
        self.histogram.saturating_record(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX));
    }

    /// Reports them.
    pub(crate) fn stop(&self) -> Report {
        let micros = |quantile| self.histogram.value_at_quantile(quantile) as f64 / 1000.0;
        let messages = usize::try_from(self.histogram.len()).unwrap_or(usize::MAX);
        Report { p50: micros(0.5), p99: micros(0.99), ..self.meter.stop(messages) }
    }
}

//! What a bench found, and how it is shown.

use std::time::Duration;

use serde::Serialize;

use super::Mode;

/// What was measured.
#[derive(Debug, Default)]
pub(super) struct Measured {
    /// From the first message to the last.
    pub(super) took: Duration,
    /// From each send to its confirmation; empty if only the whole was timed.
    pub(super) confirmed: Vec<Duration>,
    /// From each send to its receipt.
    pub(super) received: Vec<Duration>,
}

/// The figures of one run.
#[derive(Debug, Serialize)]
pub(crate) struct Figures {
    mode: Mode,
    pub(super) backend: &'static str,
    size: u32,
    count: usize,
    seconds: f64,
    messages_per_second: f64,
    bytes_per_second: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    confirm_ms: Option<Quantiles>,
    #[serde(skip_serializing_if = "Option::is_none")]
    delivery_ms: Option<Quantiles>,
}

impl Figures {
    pub(super) fn new(
        mode: Mode,
        backend: &'static str,
        size: u32,
        count: usize,
        measured: Measured,
    ) -> Self {
        let seconds = measured.took.as_secs_f64().max(1e-9);
        let messages_per_second = count as f64 / seconds;
        Self {
            mode,
            backend,
            size,
            count,
            seconds,
            messages_per_second,
            bytes_per_second: messages_per_second * f64::from(size),
            confirm_ms: Quantiles::of(measured.confirmed),
            delivery_ms: Quantiles::of(measured.received),
        }
    }

    /// The rows of the table.
    pub(super) fn rows(&self) -> Vec<[String; 2]> {
        let mut rows = vec![
            ["messages".into(), format!("{} of {} bytes", self.count, self.size)],
            ["seconds".into(), format!("{:.2}", self.seconds)],
            ["messages/s".into(), format!("{:.0}", self.messages_per_second)],
            ["MB/s".into(), format!("{:.2}", self.bytes_per_second / 1e6)],
        ];
        for (what, quantiles) in [("to confirmed", &self.confirm_ms), ("to received", &self.delivery_ms)] {
            if let Some(Quantiles { p50, p90, p99, max }) = quantiles {
                for (name, value) in [("p50", p50), ("p90", p90), ("p99", p99), ("max", max)] {
                    rows.push([format!("{what}, {name}"), format!("{value:.3} ms")]);
                }
            }
        }
        rows
    }
}

/// Quantiles, in milliseconds: each the smallest time that so many are not above.
#[derive(Debug, PartialEq, Serialize)]
struct Quantiles {
    p50: f64,
    p90: f64,
    p99: f64,
    max: f64,
}

impl Quantiles {
    fn of(mut times: Vec<Duration>) -> Option<Self> {
        times.sort_unstable();
        let last = times.len().checked_sub(1)?;
        let at = |percent: usize| {
            let rank = (times.len() * percent).div_ceil(100);
            times[rank.saturating_sub(1).min(last)].as_secs_f64() * 1e3
        };
        Some(Self { p50: at(50), p90: at(90), p99: at(99), max: at(100) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_times_that_were_measured() {
        let times = |count| (1..=count).rev().map(Duration::from_millis).collect();
        let of = |count| Quantiles::of(times(count));
        assert_eq!(of(0), None);
        assert_eq!(of(1), Some(Quantiles { p50: 1.0, p90: 1.0, p99: 1.0, max: 1.0 }));
        assert_eq!(of(200), Some(Quantiles { p50: 100.0, p90: 180.0, p99: 198.0, max: 200.0 }));
    }

    #[test]
    fn a_rate_is_of_all_messages() {
        let measured = Measured { took: Duration::from_secs(2), ..Measured::default() };
        let figures = Figures::new(Mode::Publish, "memory", 100, 1000, measured);
        assert_eq!((figures.messages_per_second, figures.bytes_per_second), (500.0, 50_000.0));
        assert_eq!(figures.rows().len(), 4);
    }
}

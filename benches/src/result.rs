//! What a measurement found, as a table and as JSON.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::Serialize;

use crate::args::Effort;
use crate::cell::Cell;
use crate::meter::Report;
use crate::statistics::{interval, median, paired};

/// Messages a second, or microseconds, of both sides, and how they compare.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    backend: &'static str,
    mode: &'static str,
    bytes: usize,
    raw: f64,
    mq: f64,
    /// More is better for `mq`, also where times are compared.
    pub(crate) ratio: f64,
    /// The lower bound of the ratio's 95 % interval.
    pub(crate) low95: f64,
    allocs_raw: f64,
    allocs_mq: f64,
    /// Microseconds of the client's CPU time a message.
    cpu_raw: f64,
    cpu_mq: f64,
    #[serde(skip)]
    high95: f64,
    #[serde(skip)]
    rounds: usize,
    #[serde(skip)]
    p99: Option<(f64, f64)>,
}

impl Row {
    /// Sums up the runs.
    pub(crate) fn of(cell: &Cell, raw: &[Report], mq: &[Report]) -> Self {
        let all =
            |reports: &[Report], read: fn(&Report) -> f64| -> Vec<f64> { reports.iter().map(read).collect() };
        let figures =
            |reports: &[Report]| reports.iter().map(|report| cell.figure(report)).collect::<Vec<_>>();
        let ratios = paired(&figures(raw), &figures(mq), cell.mode.is_time());
        let (low95, high95) = interval(&ratios);
        let both = |read: fn(&Report) -> f64| (median(&all(raw, read)), median(&all(mq, read)));
        let (allocs_raw, allocs_mq) = both(|report| report.allocations);
        let (cpu_raw, cpu_mq) = both(|report| report.cpu);
        Self {
            backend: cell.backend.name(),
            mode: cell.mode.name(),
            bytes: cell.bytes,
            raw: rounded(median(&figures(raw)), 1.0),
            mq: rounded(median(&figures(mq)), 1.0),
            ratio: rounded(median(&ratios), 1000.0),
            low95: rounded(low95, 1000.0),
            allocs_raw: rounded(allocs_raw, 100.0),
            allocs_mq: rounded(allocs_mq, 100.0),
            cpu_raw: rounded(cpu_raw, 100.0),
            cpu_mq: rounded(cpu_mq, 100.0),
            high95,
            rounds: mq.len(),
            p99: cell.mode.is_time().then(|| both(|report| report.p99)),
        }
    }
}

fn rounded(value: f64, parts: f64) -> f64 {
    (value * parts).round() / parts
}

const WORKER: &str =
    " Of `worker` both sides are mq: a bare loop of receive and ack, and a worker with an empty handler.";

/// Writes the rows as a Markdown table.
pub(crate) fn table(rows: &[Row], effort: &Effort, before: Option<&Path>) -> String {
    let (sides, other, worker) = match before {
        Some(_) => ("mq beside an older mq", "before", ""),
        None => ("mq beside the native clients", "raw", WORKER),
    };
    let mut table = format!(
        "\n{sides}: {effort}. `publish`, `consume` and `worker` in messages a second, \
         `latency` and `delivery` as p50 (p99) in µs; ratio above 1: mq is better.{worker}\n\n\
         | backend | mode | bytes | {other} | mq | ratio | 95 % | rounds | allocations {other} | mq | CPU µs {other} | mq |\n\
         |---|---|--:|--:|--:|--:|---|--:|--:|--:|--:|--:|\n"
    );
    for row in rows {
        let p99 =
            |pick: fn((f64, f64)) -> f64| row.p99.map_or(String::new(), |p99| format!(" ({:.0})", pick(p99)));
        // Writing to a string does not fail.
        let _ = writeln!(
            table,
            "| {} | {} | {} | {}{} | {}{} | {:.2} | {:.2}–{:.2} | {} | {:.1} | {:.1} | {:.2} | {:.2} |",
            row.backend,
            row.mode,
            row.bytes,
            row.raw,
            p99(|both| both.0),
            row.mq,
            p99(|both| both.1),
            row.ratio,
            row.low95,
            row.high95,
            row.rounds,
            row.allocs_raw,
            row.allocs_mq,
            row.cpu_raw,
            row.cpu_mq,
        );
    }
    table
}

/// Writes `target/bench.json`, or `target/bench-before.json` of a comparison with an older version,
/// which is `raw` there.
pub(crate) fn write(rows: &[Row], before: Option<&Path>) -> Result<PathBuf> {
    let name = if before.is_some() { "bench-before.json" } else { "bench.json" };
    let target = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target"));
    std::fs::create_dir_all(&target)?;
    let path = target.canonicalize()?.join(name);
    std::fs::write(&path, serde_json::to_string_pretty(rows)? + "\n")
        .with_context(|| format!("writing {}", path.display()))?;
    Ok(path)
}

//! One measurement: a broker, a mode and a size, in paired rounds.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::args::{Args, Effort};
use crate::meter::Report;
use crate::result::Row;
use crate::spec::{Backend, Mode, Side};
use crate::stage::{Filled, Stage};
use crate::statistics::paired;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cell {
    /// Where.
    pub(crate) backend: Backend,
    /// What.
    pub(crate) mode: Mode,
    /// Bytes of a payload.
    pub(crate) bytes: usize,
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {} B", self.backend.name(), self.mode.name(), self.bytes)
    }
}

/// Messages before the clock runs, at most.
const WARM_UP: usize = 20_000;
/// Messages before the clock runs, where times are measured.
const WARM_UP_TIMES: usize = 300;
/// The most messages that a run keeps in its own memory; it may take less time than others for it.
const IN_MEMORY: usize = 1_000_000;
/// The first guess at messages a second.
const GUESS: usize = 20_000;
/// How much more than the least work is planned, so that noise does not bring a run below it.
const MARGIN: f64 = 1.15;

/// The runs of a measurement.
struct Runs<'a> {
    cell: &'a Cell,
    stage: &'a Stage,
    work: Duration,
    count: usize,
    filled: Option<Filled>,
}

impl Cell {
    /// Returns what the arguments ask for.
    pub(crate) fn all(args: &Args) -> Vec<Self> {
        let mut cells = Vec::new();
        for backend in args.backends() {
            for mode in args.modes() {
                if backend == Backend::Memory && mode != Mode::Worker {
                    continue;
                }
                cells.extend(args.bytes.iter().map(|bytes| Self { backend, mode, bytes: *bytes }));
            }
        }
        cells
    }

    /// Measures in rounds; stops early, after the second at the soonest, when `share` is over.
    pub(crate) async fn measure(
        &self,
        stage: &Stage,
        effort: &Effort,
        share: Option<Duration>,
        prefix: &str,
    ) -> Result<Row> {
        let start = Instant::now();
        let mut runs = Runs { cell: self, stage, work: effort.work, count: GUESS, filled: None };
        let measured = async {
            runs.calibrate().await?;
            let mut raw = vec![runs.run(Side::Raw).await?];
            let mut mq = Vec::new();
            while mq.len() < effort.rounds {
                mq.push(runs.run(Side::Mq).await?);
                raw.push(runs.run(Side::Raw).await?);
                runs.tell(prefix, &raw, &mq, effort.rounds);
                let pace = start.elapsed() / u32::try_from(mq.len())?;
                if mq.len() >= 2 && share.is_some_and(|share| start.elapsed() + pace > share) {
                    break;
                }
            }
            Ok::<_, anyhow::Error>(Row::of(self, &raw, &mq))
        };
        let row = measured.await;
        stage.clear(runs.filled.take()).await?;
        row
    }

    /// Returns the figure that is compared.
    pub(crate) fn figure(&self, report: &Report) -> f64 {
        if self.mode.is_time() { report.p50 } else { report.rate() }
    }
}

impl Runs<'_> {
    /// Says how the last round went.
    fn tell(&self, prefix: &str, raw: &[Report], mq: &[Report], rounds: usize) {
        let times = self.cell.mode.is_time();
        let figures =
            |reports: &[Report]| reports.iter().map(|report| self.cell.figure(report)).collect::<Vec<_>>();
        let cpu = (raw.last().map_or(0.0, |report| report.cpu), mq.last().map_or(0.0, |report| report.cpu));
        let (raw, mq) = (figures(raw), figures(mq));
        let ratio = paired(&raw, &mq, times).pop().unwrap_or_default();
        let unit = if times { "µs" } else { "/s" };
        let last = |figures: &[f64]| figures.last().copied().unwrap_or_default();
        eprintln!(
            "{prefix}: round {}/{rounds}: {} {:.0} {unit}, mq {:.0} {unit}, ratio {ratio:.2}; CPU {:.2} and {:.2} µs",
            mq.len(),
            self.stage.other(),
            last(&raw),
            last(&mq),
            cpu.0,
            cpu.1,
        );
    }

    /// Finds out how many messages fill the time.
    async fn calibrate(&mut self) -> Result<()> {
        if self.cell.mode.is_time() {
            return Ok(());
        }
        self.count = GUESS;
        while self.count < GUESS * 1000 {
            let before = self.count;
            self.run(Side::Raw).await?;
            // A short run says little; the next is closer.
            if self.count <= before * 4 {
                break;
            }
        }
        Ok(())
    }

    /// Does a run; one that was too short makes the next ones longer.
    async fn run(&mut self, side: Side) -> Result<Report> {
        let mut spec = self.stage.spec(side, self.cell.mode, self.cell.bytes, self.work);
        if self.cell.mode.is_time() {
            spec.warm_up = WARM_UP_TIMES;
            return self.stage.run(spec).await;
        }
        spec.count = self.count;
        spec.warm_up = (self.count / 10).min(WARM_UP);
        let log =
            self.cell.backend == Backend::Kafka && matches!(self.cell.mode, Mode::Consume | Mode::Worker);
        let report = match log {
            true => self.stage.run_on(&mut self.filled, spec).await?,
            false => self.stage.run(spec).await?,
        };
        if side == Side::Raw && report.seconds < self.work.as_secs_f64() {
            let wanted = report.rate() * self.work.as_secs_f64() * MARGIN;
            self.count = (wanted as usize).next_multiple_of(1000);
            if self.cell.backend == Backend::Memory {
                // All of them are in this machine's memory.
                self.count = self.count.min(IN_MEMORY);
            }
        }
        Ok(report)
    }
}

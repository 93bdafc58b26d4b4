//! Shows how far a run is: a bar on a terminal, plain lines elsewhere; always on stderr.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::supervisor::Meters;

/// How often a plain line is written.
const LINE_EVERY: Duration = Duration::from_secs(2);

/// The progress of a run.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: ProgressBar,
    orders: usize,
    last_line: Instant,
}

impl Progress {
    pub(crate) fn new(orders: usize) -> Self {
        let bar = ProgressBar::new(orders as u64);
        if let Ok(style) =
            ProgressStyle::with_template("{bar:30} {human_pos}/{human_len} done  {msg}  {elapsed}")
        {
            bar.set_style(style);
        }
        Self { bar, orders, last_line: Instant::now() }
    }

    /// Shows the counters.
    pub(crate) fn show(&mut self, meters: &Meters, dead: usize) {
        let done = meters.notification.finished() + dead;
        let stages = format!(
            "intake {}  inventory {}  payment {} ({} to try again)  dead {dead}",
            meters.intake.load(Ordering::Relaxed),
            meters.inventory.finished(),
            meters.payment.finished(),
            meters.payment.waiting().saturating_sub(dead),
        );
        if self.bar.is_hidden() {
            if self.last_line.elapsed() >= LINE_EVERY {
                self.last_line = Instant::now();
                eprintln!("{done}/{} done  {stages}", self.orders);
            }
        } else {
            self.bar.set_position(done as u64);
            self.bar.set_message(stages);
        }
    }

    /// Removes the bar.
    pub(crate) fn clear(&self) {
        self.bar.finish_and_clear();
    }
}

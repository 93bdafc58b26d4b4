//! Steps that run one after the other, each with its name, time and outcome.

use std::ffi::OsStr;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::process;

/// A named command.
#[derive(Debug)]
pub(crate) struct Step {
    pub(crate) name: String,
    pub(crate) command: Command,
}

impl Step {
    /// Names a cargo command.
    pub(crate) fn cargo(name: impl Into<String>, args: &[&str]) -> Self {
        Self { name: name.into(), command: process::cargo(args) }
    }

    /// Adds arguments.
    pub(crate) fn args(mut self, args: &[impl AsRef<OsStr>]) -> Self {
        self.command.args(args);
        self
    }

    /// Sets an environment variable.
    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Passed,
    Failed,
    Skipped,
}

/// What ran so far, and how it went.
#[derive(Debug)]
pub(crate) struct Report {
    keep_going: bool,
    lines: Vec<(String, Outcome, Duration)>,
}

impl Report {
    /// Starts an empty report; after a failure, `keep_going` decides whether more is run.
    pub(crate) fn new(keep_going: bool) -> Self {
        Self { keep_going, lines: Vec::new() }
    }

    /// Says whether every step so far passed.
    pub(crate) fn passed(&self) -> bool {
        self.lines.iter().all(|(_, outcome, _)| *outcome == Outcome::Passed)
    }

    /// Runs a step, unless an earlier one failed. `prepare` is part of it.
    pub(crate) fn run(&mut self, mut step: Step, prepare: impl FnOnce(&mut Command) -> Result<()>) {
        if !self.passed() && !self.keep_going {
            let skipped = (step.name, Outcome::Skipped, Duration::ZERO);
            return self.lines.push(skipped);
        }
        eprintln!("\n== {}", step.name);
        let start = Instant::now();
        let result = prepare(&mut step.command).and_then(|()| process::check(&mut step.command));
        if let Err(error) = &result {
            eprintln!("error: {error:#}");
        }
        let outcome = match result {
            Ok(()) => Outcome::Passed,
            Err(_) => Outcome::Failed,
        };
        self.lines.push((step.name, outcome, start.elapsed()));
    }

    /// Prints one line a step, and the sum of times.
    pub(crate) fn print(&self) {
        let width = self.lines.iter().map(|line| line.0.len()).max();
        let width = width.unwrap_or_default();
        println!();
        for (name, outcome, time) in &self.lines {
            let outcome = match outcome {
                Outcome::Passed => "ok",
                Outcome::Failed => "FAILED",
                Outcome::Skipped => "not run",
            };
            println!("{name:<width$}  {outcome:<7}  {:>7.1} s", time.as_secs_f64());
        }
        let total: Duration = self.lines.iter().map(|line| line.2).sum();
        println!("{:<width$}  {:<7}  {:>7.1} s", "", "", total.as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(name: &str, program: &str) -> Step {
        Step { name: name.to_owned(), command: Command::new(program) }
    }

    fn outcomes(keep_going: bool) -> Vec<Outcome> {
        let mut report = Report::new(keep_going);
        for (name, program) in [("a", "true"), ("b", "false"), ("c", "true")] {
            report.run(step(name, program), |_| Ok(()));
        }
        assert!(!report.passed());
        report.lines.iter().map(|line| line.1).collect()
    }

    #[test]
    fn a_failure_ends_the_run_unless_it_is_to_go_on() {
        use Outcome::{Failed, Passed, Skipped};
        assert_eq!(outcomes(false), [Passed, Failed, Skipped]);
        assert_eq!(outcomes(true), [Passed, Failed, Passed]);
    }

    #[test]
    fn a_step_that_cannot_be_prepared_fails() {
        let mut report = Report::new(false);
        report.run(step("a", "true"), |_| anyhow::bail!("no broker"));
        assert!(!report.passed());
    }
}

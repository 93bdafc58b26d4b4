//! `cargo xtask`: set-up and checks, the same for a person and for CI.

mod bench;
mod brokers;
mod build_tools;
mod engine;
mod images;
mod mutants;
mod observe;
mod process;
mod run;
mod select;
mod steps;
mod test;

/// What the broker fixtures and this tool must agree on lives with the fixtures.
#[path = "../../integration-tests/src/brokers"]
#[allow(unreachable_pub, dead_code, reason = "public over there")]
mod fixtures {
    pub(crate) mod kind;
    pub(crate) mod ports;
    pub(crate) mod reaper;
}

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

use crate::fixtures::reaper::{Sweep, sweep};

#[derive(Debug, Parser)]
#[command(bin_name = "cargo xtask", about = "Set-up and checks of mq", version)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Provide a container engine and the brokers' images; installs what is missing
    Setup,
    /// The three brokers at fixed ports of this machine, for work by hand
    #[command(subcommand)]
    Brokers(BrokersTask),
    /// Every check: format, lints, docs, features, unit, doc and integration tests
    Test(test::Options),
    /// The conformance suite; arguments go to it
    Conformance(PassedOn),
    /// Plant defects one at a time and show that the tests named with each notice it
    Mutants(mutants::Options),
    /// Prometheus beside the order-processing example: curves and alerts to look at
    Observe(observe::Options),
    /// The benchmarks against the fixed brokers; other arguments go to them
    Bench(bench::Options),
    /// Remove containers that dead tests left
    Sweep {
        /// Also those of tests that run now
        #[arg(long)]
        all: bool,
    },
}

#[derive(Debug, Subcommand)]
enum BrokersTask {
    /// Start what does not run, wait until it serves, print the URLs
    Up,
    /// Stop and remove, data included
    Down,
    /// Print URLs and whether each serves; ends with 1 unless all do
    Status,
}

#[derive(Debug, clap::Args)]
struct PassedOn {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

fn main() -> ExitCode {
    let task = Cli::parse().task;
    match run::end_on_signals().and_then(|()| perform(task)) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn perform(task: Task) -> Result<ExitCode> {
    match task {
        Task::Setup => setup().map(|()| ExitCode::SUCCESS),
        Task::Brokers(BrokersTask::Up) => {
            setup()?;
            brokers::up().map(|()| ExitCode::SUCCESS)
        }
        Task::Brokers(BrokersTask::Down) => brokers::down().map(|()| ExitCode::SUCCESS),
        Task::Brokers(BrokersTask::Status) => brokers::status(),
        Task::Test(options) => test::test(&options),
        Task::Conformance(passed) => conformance(passed.args),
        Task::Mutants(options) => mutants::mutants(&options),
        Task::Observe(options) => observe::observe(&options).map(|()| ExitCode::SUCCESS),
        Task::Bench(options) => bench::bench(&options),
        Task::Sweep { all } => {
            let what = if all { Sweep::All } else { Sweep::Dead };
            let removed = sweep(what).context("sweeping containers")?;
            eprintln!("removed {removed} containers");
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn setup() -> Result<()> {
    build_tools::ensure()?;
    engine::ensure()?;
    images::ensure()
}

fn conformance(args: Vec<String>) -> Result<ExitCode> {
    setup()?;
    let _run = run::Run::begin()?;
    let mut build = process::cargo(["build", "--workspace", "--all-features"]);
    build.args(["--bin", "conformance"]);
    process::check(&mut build)?;
    process::status(process::built("debug/conformance")?.args(args))
}

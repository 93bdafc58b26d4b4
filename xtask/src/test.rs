//! Every check, in order of how soon it can fail.

use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Context, Result};

use crate::run::Run;
use crate::steps::{Report, Step};
use crate::{build_tools, engine, images, observe, process, select};

const ALL: [&str; 2] = ["--workspace", "--all-features"];
const UNIT: &[&str] = &["--lib", "--bins", "--examples"];
const DOC: &[&str] = &["--doc"];
const INTEGRATION: &[&str] = &["--test", "*"];

/// What to check.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Only what needs no broker: format, lints, unit and doc tests
    #[arg(long)]
    quick: bool,
    /// Also what takes hours: memory watched for 10 minutes and, without a filter, rows that hurt a broker
    /// five times over and 200 histories with faults on each backend
    #[arg(long, conflicts_with = "quick")]
    long: bool,
    /// Go on after a step failed
    #[arg(long)]
    no_fail_fast: bool,
    /// Run only tests whose name contains one of these, and no other check; it is an error if there is none
    filter: Vec<String>,
}

/// Runs the checks and prints how each went.
pub(crate) fn test(options: &Options) -> Result<ExitCode> {
    let mut report = Report::new(options.no_fail_fast);
    build_tools::ensure()?;
    if !options.filter.is_empty() {
        ensure_some_is_selected(options)?;
    }
    let plain = |_: &mut _| Ok(());
    for step in without_brokers(options)? {
        report.run(step, plain);
    }
    if options.filter.is_empty() && !options.quick {
        rules(&mut report);
    }
    if !options.quick {
        with_brokers(options, &mut report)?;
    }
    report.print();
    Ok(if report.passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn ensure_some_is_selected(options: &Options) -> Result<()> {
    eprintln!("looking for tests by name");
    let kinds: &[&[&str]] = &[UNIT, DOC, INTEGRATION];
    let kinds = if options.quick { &kinds[..2] } else { kinds };
    let listing =
        |kind: &&[&str]| select::listing(&[&["test", "--quiet"], &ALL[..], kind].concat(), &options.filter);
    let mut interleavings =
        select::listing(&["test", "--manifest-path", process::INTERLEAVINGS], &options.filter);
    interleavings.env("CARGO_TARGET_DIR", interleavings_target()?);
    select::ensure_some(kinds.iter().map(listing).chain([interleavings]), &options.filter)
}

fn without_brokers(options: &Options) -> Result<Vec<Step>> {
    let mut steps = Vec::new();
    if options.filter.is_empty() {
        steps.push(Step::cargo("format", &["fmt", "--all", "--check"]));
        let others = ["fmt", "--manifest-path", process::INTERLEAVINGS, "--all", "--check"];
        steps.push(Step::cargo("format", &others));
        steps.push(lints());
        if !options.quick {
            steps.push(docs());
            steps.extend(feature_matrix()?);
        }
    }
    if options.filter.is_empty() {
        steps.push(interleavings("interleavings, lints", "clippy", &["--tests", "--", "-D", "warnings"])?);
    }
    steps.push(interleavings("interleavings", "test", &["--quiet", "--"])?.args(&options.filter));
    steps.push(tests("unit tests", UNIT, options));
    steps.push(tests("doc tests", DOC, options));
    Ok(steps)
}

/// What operators load, checked by Prometheus' own tool; without it the check fails and says what to install.
fn rules(report: &mut Report) {
    let name = "alert rules".to_owned();
    match observe::rules() {
        Ok(commands) => {
            for command in commands {
                report.run(Step { name: name.clone(), command }, |_| Ok(()));
            }
        }
        Err(error) => {
            let promtool = Step { name, command: Command::new("promtool") };
            report.run(promtool, |_| Err(error));
        }
    }
}

fn with_brokers(options: &Options, report: &mut Report) -> Result<()> {
    let mut step = tests("integration tests", INTEGRATION, options);
    if options.long {
        step = step.env("MQ_LONG", "1");
    }
    if !report.passed() && !options.no_fail_fast {
        report.run(step, |_| Ok(()));
        return Ok(());
    }
    let start = Instant::now();
    engine::ensure()?;
    images::ensure()?;
    build_tools::ensure_foreign_clients()?;
    eprintln!("\nengine and images: {:.1} s", start.elapsed().as_secs_f64());
    let run = Run::begin()?;
    report.run(step, |tests| run.point_tests_at_brokers(tests));
    if options.long && options.filter.is_empty() {
        for step in long()? {
            report.run(step, |_| Ok(()));
        }
    }
    Ok(())
}

/// The rows that hurt a broker again and again, then many histories with faults.
fn long() -> Result<Vec<Step>> {
    let conformance = |name: &str, args: &[&str]| -> Result<Step> {
        let mut command = process::built("debug/conformance")?;
        command.args(args);
        Ok(Step { name: name.into(), command })
    };
    Ok(vec![
        Step::cargo(
            "the suite's program",
            &["build", "--workspace", "--all-features", "--bin", "conformance"],
        ),
        conformance("faults, repeated", &["--repeat", "5", "::faults.", "::operator."])?,
        conformance("histories with faults", &["--long", "::faults.history"])?,
    ])
}

fn lints() -> Step {
    let mut args = vec!["clippy"];
    args.extend(ALL);
    args.extend(["--all-targets", "--", "-D", "warnings"]);
    Step::cargo("lints", &args)
}

/// A command on the workspace in `interleavings/`.
fn interleavings(name: &str, command: &str, args: &[&str]) -> Result<Step> {
    let manifest = [command, "--manifest-path", process::INTERLEAVINGS];
    Ok(Step::cargo(name, &manifest).args(args).env("CARGO_TARGET_DIR", interleavings_target()?))
}

fn interleavings_target() -> Result<PathBuf> {
    Ok(process::target_directory()?.join("interleavings"))
}

fn docs() -> Step {
    let mut args = vec!["doc"];
    args.extend(ALL);
    args.push("--no-deps");
    Step::cargo("docs", &args).env("RUSTDOCFLAGS", "-D warnings")
}

/// The facade without features, and with each alone.
fn feature_matrix() -> Result<Vec<Step>> {
    let check = ["check", "--package", "mq", "--no-default-features"];
    let mut steps = vec![Step::cargo("features: none", &check)];
    for feature in facade_features()? {
        let alone = ["--features".to_owned(), feature.clone()];
        let step = Step::cargo(format!("features: {feature}"), &check).args(&alone);
        steps.push(step);
    }
    Ok(steps)
}

fn facade_features() -> Result<Vec<String>> {
    let metadata = process::metadata()?;
    let packages = metadata["packages"].as_array();
    let facade = packages
        .into_iter()
        .flatten()
        .find(|package| package["name"] == "mq")
        .context("the workspace has no package mq")?;
    let features = facade["features"].as_object();
    let features = features.context("mq has no features")?;
    // All together is what the lints check.
    Ok(features.keys().filter(|feature| *feature != "full").cloned().collect())
}

/// The same packages and features for each kind of test, so that nothing is compiled twice.
fn tests(name: &str, targets: &[&str], options: &Options) -> Step {
    let mut args = vec!["test", "--quiet"];
    args.extend(ALL);
    args.extend(targets);
    if options.no_fail_fast {
        args.push("--no-fail-fast");
    }
    args.push("--");
    Step::cargo(name, &args).args(&options.filter)
}

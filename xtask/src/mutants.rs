//! Planted defects: each breaks one guarantee, and the tests named with it must notice.
//!
//! Works in a copy of this workspace under `target/mutants`, with a target folder of its own that
//! all defects share, so that each costs one incremental build. What is looked at is the tree as it
//! is, committed or not.

mod defect;
mod detect;
mod tree;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

use crate::process;
use crate::run::Run;
use defect::{Defect, Detector};
use detect::{Finding, Outcome};
use tree::Tree;

/// Which defects to plant.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Only defects whose name or crate contains one of these
    filter: Vec<String>,
    /// Print the defects and what must notice them, and plant none
    #[arg(long)]
    list: bool,
    /// Print what those that noticed said
    #[arg(long)]
    verbose: bool,
}

/// What became of a defect.
#[derive(Debug)]
enum Verdict {
    /// These detectors failed, each with what it said.
    Caught(Vec<(String, String)>),
    /// All detectors passed.
    Survived,
    /// Nothing can be said: no build, or a detector that never ended.
    Broken(String),
}

struct Line {
    name: String,
    verdict: Verdict,
    took: Duration,
}

/// Plants one defect after the other and prints which were noticed; ends with 1 unless all were.
pub(crate) fn mutants(options: &Options) -> Result<ExitCode> {
    let mut defects = defect::load(&process::root().join("xtask/mutants"))?;
    defects.retain(|defect| defect.matches(&options.filter));
    ensure!(!defects.is_empty(), "no defect was selected; `cargo xtask mutants --list` shows them");
    if options.list {
        defects.iter().for_each(|defect| println!("{defect}"));
        return Ok(ExitCode::SUCCESS);
    }
    let tree = Tree::open(&process::target_directory()?.join("mutants"))?;
    for defect in &defects {
        tree.check(defect)?;
    }
    let _run = brokers_for(&defects)?;
    sound(&tree, &defects)?;
    let mut lines = Vec::with_capacity(defects.len());
    for defect in &defects {
        eprintln!("\n== {}: {}", defect.name, defect.breaks);
        let start = Instant::now();
        let verdict = plant(&tree, defect)?;
        say(&verdict, options.verbose);
        lines.push(Line { name: defect.name.clone(), verdict, took: start.elapsed() });
    }
    print(&lines);
    let all = lines.iter().all(|line| matches!(line.verdict, Verdict::Caught(_)));
    Ok(if all { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Prepares engine and images if any row needs them.
fn brokers_for(defects: &[Defect]) -> Result<Option<Run>> {
    let mut detectors = defects.iter().flat_map(|defect| &defect.detectors);
    if !detectors.any(Detector::needs_broker) {
        return Ok(None);
    }
    crate::setup()?;
    Run::begin().map(Some)
}

/// Runs all detectors on the unmodified tree: one that fails there says nothing about a defect.
fn sound(tree: &Tree, defects: &[Defect]) -> Result<()> {
    let mut detectors: Vec<Detector> =
        defects.iter().flat_map(|defect| defect.detectors.iter().cloned()).collect();
    detectors.sort();
    detectors.dedup();
    eprintln!("== {} detectors on the unmodified tree", detectors.len());
    match detect::run(tree, &detectors)? {
        Outcome::Broken(what) => bail!("the unmodified tree: {what}"),
        Outcome::Ran(findings) => {
            let failed: Vec<String> = findings.iter().filter_map(Finding::failure).collect();
            ensure!(failed.is_empty(), "fails without any defect:\n{}", failed.join("\n"));
            Ok(())
        }
    }
}

fn plant(tree: &Tree, defect: &Defect) -> Result<Verdict> {
    let planted = tree.plant(defect)?;
    let outcome = detect::run(tree, &defect.detectors);
    planted.undo()?;
    Ok(match outcome? {
        Outcome::Broken(what) => Verdict::Broken(what),
        Outcome::Ran(findings) => {
            let caught: Vec<_> = findings.into_iter().filter_map(Finding::into_failure).collect();
            if caught.is_empty() { Verdict::Survived } else { Verdict::Caught(caught) }
        }
    })
}

fn say(verdict: &Verdict, verbose: bool) {
    match verdict {
        Verdict::Caught(by) => {
            for (detector, said) in by {
                eprintln!("caught by {detector}");
                if verbose {
                    eprintln!("    {said}");
                }
            }
        }
        Verdict::Survived => eprintln!("SURVIVED"),
        Verdict::Broken(what) => eprintln!("error: {what}"),
    }
}

fn print(lines: &[Line]) {
    let width = lines.iter().map(|line| line.name.len()).max().unwrap_or_default();
    println!();
    for Line { name, verdict, took } in lines {
        let (word, by) = match verdict {
            Verdict::Caught(by) => {
                ("caught", by.iter().map(|(detector, _)| detector.as_str()).collect::<Vec<_>>().join(", "))
            }
            Verdict::Survived => ("SURVIVED", String::new()),
            Verdict::Broken(what) => ("BROKEN", what.lines().next().unwrap_or_default().to_owned()),
        };
        println!("{name:<width$}  {word:<8}  {:>6.1} s  {by}", took.as_secs_f64());
    }
    let caught = lines.iter().filter(|line| matches!(line.verdict, Verdict::Caught(_))).count();
    let total: Duration = lines.iter().map(|line| line.took).sum();
    println!("{caught} of {} caught in {:.0} s", lines.len(), total.as_secs_f64());
}

//! Builds a tree and runs what must notice a defect.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use super::defect::Detector;
use super::tree::Tree;
use crate::process;

/// The longest a build may take: the first one compiles the native clients.
const BUILD: Duration = Duration::from_secs(1800);
/// The longest unit tests of one crate may take.
const TESTS: Duration = Duration::from_secs(180);
/// The longest one row may take, and the start of its broker.
const ROW: Duration = Duration::from_secs(200);
const START: Duration = Duration::from_secs(120);

/// What a detector said.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    detector: Detector,
    /// Why it failed, if it did.
    failed: Option<String>,
}

impl Finding {
    /// Its name and why it failed, if it did.
    pub(crate) fn into_failure(self) -> Option<(String, String)> {
        Some((self.detector.to_string(), self.failed?))
    }

    /// As a line.
    pub(crate) fn failure(&self) -> Option<String> {
        Some(format!("{}: {}", self.detector, self.failed.as_ref()?))
    }
}

/// What came of running detectors.
#[derive(Debug)]
pub(crate) enum Outcome {
    Ran(Vec<Finding>),
    /// It was not built, or did not end by itself: says nothing.
    Broken(String),
}

/// What is built and run together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Tests(String),
    Rows(String),
}

/// Builds and runs all detectors, those of one crate or backend together.
///
/// # Errors
/// A detector that is not there.
pub(crate) fn run(tree: &Tree, detectors: &[Detector]) -> Result<Outcome> {
    let mut parts: BTreeMap<Part, Vec<&str>> = BTreeMap::new();
    for detector in detectors {
        let (part, name) = match detector {
            Detector::Test { package, name } => (Part::Tests(package.clone()), name),
            Detector::Row { backend, case } => (Part::Rows(backend.clone()), case),
        };
        parts.entry(part).or_default().push(name);
    }
    let mut findings = Vec::new();
    for (part, names) in parts {
        let found = match &part {
            Part::Tests(package) => tests(tree, package, &names)?,
            Part::Rows(backend) => rows(tree, backend, &names)?,
        };
        match found {
            Ok(found) => findings.extend(found),
            Err(what) => return Ok(Outcome::Broken(what)),
        }
    }
    Ok(Outcome::Ran(findings))
}

/// Findings, or why there are none.
type Found = std::result::Result<Vec<Finding>, String>;

fn tests(tree: &Tree, package: &str, names: &[&str]) -> Result<Found> {
    let mut args = vec!["test", "--package", package, "--all-features", "--tests", "--no-fail-fast"];
    if package.ends_with("-interleaved") {
        args.extend(["--manifest-path", process::INTERLEAVINGS]);
    }
    if let Some(broken) = build(tree, cargo(tree, &args).arg("--no-run"))? {
        return Ok(Err(broken));
    }
    let mut command = cargo(tree, &args);
    command.args(["--", "--exact"]).args(names);
    let Some((_, log)) = execute(tree, &mut command, "tests", TESTS)? else {
        return Ok(Err(format!("the tests of {package} did not end within {TESTS:?}")));
    };
    let found = names.iter().map(|name| {
        let detector = Detector::Test { package: package.to_owned(), name: (*name).to_owned() };
        let failed = test_verdict(&log, name).with_context(|| format!("{detector} did not run:\n{log}"))?;
        Ok(Finding { detector, failed })
    });
    found.collect::<Result<_>>().map(Ok)
}

/// Returns why a test failed, if it did; `None` if it did not run.
fn test_verdict(log: &str, name: &str) -> Option<Option<String>> {
    let of_it =
        |line: &str| Some(line.strip_prefix("test ")?.strip_prefix(name)?.strip_prefix(" ... ")?.to_owned());
    let verdict = log.lines().find_map(of_it)?;
    if verdict.starts_with("ok") {
        return Some(None);
    }
    let said = log.split_once(&format!("---- {name} stdout ----")).map(|(_, said)| said.trim_start());
    let said = said.map(|said| said.lines().take(4).collect::<Vec<_>>().join(" "));
    verdict.starts_with("FAILED").then(|| Some(said.unwrap_or_default()))
}

fn rows(tree: &Tree, backend: &str, cases: &[&str]) -> Result<Found> {
    let mut command = cargo(tree, &["build", "--package", "mq-integration-tests", "--bin", "conformance"]);
    command.arg("--no-default-features");
    if backend != "memory" {
        command.args(["--features", backend]);
    }
    if let Some(broken) = build(tree, &mut command)? {
        return Ok(Err(broken));
    }
    let json = tree.logs().join("rows.json");
    if json.exists() {
        fs::remove_file(&json)?;
    }
    let mut command = Command::new(tree.target().join("debug/conformance"));
    command.args(cases.iter().map(|case| format!("{backend}::{case}"))).arg("--json").arg(&json);
    let limit = START + ROW * u32::try_from(cases.len()).unwrap_or(u32::MAX);
    let Some((_, log)) = execute(tree, &mut command, "rows", limit)? else {
        return Ok(Err(format!("the rows on {backend} did not end within {limit:?}")));
    };
    let told = fs::read(&json).with_context(|| format!("the rows on {backend} told nothing:\n{log}"))?;
    let told: Value = serde_json::from_slice(&told).context("reading what the rows told")?;
    let found = cases.iter().map(|case| {
        let detector = Detector::Row { backend: backend.to_owned(), case: (*case).to_owned() };
        let failed = row_verdict(&told, case).with_context(|| format!("{detector} did not run:\n{log}"))?;
        Ok(Finding { detector, failed })
    });
    found.collect::<Result<_>>().map(Ok)
}

/// Returns why a row failed, if it did; `None` if it did not run or did not get as far as its first
/// assertion.
fn row_verdict(told: &Value, case: &str) -> Option<Option<String>> {
    let row = told.as_array()?.iter().find(|row| row["case"] == case)?;
    let error = row["error"].as_str().unwrap_or_default();
    match row["outcome"].as_str()? {
        "pass" => Some(None),
        "fail" if !error.starts_with("connect") => Some(Some(error.to_owned())),
        _ => None,
    }
}

fn cargo(tree: &Tree, args: &[&str]) -> Command {
    let mut command = process::cargo(args);
    // Nobody looks at a defect with a debugger, and linking is faster without.
    command.env("CARGO_TARGET_DIR", tree.target()).env("CARGO_PROFILE_DEV_DEBUG", "0");
    command
}

/// Returns why it was not built, if it was not.
fn build(tree: &Tree, command: &mut Command) -> Result<Option<String>> {
    Ok(match execute(tree, command, "build", BUILD)? {
        Some((true, _)) => None,
        Some((false, log)) => Some(format!("does not build:\n{log}")),
        None => Some(format!("was not built within {BUILD:?}")),
    })
}

/// Runs a command in the tree; returns whether it succeeded and what it printed, or `None` if it did
/// not end in time.
fn execute(
    tree: &Tree,
    command: &mut Command,
    name: &str,
    limit: Duration,
) -> Result<Option<(bool, String)>> {
    let path = tree.logs().join(name).with_extension("log");
    let log = File::create(&path).with_context(|| format!("writing {}", path.display()))?;
    command.current_dir(tree.root()).stdout(log.try_clone()?).stderr(log);
    let status = process::wait_within(command, limit)?;
    let bytes = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    Ok(status.map(|status| (status.success(), text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_is_found_in_the_log_with_what_it_said() {
        let log = "running 2 tests\ntest a::bc ... ok\ntest a::b ... FAILED\n\nfailures:\n\n\
                   ---- a::b stdout ----\n\nthread 'a::b' panicked at x.rs:1:\nleft: 1\n";
        let said = test_verdict(log, "a::b").unwrap().unwrap();
        assert!(said.contains("left: 1"), "{said}");
        assert_eq!(test_verdict(log, "a::bc"), Some(None));
        assert_eq!(test_verdict(log, "a::c"), None);
    }

    #[test]
    fn a_row_that_did_not_run_or_connect_says_nothing() {
        let told = serde_json::json!([
            {"case": "a.b", "outcome": "pass"},
            {"case": "a.c", "outcome": "fail", "error": "lost"},
            {"case": "a.d", "outcome": "fail", "error": "connect: refused"},
            {"case": "a.e", "outcome": "unsupported"},
        ]);
        assert_eq!(row_verdict(&told, "a.b"), Some(None));
        assert_eq!(row_verdict(&told, "a.c"), Some(Some("lost".into())));
        assert!(["a.d", "a.e", "a.f"].iter().all(|case| row_verdict(&told, case).is_none()));
    }
}

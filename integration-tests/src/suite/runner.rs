//! Runs rows side by side and reports them.

use std::io::Write as _;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures_util::{FutureExt, StreamExt, stream};
use serde::Serialize;

use super::context::Context;
use super::fault_history;
use super::harness::Harness;
use super::manifest::{Case, Kind, Verdict, manifest};

/// The longest a row may take.
const LIMIT: Duration = Duration::from_secs(180);
/// What a history needs before and after it is played: its broker in order, a client.
const AROUND: Duration = Duration::from_secs(30);
/// The histories with faults that are played on each backend otherwise.
const SHORT: u32 = 2;
/// The histories with faults that `--long` plays on each backend.
const LONG: u32 = 200;
/// Rows that run at once.
const SIDE_BY_SIDE: usize = 6;
/// Rows that run at once where each has processes of its own, at work on thousands of messages.
const PROCESSES: usize = 4;

/// What to run.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Only rows whose `backend::case` contains one of these.
    pub filters: Vec<String>,
    /// The seed of the random histories; `None` draws one.
    pub seed: Option<u64>,
    /// Where to write the rows as JSON.
    pub json: Option<PathBuf>,
    /// How many histories with faults are played on each backend; `None` is two.
    pub histories: Option<u32>,
    /// How often each row is run; `None` is once.
    pub repeat: Option<u32>,
}

/// A row's result.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The row's id.
    pub case: &'static str,
    /// The backend.
    pub backend: &'static str,
    /// `pass`, `unsupported` or `fail`.
    pub outcome: &'static str,
    /// How long it took.
    pub ms: u128,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Runs the rows that the options select: those that measure times one by one, those that only use
/// a broker side by side, then those that kill processes, then, on brokers that store nothing yet, those that hurt
/// the broker.
///
/// # Errors
/// A broker does not start.
pub async fn run(harnesses: &[Arc<dyn Harness>], options: &Options) -> Result<Vec<Row>> {
    let seed = options.seed.unwrap_or_else(|| fastrand::u64(..1 << 32));
    let histories = options.histories.unwrap_or(SHORT);
    let mut jobs = Vec::new();
    for case in manifest() {
        for harness in harnesses {
            let name = format!("{}::{}", harness.name(), case.id);
            if is_selected(&name, &options.filters) {
                jobs.extend((0..options.repeat.unwrap_or(1)).map(|_| (case.clone(), harness.clone())));
            }
        }
    }
    let of_kind = |kind: Kind| jobs.iter().filter(move |(case, _)| case.kind == kind).cloned();
    let mut rows: Vec<Row> = Vec::new();
    for (kind, at_once) in [(Kind::Times, 1), (Kind::Uses, SIDE_BY_SIDE), (Kind::Kills, PROCESSES)] {
        let phase = stream::iter(of_kind(kind)).map(|(case, harness)| row(case, harness, seed, histories));
        rows.extend(phase.buffer_unordered(at_once).collect::<Vec<_>>().await);
    }
    let mut hurting = Vec::new();
    for harness in harnesses {
        let of_this = of_kind(Kind::Hurts).filter(|(_, other)| other.name() == harness.name());
        let cases: Vec<Case> = of_this.map(|(case, _)| case).collect();
        if cases.is_empty() {
            continue;
        }
        let used = rows.iter().any(|row| row.backend == harness.name());
        let renewed = if used { harness.renew().await? } else { None };
        let harness = renewed.unwrap_or_else(|| harness.clone());
        let rows = stream::iter(cases).then(move |case| row(case, harness.clone(), seed, histories));
        hurting.push(rows.boxed());
    }
    rows.extend(stream::select_all(hurting).collect::<Vec<_>>().await);
    Ok(rows)
}

/// Whether a row, `BACKEND::ROW`, is one that filters select; none select all.
pub(super) fn is_selected(name: &str, filters: &[String]) -> bool {
    filters.is_empty() || filters.iter().any(|filter| name.contains(filter))
}

async fn row(case: Case, harness: Arc<dyn Harness>, seed: u64, histories: u32) -> Row {
    let (backend, begun) = (harness.name(), Instant::now());
    let (outcome, error) = outcome(&case, harness, seed, histories, limit(&case, histories)).await;
    let row = Row { case: case.id, backend, outcome, ms: begun.elapsed().as_millis(), error };
    report(&row, &case, seed);
    row
}

/// How long a row may take: [`LIMIT`], but for the one that plays several histories and the one that a long run
/// gives ten times as much to do.
fn limit(case: &Case, histories: u32) -> Duration {
    match case.id {
        "faults.history" => (fault_history::LIMIT + AROUND) * histories,
        "delay.on_time_beside_a_backlog" if is_long() => LIMIT * 10,
        _ => LIMIT,
    }
}

/// Whether rows do what takes longest, too: `cargo xtask test --long`.
pub(super) fn is_long() -> bool {
    std::env::var_os("MQ_LONG").is_some()
}

/// Runs a row; returns `pass`, `unsupported` or `fail`, and why it failed.
pub(super) async fn outcome(
    case: &Case,
    harness: Arc<dyn Harness>,
    seed: u64,
    histories: u32,
    limit: Duration,
) -> (&'static str, Option<String>) {
    let work = async {
        let mut context = Context::new(harness, case.id, seed).await?;
        context.histories = histories;
        let client = context.client.clone();
        let verdict = (case.run)(context).await;
        drop(client.close(Duration::from_secs(5)).await);
        verdict
    };
    match AssertUnwindSafe(tokio::time::timeout(limit, work)).catch_unwind().await {
        Ok(Ok(Ok(Verdict::Pass))) => ("pass", None),
        Ok(Ok(Ok(Verdict::Unsupported))) => ("unsupported", None),
        Ok(Ok(Err(error))) => ("fail", Some(format!("{error:#}"))),
        Ok(Err(_)) => ("fail", Some(format!("took over {limit:?}"))),
        Err(panic) => ("fail", Some(format!("panicked: {:?}", panic.downcast_ref::<String>()))),
    }
}

fn report(row: &Row, case: &Case, seed: u64) {
    let mut out = std::io::stdout().lock();
    // A closed standard output is noticed by the next print.
    drop(writeln!(out, "{:<11} {}::{} ({} ms)", row.outcome, row.backend, row.case, row.ms));
    if let Some(error) = &row.error {
        drop(writeln!(out, "    contract point {}: {}\n    {error}\n    seed {seed}", case.point, case.says));
    }
}

const HELP: &str = "\
Usage: conformance [FILTER]... [OPTION]...

Runs the rows whose BACKEND::NAME contains one of the filters, or all; on real brokers in containers.

  --list          shows the rows, with their points of the contract
  --seed N        repeats a run that failed
  --json FILE     writes the outcome of each row
  --repeat N      how often each row is run
  --histories N   of the random histories with faults
  --long          200 of them
  --planted       runs rows on drivers with planted defects, each of which it must notice";

/// The program of a conformance test: runs the rows that `options` and the arguments select, prints the table,
/// writes the JSON, and fails if a row failed or none ran.
///
/// `--help` tells the arguments; those of other test programs are passed over.
///
/// # Errors
/// What failed.
pub async fn main(
    mut options: Options,
    harnesses: impl AsyncFnOnce(&[String]) -> Result<Vec<Arc<dyn Harness>>>,
) -> Result<()> {
    super::victim::become_one().await?;
    let mut planted = false;
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--seed" => options.seed = Some(args.next().context("--seed takes a number")?.parse()?),
            "--json" => options.json = Some(args.next().context("--json takes a file")?.into()),
            "--long" => drop(options.histories.get_or_insert(LONG)),
            "--histories" => {
                options.histories = Some(args.next().context("--histories takes a number")?.parse()?);
            }
            "--repeat" => options.repeat = Some(args.next().context("--repeat takes a number")?.parse()?),
            "--planted" => planted = true,
            "--help" | "-h" => {
                println!("{HELP}");
                return Ok(());
            }
            "--list" => {
                for case in manifest() {
                    println!("{} (point {}): {}", case.id, case.point, case.says);
                }
                return Ok(());
            }
            flag if flag.starts_with('-') => {}
            filter => options.filters.push(filter.to_owned()),
        }
    }
    if planted {
        return super::planted::report(&options.filters).await;
    }
    let harnesses = harnesses(&options.filters).await?;
    let rows = run(&harnesses, &options).await?;
    if let Some(json) = &options.json {
        std::fs::write(json, serde_json::to_string_pretty(&rows)?)
            .with_context(|| format!("write {}", json.display()))?;
    }
    summary(&harnesses, &rows);
    let failed: Vec<&Row> = rows.iter().filter(|row| row.outcome == "fail").collect();
    println!("{} passed, {} failed", rows.len() - failed.len(), failed.len());
    // Told again, last: a long log is read from its end.
    for row in &failed {
        println!(
            "{}::{} ({} ms): {}",
            row.backend,
            row.case,
            row.ms,
            row.error.as_deref().unwrap_or_default()
        );
    }
    ensure!(!rows.is_empty(), "no row was selected; `--list` shows them");
    ensure!(failed.is_empty(), "{} rows failed", failed.len());
    Ok(())
}

fn summary(harnesses: &[Arc<dyn Harness>], rows: &[Row]) {
    let width = manifest().iter().map(|case| case.id.len()).max().unwrap_or_default() + 2;
    println!(
        "\n{:<width$}{}",
        "",
        harnesses.iter().map(|harness| format!("{:<13}", harness.name())).collect::<String>()
    );
    for case in manifest() {
        let cells: Vec<&str> = harnesses
            .iter()
            .map(|harness| {
                let same = |row: &&Row| row.case == case.id && row.backend == harness.name();
                let failed = rows.iter().filter(same).find(|row| row.outcome == "fail");
                failed.or_else(|| rows.iter().find(same)).map_or("", |row| row.outcome)
            })
            .collect();
        if cells.iter().any(|cell| !cell.is_empty()) {
            println!(
                "{:<width$}{}",
                case.id,
                cells.iter().map(|cell| format!("{cell:<13}")).collect::<String>()
            );
        }
    }
    for harness in harnesses {
        let count = |outcome| {
            rows.iter().filter(|row| row.backend == harness.name() && row.outcome == outcome).count()
        };
        println!(
            "{}: {} pass, {} unsupported, {} fail",
            harness.name(),
            count("pass"),
            count("unsupported"),
            count("fail")
        );
    }
}

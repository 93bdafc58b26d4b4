//! One run in a process of its own, so that the sides share no allocator, runtime or threads.

use std::io::Read as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use crate::meter::Report;
use crate::spec::{Mode, Side, Spec};
use crate::{ours, raw, worker};

/// A run that takes this long hangs.
const LIMIT: Duration = Duration::from_secs(180);

/// Is the child: does what `spec` says and prints the report.
pub(crate) async fn run(spec: &str) -> Result<()> {
    let spec: Spec = serde_json::from_str(spec).context("reading what to do")?;
    // On a worker, as in a service: the runtime's main thread is woken for every step of its future.
    let run = tokio::spawn(async move {
        match (spec.mode, spec.side) {
            (Mode::Worker, _) => worker::run(&spec).await,
            (_, Side::Raw) => raw::run(spec).await,
            (_, Side::Mq) => ours::run(&spec).await,
        }
    });
    let report = run.await??;
    println!("{}", serde_json::to_string(&report)?);
    Ok(())
}

/// Starts a child and returns its report.
pub(crate) async fn start(spec: Spec) -> Result<Report> {
    tokio::task::spawn_blocking(move || wait(&spec)).await?
}

fn wait(spec: &Spec) -> Result<Report> {
    let program = spec.program.clone().map_or_else(std::env::current_exe, Ok)?;
    let shown = program.display();
    let mut child = Command::new(&program)
        .arg("child")
        .arg(serde_json::to_string(spec)?)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting {shown}"))?;
    let start = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if start.elapsed() > LIMIT {
            child.kill()?;
            child.wait()?;
            bail!("the {:?} side of {shown} did not end within {LIMIT:?}", spec.side);
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    ensure!(status.success(), "the {:?} side of {shown} ended with {status}", spec.side);
    let mut output = String::new();
    child.stdout.take().context("no output")?.read_to_string(&mut output)?;
    serde_json::from_str(output.trim()).with_context(|| format!("reading {output:?}"))
}

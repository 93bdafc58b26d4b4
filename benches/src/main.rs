//! `mq` beside the native clients, or beside an older `mq`, in one run.
//!
//! `cargo xtask bench` brings the brokers up and runs this. A round is raw, mq, raw, mq … raw; each
//! run is a process of its own on a fresh topic, and the ratio of an mq run is taken against the
//! raw runs on either side, so that what else happens on the machine falls on both.

mod allocations;
mod args;
mod cell;
mod child;
mod load;
mod meter;
mod ours;
mod raw;
mod result;
mod spec;
mod stage;
mod stamp;
mod statistics;
mod worker;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, Result};
use clap::Parser as _;

use crate::args::{Args, Command, Effort};
use crate::cell::Cell;
use crate::result::Row;
use crate::stage::Stage;

#[tokio::main(worker_threads = 2)]
async fn main() -> Result<ExitCode> {
    let args = Args::parse();
    match &args.command {
        Some(Command::Child { spec }) => child::run(spec).await.map(|()| ExitCode::SUCCESS),
        None => bench(&args).await,
    }
}

async fn bench(args: &Args) -> Result<ExitCode> {
    let effort = Effort::of(args);
    let cells = Cell::all(args);
    eprintln!("{} measurements, {effort}", cells.len());
    let start = Instant::now();
    let mut rows: Vec<Row> = Vec::new();
    let mut failed = Vec::new();
    for (done, cell) in cells.iter().enumerate() {
        let url = args.url(cell.backend)?;
        let share = effort.share(start.elapsed(), cells.len() - done);
        let prefix = format!("[{}/{}] {cell}", done + 1, cells.len());
        let measured = async {
            let stage = Stage::open(cell.backend, url, args).await.context("connecting")?;
            cell.measure(&stage, &effort, share, &prefix).await
        };
        match measured.await {
            Ok(row) => {
                eprintln!("{prefix}: ratio {:.2}, at least {:.2}", row.ratio, row.low95);
                rows.push(row);
            }
            Err(error) => {
                eprintln!("{prefix}: FAILED: {error:#}");
                failed.push(cell);
            }
        }
    }
    let before = args.before.as_deref();
    println!("{}", result::table(&rows, &effort, before));
    let path = result::write(&rows, before)?;
    eprintln!("{:.0} s; written to {}", start.elapsed().as_secs_f64(), path.display());
    Ok(if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

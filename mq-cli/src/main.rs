//! The `mq` command: the library's face in a terminal.

mod args;
mod bench;
mod completions;
mod consume;
mod dead;
mod end;
mod group;
mod line;
mod output;
mod peek;
mod progress;
mod publish;
mod session;
mod stats;
mod stop;
mod topic;
mod values;

use std::process::ExitCode;

use clap::Parser as _;
use tracing_subscriber::EnvFilter;

use crate::args::{Cli, Command, LogFormat};
use crate::end::End;
use crate::session::Session;
use crate::stop::Stop;

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Ok(filter) = EnvFilter::try_from_env("MQ_LOG") {
        let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
        match cli.global.log_format {
            LogFormat::Text => log.init(),
            LogFormat::Json => log.json().flatten_event(true).init(),
        }
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return end::report(&error.into()),
    };
    let ended = runtime.block_on(run(cli));
    // A read of stdin that nobody waits for must not hold the process.
    runtime.shutdown_background();
    match ended {
        Ok(end) => end.into(),
        Err(error) => end::report(&error),
    }
}

async fn run(cli: Cli) -> anyhow::Result<End> {
    let stop = Stop::on_signals()?;
    let session = Session::new(cli.global, stop.clone());
    match cli.command {
        Command::Publish(args) => publish::run(&session, args).await,
        Command::Consume(args) => consume::run(&session, args).await,
        Command::Stats(args) => stats::run(&session, args).await,
        Command::Bench(args) => bench::run(&session, args).await,
        Command::Completions(args) => completions::run(&args),
        Command::Topic(command) => session.brief(topic::run(&session, command)).await,
        Command::Group(command) => session.brief(group::run(&session, command)).await,
        Command::Peek(args) => session.brief(peek::run(&session, args)).await,
        Command::Dead(command) => session.brief(dead::run(&session, command)).await,
    }
}

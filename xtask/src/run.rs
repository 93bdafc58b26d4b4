//! A run of tests: its own brokers, removed however it ends.

use std::process::{Child, Command};

use anyhow::{Context, Result};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::brokers;
use crate::fixtures::kind::BrokerKind;
use crate::fixtures::ports::free_port;
use crate::fixtures::reaper::{RUN_LABEL, Sweep, current_run, spawn_reaper, sweep};
use crate::process;

/// Owns the containers labelled with this process.
#[derive(Debug)]
pub(crate) struct Run {
    name: String,
    _reaper: Child,
}

impl Run {
    /// Removes what dead runs left, and sees to the removal of what this one starts: at its end,
    /// and when it is killed.
    pub(crate) fn begin() -> Result<Self> {
        let name = current_run();
        sweep(Sweep::Dead).context("sweeping containers")?;
        let reaper = spawn_reaper(&name).context("starting the reaper")?;
        Ok(Self { name, _reaper: reaper })
    }

    /// Starts brokers for this run and tells tests where they are.
    pub(crate) fn point_tests_at_brokers(&self, tests: &mut Command) -> Result<()> {
        for (kind, port) in self.start_brokers()? {
            tests.env(kind.url_variable(), kind.url(port));
        }
        Ok(())
    }

    fn start_brokers(&self) -> Result<Vec<(BrokerKind, u16)>> {
        let label = format!("{RUN_LABEL}={}", self.name);
        let mut started = Vec::new();
        for kind in BrokerKind::ALL {
            let port = free_port()?;
            let mut run = Command::new("docker");
            run.args(["run", "--detach", "--label", &label, "--publish"]);
            run.arg(format!("127.0.0.1:{port}:{}", kind.default_port()));
            run.args(["--env", &format!("MQ_ADVERTISED=127.0.0.1:{port}")]);
            process::output(run.arg(crate::images::tag(kind)))
                .with_context(|| format!("starting {}", kind.name()))?;
            started.push((kind, port));
        }
        for (kind, port) in &started {
            kind.wait_until_ready(*port, brokers::READY_LIMIT)?;
        }
        Ok(started)
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        remove(&self.name);
    }
}

fn remove(name: &str) {
    if !process::is_installed("docker") {
        return;
    }
    for what in [Sweep::Run(name), Sweep::Dead] {
        if let Err(error) = sweep(what) {
            eprintln!("warning: sweeping containers: {error}");
        }
    }
}

/// Makes SIGINT and SIGTERM end the child that runs now and remove this process' containers.
pub(crate) fn end_on_signals() -> Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM]).context("watching signals")?;
    std::thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            eprintln!("stopping");
            process::end_current();
            remove(&current_run());
            std::process::exit(128 + signal);
        }
    });
    Ok(())
}

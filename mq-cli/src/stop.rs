//! Ctrl-C and SIGTERM.

use std::collections::BTreeSet;
use std::future::Future;
use std::process::Command;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use crate::end::STOPPED;

/// Says when to stop: after the first signal. The second ends the process at once.
#[derive(Clone, Debug)]
pub(crate) struct Stop {
    requested: watch::Receiver<bool>,
    commands: Commands,
}

impl Stop {
    /// Listens to Ctrl-C and SIGTERM.
    pub(crate) fn on_signals() -> std::io::Result<Self> {
        let signals = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        let (request, stop) = Self::manual();
        tokio::spawn(listen(signals, request, stop.commands.clone()));
        Ok(stop)
    }

    /// Makes one that is asked by hand.
    pub(crate) fn manual() -> (watch::Sender<bool>, Self) {
        let (request, requested) = watch::channel(false);
        (request, Self { requested, commands: Commands::default() })
    }

    /// Returns once a stop was asked for.
    pub(crate) async fn requested(&self) {
        let mut requested = self.requested.clone();
        if requested.wait_for(|asked| *asked).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Runs `work` unless a stop is asked for first; then it is dropped.
    pub(crate) async fn or<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            () = self.requested() => None,
            done = work => Some(done),
        }
    }

    /// Returns the commands that a second signal has to end.
    pub(crate) fn commands(&self) -> &Commands {
        &self.commands
    }
}

async fn listen(mut signals: (Signal, Signal), request: watch::Sender<bool>, commands: Commands) {
    let mut stops = 0;
    loop {
        tokio::select! {
            _ = signals.0.recv() => {}
            _ = signals.1.recv() => {}
        }
        stops += 1;
        if stops > 1 {
            commands.kill();
            std::process::exit(STOPPED.into());
        }
        eprintln!("stopping; once more stops at once");
        request.send_replace(true);
    }
}

/// The process groups of commands under way. They have groups of their own, so that a Ctrl-C lets them end.
#[derive(Clone, Debug, Default)]
pub(crate) struct Commands(Arc<Mutex<BTreeSet<u32>>>);

impl Commands {
    /// Adds a command until the guard is dropped.
    pub(crate) fn add(&self, process: u32) -> Running {
        self.0.lock().insert(process);
        Running { commands: self.clone(), process }
    }

    fn kill(&self) {
        let groups: Vec<String> = self.0.lock().iter().map(|process| format!("-{process}")).collect();
        if !groups.is_empty() {
            // The process ends in either case.
            let _ = Command::new("kill").args(["-KILL", "--"]).args(groups).status();
        }
    }
}

/// A command under way.
#[derive(Debug)]
pub(crate) struct Running {
    commands: Commands,
    process: u32,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.commands.0.lock().remove(&self.process);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_ends_by_itself_or_by_a_stop() {
        let (request, stop) = Stop::manual();
        assert_eq!(stop.or(async { 1 }).await, Some(1));
        request.send_replace(true);
        assert_eq!(stop.or(std::future::pending::<u8>()).await, None);
    }

    #[test]
    fn a_command_that_ended_is_forgotten() {
        let commands = Commands::default();
        let running = commands.add(7);
        assert_eq!(commands.0.lock().len(), 1);
        drop(running);
        assert!(commands.0.lock().is_empty());
    }
}

//! A test hook: the process kills itself at a chosen point.
//!
//! `ORDER_PROCESSING_KILL_AT=POINT:N` sends this process SIGKILL when it passes POINT for the Nth
//! time, counted from its start. Points:
//!
//! - `intake`, `inventory`, `payment`, `notification`, `analytics`: the service has written N - 1 lines to its
//!   journal, and half of the Nth;
//! - `inventory.sent`, `payment.sent`: the broker confirmed N messages to the next stage, the last
//!   ones not acked yet;
//! - `retry`: the broker confirmed N retries, the last ones pending.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// The variable that sets the point.
pub(crate) const VARIABLE: &str = "ORDER_PROCESSING_KILL_AT";

const POINTS: [&str; 8] = [
    "intake",
    "inventory",
    "payment",
    "notification",
    "analytics",
    "inventory.sent",
    "payment.sent",
    "retry",
];

/// Where the process is to die.
#[derive(Clone, Debug)]
pub(crate) struct KillAt {
    point: String,
    nth: usize,
}

impl KillAt {
    /// Reads [`VARIABLE`].
    pub(crate) fn from_env() -> Result<Option<Self>> {
        match std::env::var(VARIABLE) {
            Ok(text) => Self::parse(&text).with_context(|| format!("cannot use {VARIABLE}={text}")).map(Some),
            Err(_) => Ok(None),
        }
    }

    /// Kills this process once so many retries are confirmed, if that is where it is to die.
    pub(crate) fn watch_retries(&self, client: &mq::Client) {
        if self.point == "retry" {
            let (client, nth) = (client.clone(), self.nth as u64);
            tokio::spawn(async move {
                while client.counts().retried < nth {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                kill_this_process();
            });
        }
    }

    fn parse(text: &str) -> Result<Self> {
        let Some((point, nth)) = text.split_once(':') else { bail!("write it like payment:1234") };
        if !POINTS.contains(&point) {
            bail!("there is no point {point:?}; the points are {}", POINTS.join(", "));
        }
        match nth.parse() {
            Ok(nth @ 1..) => Ok(Self { point: point.to_owned(), nth }),
            _ => bail!("{nth:?} is not a count from 1; write it like {point}:1234"),
        }
    }
}

/// Counts how often a point is passed.
#[derive(Debug, Default)]
pub(crate) struct Trap(Option<usize>);

impl Trap {
    /// Makes the trap of `point`; it never springs if the process is to die elsewhere, or not at all.
    pub(crate) fn new(kill_at: Option<&KillAt>, point: &str) -> Self {
        Self(kill_at.filter(|at| at.point == point).map(|at| at.nth))
    }

    /// Passes the point `times` times; returns the pass (from 0) on which to die, if it is among them.
    pub(crate) fn pass(&mut self, times: usize) -> Option<usize> {
        let left = self.0?;
        self.0 = left.checked_sub(times).filter(|left| *left > 0);
        (left <= times).then(|| left - 1)
    }
}

/// Kills this process as the system would: nothing is flushed, dropped or closed.
pub(crate) fn kill_this_process() -> ! {
    // The shell's builtin is there where no `kill` binary is.
    let killed = Command::new("sh").arg("-c").arg(format!("kill -9 {}", std::process::id())).status();
    panic!("this process could not be killed: {killed:?}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trap_springs_once_on_the_nth_pass() {
        let at = KillAt::parse("payment:5").unwrap();
        let mut trap = Trap::new(Some(&at), "payment");
        assert_eq!(trap.pass(0), None);
        assert_eq!(trap.pass(3), None);
        assert_eq!(trap.pass(4), Some(1));
        assert_eq!(trap.pass(100), None);
        assert_eq!(Trap::new(Some(&at), "retry").pass(100), None);
    }

    #[test]
    fn a_wrong_point_names_the_right_ones() {
        for (text, fix) in [("payment", "payment:1234"), ("shop:1", "notification"), ("retry:0", "from 1")] {
            let error = KillAt::parse(text).unwrap_err().to_string();
            assert!(error.contains(fix), "{error}");
        }
    }
}

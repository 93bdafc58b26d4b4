//! What a filter selects: one that selects nothing must not pass.

use std::ffi::OsStr;
use std::process::Command;

use anyhow::{Result, bail};

use crate::process;

/// Fails unless one of these commands lists a test.
///
/// # Errors
/// No test is listed, or a command fails.
pub(crate) fn ensure_some(listings: impl IntoIterator<Item = Command>, filter: &[String]) -> Result<()> {
    for mut listing in listings {
        if lists_a_test(&process::output(&mut listing)?) {
            return Ok(());
        }
    }
    let filter = filter.join(" or ");
    bail!("no test's name contains {filter}; the names are those that `cargo test` prints, and BACKEND::ROW")
}

/// The listing of what a test command would run.
pub(crate) fn listing<A: AsRef<OsStr>>(test: &[A], filter: &[String]) -> Command {
    let mut command = process::cargo(test);
    command.args(["--", "--list"]).args(filter);
    command
}

fn lists_a_test(listed: &str) -> bool {
    listed.lines().any(|line| line.ends_with(": test"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn echo(text: &str) -> Command {
        let mut command = Command::new("printf");
        command.arg(text);
        command
    }

    #[test]
    fn a_filter_has_to_select_a_test() {
        let filter = ["windows".to_owned(), "lease".to_owned()];
        let none = || echo("0 tests, 0 benchmarks\\n");
        let error = ensure_some([none(), none()], &filter).unwrap_err().to_string();
        assert!(error.contains("windows or lease"), "{error}");
        assert!(ensure_some([none(), echo("a::windows: test\\n")], &filter).is_ok());
        assert!(ensure_some([Command::new("false")], &filter).is_err());
    }
}

//! Removal of containers whose process is gone, however it went.
//!
//! Uses the standard library alone, because `xtask` compiles this very file.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

/// Labels a container with the run that owns it; see [`current_run`].
pub const RUN_LABEL: &str = "mq.test.run";

/// Waits for the end of its input, then removes what carries the label. Thrice, because the engine
/// may still be creating a container for a process that has just died.
const SCRIPT: &str = r#"
trap '' HUP INT TERM
while read -r _; do :; done
for _ in 1 2 3; do
    ids=$(docker ps -aq --filter "label=$1")
    [ -z "$ids" ] || docker rm -f -v $ids
    sleep 1
done
"#;

/// Names this process as the owner of containers: its id and start time, so that a later process
/// with the same id is another one.
#[must_use]
pub fn current_run() -> String {
    let pid = std::process::id();
    format!("{pid}-{}", start_time(pid).unwrap_or_default())
}

/// Starts a small process that outlives this one and removes the run's containers after it, even
/// when this process is killed. The reaper works until the returned child is dropped, too.
///
/// # Errors
///
/// When no shell can be started.
pub fn spawn_reaper(run: &str) -> io::Result<Child> {
    Command::new("sh")
        .args(["-c", SCRIPT, "mq-reaper", &format!("{RUN_LABEL}={run}")])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
}

/// Chooses what [`sweep`] removes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sweep<'a> {
    /// Containers of processes that no longer run.
    Dead,
    /// Containers of one run.
    Run(&'a str),
    /// Containers of every run, also of tests that run now.
    All,
}

/// Removes labelled containers and returns how many there were. Blocks.
///
/// # Errors
///
/// When the container engine cannot be asked or refuses.
pub fn sweep(what: Sweep<'_>) -> io::Result<usize> {
    let format = format!("{{{{.ID}}}} {{{{.Label {RUN_LABEL:?}}}}}");
    let filter = format!("label={RUN_LABEL}");
    let listed = docker(&["ps", "-a", "--filter", &filter, "--format", &format])?;
    let doomed: Vec<&str> = listed
        .lines()
        .filter_map(|line| line.split_once(' '))
        .filter(|(_, owner)| match what {
            Sweep::Dead => !is_alive(owner),
            Sweep::Run(run) => *owner == run,
            Sweep::All => true,
        })
        .map(|(id, _)| id)
        .collect();
    for id in &doomed {
        match docker(&["rm", "-f", "-v", id]) {
            Err(error) if !is_being_removed(&error) => return Err(error),
            _ => {}
        }
    }
    Ok(doomed.len())
}

fn is_being_removed(error: &io::Error) -> bool {
    let text = error.to_string();
    text.contains("already in progress") || text.contains("No such container")
}

fn docker(args: &[&str]) -> io::Result<String> {
    let output = Command::new("docker").args(args).stdin(Stdio::null()).output()?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        let text = String::from_utf8_lossy(&output.stderr);
        Err(io::Error::other(format!("docker {}: {}", args[0], text.trim())))
    }
}

fn is_alive(run: &str) -> bool {
    let Some((pid, started)) = run.split_once('-') else {
        return false;
    };
    match pid.parse().ok().and_then(start_time) {
        Some(now) => now == started,
        None => false,
    }
}

/// Returns when a process started, in the machine's own unit; `None` when there is no such process.
fn start_time(pid: u32) -> Option<String> {
    if cfg!(target_os = "linux") {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name, in brackets, may hold anything; the 20th field after it is the start time.
        let (_, fields) = stat.rsplit_once(')')?;
        return fields.split_whitespace().nth(19).map(str::to_owned);
    }
    let output = Command::new("ps").args(["-o", "lstart=", "-p", &pid.to_string()]).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let words: Vec<&str> = text.split_whitespace().collect();
    (!words.is_empty()).then(|| words.join("_"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_alive_and_a_namesake_is_not() {
        let run = current_run();
        assert!(is_alive(&run), "{run}");
        assert!(!is_alive(&format!("{}-1", std::process::id())));
        assert!(!is_alive("no run at all"));
    }
}

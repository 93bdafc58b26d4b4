//! Child processes: started in a group of their own, so that a signal can end all of it.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// The process group of the child that runs now.
static CURRENT: Mutex<Option<u32>> = Mutex::new(None);
/// The process groups of children beside it.
static BESIDE: Mutex<Vec<u32>> = Mutex::new(Vec::new());
static STOPPING: AtomicBool = AtomicBool::new(false);
const END_LIMIT: Duration = Duration::from_secs(5);

/// Returns the workspace's root.
pub(crate) fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

/// The workspace whose crates are compiled with other locks and tasks.
pub(crate) const INTERLEAVINGS: &str = "interleavings/Cargo.toml";

/// Prepares the cargo that runs this tool.
pub(crate) fn cargo<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // A failed test says what failed; where its error was made is fifty lines that push the rest out of a log.
    command.args(args).current_dir(root()).env("RUST_LIB_BACKTRACE", "0");
    // What cargo told this program of its package; `ring` and all that stands on it would be compiled anew for it.
    let of_package = |name: &OsStr| {
        let name = name.to_string_lossy();
        name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")
    };
    for (name, _) in std::env::vars_os().filter(|(name, _)| of_package(name)) {
        command.env_remove(name);
    }
    command
}

/// Prepares a program that cargo built, such as `debug/conformance`.
pub(crate) fn built(name: &str) -> Result<Command> {
    let mut command = Command::new(target_directory()?.join(name));
    command.current_dir(root()).env("RUST_LIB_BACKTRACE", "0");
    Ok(command)
}

/// Returns cargo's target directory.
pub(crate) fn target_directory() -> Result<PathBuf> {
    let metadata = metadata()?;
    let folder = metadata["target_directory"].as_str();
    Ok(folder.context("cargo metadata names no target directory")?.into())
}

/// Returns what cargo says about the workspace.
pub(crate) fn metadata() -> Result<serde_json::Value> {
    let text = output(&mut cargo(["metadata", "--no-deps", "--format-version=1"]))?;
    serde_json::from_str(&text).context("reading cargo metadata")
}

/// Runs a command to its end; its output goes where ours does.
pub(crate) fn wait(command: &mut Command) -> Result<ExitStatus> {
    let shown = show(command);
    park_if_stopping();
    command.stdin(Stdio::null()).process_group(0);
    let mut child = command.spawn().with_context(|| format!("starting `{shown}`"))?;
    set_current(Some(child.id()));
    let status = child.wait();
    set_current(None);
    park_if_stopping();
    status.with_context(|| format!("waiting for `{shown}`"))
}

/// As [`wait`], but no longer than `limit`: then the command is killed with all its descendants, and
/// there is no status.
pub(crate) fn wait_within(command: &mut Command, limit: Duration) -> Result<Option<ExitStatus>> {
    let shown = show(command);
    park_if_stopping();
    command.stdin(Stdio::null()).process_group(0);
    let mut child = command.spawn().with_context(|| format!("starting `{shown}`"))?;
    let group = child.id();
    set_current(Some(group));
    let (tell, told) = channel();
    let watch = std::thread::spawn(move || {
        if told.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
            signal_group("-KILL", group);
            return true;
        }
        false
    });
    let status = child.wait();
    // The thread may have ended: it killed the group.
    let _ = tell.send(());
    let killed = watch.join().unwrap_or_default();
    set_current(None);
    park_if_stopping();
    let status = status.with_context(|| format!("waiting for `{shown}`"))?;
    Ok((!killed).then_some(status))
}

/// Runs a command to its end and fails unless it ends with 0.
pub(crate) fn check(command: &mut Command) -> Result<()> {
    let status = wait(command)?;
    if status.success() { Ok(()) } else { bail!("`{}` failed: {status}", show(command)) }
}

/// Runs a command to its end and ends as it did.
pub(crate) fn status(command: &mut Command) -> Result<ExitCode> {
    let code = wait(command)?.code().unwrap_or(1);
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
}

/// Runs a command and returns its standard output; the error holds what it said instead.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let shown = show(command);
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("starting `{shown}`"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.trim();
    let from = said.len().saturating_sub(2_000);
    let tail: String = said.chars().skip(from).collect();
    bail!("`{shown}` failed ({}): {tail}", output.status)
}

/// Runs a command that must print its first line within `first` and end within `limit` of it;
/// returns whether it did, and succeeded. Otherwise it is killed.
pub(crate) fn succeeds_within(command: &mut Command, first: Duration, limit: Duration) -> Result<bool> {
    let shown = show(command);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("starting `{shown}`"))?;
    let stdout = child.stdout.take().context("no pipe")?;
    let (tell, told) = channel();
    std::thread::spawn(move || {
        let mut reader = BufReader::new(stdout);
        let _ = reader.read_line(&mut String::new());
        let _ = tell.send(());
        let _ = reader.read_to_end(&mut Vec::new());
        let _ = tell.send(());
    });
    let in_time = told.recv_timeout(first).and_then(|()| told.recv_timeout(limit));
    if matches!(in_time, Err(RecvTimeoutError::Timeout)) {
        child.kill()?;
    }
    Ok(child.wait()?.success())
}

/// Says whether a program is on the search path.
pub(crate) fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// Says whether this process is the superuser's.
pub(crate) fn is_root() -> bool {
    output(Command::new("id").arg("-u")).is_ok_and(|id| id.trim() == "0")
}

/// Ends the child that runs now, with all its descendants: asked first, killed after 5 s. No other
/// is started or waited for after this.
pub(crate) fn end_current() {
    STOPPING.store(true, Ordering::SeqCst);
    for group in BESIDE.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        signal_group("-TERM", *group);
    }
    let Some(group) = *CURRENT.lock().unwrap_or_else(PoisonError::into_inner) else {
        return;
    };
    end_group(group);
}

fn end_group(group: u32) {
    let deadline = Instant::now() + END_LIMIT;
    let mut exists = signal_group("-TERM", group);
    while exists && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(50));
        exists = signal_group("-0", group);
    }
    if exists {
        signal_group("-KILL", group);
    }
}

/// A child that runs beside what is waited for; ended, with all its descendants, when this is dropped.
#[derive(Debug)]
pub(crate) struct Background(Child);

impl Background {
    /// Starts a command; its output goes where the command says.
    pub(crate) fn start(command: &mut Command) -> Result<Self> {
        let shown = show(command);
        park_if_stopping();
        command.stdin(Stdio::null()).process_group(0);
        let child = command.spawn().with_context(|| format!("starting `{shown}`"))?;
        BESIDE.lock().unwrap_or_else(PoisonError::into_inner).push(child.id());
        Ok(Self(child))
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        let group = self.0.id();
        // A group of which only the unreaped child is left still exists.
        signal_group("-TERM", group);
        let deadline = Instant::now() + END_LIMIT;
        while matches!(self.0.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(50));
        }
        signal_group("-KILL", group);
        // It has ended, or was killed.
        let _ = self.0.wait();
        BESIDE.lock().unwrap_or_else(PoisonError::into_inner).retain(|known| *known != group);
    }
}

/// Says whether the group exists.
fn signal_group(signal: &str, group: u32) -> bool {
    let mut kill = Command::new("kill");
    kill.args([signal, "--", &format!("-{group}")]).stderr(Stdio::null());
    kill.status().is_ok_and(|status| status.success())
}

/// Leaves the last word to the thread that ends this process.
fn park_if_stopping() {
    while STOPPING.load(Ordering::SeqCst) {
        std::thread::park();
    }
}

fn set_current(group: Option<u32>) {
    *CURRENT.lock().unwrap_or_else(PoisonError::into_inner) = group;
}

fn show(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|arg| arg.to_string_lossy().into_owned()));
    words.join(" ")
}

//! The container engine: found, or installed and started.

use std::fs::{self, OpenOptions};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::build_tools::install;
use crate::process::{self, is_installed, is_root};

const LOG: &str = "/var/log/mq-dockerd.log";
const START_LIMIT: Duration = Duration::from_secs(60);

/// Makes sure that an engine answers.
pub(crate) fn ensure() -> Result<()> {
    let Err(error) = answers() else {
        return Ok(());
    };
    if !cfg!(target_os = "linux") || !is_root() {
        bail!(
            "no container engine answers ({error:#}); install and start Docker, or join its group, \
             then run this again"
        );
    }
    if !is_installed("dockerd") {
        install(&["docker.io"]).context("no container engine, and none could be installed")?;
    }
    if !is_installed("docker") {
        install(&["docker-cli"]).context("no client of the container engine")?;
    }
    start()
}

fn answers() -> Result<()> {
    let mut ask = Command::new("docker");
    process::output(ask.args(["info", "--format", "{{.ServerVersion}}"])).map(drop)
}

fn start() -> Result<()> {
    eprintln!("starting the container engine");
    if Path::new("/run/systemd/system").exists() {
        process::output(Command::new("systemctl").args(["start", "docker"]))?;
    } else if answers().is_err() {
        start_detached()?;
    }
    let deadline = Instant::now() + START_LIMIT;
    while let Err(error) = answers() {
        if Instant::now() >= deadline {
            bail!("the container engine did not start: {error:#}\n{}", log_tail());
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}

/// Starts the engine without a service manager. It stays when this tool ends.
fn start_detached() -> Result<()> {
    let log = OpenOptions::new().create(true).append(true).open(LOG);
    let log = log.with_context(|| format!("opening {LOG}"))?;
    let mut engine = Command::new(if is_installed("setsid") { "setsid" } else { "nohup" });
    engine
        .arg("dockerd")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .process_group(0)
        .spawn()
        .context("starting dockerd")?;
    Ok(())
}

fn log_tail() -> String {
    let text = fs::read_to_string(LOG).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(10)..].join("\n")
}

//! The `mq` command as a child process.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use mq_integration_tests::brokers::{self, BrokerKind};
use serde_json::Value;

/// Between two looks at what must happen.
const LOOK: Duration = Duration::from_millis(100);

/// A topic and a group of a story's own, and the command that reaches them.
pub(crate) struct Scene {
    program: PathBuf,
    pub(crate) kind: BrokerKind,
    url: String,
    /// Host and port, for other clients.
    pub(crate) address: String,
    pub(crate) topic: String,
    pub(crate) group: String,
    folder: PathBuf,
}

impl Scene {
    /// Makes the topic.
    pub(crate) fn new(kind: BrokerKind, name: &str) -> Result<Self> {
        let runtime = tokio::runtime::Runtime::new()?;
        let url = runtime.block_on(async { anyhow::Ok(brokers::shared(kind).await?.url().to_owned()) })?;
        let rest = url.split_once("://").context("no URL")?.1;
        let address = rest.rsplit('@').next().unwrap_or(rest).split(['/', '?']).next().unwrap_or(rest);
        // How soon a process that was killed counts as dead; RabbitMQ knows at once.
        let session = match kind {
            BrokerKind::Kafka => "?session_timeout=6s",
            BrokerKind::RabbitMq => "",
            BrokerKind::Redis => "?session_timeout=3s",
        };
        let tag = format!("{name}-{:x}", fastrand::u32(..));
        let folder = std::env::temp_dir().join(format!("mq-story-{tag}"));
        std::fs::create_dir_all(&folder)?;
        let scene = Self {
            program: program()?,
            kind,
            address: address.to_owned(),
            url: format!("{url}{session}"),
            topic: format!("story-{tag}"),
            group: format!("group-{tag}"),
            folder,
        };
        scene.done(&["topic", "create", &scene.topic], "")?;
        Ok(scene)
    }

    /// Returns the path of a file of this story.
    pub(crate) fn file(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(args).env("MQ_URL", &self.url).env_remove("MQ_LOG").stdin(Stdio::null());
        command
    }

    /// Runs a command that must end with 0; returns the JSON lines it printed.
    pub(crate) fn done(&self, args: &[&str], input: &str) -> Result<Vec<Value>> {
        self.run(args, input, 0)
    }

    /// Runs a command that must end with this code.
    pub(crate) fn ends(&self, args: &[&str], code: i32) -> Result<()> {
        self.run(args, "", code).map(drop)
    }

    fn run(&self, args: &[&str], input: &str, code: i32) -> Result<Vec<Value>> {
        let mut command = self.command(args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        child.stdin.take().context("no standard input")?.write_all(input.as_bytes())?;
        let output = child.wait_with_output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.code() == Some(code), "mq {args:?} ended with {}: {said}", output.status);
        let text = String::from_utf8(output.stdout)?;
        if !args.contains(&"--json") {
            return Ok(Vec::new());
        }
        text.lines().map(|line| serde_json::from_str(line).with_context(|| line.to_owned())).collect()
    }

    /// Runs a command that must end with 0, and writes its input while it runs.
    pub(crate) fn feed(&self, args: &[&str], write: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
        let mut child = self.command(args).stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
        let mut input = child.stdin.take().context("no standard input")?;
        write(&mut input)?;
        drop(input);
        let status = child.wait()?;
        ensure!(status.success(), "mq {args:?} ended with {status}");
        Ok(())
    }

    /// Lists the group's dead letters.
    pub(crate) fn dead_letters(&self) -> Result<Vec<Value>> {
        self.done(&["dead", "list", &self.topic, "--group", &self.group, "--json"], "")
    }

    /// Starts a command that runs until it is ended.
    pub(crate) fn start(&self, args: &[&str]) -> Result<Running> {
        let log = self.file("stderr");
        let words = File::options().create(true).append(true).open(&log)?;
        let mut child = self.command(args).stdout(Stdio::piped()).stderr(words).spawn()?;
        let stdout = child.stdout.take().context("no standard output")?;
        let (tell, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if tell.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Running { child, lines, log })
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        // What a failed story left there helps nobody once its message is printed.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// A command that runs; killed when dropped.
pub(crate) struct Running {
    child: Child,
    lines: Receiver<String>,
    /// The file of what it says to people.
    log: String,
}

impl Running {
    /// Returns the last of what it said to people.
    fn said(&self) -> String {
        let said = std::fs::read_to_string(&self.log).unwrap_or_default();
        let last: Vec<&str> = said.lines().rev().take(20).collect();
        last.into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    /// Waits for so many JSON lines.
    pub(crate) fn lines(&self, count: usize, within: Duration) -> Result<Vec<Value>> {
        let deadline = Instant::now() + within;
        let mut lines = Vec::with_capacity(count);
        while lines.len() < count {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = self
                .lines
                .recv_timeout(left)
                .with_context(|| format!("{} of {count} lines came: {}", lines.len(), self.said()))?;
            lines.push(serde_json::from_str(&line).with_context(|| line.clone())?);
        }
        Ok(lines)
    }

    /// Waits until the command was killed by SIGKILL, which gives true, or until it has `finished` its work.
    pub(crate) fn died_before(
        &mut self,
        deadline: Instant,
        finished: impl Fn() -> Result<bool>,
    ) -> Result<bool> {
        use std::os::unix::process::ExitStatusExt as _;
        loop {
            if let Some(status) = self.child.try_wait()? {
                ensure!(status.signal() == Some(9), "the consumer ended with {status}: {}", self.said());
                return Ok(true);
            }
            if finished()? {
                return Ok(false);
            }
            ensure!(Instant::now() < deadline, "the consumer neither died nor finished: {}", self.said());
            std::thread::sleep(LOOK);
        }
    }

    /// Kills it with SIGKILL.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Asks it to end, which it must do in an orderly way.
    pub(crate) fn ends_cleanly(&mut self) -> Result<()> {
        let asked = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status()?;
        ensure!(asked.success(), "kill: {asked}");
        let status = self.ended(Duration::from_secs(30))?;
        ensure!(status.code() == Some(130), "the command ended with {status}: {}", self.said());
        Ok(())
    }

    /// Waits until it ends by itself; returns its exit code.
    pub(crate) fn wait(&mut self, within: Duration) -> Result<Option<i32>> {
        Ok(self.ended(within)?.code())
    }

    fn ended(&mut self, within: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + within;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                bail!("the command did not end within {within:?}: {}", self.said());
            }
            std::thread::sleep(LOOK);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The program, which `cargo test --workspace --all-features` has built beside this test.
fn program() -> Result<PathBuf> {
    let test = std::env::current_exe()?;
    let folder = test.ancestors().nth(2).context("no target folder")?;
    let program = folder.join("mq");
    ensure!(program.exists(), "{} is missing: cargo build -p mq-cli", program.display());
    Ok(program)
}

/// This moment, in milliseconds since 1970.
pub(crate) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Reads a time of a line, in milliseconds since 1970.
pub(crate) fn millis_of(line: &Value, field: &str) -> Result<i64> {
    let text = line[field].as_str().with_context(|| format!("no {field}: {line}"))?;
    let time: jiff::Timestamp = text.parse()?;
    Ok(time.as_millisecond())
}

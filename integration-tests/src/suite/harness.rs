//! How the suite reaches a backend, and how it hurts it.

use std::os::unix::process::ExitStatusExt as _;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use async_trait::async_trait;
use mq::{Client, ErrorKind};
use mq_core::ClientOptions;
use mq_core::driver::Context;
use mq_memory::{Broker as MemoryBroker, MemoryConfig};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::OnceCell;

use super::faulty::Faulty;
use super::planted;
use super::victim::{self, Plan};
use crate::brokers::Broker;

/// A backend under test.
#[async_trait]
pub trait Harness: Send + Sync + 'static {
    /// Its name, as in its capability table.
    fn name(&self) -> &'static str;

    /// Makes a connection of its own, as another process would.
    async fn client_with(&self, options: ClientOptions) -> Result<Client>;

    /// Makes a connection with default options.
    async fn client(&self) -> Result<Client> {
        self.client_with(ClientOptions::default()).await
    }

    /// Starts a consumer that can be killed as a process is; returns when it did what `plan` says.
    async fn victim(&self, plan: Plan) -> Result<Box<dyn Victim>>;

    /// How long after a kill a dead process's messages are back, at the latest.
    fn session_bound(&self) -> Duration;

    /// The same of a process that hangs: its connections stand, and only its silence tells.
    fn hang_bound(&self) -> Duration {
        self.session_bound()
    }

    /// Whether the broker counts an attempt for what is on its way to a member that leaves in order.
    fn leave_may_count(&self) -> bool {
        false
    }

    /// How long an ack that was answered may be in the broker's memory alone: killed in that time, it delivers again.
    fn ack_lag(&self) -> Duration {
        Duration::ZERO
    }

    /// URLs that cannot work, each with what is wrong and the kind of error that it must give.
    fn broken_urls(&self) -> Vec<(&'static str, String, ErrorKind)>;

    /// Makes a client whose sends wait for others to go with them, where one can ask for that.
    async fn lingering(&self) -> Result<Client> {
        self.client().await
    }

    /// Returns the broker that rows may stop and kill, if there is one to stop.
    fn broker(&self) -> Option<&Broker>;

    /// Starts a broker that stores nothing yet, to be used in place of this one, which ends: what stores much takes
    /// long to start again. `None` where there is none to start.
    async fn renew(&self) -> Result<Option<Arc<dyn Harness>>> {
        Ok(None)
    }

    /// Starts, at the first call, a broker that all clients reach through a proxy; `None` where there is none.
    async fn faulty(&self) -> Result<Option<Faulty>> {
        Ok(None)
    }
}

/// A consumer that can be killed.
#[async_trait]
pub trait Victim: Send + Sync {
    /// Stops it where it is, as a debugger or a starved machine does; returns whether it can be stopped alone.
    async fn hang(&self) -> Result<bool>;

    /// Lets it go on.
    async fn go_on(&self) -> Result<()>;

    /// Kills it at once, with whatever it holds.
    async fn kill(self: Box<Self>) -> Result<()>;

    /// Waits until it killed itself, as its plan said.
    async fn wait(self: Box<Self>) -> Result<()>;
}

/// The in-memory backend.
#[derive(Clone, Debug, Default)]
pub struct MemoryHarness(MemoryBroker);

#[async_trait]
impl Harness for MemoryHarness {
    fn name(&self) -> &'static str {
        "memory"
    }

    async fn client_with(&self, options: ClientOptions) -> Result<Client> {
        Ok(Client::new(self.0.backend(MemoryConfig::default(), Context::default()), options))
    }

    async fn victim(&self, plan: Plan) -> Result<Box<dyn Victim>> {
        let backend = self.0.backend(MemoryConfig::default(), Context::default());
        let client = Client::new(backend.clone(), ClientOptions::default());
        memory_victim(backend, client, plan).await
    }

    fn session_bound(&self) -> Duration {
        Duration::ZERO
    }

    fn broken_urls(&self) -> Vec<(&'static str, String, ErrorKind)> {
        vec![
            ("an unknown key", "memory://?nonsense=1".into(), ErrorKind::InvalidInput),
            ("a host", "memory://somewhere".into(), ErrorKind::InvalidInput),
        ]
    }

    fn broker(&self) -> Option<&Broker> {
        None
    }
}

/// Starts a consumer of this client that can be killed by cutting its backend's connection.
pub(super) async fn memory_victim(
    backend: mq_memory::MemoryBackend,
    client: Client,
    plan: Plan,
) -> Result<Box<dyn Victim>> {
    let (killed, kill) = tokio::sync::oneshot::channel();
    let (ready, until_ready) = tokio::sync::oneshot::channel();
    let killer = backend.clone();
    tokio::spawn(async move {
        let tell = || {
            // Nobody waits for it if the row has failed.
            let _ = ready.send(());
        };
        let work = victim::work(&client, &plan, tell, || killer.kill());
        tokio::select! {
            done = work => drop(done),
            _ = kill => {}
        }
    });
    until_ready.await.context("the consumer to be killed did not get so far")?;
    Ok(Box::new(MemoryVictim { backend, killed }))
}

struct MemoryVictim {
    backend: mq_memory::MemoryBackend,
    killed: tokio::sync::oneshot::Sender<()>,
}

#[async_trait]
impl Victim for MemoryVictim {
    async fn hang(&self) -> Result<bool> {
        Ok(false)
    }

    async fn go_on(&self) -> Result<()> {
        Ok(())
    }

    async fn kill(self: Box<Self>) -> Result<()> {
        self.backend.kill();
        drop(self.killed);
        Ok(())
    }

    async fn wait(self: Box<Self>) -> Result<()> {
        let mut killed = self.killed;
        killed.closed().await;
        Ok(())
    }
}

/// A real broker, reached by its URL.
#[derive(Clone, Debug)]
pub struct BrokerHarness {
    name: &'static str,
    url: String,
    session_bound: Duration,
    broker: Option<Arc<Broker>>,
    faulty: Arc<OnceCell<Faulty>>,
    /// Put behind every URL.
    mark: String,
}

impl BrokerHarness {
    /// Makes a harness of a broker that rows only use.
    #[must_use]
    pub fn new(name: &'static str, url: impl Into<String>, session_bound: Duration) -> Self {
        Self {
            name,
            url: url.into(),
            session_bound,
            broker: None,
            faulty: Arc::default(),
            mark: String::new(),
        }
    }

    /// Marks every URL with the defect that is planted behind it.
    pub(super) fn marked(mut self, mark: String) -> Self {
        self.mark = mark;
        self
    }

    fn marked_url(&self) -> String {
        format!("{}{}", self.url, self.mark)
    }

    fn url_with(&self, key: &str) -> String {
        format!("{}{}{key}", self.url, if self.url.contains('?') { '&' } else { '?' })
    }

    fn query(&self) -> &str {
        self.url.split_once('?').map_or("", |(_, query)| query)
    }

    /// Lets rows stop and kill this broker, whose URL the harness uses.
    #[must_use]
    pub fn may_hurt(mut self, broker: Arc<Broker>) -> Self {
        self.broker = Some(broker);
        self
    }
}

#[async_trait]
impl Harness for BrokerHarness {
    fn name(&self) -> &'static str {
        self.name
    }

    async fn client_with(&self, options: ClientOptions) -> Result<Client> {
        Ok(planted::connect_with(self.marked_url(), options).await?)
    }

    async fn victim(&self, plan: Plan) -> Result<Box<dyn Victim>> {
        let mut command = Command::new(std::env::current_exe()?);
        command.env(victim::URL, self.marked_url()).env(victim::PLAN, serde_json::to_string(&plan)?);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true).spawn()?;
        let stdout = child.stdout.take().context("the child has no standard output")?;
        let mut lines = BufReader::new(stdout).lines();
        let ready = async {
            let mut said = Vec::new();
            while let Some(line) = lines.next_line().await? {
                if line == victim::READY {
                    return Ok(());
                }
                said.push(line);
            }
            let (ended, said) = (child.wait().await?, said.join("; "));
            bail!("the consumer to be killed ended ({ended}) before it had done what its plan says: {said}")
        };
        tokio::time::timeout(Duration::from_secs(60), ready)
            .await
            .context("the consumer to be killed is not ready")??;
        Ok(Box::new(ProcessVictim(child)))
    }

    async fn lingering(&self) -> Result<Client> {
        if self.name != "kafka" {
            return self.client().await;
        }
        Ok(planted::connect(self.url_with("linger=300ms") + &self.mark).await?)
    }

    fn session_bound(&self) -> Duration {
        self.session_bound
    }

    fn hang_bound(&self) -> Duration {
        // Two of the default heartbeats, and one until the broker looks.
        if self.name == "rabbitmq" { Duration::from_secs(30) } else { self.session_bound }
    }

    fn leave_may_count(&self) -> bool {
        self.name == "rabbitmq"
    }

    fn ack_lag(&self) -> Duration {
        // The channel answers when it has handed the ack to the queue, which writes it by itself.
        if self.name == "rabbitmq" { Duration::from_secs(1) } else { Duration::ZERO }
    }

    fn broken_urls(&self) -> Vec<(&'static str, String, ErrorKind)> {
        let Some((scheme, _)) = self.url.split_once("://") else { return Vec::new() };
        let mut broken = vec![
            ("an unknown key", self.url_with("nonsense=1"), ErrorKind::InvalidInput),
            ("a refused port", format!("{scheme}://127.0.0.1:1"), ErrorKind::Unavailable),
            ("an unknown host", format!("{scheme}://no-such-host.invalid:9092"), ErrorKind::Unavailable),
        ];
        // Brokers without authentication take anybody.
        if scheme != "kafka"
            && let Some(address) =
                self.url.split_once("://").map(|(_, rest)| rest.rsplit('@').next().unwrap_or(rest))
        {
            let url = format!("{scheme}://nobody:canary-password@{address}");
            broken.push(("wrong credentials", url, ErrorKind::Unauthorized));
        }
        broken
    }

    fn broker(&self) -> Option<&Broker> {
        self.broker.as_deref()
    }

    async fn renew(&self) -> Result<Option<Arc<dyn Harness>>> {
        let Some(broker) = &self.broker else { return Ok(None) };
        broker.kill().await?;
        let broker = Broker::builder(broker.kind()).start().await?;
        let url = format!("{}?{}", broker.url(), self.query());
        let harness = Self::new(self.name, url, self.session_bound).marked(self.mark.clone());
        Ok(Some(Arc::new(harness.may_hurt(Arc::new(broker)))))
    }

    async fn faulty(&self) -> Result<Option<Faulty>> {
        let Some(broker) = &self.broker else { return Ok(None) };
        let query = self.query();
        let start = || Faulty::start(broker.kind(), self.name, query, &self.mark, self.session_bound);
        Ok(Some(self.faulty.get_or_try_init(start).await?.clone()))
    }
}

struct ProcessVictim(Child);

impl ProcessVictim {
    async fn signal(&self, name: &str) -> Result<()> {
        let process = self.0.id().context("the victim has ended")?.to_string();
        let status = Command::new("kill").args([name, &process]).status().await?;
        ensure!(status.success(), "kill {name} {process}: {status}");
        Ok(())
    }
}

#[async_trait]
impl Victim for ProcessVictim {
    async fn hang(&self) -> Result<bool> {
        self.signal("-STOP").await?;
        Ok(true)
    }

    async fn go_on(&self) -> Result<()> {
        self.signal("-CONT").await
    }

    async fn kill(mut self: Box<Self>) -> Result<()> {
        Ok(self.0.kill().await?)
    }

    async fn wait(mut self: Box<Self>) -> Result<()> {
        let ended = tokio::time::timeout(Duration::from_secs(120), self.0.wait());
        let status = ended.await.context("the victim still lives")??;
        ensure!(status.signal() == Some(9), "the victim ended by itself, with {status}");
        Ok(())
    }
}

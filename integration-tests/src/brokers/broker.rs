//! One broker: started, tormented, removed.

use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::container::{Container, Plan, detached};
use super::kind::BrokerKind;
use super::ports::free_port;

const READY_LIMIT: Duration = Duration::from_secs(90);
const START_ATTEMPTS: usize = 5;
const MANAGEMENT_PORT: u16 = 15_672;
/// Where Kafka has its users log in, inside its container.
const USERS_PORT: u16 = 9095;

/// Starts a broker with settings of its own.
#[derive(Clone, Debug)]
#[must_use]
pub struct BrokerBuilder {
    kind: BrokerKind,
    environment: Vec<(String, String)>,
}

impl BrokerBuilder {
    /// Sets an environment variable of the container.
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Makes Kafka tell its clients to dial `host:port`, such as a proxy in front of it.
    pub fn advertised(self, address: impl Into<String>) -> Self {
        self.env("MQ_ADVERTISED", address)
    }

    /// Starts the broker and waits until it serves.
    ///
    /// # Errors
    ///
    /// When there is no container engine or image (run `cargo xtask setup`), or when the broker
    /// does not serve within 90 s; the end of its log is part of that error.
    ///
    /// # Cancel safety
    ///
    /// A cancelled start goes on in the background, and its container is removed at once after.
    pub async fn start(self) -> Result<Broker> {
        let name = self.kind.name();
        let broker = detached(async move {
            for _ in 0..START_ATTEMPTS {
                if let Some(broker) = self.attempt().await? {
                    return Ok(broker);
                }
            }
            bail!("{START_ATTEMPTS} ports were taken while the container started")
        })
        .await
        .with_context(|| format!("starting {name}"))?;
        broker.wait_until_ready().await?;
        Ok(broker)
    }

    async fn attempt(&self) -> Result<Option<Broker>> {
        let (plan, port, second) = self.plan()?;
        let container = Container::start_new(plan).await?;
        Ok(container.map(|container| Broker {
            kind: self.kind,
            url: self.kind.url(port),
            port: Some(port),
            second,
            container: Some(container),
        }))
    }

    fn plan(&self) -> Result<(Plan, u16, Option<u16>)> {
        let port = free_port()?;
        let mut ports = vec![(port, self.kind.default_port())];
        let mut environment = Vec::new();
        let mut second = None;
        let mut add = |inside| {
            let port = *second.insert(free_port()?);
            ports.push((port, inside));
            anyhow::Ok(port)
        };
        match self.kind {
            BrokerKind::Kafka => {
                let users = add(USERS_PORT)?;
                environment.push(("MQ_ADVERTISED".to_owned(), format!("127.0.0.1:{port}")));
                environment.push(("MQ_ADVERTISED_USERS".to_owned(), format!("127.0.0.1:{users}")));
            }
            BrokerKind::RabbitMq => drop(add(MANAGEMENT_PORT)?),
            BrokerKind::Redis => {}
        }
        environment.extend(self.environment.iter().cloned());
        let image = self.kind.image();
        let plan = Plan { image, environment, ports };
        Ok((plan, port, second))
    }
}

/// A broker in a container, removed when dropped; or, for shared ones, a broker that runs anyway.
#[derive(Debug)]
pub struct Broker {
    kind: BrokerKind,
    url: String,
    port: Option<u16>,
    /// RabbitMQ's HTTP API, or where Kafka's users log in.
    second: Option<u16>,
    container: Option<Container>,
}

impl Broker {
    /// Prepares a broker with settings of its own.
    pub fn builder(kind: BrokerKind) -> BrokerBuilder {
        BrokerBuilder { kind, environment: Vec::new() }
    }

    pub(super) fn external(kind: BrokerKind, url: String) -> Result<Self> {
        if url.trim().is_empty() {
            bail!("{} is set but empty", kind.url_variable());
        }
        Ok(Self { kind, url, port: None, second: None, container: None })
    }

    /// Returns the URL that `mq::connect` takes; the same over every restart.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Returns what kind of broker this is.
    #[must_use]
    pub fn kind(&self) -> BrokerKind {
        self.kind
    }

    /// Returns the port on 127.0.0.1, for a broker started here.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        self.port
    }

    /// Returns the root of RabbitMQ's HTTP API, for one started here.
    #[must_use]
    pub fn management_url(&self) -> Option<String> {
        let port = self.second.filter(|_| self.kind == BrokerKind::RabbitMq);
        port.map(|port| format!("http://guest:guest@127.0.0.1:{port}"))
    }

    /// Returns the URL with which a user logs in to a broker started here.
    ///
    /// # Errors
    ///
    /// When the broker was not started here.
    pub fn url_of(&self, user: &str, password: &str) -> Result<String> {
        let (port, query) = match self.kind {
            BrokerKind::Kafka => (self.second, "?sasl=SCRAM-SHA-256"),
            BrokerKind::RabbitMq | BrokerKind::Redis => (self.port, ""),
        };
        let port = port.context("only a broker that was started here has a known port for users")?;
        let scheme = self.url.split("://").next().unwrap_or_default();
        Ok(format!("{scheme}://{user}:{password}@127.0.0.1:{port}{query}"))
    }

    /// Stops the broker as an operator would: it may close its files and connections, for up to
    /// a minute.
    ///
    /// # Errors
    ///
    /// When the engine refuses, the broker does not end by itself in that time, or was not started here.
    pub async fn stop(&self) -> Result<()> {
        self.container()?.stop().await
    }

    /// Starts a stopped or killed broker, with its data, and waits until it serves.
    ///
    /// # Errors
    ///
    /// As [`BrokerBuilder::start`].
    pub async fn start(&self) -> Result<()> {
        self.container()?.start().await?;
        self.wait_until_ready().await
    }

    /// Stops the broker, starts it again and waits until it serves.
    ///
    /// # Errors
    ///
    /// As [`stop`](Self::stop) and [`start`](Self::start).
    pub async fn restart(&self) -> Result<()> {
        self.stop().await?;
        self.start().await
    }

    /// Kills the broker with SIGKILL, without any warning, and returns when it is gone.
    ///
    /// # Errors
    ///
    /// When the engine refuses, or the broker was not started here.
    pub async fn kill(&self) -> Result<()> {
        self.container()?.kill().await
    }

    /// Freezes the broker: connections stay open and nothing answers.
    ///
    /// # Errors
    ///
    /// When the engine refuses, or the broker was not started here.
    pub async fn pause(&self) -> Result<()> {
        self.container()?.pause().await
    }

    /// Lets a frozen broker go on, where it was.
    ///
    /// # Errors
    ///
    /// When the engine refuses, or the broker was not started here.
    pub async fn unpause(&self) -> Result<()> {
        self.container()?.unpause().await
    }

    /// Runs a command inside the container and returns its standard output.
    ///
    /// # Errors
    ///
    /// When the command does not end with 0; the error holds what it printed.
    pub async fn exec<S: Into<String>>(&self, command: impl IntoIterator<Item = S>) -> Result<String> {
        let command = command.into_iter().map(Into::into).collect();
        self.container()?.exec(command).await
    }

    /// Returns the last lines of the broker's log.
    ///
    /// # Errors
    ///
    /// When the engine refuses, or the broker was not started here.
    pub async fn logs_tail(&self, lines: usize) -> Result<String> {
        let text = self.container()?.logs().await?;
        let all: Vec<&str> = text.lines().collect();
        Ok(all[all.len().saturating_sub(lines)..].join("\n"))
    }

    /// Waits until the broker serves clients.
    ///
    /// # Errors
    ///
    /// When it does not within 90 s; the end of its log is part of the error.
    pub async fn wait_until_ready(&self) -> Result<()> {
        let Some(port) = self.port else {
            return Ok(());
        };
        let kind = self.kind;
        let ready = tokio::task::spawn_blocking(move || kind.wait_until_ready(port, READY_LIMIT));
        match ready.await? {
            Ok(()) => Ok(()),
            Err(error) => {
                let log = self.logs_tail(20).await.unwrap_or_default();
                Err(error).with_context(|| format!("its log ends with:\n{log}"))
            }
        }
    }

    fn container(&self) -> Result<&Container> {
        self.container.as_ref().with_context(|| {
            format!(
                "this {} was not started by the test; unset {} or start one with `brokers::{}()`",
                self.kind.name(),
                self.kind.url_variable(),
                self.kind.name()
            )
        })
    }
}

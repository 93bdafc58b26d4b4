//! Connections that come back.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use mq_core::{Error, ErrorKind, Event, Events, Result};
use parking_lot::Mutex;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Cmd, Pipeline, RedisError, Value};
use tokio::time::Instant;

use crate::config::RedisStreamConfig;
use crate::error::{breaks_connection, from_native, from_reply};
use crate::scripts;
use crate::wire::Wire;

/// Commands handed to a connection and not yet written.
const WRITE_QUEUE: usize = 1024;
/// The first and the longest pause between attempts to connect.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
/// A loaded script may be forgotten once per call, by `SCRIPT FLUSH`.
const NO_SCRIPT: &str = "NOSCRIPT";

/// Makes connections.
pub(crate) struct Connector {
    client: Client,
    config: RedisStreamConfig,
    pub(crate) events: Events,
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Connector {
    pub(crate) fn new(config: RedisStreamConfig, events: Events) -> Result<Self> {
        if config.tls {
            // Fails when the process has chosen its provider already, which is as good.
            drop(rustls::crypto::ring::default_provider().install_default());
        }
        let client = Client::open(config.native()?).map_err(|error| from_native(&error))?;
        Ok(Self { client, config, events })
    }

    async fn open(&self, response_timeout: Duration) -> Result<MultiplexedConnection> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.config.connect_timeout))
            .set_response_timeout(Some(response_timeout))
            .set_pipeline_buffer_size(WRITE_QUEUE);
        let connect = async {
            let mut connection = self.client.get_multiplexed_async_connection_with_config(&config).await?;
            load(&mut connection).await?;
            Ok(connection)
        };
        match tokio::time::timeout(self.config.connect_timeout, connect).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(error)) => Err(self.explain(from_native(&error))),
            Err(_) => Err(self.silent()),
        }
    }

    /// Makes a connection for reads, on which everything is answered within `silence`.
    pub(crate) async fn wire(&self, silence: Duration) -> Result<Wire> {
        match tokio::time::timeout(self.config.connect_timeout, Wire::open(&self.config, silence)).await {
            Ok(opened) => opened.map_err(|error| self.explain(error)),
            Err(_) => Err(self.silent()),
        }
    }

    fn silent(&self) -> Error {
        Error::new(
            ErrorKind::Unavailable,
            format!("{} did not answer within {:?}", self.address(), self.config.connect_timeout),
        )
    }

    fn explain(&self, error: Error) -> Error {
        match error.kind() {
            ErrorKind::Unauthorized => error,
            ErrorKind::Unsupported => Error::new(
                ErrorKind::Unsupported,
                format!("{} is no Redis 7.0 or later: {}", self.address(), error.message()),
            ),
            _ => Error::new(
                ErrorKind::Unavailable,
                format!("cannot connect to {}: {}", self.address(), error.message()),
            ),
        }
    }

    fn address(&self) -> String {
        format!("{}:{}", self.config.host, self.config.port)
    }
}

async fn load(connection: &mut MultiplexedConnection) -> Result<(), RedisError> {
    let pipeline = scripts::load();
    let replies = connection.send_packed_commands(&pipeline, 0, pipeline.len()).await?;
    match replies.into_iter().find_map(as_error) {
        Some(error) => Err(error.into()),
        None => Ok(()),
    }
}

fn as_error(value: Value) -> Option<redis::ServerError> {
    match value {
        Value::ServerError(error) => Some(error),
        _ => None,
    }
}

#[derive(Debug, Default)]
struct Current {
    generation: u64,
    connection: Option<MultiplexedConnection>,
    closed: bool,
}

/// When a connection may be tried again.
#[derive(Debug)]
pub(crate) struct Dial {
    pause: Duration,
    not_before: Instant,
}

impl Dial {
    pub(crate) fn new() -> Self {
        Self { pause: PAUSES.0, not_before: Instant::now() }
    }

    pub(crate) async fn wait(&self) {
        tokio::time::sleep_until(self.not_before).await;
    }

    pub(crate) fn made(&mut self) {
        *self = Self::new();
    }

    pub(crate) fn failed(&mut self) {
        self.not_before = Instant::now() + self.pause.mul_f64(0.5 + fastrand::f64() / 2.0);
        self.pause = (self.pause * 2).min(PAUSES.1);
    }
}

/// One connection, made again whenever it breaks.
#[derive(Debug)]
pub(crate) struct Link {
    connector: Arc<Connector>,
    what: &'static str,
    response_timeout: Duration,
    current: Mutex<Current>,
    dial: tokio::sync::Mutex<Dial>,
}

/// A connection in use.
#[derive(Clone, Debug)]
pub(crate) struct Live {
    pub(crate) connection: MultiplexedConnection,
    generation: u64,
}

impl Live {
    /// Counts the connections of a link.
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }
}

impl Link {
    /// Makes a link for `what`; nothing is connected yet.
    pub(crate) fn new(connector: &Arc<Connector>, what: &'static str) -> Self {
        Self::with_timeout(connector, what, connector.config.response_timeout)
    }

    pub(crate) fn with_timeout(
        connector: &Arc<Connector>,
        what: &'static str,
        response_timeout: Duration,
    ) -> Self {
        Self {
            connector: connector.clone(),
            what,
            response_timeout,
            current: Mutex::default(),
            dial: tokio::sync::Mutex::new(Dial::new()),
        }
    }

    /// Connects once, for whoever wants to know at once what is wrong.
    pub(crate) async fn connect(&self) -> Result<()> {
        let mut dial = self.dial.lock().await;
        if self.try_live()?.is_some() {
            return Ok(());
        }
        self.dial(&mut dial).await.map(drop)
    }

    fn try_live(&self) -> Result<Option<Live>> {
        let current = self.current.lock();
        if current.closed {
            return Err(Error::new(ErrorKind::Closed, "the connection was closed"));
        }
        Ok(current
            .connection
            .as_ref()
            .map(|connection| Live { connection: connection.clone(), generation: current.generation }))
    }

    /// Waits for a connection, however long it takes.
    ///
    /// # Errors
    /// What time can't heal.
    pub(crate) async fn live(&self) -> Result<Live> {
        loop {
            if let Some(live) = self.try_live()? {
                return Ok(live);
            }
            let mut dial = self.dial.lock().await;
            if let Some(live) = self.try_live()? {
                return Ok(live);
            }
            dial.wait().await;
            match self.dial(&mut dial).await {
                Ok(live) => return Ok(live),
                Err(error) if permanent(&error) => return Err(error),
                Err(error) => self.connector.events.failed("connect", &error),
            }
        }
    }

    /// Waits for a connection, as long as an answer may take.
    pub(crate) async fn live_soon(&self) -> Result<Live> {
        if let Some(live) = self.try_live()? {
            return Ok(live);
        }
        self.soon(self.deadline(), self.live()).await?
    }

    /// Returns how long an answer may take.
    pub(crate) fn response_timeout(&self) -> Duration {
        self.response_timeout
    }

    /// Returns when what begins now must have ended.
    pub(crate) fn deadline(&self) -> Instant {
        Instant::now() + self.response_timeout
    }

    /// Waits for `wait`, at most until `deadline`.
    pub(crate) async fn soon<T>(&self, deadline: Instant, wait: impl Future<Output = T>) -> Result<T> {
        tokio::time::timeout_at(deadline, wait).await.map_err(|_| {
            Error::new(
                ErrorKind::Unavailable,
                format!("no connection to {} within {:?}", self.connector.address(), self.response_timeout),
            )
        })
    }

    async fn dial(&self, dial: &mut Dial) -> Result<Live> {
        let opened = self.connector.open(self.response_timeout).await;
        match opened {
            Ok(connection) => {
                dial.made();
                let mut current = self.current.lock();
                current.generation += 1;
                current.connection = Some(connection.clone());
                let generation = current.generation;
                drop(current);
                self.connector.events.emit(Event::Connected { what: self.what });
                Ok(Live { connection, generation })
            }
            Err(error) => {
                dial.failed();
                Err(error)
            }
        }
    }

    /// Gives up a connection that failed, unless it was replaced already.
    pub(crate) fn broken(&self, live: &Live, error: &Error) {
        let mut current = self.current.lock();
        if current.generation != live.generation || current.connection.take().is_none() {
            return;
        }
        drop(current);
        self.connector
            .events
            .emit(Event::Disconnected { what: self.what, reason: error.message().to_owned() });
    }

    /// Closes it for good.
    pub(crate) fn close(&self) {
        let mut current = self.current.lock();
        current.closed = true;
        current.connection = None;
    }

    /// Drops the connection; the next use makes another.
    pub(crate) fn reset(&self) {
        self.current.lock().connection = None;
    }

    fn failed(&self, live: &Live, error: &RedisError) -> Error {
        let broken = breaks_connection(error);
        let error = from_native(error);
        if broken {
            self.broken(live, &error);
        }
        error
    }

    /// Runs one command; an error reply is an error.
    pub(crate) async fn query(&self, cmd: &Cmd) -> Result<Value> {
        let live = self.live_soon().await?;
        self.query_on(live, cmd).await
    }

    pub(crate) async fn query_on(&self, mut live: Live, cmd: &Cmd) -> Result<Value> {
        for last in [false, true] {
            let reply = live.connection.send_packed_command(cmd).await;
            match reply.map_err(|error| self.failed(&live, &error))? {
                Value::ServerError(error) if error.code() == NO_SCRIPT && !last => {
                    self.reload(&mut live).await?;
                }
                Value::ServerError(error) => return Err(from_reply(error)),
                value => return Ok(value),
            }
        }
        Err(Error::new(ErrorKind::Other, "the server keeps forgetting its scripts"))
    }

    async fn reload(&self, live: &mut Live) -> Result<()> {
        load(&mut live.connection).await.map_err(|error| self.failed(live, &error))
    }

    /// Runs commands in one round trip; error replies stand among the values.
    pub(crate) async fn pipeline(&self, pipeline: &Pipeline) -> Result<Vec<Value>> {
        let live = self.live_soon().await?;
        self.pipeline_on(live, pipeline).await
    }

    pub(crate) async fn pipeline_on(&self, mut live: Live, pipeline: &Pipeline) -> Result<Vec<Value>> {
        if pipeline.is_empty() {
            return Ok(Vec::new());
        }
        let replies = live.connection.send_packed_commands(pipeline, 0, pipeline.len()).await;
        let mut replies = replies.map_err(|error| self.failed(&live, &error))?;
        let unknown: Vec<usize> = (0..replies.len())
            .filter(
                |place| matches!(&replies[*place], Value::ServerError(error) if error.code() == NO_SCRIPT),
            )
            .collect();
        if !unknown.is_empty() {
            self.reload(&mut live).await?;
            let mut again = Pipeline::with_capacity(unknown.len());
            for (place, cmd) in pipeline.cmd_iter().enumerate() {
                if unknown.binary_search(&place).is_ok() {
                    again.add_command(cmd.clone());
                }
            }
            let answers = live.connection.send_packed_commands(&again, 0, again.len()).await;
            let answers = answers.map_err(|error| self.failed(&live, &error))?;
            for (place, answer) in unknown.into_iter().zip(answers) {
                replies[place] = answer;
            }
        }
        Ok(replies)
    }
}

/// Whether time can't heal it.
pub(crate) fn permanent(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Unauthorized | ErrorKind::InvalidInput | ErrorKind::Unsupported | ErrorKind::Closed
    )
}

/// Returns the value unless it is an error reply.
pub(crate) fn checked(value: Value) -> Result<Value> {
    match value {
        Value::ServerError(error) => Err(from_reply(error)),
        value => Ok(value),
    }
}

//! Connections that come back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use lapin::{Channel, Connection, ConnectionProperties};
use mq_core::{Error, ErrorKind, Event, Events, Result};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout, timeout_at};

use crate::config::RabbitMqConfig;
use crate::error::{closed, from_native, heals, is_soft, timed_out};

/// The shortest and the longest pause between two tries.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// The frame size assumed before a connection negotiated one.
const FRAME: u32 = 128 << 10;

/// Channels opened on a connection that serves short questions, before the next one takes over. The
/// native client never gives out a channel's number again after the broker closed that channel, as
/// it does to say no, and there are 2,047.
const QUESTIONS: u32 = 1000;

/// One connection, made again whenever somebody needs it and it is gone.
pub(crate) struct Link {
    what: &'static str,
    /// How many channels a connection serves.
    most: u32,
    config: Arc<RabbitMqConfig>,
    events: Events,
    state: tokio::sync::Mutex<State>,
    /// Why the connection ended, as it said itself.
    reason: Arc<Mutex<Option<String>>>,
    frame_max: AtomicU32,
    /// Whether a connection was lost.
    lost: AtomicBool,
    closed: AtomicBool,
    closing: Notify,
}

#[derive(Default)]
struct State {
    connection: Option<Arc<Connection>>,
    /// Channels opened on it.
    opened: u32,
    pause: Pause,
    failed: Option<Error>,
}

/// The pause before the next try: doubled each time, and jittered.
#[derive(Debug, Default)]
pub(crate) struct Pause(u32);

impl Pause {
    /// Returns how long to wait now.
    pub(crate) fn next(&mut self) -> Duration {
        let most = PAUSE.0.saturating_mul(1 << self.0.min(10)).min(PAUSE.1);
        self.0 += 1;
        most.mul_f64(0.5 + fastrand::f64() / 2.0)
    }

    /// Starts again with the shortest.
    pub(crate) fn reset(&mut self) {
        self.0 = 0;
    }
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").field("what", &self.what).finish_non_exhaustive()
    }
}

impl Link {
    /// Makes a link that is not connected yet.
    pub(crate) fn new(what: &'static str, config: Arc<RabbitMqConfig>, events: Events) -> Arc<Self> {
        Self::with_most(u32::MAX, what, config, events)
    }

    /// Makes a link for channels that each serve one piece of work.
    pub(crate) fn for_questions(config: Arc<RabbitMqConfig>, events: Events) -> Arc<Self> {
        Self::with_most(QUESTIONS, "administering", config, events)
    }

    fn with_most(most: u32, what: &'static str, config: Arc<RabbitMqConfig>, events: Events) -> Arc<Self> {
        Arc::new(Self {
            what,
            most,
            config,
            events,
            state: tokio::sync::Mutex::default(),
            reason: Arc::default(),
            frame_max: AtomicU32::new(FRAME),
            lost: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            closing: Notify::new(),
        })
    }

    /// Returns whether a connection was lost: the broker may not be what it was.
    pub(crate) fn was_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }

    /// Returns how many bytes a header frame may have.
    pub(crate) fn header_limit(&self) -> usize {
        self.frame_max.load(Ordering::Relaxed) as usize - 64
    }

    /// Connects; one try.
    ///
    /// # Errors
    /// `Unauthorized`, `NotFound` (the virtual host), `Unavailable` or `Timeout`.
    pub(crate) async fn connect(&self) -> Result<()> {
        let mut state = self.state.lock().await;
        if state.connection.is_none() {
            let connection = self.try_connect(self.config.connect_timeout).await?;
            state.connection = Some(connection);
        }
        Ok(())
    }

    /// Opens a channel, on a new connection if need be, trying until `deadline` or for ever.
    ///
    /// # Errors
    /// What does not heal, at once; else `Unavailable` with the last failure when the time is over.
    pub(crate) async fn channel(&self, deadline: Option<Instant>) -> Result<Channel> {
        loop {
            let connection = self.connection(deadline).await?;
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let within =
                left.map_or(self.config.request_timeout, |left| left.min(self.config.request_timeout));
            match timeout(within, connection.create_channel()).await {
                Ok(Ok(channel)) => return Ok(channel),
                // A number that comes round again: the native client still knows what the broker said
                // when it closed that channel, and numbers that failed so are not given out again.
                Ok(Err(error)) if is_soft(&error) && connection.status().connected() => {}
                Ok(Err(error)) if connection.status().connected() => return Err(from_native(error)),
                Ok(Err(_)) => {}
                Err(_) => {
                    return Err(timed_out("opening a channel", within).with_kind(ErrorKind::Unavailable));
                }
            }
        }
    }

    async fn connection(&self, deadline: Option<Instant>) -> Result<Arc<Connection>> {
        let forever = Instant::now() + Duration::from_secs(365 * 24 * 3600);
        let until = deadline.unwrap_or(forever);
        tokio::select! {
            () = self.wait_closed() => Err(closed()),
            found = timeout_at(until, self.reconnect(until)) => found.unwrap_or_else(|_| {
                Err(Error::new(ErrorKind::Unavailable, "the broker could not be reached in time"))
            }),
        }
    }

    async fn wait_closed(&self) {
        let closing = self.closing.notified();
        if !self.closed.load(Ordering::SeqCst) {
            closing.await;
        }
    }

    /// Whoever holds the lock connects for all; the others wait for it.
    async fn reconnect(&self, until: Instant) -> Result<Arc<Connection>> {
        let mut state = self.state.lock().await;
        if let Some(connection) = state.connection.clone() {
            if connection.status().connected() {
                state.opened += 1;
                if state.opened <= self.most {
                    return Ok(connection);
                }
                let next = self.try_connect(self.config.connect_timeout).await?;
                // The former ends with the last of its channels.
                state.connection = Some(next.clone());
                state.opened = 1;
                return Ok(next);
            }
            let reason = self.reason.lock().take().unwrap_or_else(|| "the connection is closed".into());
            self.events.emit(Event::Disconnected { what: self.what, reason });
            self.lost.store(true, Ordering::Relaxed);
            state.connection = None;
            state.opened = 0;
        }
        loop {
            let pause = state.pause.next();
            if Instant::now() + pause > until {
                let last = state.failed.as_ref().map_or_else(String::new, |error| format!(": {error}"));
                let text = format!("the broker could not be reached in time{last}");
                return Err(Error::new(ErrorKind::Unavailable, text));
            }
            tokio::time::sleep(pause).await;
            match self.try_connect(self.config.connect_timeout).await {
                Ok(connection) => {
                    state.pause.reset();
                    state.failed = None;
                    state.connection = Some(connection.clone());
                    return Ok(connection);
                }
                Err(error) if heals(&error) => {
                    self.events.failed("connect", &error);
                    state.failed = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn try_connect(&self, within: Duration) -> Result<Arc<Connection>> {
        let uri = self.config.uri()?;
        if self.config.is_tls() {
            // Another provider that is installed already serves as well.
            drop(rustls::crypto::ring::default_provider().install_default());
        }
        let name = format!("{} {}", self.config.name, self.what);
        let properties = ConnectionProperties::default().with_connection_name(name.into());
        let runtime = lapin::runtime::default_runtime().map_err(from_native)?;
        let connecting = Connection::connect_uri_with_config(uri, properties, self.config.tls()?, runtime);
        let connection = match timeout(within, connecting).await {
            Ok(connected) => connected.map_err(from_native)?,
            Err(_) => return Err(timed_out("connecting", within).with_kind(ErrorKind::Unavailable)),
        };
        self.frame_max.store(connection.configuration().frame_max(), Ordering::Relaxed);
        self.listen(&connection);
        self.events.emit(Event::Connected { what: self.what });
        Ok(Arc::new(connection))
    }

    /// Passes on what the connection tells, until it ends.
    fn listen(&self, connection: &Connection) {
        let mut told = Box::pin(connection.events_listener());
        let (events, reason) = (self.events.clone(), self.reason.clone());
        tokio::spawn(async move {
            while let Some(event) = told.next().await {
                match event {
                    lapin::Event::ConnectionBlocked(why) => {
                        let reason = format!("the broker takes no messages for now: {why}");
                        events.emit(Event::Failed { what: "publish", reason });
                    }
                    lapin::Event::Error(error) => *reason.lock() = Some(from_native(error).to_string()),
                    _ => {}
                }
            }
        });
    }

    /// Closes the connection, for good.
    pub(crate) async fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.closing.notify_waiters();
        let connection = self.state.lock().await.connection.take();
        if let Some(connection) = connection {
            let goodbye = timeout(self.config.request_timeout, connection.close(200, "closed".into())).await;
            if !matches!(goodbye, Ok(Ok(()))) {
                tracing::debug!(target: "mq", what = self.what, "the connection ended without a goodbye");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_differ() {
        let mut pause = Pause::default();
        let first: Vec<_> = (0..12).map(|_| pause.next()).collect();
        assert!(first[0] >= PAUSE.0 / 2 && first[0] <= PAUSE.0);
        assert!(first.iter().all(|pause| *pause <= PAUSE.1));
        assert!(first[11] >= PAUSE.1 / 2);
        pause.reset();
        assert!(pause.next() <= PAUSE.0);
    }
}

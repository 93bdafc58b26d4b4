//! The broker in its lock, and the backend that is a connection to it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use mq_core::driver::{Admin, Backend, Consumer, ConsumerOptions, Context, Producer};
use mq_core::{Capabilities, Client, ClientOptions, Error, ErrorKind, Result};
use parking_lot::Mutex;
use tokio::sync::Notify;
use url::Url;

use crate::admin::MemoryAdmin;
use crate::config::MemoryConfig;
use crate::consumer::MemoryConsumer;
use crate::op::{MemberId, Op};
use crate::producer::MemoryProducer;
use crate::state::{Reply, State};

#[derive(Debug, Default)]
pub(crate) struct Shared {
    pub(crate) state: Mutex<State>,
    wakers: Mutex<HashMap<MemberId, Arc<Notify>>>,
    next_member: AtomicU64,
}

impl Shared {
    /// Applies an operation and wakes the members that it may concern.
    pub(crate) fn apply(&self, op: Op, context: &Context) -> Result<Reply> {
        let quiet = matches!(op, Op::Fetch(..) | Op::Start(..));
        let reply = self.state.lock().apply(op, context.clock.now());
        if !quiet {
            for waker in self.wakers.lock().values() {
                waker.notify_one();
            }
        }
        reply
    }

    pub(crate) fn new_member(&self) -> (MemberId, Arc<Notify>) {
        let member = self.next_member.fetch_add(1, Ordering::Relaxed);
        let waker = Arc::new(Notify::new());
        self.wakers.lock().insert(member, waker.clone());
        (member, waker)
    }

    pub(crate) fn forget(&self, member: MemberId) {
        self.wakers.lock().remove(&member);
    }
}

/// A broker in this process. Clones are the same broker; each [`client`](Self::client) is a connection to it.
#[derive(Clone, Debug, Default)]
pub struct Broker(pub(crate) Arc<Shared>);

impl Broker {
    /// Makes an empty broker.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Connects.
    #[must_use]
    pub fn backend(&self, config: MemoryConfig, context: Context) -> MemoryBackend {
        MemoryBackend { broker: self.clone(), config, context, alive: Arc::new(Mutex::new(Some(Vec::new()))) }
    }

    /// Connects a client with default settings.
    #[must_use]
    pub fn client(&self) -> Client {
        Client::new(self.backend(MemoryConfig::default(), Context::default()), ClientOptions::default())
    }
}

/// A connection to a [`Broker`].
#[derive(Clone, Debug)]
pub struct MemoryBackend {
    broker: Broker,
    config: MemoryConfig,
    context: Context,
    alive: Arc<Mutex<Alive>>,
}

/// The members of a connection; `None` once it was cut.
pub(crate) type Alive = Option<Vec<MemberId>>;

impl MemoryBackend {
    /// Makes a broker of its own and connects to it.
    ///
    /// # Errors
    /// `InvalidInput` if the URL is wrong.
    // Like every backend's, though nothing is awaited here.
    #[expect(clippy::unused_async, reason = "the same signature on every backend")]
    pub async fn connect(url: &Url, context: Context) -> Result<Self> {
        Ok(Broker::new().backend(MemoryConfig::from_url(url)?, context))
    }

    pub(crate) fn join(&self, options: ConsumerOptions) -> Result<MemoryConsumer> {
        let mut alive = self.alive.lock();
        let members = alive.as_mut().ok_or_else(was_cut)?;
        let shared = self.broker.0.clone();
        let consumer = MemoryConsumer::join(shared, self.context.clone(), options, self.alive.clone())?;
        members.push(consumer.member());
        Ok(consumer)
    }

    /// Cuts the connection as a killed process would: what its consumers hold goes to others as
    /// suspect, what they settle afterwards is stale, and they never join again.
    pub fn kill(&self) {
        let mut alive = self.alive.lock();
        for member in alive.take().into_iter().flatten() {
            // A member that left before is no error.
            drop(self.broker.0.apply(Op::Kill(member), &self.context));
        }
    }
}

#[async_trait]
impl Backend for MemoryBackend {
    fn capabilities(&self) -> &'static Capabilities {
        &crate::CAPABILITIES
    }

    fn context(&self) -> &Context {
        &self.context
    }

    fn max_message_size(&self) -> usize {
        self.config.max_message_size
    }

    async fn producer(&self) -> Result<Arc<dyn Producer>> {
        Ok(Arc::new(MemoryProducer { shared: self.broker.0.clone(), context: self.context.clone() }))
    }

    async fn consumer(&self, options: ConsumerOptions) -> Result<Arc<dyn Consumer>> {
        Ok(Arc::new(self.join(options)?))
    }

    async fn admin(&self) -> Result<Arc<dyn Admin>> {
        Ok(Arc::new(MemoryAdmin { shared: self.broker.0.clone(), context: self.context.clone() }))
    }

    async fn close(&self) {}
}

pub(crate) fn was_cut() -> Error {
    Error::new(ErrorKind::Unavailable, "the connection was cut")
}

pub(crate) fn unexpected(reply: &Reply) -> Error {
    Error::new(ErrorKind::Other, format!("the state answered with {reply:?}"))
}

//! The handle on a broker.

use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OnceCell, broadcast};
use tokio::time::Instant;

use crate::admin::Admin;
use crate::capability::Capabilities;
use crate::counters::{Activity, Counters, Counts};
use crate::driver::{self, Backend, Budget};
use crate::error::{Error, Result};
use crate::event::Event;
use crate::message::MessageId;
use crate::name::{GroupName, TopicName};
use crate::outbox::Outbox;
use crate::publisher::PublisherBuilder;
use crate::subscriber::{CloseReport, Handle, SubscriberBuilder};
use crate::topology::Policy;
use crate::transaction::Transaction;
use crate::whole::whole;

/// The default in-flight window of a client's sends: 16,384 messages, 64 MiB.
pub const IN_FLIGHT: Budget = Budget { messages: 16_384, bytes: 64 << 20 };

/// A connection to one broker. Cheap to clone; all clones are the same client.
#[derive(Clone, Debug)]
pub struct Client {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) policy: Policy,
    pub(crate) counters: Arc<Counters>,
    pub(crate) subscribers: Mutex<Vec<Weak<Handle>>>,
    /// Held by the call that moves or removes dead letters.
    pub(crate) letters: tokio::sync::Mutex<()>,
    in_flight: Budget,
    outbox: OnceCell<Arc<Outbox>>,
    admin: OnceCell<Arc<dyn driver::Admin>>,
}

impl Inner {
    pub(crate) fn backend_name(&self) -> &'static str {
        self.backend.capabilities().backend
    }

    pub(crate) async fn admin(&self) -> Result<Arc<dyn driver::Admin>> {
        let admin = self.admin.get_or_try_init(|| self.backend.admin()).await;
        Ok(admin.map_err(|error| error.during(self.backend_name(), "connect"))?.clone())
    }

    async fn outbox(&self) -> Result<Arc<Outbox>> {
        let outbox = self.outbox.get_or_try_init(async || {
            let producer = self.backend.producer().await?;
            Ok(Outbox::start(producer, self.in_flight, self.counters.clone(), self.backend_name()))
        });
        let outbox = outbox.await;
        Ok(outbox.map_err(|error: Error| error.during(self.backend_name(), "connect"))?.clone())
    }

    async fn close(&self, deadline: Duration) -> Result<CloseReport> {
        let end = Instant::now() + deadline;
        let subscribers: Vec<_> =
            self.subscribers.lock().drain(..).filter_map(|weak| weak.upgrade()).collect();
        let closing = subscribers.iter().map(|subscriber| subscriber.close(end - Instant::now()));
        let mut report = CloseReport::default();
        let mut failure = None;
        for closed in futures_util::future::join_all(closing).await {
            match closed {
                Ok(closed) => report.given_back += closed.given_back,
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        if let Some(outbox) = self.outbox.get() {
            outbox.close();
            if tokio::time::timeout_at(end, outbox.closed()).await.is_err() {
                report.unanswered = outbox.pending();
            }
        }
        self.backend.close().await;
        failure.map_or(Ok(report), Err)
    }
}

impl Drop for Inner {
    /// Sends under way end in the background.
    fn drop(&mut self) {
        if let Some(outbox) = self.outbox.get() {
            outbox.close();
        }
    }
}

/// Settings of a [`Client`].
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct ClientOptions {
    /// What publishers and subscribers do about missing topology, unless they say otherwise. Default `Create`.
    pub policy: Policy,
    /// The most that is sent and not answered, over all publishers. Default [`IN_FLIGHT`].
    pub in_flight: Budget,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self { policy: Policy::default(), in_flight: IN_FLIGHT }
    }
}

impl ClientOptions {
    /// Sets the policy.
    #[must_use]
    pub fn policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    /// Sets the in-flight window.
    #[must_use]
    pub fn in_flight(mut self, messages: usize, bytes: usize) -> Self {
        self.in_flight = Budget { messages: messages.max(1), bytes: bytes.max(1) };
        self
    }
}

impl Client {
    /// Makes a client of `backend`; `mq::connect` does it from a URL.
    pub fn new(backend: impl Backend, options: ClientOptions) -> Self {
        Self::of(Arc::new(backend), options)
    }

    /// As [`new`](Self::new), of a backend whose type is not known: what `mq::backend` returns, or what is put around it.
    pub fn of(backend: Arc<dyn Backend>, options: ClientOptions) -> Self {
        let inner = Inner {
            backend,
            policy: options.policy,
            counters: Arc::default(),
            subscribers: Mutex::default(),
            letters: tokio::sync::Mutex::default(),
            in_flight: options.in_flight,
            outbox: OnceCell::new(),
            admin: OnceCell::new(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Returns what the backend can do.
    #[must_use]
    pub fn capabilities(&self) -> &'static Capabilities {
        self.inner.backend.capabilities()
    }

    /// Makes a publisher to a topic; await it.
    pub fn publisher(&self, topic: impl TryInto<TopicName, Error: Into<Error>>) -> PublisherBuilder {
        PublisherBuilder::new(self.clone(), topic.try_into().map_err(Into::into))
    }

    /// Begins a transaction: messages that are sent as one.
    pub fn transaction(&self) -> Transaction {
        Transaction::new(self.clone())
    }

    /// Makes a subscriber to a topic as a member of a group; open it.
    pub fn subscriber(
        &self,
        topic: impl TryInto<TopicName, Error: Into<Error>>,
        group: impl TryInto<GroupName, Error: Into<Error>>,
    ) -> SubscriberBuilder {
        SubscriberBuilder::new(
            self.clone(),
            topic.try_into().map_err(Into::into),
            group.try_into().map_err(Into::into),
        )
    }

    /// Makes a subscriber with a group of its own, private to this process and removed with it: it
    /// gets every message sent from now on.
    pub fn broadcast(&self, topic: impl TryInto<TopicName, Error: Into<Error>>) -> SubscriberBuilder {
        let group = GroupName::new(format!("broadcast-{}", MessageId::generate()));
        SubscriberBuilder::new(self.clone(), topic.try_into().map_err(Into::into), group).ephemeral()
    }

    /// Returns the administration, with the client's policy.
    #[must_use]
    pub fn admin(&self) -> Admin {
        self.admin_with(self.inner.policy)
    }

    pub(crate) fn admin_with(&self, policy: Policy) -> Admin {
        Admin::new(self.clone(), policy)
    }

    pub(crate) async fn outbox(&self) -> Result<Arc<Outbox>> {
        if let Some(outbox) = self.inner.outbox.get() {
            return Ok(outbox.clone());
        }
        let inner = self.inner.clone();
        whole(async move { inner.outbox().await }).await
    }

    /// Listens to what happens behind the handles, from now on.
    #[must_use]
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.inner.backend.context().events.subscribe()
    }

    /// Returns what this client did so far and has under way, by topic and group. Looks at each subscriber's
    /// books for a moment: for who scrapes, not for each message.
    #[must_use]
    pub fn activity(&self) -> Activity {
        let inner = &self.inner;
        let subscribers: Vec<_> = inner.subscribers.lock().iter().filter_map(Weak::upgrade).collect();
        let in_hand: Vec<_> = subscribers.iter().flat_map(|subscriber| subscriber.in_hand()).collect();
        Activity {
            backend: inner.backend_name(),
            topics: inner.counters.topics(),
            groups: inner.counters.groups(&in_hand),
            sending: inner.outbox.get().map_or(0, |outbox| outbox.pending() as u64),
            events: inner.backend.context().events.counts(),
        }
    }

    /// Returns what this client did so far, of all topics and groups.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.inner.counters.read()
    }

    /// Closes the subscribers, then waits for the sends under way, then disconnects; all within `deadline`.
    ///
    /// # Errors
    /// The first subscriber that could not leave its group in time; the rest is closed all the same.
    ///
    /// # Cancel safety
    /// From its first poll on it goes on to its end; dropping the future loses only the report.
    pub async fn close(&self, deadline: Duration) -> Result<CloseReport> {
        let inner = self.inner.clone();
        whole(async move { inner.close(deadline).await }).await
    }
}

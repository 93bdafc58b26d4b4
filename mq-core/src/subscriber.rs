//! Receiving.

use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_core::Stream;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::client::Client;
use crate::consume;
use crate::consume::AckMode;
use crate::consume::shared::Shared;
use crate::consume::state::State;
use crate::delivery::Delivery;
use crate::driver::{Budget, ConsumerOptions, Spent, Subscription};
use crate::error::{Error, ErrorKind, Result};
use crate::name::{GroupName, TopicName};
use crate::table::Label;
use crate::topology::{GroupSettings, ORDERED_PARTITIONS, Policy, Start, TopicSpec};
use crate::whole::whole;

/// The default prefetch: 1,000 messages, 64 MiB.
pub const PREFETCH: Budget = Budget { messages: 1000, bytes: 64 << 20 };

/// A subscriber to be. Opening it declares topics and groups as the policy says.
#[must_use = "open it"]
#[derive(Debug)]
pub struct SubscriberBuilder {
    client: Client,
    topics: Vec<Result<TopicName>>,
    group: Result<GroupName>,
    spec: TopicSpec,
    settings: GroupSettings,
    prefetch: Budget,
    ack_mode: AckMode,
    policy: Policy,
}

impl SubscriberBuilder {
    pub(crate) fn new(client: Client, topic: Result<TopicName>, group: Result<GroupName>) -> Self {
        let policy = client.inner.policy;
        Self {
            client,
            topics: vec![topic],
            group,
            spec: TopicSpec::default(),
            settings: GroupSettings::default(),
            prefetch: PREFETCH,
            ack_mode: AckMode::default(),
            policy,
        }
    }

    pub(crate) fn ephemeral(mut self) -> Self {
        self.settings.ephemeral = true;
        self
    }

    /// Adds a topic, with the same settings; one native consumer serves them all.
    pub fn and_topic(mut self, topic: impl TryInto<TopicName, Error: Into<Error>>) -> Self {
        self.topics.push(topic.try_into().map_err(Into::into));
        self
    }

    /// Sets how many messages may be held unsettled. Default 1,000.
    pub fn prefetch(mut self, messages: usize) -> Self {
        self.prefetch.messages = messages.max(1);
        self
    }

    /// Sets how many bytes may be held unsettled. Default 64 MiB; exceeded by at most one message, or
    /// as the backend's page says.
    pub fn prefetch_bytes(mut self, bytes: usize) -> Self {
        self.prefetch.bytes = bytes.max(1);
        self
    }

    /// Sets who settles what is received; a choice of this member alone. Default
    /// [`AckMode::Manual`].
    pub fn ack_mode(mut self, mode: AckMode) -> Self {
        self.ack_mode = mode;
        self
    }

    /// Sets how long a delivery is its holder's.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.settings.lease = lease;
        self
    }

    /// Sets after how many attempts a message is dead-lettered.
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.settings.max_attempts = attempts;
        self
    }

    /// Keeps the order of each key, one message at a time.
    pub fn ordered(mut self) -> Self {
        self.settings.ordered = true;
        self
    }

    /// Has a message that is retried or deferred hold the others of its key; see
    /// [`GroupSettings::hold_key`].
    pub fn hold_key(mut self, hold: bool) -> Self {
        self.settings.hold_key = hold;
        self
    }

    /// Sets where the group begins if it is new.
    pub fn start(mut self, start: Start) -> Self {
        self.settings.start = start;
        self
    }

    /// Sets all of the group's settings.
    pub fn settings(mut self, settings: GroupSettings) -> Self {
        self.settings = settings;
        self
    }

    /// Sets what the topics are to be like if they are made.
    pub fn spec(mut self, spec: TopicSpec) -> Self {
        self.spec = spec;
        self
    }

    /// Sets what to do about topology that is missing or differs.
    pub fn policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    /// Declares what the policy says and joins the group.
    ///
    /// # Errors
    /// `Mismatch` if the group was declared with other settings; `NotFound` under
    /// [`Policy::Verify`]; `Unsupported` for what the backend has not.
    ///
    /// # Cancel safety
    /// Dropping the future before its first poll does nothing; after that the group is joined, and left
    /// again at once.
    pub async fn open(self) -> Result<Subscriber> {
        whole(self.join()).await
    }

    async fn join(self) -> Result<Subscriber> {
        let group = self.group?;
        let topics = self.topics.into_iter().collect::<Result<Vec<TopicName>>>()?;
        // Before anything is made.
        self.settings.validate()?;
        let admin = self.client.admin_with(self.policy);
        let mut spec = self.spec;
        if self.settings.ordered && spec.partitions.is_none() && self.policy == Policy::Create {
            spec.partitions = admin.partitions_or(&topics[0], ORDERED_PARTITIONS).await?;
        }
        for topic in &topics {
            admin.ensure_topic(topic, &spec).await?;
            admin.ensure_group(topic, &group, &self.settings).await?;
        }
        let subscriptions = topics
            .iter()
            .map(|topic| Subscription { topic: topic.clone(), settings: self.settings.clone() })
            .collect();
        let spent = Spent::new(self.prefetch);
        let options = ConsumerOptions {
            group: group.clone(),
            subscriptions,
            prefetch: self.prefetch,
            spent: spent.clone(),
        };
        let backend = self.client.inner.backend_name();
        let consumer = self.client.inner.backend.consumer(options).await;
        let consumer = consumer
            .map_err(|error| error.during(backend, "subscribe").on_topic(&topics[0]).in_group(&group))?;
        let counters = &self.client.inner.counters;
        let ephemeral = self.settings.ephemeral;
        let counted = topics.iter().map(|topic| counters.group(topic, &group, ephemeral)).collect();
        let shared = Arc::new(Shared {
            state: Mutex::new(State::new(vec![self.settings; topics.len()], self.prefetch, self.ack_mode)),
            consumer,
            spent,
            context: self.client.inner.backend.context().clone(),
            counters: counters.clone(),
            counted,
            backend,
            ready: Notify::new(),
            room: Notify::new(),
            settle: Notify::new(),
            timers: Notify::new(),
            idle: Notify::new(),
            stop: watch::channel(false).0,
        });
        consume::start(&shared);
        let handle = Arc::new(Handle { shared, topics, group, runtime: tokio::runtime::Handle::current() });
        self.client.inner.subscribers.lock().push(Arc::downgrade(&handle));
        Ok(Subscriber { handle })
    }
}

impl IntoFuture for SubscriberBuilder {
    type Output = Result<Subscriber>;
    type IntoFuture = Pin<Box<dyn Future<Output = Result<Subscriber>> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.open())
    }
}

#[derive(Debug)]
pub(crate) struct Handle {
    shared: Arc<Shared>,
    topics: Vec<TopicName>,
    group: GroupName,
    runtime: tokio::runtime::Handle,
}

impl Handle {
    pub(crate) async fn close(&self, deadline: Duration) -> Result<CloseReport> {
        let shared = self.shared.clone();
        whole(async move { close(&shared, deadline).await }).await
    }

    /// Returns how many deliveries of each subscription are in hand or settling.
    pub(crate) fn in_hand(&self) -> Vec<(Label, u64)> {
        self.shared.counted.iter().copied().zip(self.shared.state.lock().in_hand_by_subscription()).collect()
    }
}

impl Drop for Handle {
    /// The last handle is gone: deliveries in hand may still be settled, then the group is left.
    fn drop(&mut self) {
        let shared = self.shared.clone();
        if *shared.stop.borrow() {
            return;
        }
        self.runtime.spawn(async move {
            if let Err(error) = close(&shared, Duration::from_secs(24 * 3600)).await {
                shared.context.events.failed("close", &error);
            }
        });
    }
}

/// What a close left undone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CloseReport {
    /// Deliveries still in hand at the deadline, given back.
    pub given_back: usize,
    /// Sends not answered at the deadline; their outcome is unknown.
    pub unanswered: usize,
}

/// What leaving the group may take after the deadline.
const GRACE: Duration = Duration::from_secs(5);

async fn close(shared: &Shared, deadline: Duration) -> Result<CloseReport> {
    let end = Instant::now() + deadline;
    // Whether it drained or ran out of time shows in what is left.
    let _ = tokio::time::timeout_at(end, shared.drained()).await;
    if *shared.stop.borrow() {
        return Ok(CloseReport::default());
    }
    let mut given_back = 0;
    let leaving = async {
        given_back = shared.end().await;
        shared.consumer.close().await
    };
    let left = tokio::time::timeout_at(end.max(Instant::now() + GRACE), leaving).await;
    match left {
        Ok(closed) => closed.map_err(|error| error.during(shared.backend, "close"))?,
        Err(_) => {
            let text = "the group was not left in time; what was held comes back when the session ends";
            return Err(Error::new(ErrorKind::Timeout, text).during(shared.backend, "close"));
        }
    }
    Ok(CloseReport { given_back, unanswered: 0 })
}

/// A member of a group. Cheap to clone: clones share the same messages.
///
/// When the last clone is dropped it drains in the background: deliveries in hand may still be settled.
#[derive(Clone, Debug)]
pub struct Subscriber {
    handle: Arc<Handle>,
}

impl Subscriber {
    /// Returns the topics, in the order of [`Delivery::subscription`].
    #[must_use]
    pub fn topics(&self) -> &[TopicName] {
        &self.handle.topics
    }

    /// Returns the group.
    #[must_use]
    pub fn group(&self) -> &GroupName {
        &self.handle.group
    }

    /// Waits for the next message.
    ///
    /// # Errors
    /// `Closed` after [`close`](Self::close); else only what time can't heal.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub async fn receive(&self) -> Result<Delivery> {
        tokio::task::coop::consume_budget().await;
        let shared = &self.handle.shared;
        let (incoming, key) = match shared.take()? {
            Some(taken) => taken,
            None => self.wait_for(|| shared.take()).await?,
        };
        Ok(Delivery::new(shared.clone(), incoming, key))
    }

    /// Calls `take` until it returns something, each time that something may be ready.
    async fn wait_for<T>(&self, mut take: impl FnMut() -> Result<Option<T>>) -> Result<T> {
        loop {
            let mut ready = std::pin::pin!(self.handle.shared.ready.notified());
            ready.as_mut().enable();
            if let Some(taken) = take()? {
                return Ok(taken);
            }
            ready.await;
        }
    }

    /// Waits up to `wait` for a first message, then returns it with what else is there, `max` at most.
    ///
    /// An empty result means that the wait was over.
    ///
    /// # Errors
    /// As for [`receive`](Self::receive).
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub async fn receive_batch(&self, max: usize, wait: Duration) -> Result<Vec<Delivery>> {
        tokio::task::coop::consume_budget().await;
        let shared = &self.handle.shared;
        let mut taken = shared.take_many(max)?;
        if taken.is_empty() {
            let some = self.wait_for(|| {
                let taken = shared.take_many(max)?;
                Ok((!taken.is_empty()).then_some(taken))
            });
            match tokio::time::timeout(wait, some).await {
                Ok(some) => taken = some?,
                Err(_) => return Ok(Vec::new()),
            }
        }
        let deliver = |(incoming, key)| Delivery::new(shared.clone(), incoming, key);
        Ok(taken.into_iter().map(deliver).collect())
    }

    /// Hands out nothing more until [`resume`](Self::resume); what is in hand may be settled.
    ///
    /// What was fetched stays this member's, at most the prefetch; nothing more is fetched. A receive
    /// that waits goes on waiting.
    pub fn pause(&self) {
        self.handle.shared.pause(true);
    }

    /// Goes on after [`pause`](Self::pause).
    pub fn resume(&self) {
        self.handle.shared.pause(false);
    }

    /// Receives as a stream; it ends when the subscriber is closed.
    pub fn into_stream(self) -> impl Stream<Item = Result<Delivery>> + Send {
        futures_util::stream::unfold(Some(self), |subscriber| async {
            let subscriber = subscriber?;
            match subscriber.receive().await {
                Err(error) if error.kind() == ErrorKind::Closed => None,
                Err(error) => Some((Err(error), None)),
                delivery => Some((delivery, Some(subscriber))),
            }
        })
    }

    /// Stops receiving, waits for what is in hand to be settled, gives the rest back and leaves the group.
    ///
    /// What is in hand at the deadline turns stale. Leaving, with settlements that are under way by then, may take 5 s
    /// more.
    ///
    /// # Errors
    /// What could not be given back in time, which comes back when the broker ends the session.
    ///
    /// # Cancel safety
    /// From its first poll on it goes on to its end; dropping the future loses only the report.
    pub async fn close(&self, deadline: Duration) -> Result<CloseReport> {
        self.handle.close(deadline).await
    }
}

//! What watches a client.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use mq_core::{Client, Error, GroupName, Result, Timestamp, TopicName};
use parking_lot::Mutex;

use crate::collect;
use crate::latency::Latency;
use crate::sampler::{self, Samples};
use crate::snapshot::Snapshot;

/// How often the broker is asked about groups, unless the builder says otherwise.
pub const EVERY: Duration = Duration::from_secs(10);

/// Watches one client. Cheap to clone; it stops asking when the last clone is dropped.
///
/// What the client counts anyway is read when it is asked for, so watching costs nothing for each message.
/// What only the broker knows (backlogs, dead letters, members) it asks from time to time, of every
/// group that the client is a member of and of those added with [`group`](ObserverBuilder::group).
///
/// ```
/// # async fn example() -> mq_core::Result<()> {
/// # let client = mq_core::Client::new(
/// #     mq_memory::Broker::new().backend(Default::default(), Default::default()), Default::default());
/// use mq_core::Message;
/// use mq_observe::Observer;
///
/// let observer = Observer::builder(&client).start()?;
/// client.publisher("orders").await?.send(Message::new("one book")).await?;
/// let snapshot = observer.snapshot();
/// assert_eq!(snapshot.number("mq_published_total", &[("topic", "orders"), ("outcome", "confirmed")]), Some(1.0));
/// # Ok(())
/// # }
/// # tokio::runtime::Runtime::new().unwrap().block_on(example()).unwrap();
/// ```
#[derive(Clone, Debug)]
pub struct Observer {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) client: Client,
    pub(crate) watched: Mutex<Vec<(TopicName, GroupName)>>,
    pub(crate) samples: Mutex<Samples>,
    pub(crate) latency: Latency,
}

impl Inner {
    pub(crate) fn now(&self) -> Timestamp {
        SystemTime::now().into()
    }
}

/// An observer to be; start it.
#[must_use = "start it"]
#[derive(Debug)]
pub struct ObserverBuilder {
    client: Client,
    groups: Vec<Result<(TopicName, GroupName)>>,
    every: Duration,
}

impl ObserverBuilder {
    /// Also asks about a group that the client is no member of.
    pub fn group(
        mut self,
        topic: impl TryInto<TopicName, Error: Into<Error>>,
        group: impl TryInto<GroupName, Error: Into<Error>>,
    ) -> Self {
        let names = topic.try_into().map_err(Into::into);
        let names = names.and_then(|topic| Ok((topic, group.try_into().map_err(Into::into)?)));
        self.groups.push(names);
        self
    }

    /// Sets how often the broker is asked, at least 100 ms. Default [`EVERY`].
    pub fn every(mut self, period: Duration) -> Self {
        self.every = period.max(Duration::from_millis(100));
        self
    }

    /// Begins to ask, at once for the first time. Call it in a tokio runtime.
    ///
    /// # Errors
    /// `InvalidInput` for a name that cannot be one.
    pub fn start(self) -> Result<Observer> {
        let watched = self.groups.into_iter().collect::<Result<_>>()?;
        let inner = Arc::new(Inner {
            client: self.client,
            watched: Mutex::new(watched),
            samples: Mutex::default(),
            latency: Latency::default(),
        });
        tokio::spawn(sampler::run(Arc::downgrade(&inner), self.every));
        Ok(Observer { inner })
    }
}

impl Observer {
    /// Makes an observer of a client.
    pub fn builder(client: &Client) -> ObserverBuilder {
        ObserverBuilder { client: client.clone(), groups: Vec::new(), every: EVERY }
    }

    /// Returns the layer that measures handlers; give it to the client's workers.
    #[must_use]
    pub fn latency(&self) -> Latency {
        self.inner.latency.clone()
    }

    /// Asks the broker now, out of turn.
    pub async fn sample(&self) {
        sampler::sample(&self.inner).await;
    }

    /// Returns whether the broker answered when it was last asked; `None` before there was anything to ask.
    #[must_use]
    pub fn broker_answers(&self) -> Option<bool> {
        self.inner.samples.lock().up
    }

    /// Returns the values of all metrics: the client's of now, the broker's of when it was last asked.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let samples = self.inner.samples.lock().clone();
        collect::snapshot(&self.inner.client.activity(), &samples, &self.inner.latency)
    }
}

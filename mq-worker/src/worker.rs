//! Handlers, put together.

use std::sync::Arc;
use std::time::Duration;

use mq_core::{Client, Error, ErrorKind, GroupName, Result, TopicName};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::backoff::Backoff;
use crate::control::Control;
use crate::extensions::Extensions;
use crate::failure::{Failure, Verdict};
use crate::health::{Health, Stage};
use crate::layer::{AnyLayer, Layer};
use crate::report::{Report, Stopped};
use crate::route::{IntoRoute, Route};
use crate::shared::{Rule, Shared};
use crate::slot::Slot;

/// How long a worker that stops waits for what is under way, unless it says otherwise.
pub const DRAIN: Duration = Duration::from_secs(30);

/// How long handlers that are dropped at the end of draining get to let go of their thread.
const GRACE: Duration = Duration::from_secs(1);

/// Handlers of a group's messages, with what they share. A handler may be of [another group](Route::group).
#[must_use = "nothing runs before `run_until`"]
pub struct Worker {
    client: Client,
    group: Result<GroupName>,
    routes: Vec<(Result<TopicName>, Route)>,
    layers: Vec<Arc<dyn AnyLayer>>,
    state: Extensions,
    rules: Vec<Rule>,
    backoff: Backoff,
    timeout: Option<Duration>,
    drain: Duration,
    stage: watch::Sender<Stage>,
}

impl std::fmt::Debug for Worker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Worker")
            .field("group", &self.group)
            .field("routes", &self.routes)
            .field("state", &self.state)
            .field("backoff", &self.backoff)
            .finish_non_exhaustive()
    }
}

impl Worker {
    /// Makes a worker without handlers that will be a member of a group.
    pub fn new(client: &Client, group: impl TryInto<GroupName, Error: Into<Error>>) -> Self {
        Self {
            client: client.clone(),
            group: group.try_into().map_err(Into::into),
            routes: Vec::new(),
            layers: Vec::new(),
            state: Extensions::default(),
            rules: Vec::new(),
            backoff: Backoff::default(),
            timeout: None,
            drain: DRAIN,
            stage: watch::Sender::new(Stage::Starting),
        }
    }

    /// Handles a topic's messages: with a handler, a handler and its settings, a
    /// [`Dispatch`](crate::Dispatch), or a [batch](crate::batch). One for each topic and group.
    pub fn on<Marker>(
        mut self,
        topic: impl TryInto<TopicName, Error: Into<Error>>,
        route: impl IntoRoute<Marker>,
    ) -> Self {
        self.routes.push((topic.try_into().map_err(Into::into), route.into_route()));
        self
    }

    /// Sets what is done about failures, where a handler does not say. Its attempts are the groups'
    /// `max_attempts`. Default [`Backoff::default`].
    pub fn retry(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// Adds a rule for failures that leave it to the policy; the first that returns something counts.
    ///
    /// ```
    /// # fn example(client: &mq_core::Client) {
    /// use mq_worker::{Verdict, Worker};
    /// let worker = Worker::new(client, "billing")
    ///     .rule(|failure| failure.downcast_ref::<std::num::ParseIntError>().map(|_| Verdict::Reject));
    /// # }
    /// ```
    pub fn rule(mut self, rule: impl Fn(&Failure) -> Option<Verdict> + Send + Sync + 'static) -> Self {
        self.rules.push(Box::new(rule));
        self
    }

    /// Adds a layer around every handler, inside those that were added before. All handlers share it.
    pub fn layer(mut self, layer: impl Layer) -> Self {
        self.layers.push(Arc::new(layer));
        self
    }

    /// Gives handlers a value, which they take as [`State`](crate::State); one of each type.
    pub fn state<T: Clone + Send + Sync + 'static>(mut self, state: T) -> Self {
        self.state.insert(state);
        self
    }

    /// Cancels a handler after this time, where it does not say; the message failed then. Default: never.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Sets how long a worker that stops waits for what is under way. Default [`DRAIN`].
    pub fn drain(mut self, deadline: Duration) -> Self {
        self.drain = deadline;
        self
    }

    /// Returns the topics and groups that it serves.
    ///
    /// # Errors
    /// A name is wrong.
    pub fn subscriptions(&self) -> Result<Vec<(TopicName, GroupName)>> {
        let name = |name: &Result<TopicName>| name.as_ref().cloned().map_err(Error::duplicate);
        let group = |group: &Result<GroupName>| group.as_ref().cloned().map_err(Error::duplicate);
        let share = |(topic, route): &(Result<TopicName>, Route)| {
            Ok((name(topic)?, group(route.group.as_ref().unwrap_or(&self.group))?))
        };
        self.routes.iter().map(share).collect()
    }

    /// Returns a handle that tells how the run is: for probes of whoever supervises the process.
    #[must_use]
    pub fn health(&self) -> Health {
        Health(self.stage.subscribe())
    }

    /// Works until something can't be healed or a layer stops it.
    ///
    /// # Errors
    /// As for [`run_until`](Self::run_until).
    pub async fn run(self) -> Result<Report> {
        self.run_until(std::future::pending::<()>()).await
    }

    /// Works until `until` returns; then drains: nothing more is received, what is under way may end within
    /// the [deadline](Self::drain), and what does not is given back, uncounted, and its handler dropped.
    ///
    /// `until` is polled once all topics are subscribed to: what it sends is received. What it returns is dropped.
    ///
    /// # Errors
    /// Before anything is received: `InvalidInput` for what is put together wrongly, or what
    /// [opening](mq_core::SubscriberBuilder::open) a subscriber says. Later: what time can't heal, after
    /// draining, and `Other` with a [`Stopped`] underneath if a layer stopped the worker.
    ///
    /// # Cancel safety
    /// Dropping the future drops the handlers; what they had in hand is given back at once, as a failed attempt.
    pub async fn run_until(self, until: impl Future) -> Result<Report> {
        let drain = self.drain;
        let (shared, mut slots, controls) = self.start().await?;
        // Also if this future is dropped.
        let _over = Over(shared.clone());
        shared.enter(Stage::Running);
        let failure = tokio::select! {
            biased;
            () = shared.stopping() => None,
            error = failed(&mut slots) => Some(error),
            _ = until => None,
        };
        shared.enter(Stage::Draining);
        let closing = controls.iter().map(|control| control.subscriber.close(drain));
        let mut given_back = 0;
        let mut failure = failure;
        for closed in futures_util::future::join_all(closing).await {
            match closed {
                Ok(report) => given_back += report.given_back,
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        shared.enter(Stage::Over);
        let ended = async { while slots.join_next().await.is_some() {} };
        // A handler that blocks its thread goes on without us.
        let _ = tokio::time::timeout(GRACE, ended).await;
        let report = shared.counts.report(given_back);
        match (failure, shared.stopped()) {
            (Some(failure), _) => Err(failure),
            (None, Some(reason)) => Err(stopped(reason, report, &shared.group)),
            (None, None) => Ok(report),
        }
    }

    async fn start(self) -> Result<(Arc<Shared>, JoinSet<Result<()>>, Vec<Control>)> {
        let main = self.group?;
        let mut routes: Vec<(TopicName, GroupName, Route)> = Vec::with_capacity(self.routes.len());
        for (topic, mut route) in self.routes {
            let topic = topic?;
            let group = route.group.take().unwrap_or_else(|| Ok(main.clone()))?;
            let wrong =
                |text: String| Error::new(ErrorKind::InvalidInput, text).on_topic(&topic).in_group(&group);
            if routes.iter().any(|known| (&known.0, &known.1) == (&topic, &group)) {
                return Err(wrong("the topic has two handlers; put them into one `Dispatch`".into()));
            }
            route.handler.check(&self.state).map_err(wrong)?;
            route.layers.splice(0..0, self.layers.iter().cloned());
            route.timeout = route.timeout.or(self.timeout);
            routes.push((topic, group, route));
        }
        if routes.is_empty() {
            let text = "the worker has no handler; give it one with `on`";
            return Err(Error::new(ErrorKind::InvalidInput, text).in_group(&main));
        }
        let shared = Arc::new(Shared::new(self.client, main, self.state, self.rules, self.stage));
        let mut controls = Vec::new();
        let mut ready = Vec::new();
        for (topic, group, mut route) in routes {
            let backoff = route.backoff.unwrap_or(self.backoff);
            route.settings.max_attempts = backoff.max_attempts();
            let control = Control::new(subscribe(&shared.client, &topic, &group, &route).await?);
            controls.push(control.clone());
            ready.push((control, Arc::new(route), backoff));
        }
        let mut slots = JoinSet::new();
        for (control, route, backoff) in ready {
            let limiter = route.concurrency.limiter();
            for index in 0..route.concurrency.most() {
                let (control, route, shared) = (control.clone(), route.clone(), shared.clone());
                let limiter = limiter.clone();
                slots.spawn(Slot { control, index, limiter, route, backoff, shared }.run());
            }
        }
        Ok((shared, slots, controls))
    }
}

/// Ends the run.
struct Over(Arc<Shared>);

impl Drop for Over {
    fn drop(&mut self) {
        self.0.enter(Stage::Over);
    }
}

async fn subscribe(
    client: &Client,
    topic: &TopicName,
    group: &GroupName,
    route: &Route,
) -> Result<mq_core::Subscriber> {
    let subscriber =
        client.subscriber(topic, group).settings(route.settings.clone()).spec(route.spec.clone());
    match route.prefetch {
        Some(messages) => subscriber.prefetch(messages).open().await,
        None => subscriber.open().await,
    }
}

/// Returns the first error of a slot.
async fn failed(slots: &mut JoinSet<Result<()>>) -> Error {
    while let Some(ended) = slots.join_next().await {
        match ended {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return error,
            Err(error) => {
                return Error::new(ErrorKind::Other, "a task of the worker ended").with_source(error);
            }
        }
    }
    Error::new(ErrorKind::Closed, "the client was closed under the worker; end the worker first")
}

fn stopped(reason: &bytestring::ByteString, report: Report, group: &GroupName) -> Error {
    Error::new(ErrorKind::Other, format!("the worker stopped itself: {reason}"))
        .in_group(group)
        .with_source(Stopped { reason: reason.clone(), report })
}

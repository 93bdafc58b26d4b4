//! A handler with its settings.

use std::sync::Arc;
use std::time::Duration;

use mq_core::{Error, GroupName, GroupSettings, Result, Start, TopicSpec};

use crate::backoff::Backoff;
use crate::handler::AnyHandler;
use crate::layer::{AnyLayer, Layer};
use crate::limiter::Concurrency;

/// How many messages of a handler are under way at once, unless it says otherwise.
pub const CONCURRENCY: usize = 16;

/// A handler with its settings; [`Handler`](crate::Handler) makes one of a function.
#[must_use = "give it to a worker with `on`"]
#[derive(Debug)]
pub struct Route {
    pub(crate) handler: Box<dyn AnyHandler>,
    pub(crate) layers: Vec<Arc<dyn AnyLayer>>,
    pub(crate) settings: GroupSettings,
    pub(crate) spec: TopicSpec,
    pub(crate) group: Option<Result<GroupName>>,
    pub(crate) concurrency: Concurrency,
    pub(crate) prefetch: Option<usize>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) backoff: Option<Backoff>,
}

impl Route {
    pub(crate) fn new(handler: Box<dyn AnyHandler>) -> Self {
        Self {
            handler,
            layers: Vec::new(),
            settings: GroupSettings::default(),
            spec: TopicSpec::default(),
            group: None,
            concurrency: CONCURRENCY.into(),
            prefetch: None,
            timeout: None,
            backoff: None,
        }
    }

    /// Makes the handler's share a group's of its own. Default: the worker's group.
    pub fn group(mut self, group: impl TryInto<GroupName, Error: Into<Error>>) -> Self {
        self.group = Some(group.try_into().map_err(Into::into));
        self
    }

    /// Sets how many messages are under way at once, on as many cores as the runtime has: `64`, or within
    /// bounds, `4..=64`; see [`Concurrency`]. Default [`CONCURRENCY`].
    pub fn concurrency(mut self, messages: impl Into<Concurrency>) -> Self {
        self.concurrency = messages.into();
        self
    }

    /// Keeps the order of each key, one message of a key at a time; messages of different keys run side by
    /// side. A setting of the group. Default off.
    pub fn ordered(mut self) -> Self {
        self.settings.ordered = true;
        self
    }

    /// Has a message that is tried again hold the others of its key; only with [`ordered`](Self::ordered).
    /// See [`GroupSettings::hold_key`](mq_core::GroupSettings::hold_key). A setting of the group. Default off.
    pub fn hold_key(mut self, hold: bool) -> Self {
        self.settings.hold_key = hold;
        self
    }

    /// Sets how long a message is this worker's without a sign of life; the worker renews it while the
    /// handler runs. A setting of the group. Default 30 s. A handler that blocks its thread keeps the worker
    /// from renewing: use `tokio::task::spawn_blocking`.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.settings.lease = lease;
        self
    }

    /// Sets where the group begins if it is new. Default: with what is sent from then on.
    pub fn start(mut self, start: Start) -> Self {
        self.settings.start = start;
        self
    }

    /// Sets what the topic is to be like if it is made.
    pub fn spec(mut self, spec: TopicSpec) -> Self {
        self.spec = spec;
        self
    }

    /// Sets how many messages may be held, waiting or under way. Default [`mq_core::PREFETCH`].
    pub fn prefetch(mut self, messages: usize) -> Self {
        self.prefetch = Some(messages);
        self
    }

    /// Cancels the handler, without its layers, after this time; the message failed then. Default: the worker's.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Sets what is done about failures. Default: the worker's.
    pub fn retry(mut self, backoff: Backoff) -> Self {
        self.backoff = Some(backoff);
        self
    }

    /// Adds a layer, inside those that were added before and inside the worker's.
    pub fn layer(mut self, layer: impl Layer) -> Self {
        self.layers.push(Arc::new(layer));
        self
    }
}

/// What [`Worker::on`](crate::Worker::on) takes: a handler, a handler with settings, or a
/// [`Dispatch`](crate::Dispatch).
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a handler: it must be an `async fn` of at most 8 extractors that returns `()`, `Publish` or a `Result` of them",
    label = "not a handler",
    note = "each argument must be an extractor (`Json<T>`, `Text`, `Payload`, `State<T>` …), the future must be `Send`, and an error must be `Failure` or any error type"
)]
pub trait IntoRoute<Marker> {
    /// Makes a route of it.
    fn into_route(self) -> Route;
}

/// Marks what is a route already.
#[derive(Debug)]
pub struct AsIs;

impl IntoRoute<AsIs> for Route {
    fn into_route(self) -> Route {
        self
    }
}

//! What a backend implements.
//!
//! Users never see these traits; they hold [`Client`](crate::Client) and its handles, which check
//! arguments and capabilities, coalesce sends and settlements into batches, decide what becomes of
//! a message ([`policy`](crate::policy)), keep leases and key order, and add context to errors. A
//! driver moves batches: it sends, fetches, settles and administrates, and nothing else.
//!
//! **Rules for every method**
//! - *Blocking*: never block the calling thread; use a thread of your own for a blocking client.
//! - *Cancellation*: core polls driver futures to their end, whatever becomes of its callers, and drops
//!   them only when the handle is closed; still, a dropped future must leak nothing.
//! - *Concurrency*: all methods take `&self` and may run at once, as said at each.
//! - *Who retries*: core retries nothing. A driver reconnects by itself, with jittered back-off,
//!   tells [`Events`], and keeps `fetch` waiting meanwhile; only what time can't heal
//!   (credentials, permission) ends a consumer. A call that needs a reply from the broker and
//!   can't get one fails within the connection's timeout.
//! - *Sessions*: a consumer is one session with the broker. A live member keeps what it fetched until it
//!   settles or its lane is revoked: leases that run out while the holder lives are core's
//!   business. When the broker (or, where it has none, the driver's heartbeat) declares a session
//!   dead, what it held goes to others as [`Suspect`]; should the dead member live after all, its
//!   settlements fail with [`ErrorKind::StaleDelivery`].

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

mod admin;

use async_trait::async_trait;

pub use self::admin::{Admin, DeadLetter, Page, Pending, Selection, Stats, TopicInfo};
use crate::capability::Capabilities;
use crate::clock::{Clock, Timestamp};
use crate::envelope::Envelope;
use crate::error::{Error, ErrorKind, Result};
use crate::event::Events;
use crate::message::{Message, Position, Receipt};
use crate::name::{GroupName, TopicName};
pub use crate::spent::Spent;
use crate::terms::Terms;
use crate::topology::GroupSettings;

/// What core hands to a backend when it is made.
#[derive(Clone, Debug)]
pub struct Context {
    /// The clock; drivers ask no other.
    pub clock: Clock,
    /// Where to tell what happens.
    pub events: Events,
    /// The most that core has sent and not answered, which it sees to: a driver makes its own buffers after it.
    /// `mq::connect_with` takes it from the client's options. Default [`IN_FLIGHT`](crate::IN_FLIGHT).
    pub in_flight: Budget,
}

impl Default for Context {
    fn default() -> Self {
        Self { clock: Clock::default(), events: Events::default(), in_flight: crate::IN_FLIGHT }
    }
}

/// A connection to one broker, or several connections that belong together.
#[async_trait]
pub trait Backend: Debug + Send + Sync + 'static {
    /// Returns what the backend can do. Core checks it before it calls anything else.
    fn capabilities(&self) -> &'static Capabilities;

    /// Returns the context given when the backend was made.
    fn context(&self) -> &Context;

    /// Returns the largest message the broker takes, in bytes of [`Message::size`].
    fn max_message_size(&self) -> usize;

    /// Connects, if that was not done, and returns the producer; core asks once per client.
    ///
    /// # Errors
    /// A broker that is away or refuses the credentials: within 5 s. One that never answers: within 10 s.
    async fn producer(&self) -> Result<Arc<dyn Producer>>;

    /// Opens a member of a group. Its topics and groups exist, as far as the policy said.
    ///
    /// # Errors
    /// As for [`producer`](Self::producer); `NotFound` where topology is missing.
    async fn consumer(&self, options: ConsumerOptions) -> Result<Arc<dyn Consumer>>;

    /// Returns the administration of the broker.
    ///
    /// # Errors
    /// As for [`producer`](Self::producer).
    async fn admin(&self) -> Result<Arc<dyn Admin>>;

    /// Closes all connections. Producers and consumers were closed before.
    async fn close(&self);
}

/// A message on its way out.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// The topic.
    pub topic: TopicName,
    /// The message, with `published_at` set; `deliver_at` in the future asks the broker to hold it.
    pub message: Message,
    /// What its publisher asks for; core has checked that it is supported.
    pub terms: Terms,
}

/// Sends messages of all topics of a client.
#[async_trait]
pub trait Producer: Debug + Send + Sync {
    /// Sends a batch; returns one verdict per message, in order.
    ///
    /// `Ok` means that the broker confirmed the message. An error of kind `Rejected`, `NotFound`,
    /// `InvalidInput` or `Unauthorized` says that it is stored nowhere, for certain; when in doubt
    /// the kind is `UnknownOutcome`.
    ///
    /// Core polls each future once before it makes the next call that has an order with it; several
    /// are then in flight, from several tasks. Messages of one topic and key reach the broker in the
    /// order of the first polls and of the batch: hand the batch to the native client then.
    async fn send(&self, batch: Vec<Outgoing>) -> Vec<Result<Receipt>>;

    /// Sends all of a batch or nothing of it; called only where
    /// [`Transactions`](crate::Capability::Transactions) is declared. Returns the receipts in order.
    ///
    /// # Errors
    /// `UnknownOutcome`: all are stored or none. Any other kind: none is.
    async fn send_atomic(&self, _batch: Vec<Outgoing>) -> Result<Vec<Receipt>> {
        Err(Error::new(ErrorKind::Unsupported, "this driver has no transactions"))
    }

    /// Waits until everything handed to the native client is confirmed or failed, then releases it.
    async fn close(&self);
}

/// A topic of a consumer.
#[derive(Clone, Debug)]
pub struct Subscription {
    /// The topic.
    pub topic: TopicName,
    /// The settings the group was declared with on this topic.
    pub settings: GroupSettings,
}

/// What a consumer is opened with.
#[derive(Clone, Debug)]
pub struct ConsumerOptions {
    /// The group.
    pub group: GroupName,
    /// Its topics, at least one; one native consumer serves them all.
    pub subscriptions: Vec<Subscription>,
    /// The most the consumer holds unsettled; also the size of native prefetch windows.
    pub prefetch: Budget,
    /// Where core puts the consumer's messages when it is done with them.
    pub spent: Spent,
}

/// A bound in messages and bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Messages.
    pub messages: usize,
    /// Bytes of [`Message::size`].
    pub bytes: usize,
}

/// A unit of exclusive ownership within a consumer: a Kafka partition, a queue, a stream. Numbers
/// are the driver's own.
pub type Lane = u32;

/// Names a delivery to its driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token {
    /// The lane it came from.
    pub lane: Lane,
    /// The ownership of the lane it came from; an old epoch's settlement is stale.
    pub epoch: u32,
    /// Offset, delivery tag, or the first part of an entry id.
    pub high: u64,
    /// The second part of an entry id.
    pub low: u64,
}

/// Says that a delivery was held by a member that died.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Suspect {
    /// Whether [`Consumer::start`] had recorded that it was about to run alone.
    pub started: bool,
}

/// A message fetched for this member, not handed out yet.
#[derive(Clone, Debug)]
pub struct Incoming {
    /// Names it in settlements.
    pub token: Token,
    /// The index of its subscription.
    pub subscription: usize,
    /// The message. A `deliver_at` still to come is held by core.
    pub message: Message,
    /// Its history in this group. For a suspect, `attempt` is already one more than at the delivery that died.
    pub envelope: Envelope,
    /// Whether this or an earlier copy was fetched before.
    pub redelivered: bool,
    /// Set if a member died with it.
    pub suspect: Option<Suspect>,
    /// Set if a member recorded by [`Outcome::Hold`] that it comes no earlier; it holds its key until then. Such a
    /// message is `redelivered`.
    pub not_before: Option<Timestamp>,
    /// Where it is stored.
    pub position: Option<Position>,
}

/// What a fetch brings. Core takes `revoked` first.
#[derive(Debug, Default)]
pub struct Fetched {
    /// Messages; on a lane of an ordered group in their order. Shared, so that core passes on a
    /// pointer and never moves or reads what the driver's thread has just written.
    pub deliveries: Vec<Arc<Incoming>>,
    /// Lanes that are about to go or are gone.
    pub revoked: Vec<Revocation>,
}

/// A lane that is taken from this consumer.
#[derive(Debug)]
pub struct Revocation {
    /// The lane.
    pub lane: Lane,
    /// Which ownership of it ends.
    pub epoch: u32,
    /// `Some`: an orderly hand-over. Core forgets what it has not handed out, lets what was handed out be
    /// settled, and drops the guard when none is left or the time is over. `None`: the lane is
    /// lost, and what was handed out is stale.
    pub release: Option<ReleaseGuard>,
}

/// Dropped by core when it holds nothing more of a lane.
#[derive(Debug)]
pub struct ReleaseGuard {
    /// How long the driver waits before it takes the lane anyway.
    pub within: Duration,
    /// Resolves for the driver when this side is dropped.
    pub done: tokio::sync::oneshot::Sender<std::convert::Infallible>,
}

/// What becomes of a delivery.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// Done with.
    Ack,
    /// Stored elsewhere, confirmed, and only then done with here.
    Relocate(Box<Relocation>),
    /// Kept by this member, to be handed out again; only where the group has
    /// [`hold_key`](GroupSettings::hold_key).
    ///
    /// `Ok` means that it is durable: whoever gets the message after this member gets
    /// [`Incoming::envelope`] and [`Incoming::not_before`] as they are here (one attempt more if this
    /// member died, and without [`Suspect::started`]), in its place among the others of its lane. The
    /// delivery and its token stay as they are. It may be held again and again; the record goes when
    /// the message is settled. The driver may leave out `error` and `first_seen`.
    Hold(Box<Hold>),
}

/// What is recorded of a message that is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    /// Its history; `attempt` is that of the next delivery.
    pub envelope: Envelope,
    /// When it comes again, if not at once.
    pub until: Option<Timestamp>,
}

/// Where a relocated message goes; always of the same group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// The group's inbox: it comes back to the group, and to no other.
    Inbox,
    /// The group's dead letters.
    Dead,
}

/// A copy to be stored. Its `message.deliver_at` says when it may come back.
#[derive(Clone, Debug)]
pub struct Relocation {
    /// Where to.
    pub to: Destination,
    /// The message.
    pub message: Message,
    /// Its history, updated.
    pub envelope: Envelope,
}

/// A delivery and what becomes of it.
#[derive(Clone, Debug)]
pub struct Settlement {
    /// The delivery.
    pub token: Token,
    /// The index of its subscription.
    pub subscription: usize,
    /// What becomes of it.
    pub outcome: Outcome,
}

/// A member of a group.
#[async_trait]
pub trait Consumer: Debug + Send + Sync {
    /// Waits until there is something and returns it, at most about `budget`.
    ///
    /// Called by one task, again as soon as there is room. `budget` is what the consumer may hold
    /// beyond what it has. Never returns an empty `Fetched`.
    ///
    /// # Errors
    /// Ends the consumer: only for what time can't heal, or `Closed` after [`close`](Self::close).
    async fn fetch(&self, budget: Budget) -> Result<Fetched>;

    /// Settles a batch; returns one verdict per settlement, in order.
    ///
    /// `Ok` means that the broker has it: after a crash an acked message does not come back, a
    /// relocated one is at its destination. A relocation confirms the copy before it settles the
    /// source, and leaves the source as it was if the copy failed. `StaleDelivery`: the delivery
    /// is no longer this member's. Core may have several calls in flight.
    async fn settle(&self, batch: Vec<Settlement>) -> Vec<Result<()>>;

    /// Records durably that a suspect on its last attempt is about to run alone, so that a
    /// member that finds it after another crash sees [`Suspect::started`]. Cleared when it is settled.
    ///
    /// # Errors
    /// As for a settlement.
    async fn start(&self, token: Token) -> Result<()>;

    /// Leaves the group. What is held is given back at once and not counted; `fetch` ends with `Closed`.
    ///
    /// # Errors
    /// What could not be given back comes back when the broker ends the session.
    async fn close(&self) -> Result<()>;
}

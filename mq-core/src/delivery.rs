//! A delivery and its settlement.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytestring::ByteString;
use serde::de::DeserializeOwned;
use tokio::sync::oneshot;

use crate::clock::Timestamp;
use crate::consume::reply::{BatchReply, Reply};
use crate::consume::shared::Shared;
use crate::consume::state::{Action, HandKey};
use crate::consume::unanswered;
use crate::driver::Incoming;
use crate::error::{Error, Result};
use crate::message::{Message, Position};

/// A message leased to this consumer, settled once, by value.
///
/// Dropping it unsettled gives it back at once, as a failed attempt: a handler that panics each
/// time ends in the dead letters. Settling queues the decision before it returns; awaiting the
/// returned [`Settled`] only waits for the broker's answer.
#[must_use = "dropping a delivery gives it back as a failed attempt"]
pub struct Delivery {
    shared: Arc<Shared>,
    incoming: Arc<Incoming>,
    key: HandKey,
    settled: bool,
}

impl Delivery {
    pub(crate) fn new(shared: Arc<Shared>, incoming: Arc<Incoming>, key: HandKey) -> Self {
        Self { shared, incoming, key, settled: key == HandKey::SETTLED }
    }

    /// Returns the message.
    #[must_use]
    pub fn message(&self) -> &Message {
        &self.incoming.message
    }

    /// Returns the payload.
    #[must_use]
    pub fn payload(&self) -> &bytes::Bytes {
        &self.incoming.message.payload
    }

    /// Reads the payload as JSON.
    ///
    /// # Errors
    /// [`ErrorKind::Malformed`](crate::ErrorKind::Malformed).
    pub fn json<T: DeserializeOwned>(&self) -> Result<T> {
        self.incoming.message.parse_json()
    }

    /// Returns which attempt this is, from 1.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.incoming.envelope.attempt
    }

    /// Returns whether the message was handed to this group before.
    #[must_use]
    pub fn redelivered(&self) -> bool {
        self.incoming.redelivered || self.incoming.envelope.attempt > 1
    }

    /// Returns the index of the topic among those the subscriber was opened with.
    #[must_use]
    pub fn subscription(&self) -> usize {
        self.incoming.subscription
    }

    /// Returns where the broker has it.
    #[must_use]
    pub fn position(&self) -> Option<Position> {
        self.incoming.position
    }

    /// Returns when the group first received it, if this is not the first time.
    #[must_use]
    pub fn first_seen(&self) -> Option<Timestamp> {
        self.incoming.envelope.first_seen
    }

    /// Returns what the last failed attempt said.
    #[must_use]
    pub fn last_error(&self) -> Option<&str> {
        self.incoming.envelope.error.as_deref()
    }

    /// Done: the group never gets it again.
    pub fn ack(self) -> Settled {
        self.settle(Action::Ack)
    }

    /// Failed: another attempt after `after`, held by the broker; after the last attempt, a dead letter.
    ///
    /// The key's others pass it. In a group with [`hold_key`](crate::GroupSettings::hold_key) they wait: the message
    /// stays with this subscriber, and the broker knows the attempt and the moment.
    ///
    /// Where the broker refuses the copy for good (it grew over a limit), this returns `Rejected` and
    /// the message becomes a dead letter, tried until the broker takes it.
    pub fn retry(self, after: Duration) -> Settled {
        self.settle(Action::Retry { after, error: None })
    }

    /// As [`retry`](Self::retry), and keeps `error` for who looks later.
    pub fn retry_because(self, after: Duration, error: impl fmt::Display) -> Settled {
        self.settle(Action::Retry { after, error: Some(error.to_string().into()) })
    }

    /// Hopeless: to the dead letters at once.
    pub fn dead_letter(self, reason: impl Into<ByteString>) -> Settled {
        self.settle(Action::Dead { reason: reason.into(), error: None })
    }

    /// Not now: given back, not before `after`, and not counted as an attempt. It holds its key as a retry does.
    pub fn defer(self, after: Duration) -> Settled {
        self.settle(Action::Defer { after })
    }

    /// Not looked at: this subscriber's next receive returns it, as if it had not been received. No attempt is
    /// counted and no broker asked. Of several, put the last one back first, and they keep their order.
    ///
    /// If the lease ran out this does nothing: the message comes again anyway. Once the subscriber is closed it is
    /// given back, but with [`AckMode::Auto`](crate::AckMode::Auto) lost: the broker no longer has it.
    pub fn put_back(mut self) {
        self.settled = true;
        self.shared.put_back(self.key, self.incoming.clone());
    }

    /// Starts the lease anew, from now.
    ///
    /// # Errors
    /// [`ErrorKind::StaleDelivery`](crate::ErrorKind::StaleDelivery) if it ran out.
    pub fn extend(&self) -> Result<()> {
        self.shared.extend(self.key)
    }

    fn settle(mut self, action: Action) -> Settled {
        self.settled = true;
        let (caller, answer) = oneshot::channel();
        self.shared.settle(self.key, action, Reply::One(caller));
        Settled(answer)
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if !self.settled {
            let error = Some(ByteString::from_static("dropped unsettled"));
            self.shared.settle(self.key, Action::Retry { after: Duration::ZERO, error }, Reply::Nobody);
        }
    }
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery")
            .field("id", &self.incoming.message.id)
            .field("attempt", &self.attempt())
            .field("position", &self.incoming.position)
            .finish_non_exhaustive()
    }
}

/// Waits for the broker's answer to a settlement. Dropping it loses only the answer.
///
/// Resolves to [`ErrorKind::StaleDelivery`](crate::ErrorKind::StaleDelivery) if the delivery was no
/// longer this consumer's. Other failures are tried again until the broker answers or the
/// subscriber is closed.
#[derive(Debug)]
#[must_use = "await it to know whether the settlement held; `let _ =` says that you don't want to"]
pub struct Settled(oneshot::Receiver<Result<()>>);

impl Future for Settled {
    type Output = Result<()>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = ready!(Pin::new(&mut self.0).poll(cx));
        Poll::Ready(answer.unwrap_or_else(|_| Err(unanswered())))
    }
}

/// Acks many deliveries at once; returns the failures by index. Queued when the call returns.
pub fn ack_all(deliveries: Vec<Delivery>) -> SettledAll {
    let many = deliveries.len();
    let (reply, answer) = BatchReply::new(many);
    let mut deliveries = deliveries.into_iter().enumerate().peekable();
    while let Some((_, first)) = deliveries.peek() {
        let shared = first.shared.clone();
        let of_shared =
            std::iter::from_fn(|| deliveries.next_if(|(_, next)| Arc::ptr_eq(&next.shared, &shared)));
        let keys = of_shared.map(|(index, mut delivery)| {
            delivery.settled = true;
            (index, delivery.key)
        });
        shared.ack_all(keys, reply.clone());
    }
    SettledAll { many, answer: (many > 0).then_some(answer) }
}

/// Waits for the broker's answers to a batch of settlements. Dropping it loses only the answers.
#[derive(Debug)]
#[must_use = "await it to know which settlements failed"]
pub struct SettledAll {
    many: usize,
    /// `None` if there were none.
    answer: Option<oneshot::Receiver<Vec<(usize, Error)>>>,
}

impl Future for SettledAll {
    type Output = Result<(), Vec<(usize, Error)>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let many = self.many;
        let Some(answer) = &mut self.answer else { return Poll::Ready(Ok(())) };
        let failures = ready!(Pin::new(answer).poll(cx))
            .unwrap_or_else(|_| (0..many).map(|index| (index, unanswered())).collect());
        Poll::Ready(if failures.is_empty() { Ok(()) } else { Err(failures) })
    }
}

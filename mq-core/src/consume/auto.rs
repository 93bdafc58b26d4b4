//! Deliveries that are settled before they are handed over.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::time::Instant;

use super::reply::Reply;
use super::state::{Action, State};
use crate::clock::Timestamp;
use crate::driver::Incoming;

/// Who settles what is received.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AckMode {
    /// Its holder, once it is done: each message is handled at least once.
    #[default]
    Manual,
    /// The subscriber, confirmed by the broker before the message is handed over: each message is
    /// handed over at most once, and lost with a process that dies with it. Settling such a
    /// delivery again is stale.
    Auto,
}

/// What is acked and not handed over.
#[derive(Debug)]
pub(super) struct Auto {
    mode: AckMode,
    acked: VecDeque<Arc<Incoming>>,
    /// How many acks are not answered.
    acking: usize,
}

impl Auto {
    pub(super) fn new(mode: AckMode) -> Self {
        Self { mode, acked: VecDeque::new(), acking: 0 }
    }

    pub(super) fn has_acked(&self) -> bool {
        !self.acked.is_empty()
    }

    /// Whether messages are being acked for who waits.
    pub(super) fn is_busy(&self) -> bool {
        self.acking > 0
    }
}

impl State {
    /// Returns whether messages are acked before they are handed over.
    pub(crate) fn acks_first(&self) -> bool {
        self.auto.mode == AckMode::Auto
    }

    /// Hands over what is acked, up to `max`; if there is nothing, begins to ack as many. Who stops
    /// waiting leaves them to the next.
    pub(crate) fn take_acked(&mut self, max: usize, now: Instant, wall: Timestamp) -> Vec<Arc<Incoming>> {
        if !self.has_ready() {
            return Vec::new();
        }
        let many = self.auto.acked.len().min(max);
        if many == 0 {
            while self.auto.acking < max
                && let Some((_, key)) = self.take_unacked(now)
            {
                self.enqueue(key.slot, Action::Ack, Reply::Nobody, 0, wall);
                self.auto.acking += 1;
            }
        }
        self.auto.acked.drain(..many).collect()
    }

    /// Takes back what was acked and handed over, to be handed over next.
    pub(crate) fn put_back_acked(&mut self, incoming: Arc<Incoming>) {
        self.recount(incoming.subscription);
        self.auto.acked.push_front(incoming);
    }

    /// Takes note that a message's ack was answered; `kept` is the message, if it is ours to hand over.
    pub(crate) fn acked(&mut self, kept: Option<Arc<Incoming>>) {
        self.auto.acking -= 1;
        self.auto.acked.extend(kept);
    }
}

//! Leases and settlements: what a holder or time decides, on its way to the driver and back.

use std::sync::Arc;
use std::time::Duration;

use bytestring::ByteString;
use tokio::time::Instant;

use super::reply::{Answer, BatchReply, Reply};
use super::state::{Action, Fate, Hand, HandKey, Pending, Phase, SettleBatch, Solo, State, Turn};
use crate::clock::Timestamp;
use crate::driver::{Destination, Incoming, Outcome, Settlement};
use crate::error::{Error, ErrorKind, Result};
use crate::policy::{self, Case};
use crate::spent::{Spent, SpentBatch};
use crate::topology::GroupSettings;

impl State {
    fn in_hand(&mut self, key: HandKey) -> Option<&mut Hand> {
        self.hands.get_mut(key.slot).filter(|hand| hand.serial == key.serial && hand.deadline.is_some())
    }

    /// Settles what is in hand; returns the answer if there is one already.
    pub(crate) fn settle(
        &mut self,
        key: HandKey,
        action: Action,
        reply: Reply,
        now: Timestamp,
    ) -> Option<Answer> {
        if self.phase != Phase::Closed && self.in_hand(key).is_some() {
            self.enqueue(key.slot, action, reply, 0, now);
            return None;
        }
        self.answer(reply, Err(stale()))
    }

    /// Acks what is in hand, as a part of a batch that is answered together; returns the answers
    /// that are there already.
    pub(crate) fn ack_all(
        &mut self,
        keys: impl Iterator<Item = (usize, HandKey)>,
        reply: Arc<BatchReply>,
        now: Timestamp,
    ) -> Option<Answer> {
        let group = self.replies.open(reply);
        for (index, key) in keys {
            let reply = self.replies.join(group, index);
            // The group is open: no answer yet.
            let _ = self.settle(key, Action::Ack, reply, now);
        }
        self.replies.seal(group)
    }

    /// Takes note of a verdict; returns what to tell the caller now.
    pub(crate) fn answer(&mut self, reply: Reply, verdict: Result<()>) -> Option<Answer> {
        self.replies.answer(reply, verdict)
    }

    /// Takes note that the broker will never store a copy as it is: the caller hears so now, and the
    /// message is to become a dead letter.
    pub(crate) fn refuse(&mut self, pending: &mut Pending, error: &Error) -> Option<Answer> {
        if matches!(pending.action, Action::Retry { .. } | Action::Defer { .. }) {
            let error = Some(error.to_string().into());
            pending.action = Action::Dead { reason: policy::REFUSED.into(), error };
        }
        let reply = std::mem::replace(&mut pending.reply, Reply::Nobody);
        self.answer(reply, Err(error.duplicate()))
    }

    /// Takes back what is in hand, to be handed out next. Returns the message and its size if there is no
    /// next time here, to be freed without a lock: its lane goes, or the consumer drains.
    pub(crate) fn put_back(&mut self, key: HandKey) -> Option<(Arc<Incoming>, usize)> {
        let leaving = self.in_hand(key)?.leaving;
        if leaving || self.phase != Phase::Open {
            return self.complete(key.slot);
        }
        let solo = self.solo == Solo::Running(key.slot);
        let Hand { incoming, subscription, .. } = self.remove(key.slot)?;
        self.recount(subscription);
        if solo {
            self.solo = Solo::Started;
        }
        let queue = if solo { &mut self.alone } else { &mut self.ready };
        incoming.into_iter().for_each(|incoming| queue.push_front(incoming));
        None
    }

    /// One of this subscription is handed out again that was counted.
    pub(super) fn recount(&mut self, subscription: usize) {
        self.recounted.resize(self.settings.len(), 0);
        self.recounted[subscription] += 1;
    }

    /// Returns how many of so many handed out are so for the first time.
    pub(crate) fn first_time(&mut self, subscription: usize, many: usize) -> usize {
        let Some(again) = self.recounted.get_mut(subscription) else { return many };
        let first = many.saturating_sub(*again);
        *again -= many - first;
        first
    }

    /// Starts the lease anew; returns the delivery's subscription.
    pub(crate) fn extend(&mut self, key: HandKey, now: Instant) -> Result<usize> {
        let phase = self.phase;
        let Some(hand) = self.in_hand(key).filter(|_| phase != Phase::Closed) else { return Err(stale()) };
        let subscription = hand.subscription;
        let deadline = now + self.settings[subscription].lease;
        self.hands[key.slot].deadline = Some(deadline);
        Ok(subscription)
    }

    /// Ends the leases that ran out: another attempt, or a dead letter. Returns a moment before
    /// which none runs out, whatever is handed out meanwhile.
    pub(crate) fn expire(
        &mut self,
        now: Instant,
        wall: Timestamp,
        mut expired: impl FnMut(&Incoming),
    ) -> Instant {
        let lease = self.settings.iter().map(|settings| settings.lease).min().unwrap_or_default();
        let mut next = now + lease;
        let mut over = Vec::new();
        for (slot, hand) in &self.hands {
            match hand.deadline {
                Some(deadline) if deadline <= now => over.push(slot),
                Some(deadline) => next = next.min(deadline),
                None => {}
            }
        }
        for slot in over {
            self.hands[slot].incoming.as_deref().into_iter().for_each(&mut expired);
            let error = Some(ByteString::from_static("the lease ran out"));
            self.enqueue(slot, Action::Retry { after: Duration::ZERO, error }, Reply::Nobody, 0, wall);
        }
        next
    }

    pub(super) fn enqueue(&mut self, slot: usize, action: Action, reply: Reply, tries: u32, now: Timestamp) {
        let hand = &mut self.hands[slot];
        hand.deadline = None;
        let Hand { token, subscription, .. } = *hand;
        let outcome = match &hand.incoming {
            Some(incoming) => outcome(incoming, &action, &self.settings[subscription], now),
            // Only what is acked is let go.
            None => Outcome::Ack,
        };
        let fate = match (&action, &outcome) {
            (Action::Ack, _) => Fate::Acked,
            (Action::Defer { .. }, _) => Fate::Deferred,
            (_, Outcome::Relocate(copy)) if copy.to == Destination::Dead => Fate::Dead,
            _ => Fate::Retried,
        };
        let hold = if let Outcome::Hold(hold) = &outcome { Some(hold.clone()) } else { None };
        self.batch.settlements.push(Settlement { token, subscription, outcome });
        self.batch.pending.push(Pending { slot, action, fate, subscription, reply, tries, hold });
    }

    /// Tries a failed settlement again.
    pub(crate) fn again(&mut self, failed: Pending, now: Timestamp) {
        let Pending { slot, action, reply, tries, .. } = failed;
        self.enqueue(slot, action, reply, tries + 1, now);
    }

    pub(crate) fn has_settlements(&self) -> bool {
        !self.batch.pending.is_empty()
    }

    /// Takes the settlements that wait, leaving room for as many, and lets go of the messages that were acked:
    /// how long the broker takes to answer, then costs no memory.
    pub(crate) fn take_settlements(&mut self, spent: &Spent) -> SettleBatch {
        let size = self.batch.pending.len();
        let next = SettleBatch {
            settlements: Vec::with_capacity(size),
            pending: Vec::with_capacity(size),
            spent: SpentBatch::default(),
        };
        let mut batch = std::mem::replace(&mut self.batch, next);
        if self.acks_first() {
            return batch;
        }
        batch.spent.reserve(size);
        for pending in batch.pending.iter().filter(|pending| matches!(pending.action, Action::Ack)) {
            let hand = &mut self.hands[pending.slot];
            // The turn is the key's, which the message has.
            if hand.turn == Turn::Without
                && let Some(message) = hand.incoming.take()
            {
                let size = std::mem::take(&mut hand.size);
                self.have.bytes -= size;
                batch.spent.add(spent, message, size);
            }
        }
        batch
    }

    /// Ends a settlement that the driver answered; returns the message and its size if it was kept until
    /// now, to be freed without a lock.
    pub(crate) fn complete(&mut self, slot: usize) -> Option<(Arc<Incoming>, usize)> {
        let hand = self.remove(slot)?;
        self.have.messages -= 1;
        self.have.bytes -= hand.size;
        if hand.turn == Turn::Taken
            && let Some(incoming) = &hand.incoming
        {
            let next = self.gate.leave(incoming);
            self.begin(next);
        }
        if !self.revoking.is_empty() {
            self.finish_revocations();
        }
        hand.incoming.map(|incoming| (incoming, hand.size))
    }

    pub(super) fn remove(&mut self, slot: usize) -> Option<Hand> {
        let hand = self.hands.try_remove(slot)?;
        if self.solo == Solo::Running(slot) {
            self.solo = Solo::Idle;
        }
        Some(hand)
    }
}

/// What the driver is to do about a message.
fn outcome(incoming: &Incoming, action: &Action, settings: &GroupSettings, now: Timestamp) -> Outcome {
    let case = Case { message: &incoming.message, envelope: &incoming.envelope, settings, now };
    match action {
        Action::Ack => Outcome::Ack,
        Action::Retry { after, error } => case.retry(*after, error.clone()),
        Action::Dead { reason, error } => {
            Outcome::Relocate(Box::new(case.dead(reason.clone(), error.clone())))
        }
        Action::Defer { after } => case.defer(*after),
    }
}

fn stale() -> Error {
    Error::new(
        ErrorKind::StaleDelivery,
        "the lease ran out or the message went to another consumer; it is delivered again",
    )
}

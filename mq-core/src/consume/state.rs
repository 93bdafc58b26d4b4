//! What a consumer holds and what becomes of it: pure and synchronous.
//!
//! A message passes `admit` → (held until due) → (behind its key) → ready → in hand → settling →
//! gone. Suspects on their last attempt wait in `alone` and run with nothing else in hand. What is
//! different in groups with `hold_key` is in `keep`.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytestring::ByteString;
use slab::Slab;
use tokio::time::Instant;

use super::auto::{AckMode, Auto};
use super::gate::KeyGate;
use super::reply::{Answer, BatchReply, Replies, Reply};
use crate::clock::Timestamp;
use crate::driver::{Budget, Destination, Hold, Incoming, Outcome, Revocation, Settlement, Token};
use crate::error::{Error, ErrorKind, Result};
use crate::policy::{self, Admission, Case};
use crate::spent::{Spent, SpentBatch};
use crate::topology::GroupSettings;

/// What a holder, or time, decided about a delivery.
#[derive(Clone, Debug)]
pub(crate) enum Action {
    Ack,
    Retry { after: Duration, error: Option<ByteString> },
    Dead { reason: ByteString, error: Option<ByteString> },
    Defer { after: Duration },
}

/// What a delivery becomes; a retry of the last attempt is a dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Acked,
    Retried,
    Dead,
    Deferred,
}

/// Names a hand-out; a later hand-out in the same slot has another serial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HandKey {
    slot: usize,
    serial: u64,
}

impl HandKey {
    /// Of a delivery that was settled before it was handed out.
    pub(crate) const SETTLED: Self = Self { slot: usize::MAX, serial: 0 };

    pub(super) fn slot(self) -> usize {
        self.slot
    }
}

#[derive(Debug)]
pub(super) struct Hand {
    pub(super) token: Token,
    pub(super) subscription: usize,
    /// `None` once the driver is told that it was acked.
    pub(super) incoming: Option<Arc<Incoming>>,
    serial: u64,
    /// `None` once it is settling.
    pub(super) deadline: Option<Instant>,
    pub(super) turn: Turn,
    /// Its lane is going, or gone: nothing of it is kept.
    pub(super) leaving: bool,
    /// Of the message, which is with its holder by now.
    size: usize,
}

/// Whether a hand-out has the turn of its key; what never queued for it must not end another's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    Taken,
    Without,
}

/// A settlement on its way, beside the driver's copy of it.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) slot: usize,
    pub(crate) action: Action,
    pub(crate) fate: Fate,
    pub(crate) subscription: usize,
    pub(crate) reply: Reply,
    pub(crate) tries: u32,
    /// Set if the message is to be kept.
    pub(crate) hold: Option<Box<Hold>>,
}

/// A batch of settlements for the driver, and whom to answer.
#[derive(Debug, Default)]
pub(crate) struct SettleBatch {
    pub(crate) settlements: Vec<Settlement>,
    pub(crate) pending: Vec<Pending>,
    /// The messages of those that need none any more.
    pub(crate) spent: SpentBatch,
}

#[derive(Debug)]
pub(super) struct Held(Timestamp, u64, pub(super) Arc<Incoming>, pub(super) Turn);

impl PartialEq for Held {
    fn eq(&self, other: &Self) -> bool {
        (self.0, self.1) == (other.0, other.1)
    }
}
impl Eq for Held {}
impl PartialOrd for Held {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Held {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.0, self.1).cmp(&(other.0, other.1))
    }
}

/// How far the suspect at the head of those that run alone got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Solo {
    Idle,
    /// Its start is being recorded.
    Starting,
    /// It may be handed out.
    Started,
    /// It is in this slot.
    Running(usize),
}

/// Whether messages still flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Open,
    /// Nothing more is handed out; what is in hand may be settled.
    Draining,
    /// Every settlement from now on is stale.
    Closed,
}

#[derive(Debug)]
pub(crate) struct State {
    pub(super) settings: Vec<GroupSettings>,
    prefetch: Budget,
    pub(super) ready: VecDeque<Arc<Incoming>>,
    pub(super) held: BinaryHeap<Reverse<Held>>,
    /// Something was put there that no caller knows of.
    pub(super) timed: bool,
    pub(super) gate: KeyGate,
    pub(super) alone: VecDeque<Arc<Incoming>>,
    pub(super) solo: Solo,
    pub(super) hands: Slab<Hand>,
    serial: u64,
    have: Budget,
    batch: SettleBatch,
    replies: Replies,
    pub(super) revoking: Vec<Revocation>,
    pub(super) phase: Phase,
    failure: Option<Error>,
    paused: bool,
    pub(super) auto: Auto,
}

impl State {
    pub(crate) fn new(settings: Vec<GroupSettings>, prefetch: Budget, mode: AckMode) -> Self {
        Self {
            settings,
            prefetch,
            ready: VecDeque::new(),
            held: BinaryHeap::new(),
            timed: false,
            gate: KeyGate::default(),
            alone: VecDeque::new(),
            solo: Solo::Idle,
            hands: Slab::new(),
            serial: 0,
            have: Budget { messages: 0, bytes: 0 },
            batch: SettleBatch::default(),
            replies: Replies::default(),
            revoking: Vec::new(),
            phase: Phase::Open,
            failure: None,
            paused: false,
            auto: Auto::new(mode),
        }
    }

    pub(crate) fn phase(&self) -> Phase {
        self.phase
    }

    /// Returns what may be fetched now. A quarter of the window at least, so that batches stay
    /// batches; anything when there is nothing to hand out.
    pub(crate) fn room(&self) -> Option<Budget> {
        let room = Budget {
            messages: self.prefetch.messages.saturating_sub(self.have.messages),
            bytes: self.prefetch.bytes.saturating_sub(self.have.bytes),
        };
        let some = room.messages > 0 && room.bytes > 0 && self.phase == Phase::Open && !self.paused;
        let much = room.messages >= self.prefetch.messages.div_ceil(4);
        (some && (much || self.ready.is_empty())).then_some(room)
    }

    /// Takes in what was fetched.
    pub(crate) fn admit(&mut self, deliveries: Vec<Arc<Incoming>>, now: Timestamp) {
        if self.phase != Phase::Open {
            return;
        }
        self.have.messages += deliveries.len();
        for incoming in deliveries {
            self.have.bytes += incoming.message.size();
            let admission = policy::admit(&incoming, &self.settings[incoming.subscription], now);
            match admission {
                Admission::Deliver => self.offer(incoming),
                Admission::Hold(at) if incoming.not_before.is_none() => {
                    self.hold(at, incoming, Turn::Without);
                }
                _ if self.holds_key(&incoming) => self.offer(incoming),
                Admission::Hold(at) => self.hold(at, incoming, Turn::Without),
                Admission::Alone => self.alone.push_back(incoming),
                Admission::Dead => self.bury(incoming, Turn::Without, now),
            }
        }
    }

    fn offer(&mut self, incoming: Arc<Incoming>) {
        if self.settings[incoming.subscription].ordered {
            let first = self.gate.enter(incoming);
            self.begin(first);
        } else {
            self.ready.push_back(incoming);
        }
    }

    pub(super) fn hold(&mut self, at: Timestamp, incoming: Arc<Incoming>, turn: Turn) {
        self.serial += 1;
        self.held.push(Reverse(Held(at, self.serial, incoming, turn)));
    }

    pub(super) fn bury(&mut self, incoming: Arc<Incoming>, turn: Turn, now: Timestamp) {
        let slot = self.hand(incoming, None, turn).slot;
        let action = Action::Dead { reason: policy::MAX_ATTEMPTS.into(), error: None };
        self.enqueue(slot, action, Reply::Nobody, 0, now);
    }

    /// Makes ready what is due; returns when the next one is.
    pub(crate) fn release_due(&mut self, now: Timestamp) -> Option<Timestamp> {
        while let Some(Reverse(Held(at, ..))) = self.held.peek() {
            if *at > now {
                return Some(*at);
            }
            match self.held.pop() {
                Some(Reverse(Held(.., incoming, Turn::Taken))) => self.resume(incoming, now),
                Some(Reverse(Held(.., incoming, Turn::Without))) => self.offer(incoming),
                None => {}
            }
        }
        None
    }

    /// Holds everything back, or lets it flow again.
    pub(crate) fn pause(&mut self, paused: bool) {
        self.paused = paused;
    }

    /// Returns whether a call of [`take`](Self::take) would return something, or begin to ack it.
    pub(crate) fn has_ready(&self) -> bool {
        !self.paused && (self.auto.has_acked() || !self.auto.is_busy() && self.has_unacked())
    }

    fn has_unacked(&self) -> bool {
        match self.solo {
            Solo::Idle => self.alone.is_empty() && !self.ready.is_empty(),
            Solo::Started => true,
            _ => false,
        }
    }

    /// Hands out one message; its lease starts now.
    pub(crate) fn take(&mut self, now: Instant) -> Option<(Arc<Incoming>, HandKey)> {
        if self.has_ready() { self.take_unacked(now) } else { None }
    }

    pub(super) fn take_unacked(&mut self, now: Instant) -> Option<(Arc<Incoming>, HandKey)> {
        if !self.has_unacked() || self.phase != Phase::Open {
            return None;
        }
        let solo = self.solo == Solo::Started;
        let incoming = if solo { self.alone.pop_front() } else { self.ready.pop_front() }?;
        let GroupSettings { lease, ordered, hold_key, .. } = self.settings[incoming.subscription];
        let turn = if ordered && (!solo || hold_key) { Turn::Taken } else { Turn::Without };
        let key = self.hand(incoming.clone(), Some(now + lease), turn);
        if solo {
            self.solo = Solo::Running(key.slot);
        }
        Some((incoming, key))
    }

    fn hand(&mut self, incoming: Arc<Incoming>, deadline: Option<Instant>, turn: Turn) -> HandKey {
        self.serial += 1;
        let Incoming { token, subscription, ref message, .. } = *incoming;
        let (serial, size) = (self.serial, message.size());
        let incoming = Some(incoming);
        let hand = Hand { token, subscription, incoming, serial, deadline, turn, leaving: false, size };
        HandKey { slot: self.hands.insert(hand), serial }
    }

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

    pub(super) fn forget(&mut self, incoming: &Incoming) {
        self.have.messages -= 1;
        self.have.bytes -= incoming.message.size();
    }

    /// Stops handing out and forgets what was not handed out; the driver gives it back at close.
    pub(crate) fn drain(&mut self) {
        if self.phase == Phase::Open {
            self.phase = Phase::Draining;
        }
        self.ready.clear();
        self.held.clear();
        self.alone.clear();
        self.gate.clear();
    }

    /// Returns how many are in hand or settling.
    pub(crate) fn unsettled(&self) -> usize {
        self.hands.len()
    }

    /// Makes what is still in hand stale and returns how many that was, with the answers to what
    /// never reached the driver.
    pub(crate) fn close(&mut self) -> (usize, Vec<Answer>) {
        self.drain();
        self.phase = Phase::Closed;
        let never = std::mem::take(&mut self.batch).pending;
        let answers = never.into_iter().filter_map(|pending| {
            let text = "the subscriber was closed before this was settled";
            self.replies.answer(pending.reply, Err(Error::new(ErrorKind::Closed, text)))
        });
        let answers = answers.collect();
        let left = self.hands.len();
        self.hands.clear();
        self.revoking.clear();
        (left, answers)
    }

    /// Ends the consumer with what time can't heal; returns answers.
    pub(crate) fn fail(&mut self, error: Error) -> Vec<Answer> {
        self.failure = Some(error);
        self.close().1
    }

    /// Gives up on answers: no task is left to bring them.
    pub(crate) fn abandon(&mut self) {
        self.replies.clear();
    }

    /// Returns the error of who receives from a consumer that is not open.
    pub(crate) fn ended(&self) -> Option<Error> {
        match (&self.failure, self.phase) {
            (Some(failure), _) => Some(failure.duplicate()),
            (None, Phase::Open) => None,
            (None, _) => Some(Error::new(ErrorKind::Closed, "the subscriber was closed")),
        }
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

#[cfg(test)]
#[path = "state_tests.rs"]
pub(crate) mod tests;

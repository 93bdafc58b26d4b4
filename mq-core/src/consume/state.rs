//! What a consumer holds and what becomes of it: pure and synchronous.
//!
//! A message passes `admit` → (held until due) → (behind its key) → ready → in hand → settling (the
//! module of that name) → gone. Suspects on their last attempt wait in `alone` and run with nothing else in hand. What is
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
use super::reply::{Answer, Replies, Reply};
use crate::clock::Timestamp;
use crate::driver::{Budget, Hold, Incoming, Revocation, Settlement, Token};
use crate::error::{Error, ErrorKind};
use crate::policy::{self, Admission};
use crate::spent::SpentBatch;
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
    pub(super) slot: usize,
    pub(super) serial: u64,
}

impl HandKey {
    /// Of a delivery that was settled before it was handed out.
    pub(crate) const SETTLED: Self = Self { slot: usize::MAX, serial: 0 };
}

#[derive(Debug)]
pub(super) struct Hand {
    pub(super) token: Token,
    pub(super) subscription: usize,
    /// `None` once the driver is told that it was acked.
    pub(super) incoming: Option<Arc<Incoming>>,
    pub(super) serial: u64,
    /// `None` once it is settling.
    pub(super) deadline: Option<Instant>,
    pub(super) turn: Turn,
    /// Its lane is going, or gone: nothing of it is kept.
    pub(super) leaving: bool,
    /// Of the message, which is with its holder by now.
    pub(super) size: usize,
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
    /// How many of each subscription are handed out again that were put back; empty before the first is.
    pub(super) recounted: Vec<usize>,
    serial: u64,
    pub(super) have: Budget,
    pub(super) batch: SettleBatch,
    pub(super) replies: Replies,
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
            recounted: Vec::new(),
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

    /// Makes what is still in hand stale; returns the answers to what never reached the driver. What the driver
    /// settles may still be answered.
    pub(crate) fn close(&mut self) -> Vec<Answer> {
        self.drain();
        self.phase = Phase::Closed;
        self.revoking.clear();
        let never = std::mem::take(&mut self.batch).pending;
        let answers = never.into_iter().filter_map(|pending| {
            let text = "the subscriber was closed before this was settled";
            self.replies.answer(pending.reply, Err(Error::new(ErrorKind::Closed, text)))
        });
        answers.collect()
    }

    /// Forgets what is not settled; returns how many that was.
    pub(crate) fn forget_all(&mut self) -> usize {
        let left = self.hands.len();
        self.hands.clear();
        left
    }

    /// Ends the consumer with what time can't heal; returns answers.
    pub(crate) fn fail(&mut self, error: Error) -> Vec<Answer> {
        self.failure = Some(error);
        let answers = self.close();
        self.forget_all();
        answers
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

#[cfg(test)]
#[path = "state_tests.rs"]
pub(crate) mod tests;

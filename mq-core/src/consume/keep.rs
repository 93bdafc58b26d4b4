//! Messages that hold their key while they wait for another attempt: groups with `hold_key`.
//!
//! There a message with a key queues for the key whatever becomes of it, and has the turn while it waits
//! for its time, for empty hands, or for its dead letter to be stored. So nothing of its key passes it.

use std::sync::Arc;

use super::state::{Phase, State, Turn};
use crate::clock::Timestamp;
use crate::driver::{Hold, Incoming};
use crate::policy::{self, Admission};

impl State {
    pub(super) fn holds_key(&self, incoming: &Incoming) -> bool {
        policy::holds_key(&incoming.message, &self.settings[incoming.subscription])
    }

    /// Makes ready what got the turn of its key. Where it holds the key, only a message that anybody
    /// may have at any time; time decides about others.
    pub(super) fn begin(&mut self, incoming: Option<Arc<Incoming>>) {
        let Some(incoming) = incoming else { return };
        let settings = &self.settings[incoming.subscription];
        let plain = incoming.suspect.is_none()
            && incoming.not_before.is_none()
            && incoming.envelope.attempt <= settings.max_attempts;
        if plain || !self.holds_key(&incoming) {
            self.ready.push_back(incoming);
        } else {
            self.timed = true;
            let at = incoming.not_before.max(incoming.message.deliver_at).unwrap_or_default();
            self.hold(at, incoming, Turn::Taken);
        }
    }

    /// Decides about what has the turn of its key and whose time came.
    pub(super) fn resume(&mut self, incoming: Arc<Incoming>, now: Timestamp) {
        match policy::admit(&incoming, &self.settings[incoming.subscription], now) {
            // It was held as long as it says.
            Admission::Deliver | Admission::Hold(_) => self.ready.push_back(incoming),
            Admission::Alone => self.alone.push_back(incoming),
            Admission::Dead => self.bury(incoming, Turn::Taken, now),
        }
    }

    /// Ends a settlement by which the message stays here: it waits for its time and keeps the turn of
    /// its key. Where its lane is going, or nothing is handed out any more, it is given back as it was
    /// recorded, and returned with its size.
    pub(crate) fn keep(&mut self, slot: usize, hold: Hold) -> Option<(Arc<Incoming>, usize)> {
        if self.hands.get(slot)?.leaving || self.phase != Phase::Open {
            return self.complete(slot);
        }
        let mut incoming = Incoming::clone(&*self.remove(slot)?.incoming?);
        incoming.envelope = hold.envelope;
        incoming.not_before = hold.until;
        incoming.redelivered = true;
        incoming.suspect = None;
        self.begin(Some(Arc::new(incoming)));
        None
    }

    /// Gives up what was not handed out and has the turn of its key.
    pub(super) fn pass_by(&mut self, incoming: &Incoming) {
        self.forget(incoming);
        let next = self.gate.leave(incoming);
        self.begin(next);
    }

    /// Returns whether something waits for its time that was not there at the last call.
    pub(crate) fn take_timed(&mut self) -> bool {
        std::mem::take(&mut self.timed)
    }
}

//! One message of a key at a time, in order: pure bookkeeping.

use std::collections::VecDeque;
use std::collections::hash_map::{Entry, HashMap};
use std::sync::Arc;

use bytes::Bytes;

use crate::driver::{Incoming, Lane};

/// Keys that have a message on its way, each with those that wait behind it.
#[derive(Debug, Default)]
pub(crate) struct KeyGate(HashMap<(usize, Bytes), VecDeque<Arc<Incoming>>>);

impl KeyGate {
    fn key(incoming: &Incoming) -> Option<(usize, Bytes)> {
        Some((incoming.subscription, incoming.message.key.clone()?))
    }

    /// Returns the message if its key is free, and takes the key; keeps it otherwise.
    pub(crate) fn enter(&mut self, incoming: Arc<Incoming>) -> Option<Arc<Incoming>> {
        let Some(key) = Self::key(&incoming) else { return Some(incoming) };
        match self.0.entry(key) {
            Entry::Vacant(free) => {
                free.insert(VecDeque::new());
                Some(incoming)
            }
            Entry::Occupied(mut busy) => {
                busy.get_mut().push_back(incoming);
                None
            }
        }
    }

    /// Ends the turn of `done`; returns the next message of its key, which now has the turn.
    pub(crate) fn leave(&mut self, done: &Incoming) -> Option<Arc<Incoming>> {
        let Entry::Occupied(mut busy) = self.0.entry(Self::key(done)?) else { return None };
        let next = busy.get_mut().pop_front();
        if next.is_none() {
            busy.remove();
        }
        next
    }

    /// Forgets what waits from a lane; returns it.
    pub(crate) fn forget(&mut self, lane: Lane) -> Vec<Arc<Incoming>> {
        let mut forgotten = Vec::new();
        for waiting in self.0.values_mut() {
            let (gone, kept) = waiting.drain(..).partition(|incoming| incoming.token.lane == lane);
            *waiting = kept;
            let gone: VecDeque<_> = gone;
            forgotten.extend(gone);
        }
        forgotten
    }

    /// Forgets all that waits; the turns stay.
    pub(crate) fn clear(&mut self) -> usize {
        self.0.values_mut().map(|waiting| waiting.drain(..).count()).sum()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;
    use crate::consume::state::tests::incoming;

    proptest! {
        /// However turns end, at most one message of a key is on its way and each key keeps its order.
        #[test]
        fn one_at_a_time_and_in_order(steps in proptest::collection::vec((0u8..3, any::<bool>()), 1..200)) {
            let mut gate = KeyGate::default();
            let mut running: HashMap<u8, u64> = HashMap::new();
            let mut last: HashMap<u8, u64> = HashMap::new();
            let mut begin = |running: &mut HashMap<u8, u64>, message: &Incoming| {
                let key = message.message.key.as_ref().unwrap()[0];
                assert!(running.insert(key, message.token.high).is_none());
                assert!(last.insert(key, message.token.high).is_none_or(|before| before < message.token.high));
            };
            for (serial, (key, arrive)) in (0u64..).zip(steps) {
                if arrive {
                    let message = incoming(serial, Some(&[key]));
                    if let Some(message) = gate.enter(Arc::new(message)) {
                        begin(&mut running, &message);
                    }
                } else if let Some(serial) = running.remove(&key)
                    && let Some(next) = gate.leave(&incoming(serial, Some(&[key])))
                {
                    begin(&mut running, &next);
                }
            }
        }
    }
}

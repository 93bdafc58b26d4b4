//! Which lanes are this member's, since when, and what it holds of them: no I/O.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};

use mq_core::driver::{Lane, Token};

use crate::entry::EntryId;

/// What is being done with a lane.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Stage {
    /// It is not this member's.
    #[default]
    Off,
    /// What is pending behind this entry is taken first.
    Scanning(Option<EntryId>),
    /// New entries are read.
    Reading,
    /// It is about to go to another member; settlements still pass.
    Releasing,
}

/// Ids are spread by the multiplication alone.
#[derive(Default)]
pub(crate) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = (self.0.rotate_left(5) ^ number).wrapping_mul(0x517c_c1b7_2722_0a95);
    }
}

/// Entries held, each with whether there may be a mark of it: that of a suspect, or of what holds its key.
type Held = HashMap<EntryId, bool, BuildHasherDefault<IdHasher>>;

#[derive(Debug, Default)]
struct State {
    epoch: Option<u32>,
    stage: Stage,
    held: Held,
    /// The last entry that came from this lane since it is ours.
    seen: EntryId,
    /// The last entry known to be in the stream.
    woken: EntryId,
}

/// The lanes of a member.
#[derive(Debug)]
pub(crate) struct Lanes {
    states: Vec<State>,
    next_epoch: u32,
    /// Settled, but the answer was lost.
    uncertain: HashSet<(Lane, EntryId)>,
}

impl Lanes {
    pub(crate) fn new(count: usize) -> Self {
        Self {
            states: (0..count).map(|_| State::default()).collect(),
            next_epoch: 0,
            uncertain: HashSet::new(),
        }
    }

    fn state(&mut self, lane: Lane) -> &mut State {
        &mut self.states[lane as usize]
    }

    /// Starts an ownership of a lane.
    pub(crate) fn acquire(&mut self, lane: Lane, stage: Stage) {
        self.next_epoch += 1;
        let epoch = self.next_epoch;
        *self.state(lane) = State { epoch: Some(epoch), stage, ..State::default() };
    }

    /// Ends the ownership of a lane; returns which one it was.
    pub(crate) fn lose(&mut self, lane: Lane) -> Option<u32> {
        self.uncertain.retain(|(known, _)| *known != lane);
        std::mem::take(self.state(lane)).epoch
    }

    /// Ends all ownerships; returns them.
    pub(crate) fn lose_all(&mut self) -> Vec<(Lane, u32)> {
        let lanes = 0..u32::try_from(self.states.len()).unwrap_or(u32::MAX);
        lanes.filter_map(|lane| self.lose(lane).map(|epoch| (lane, epoch))).collect()
    }

    pub(crate) fn epoch(&self, lane: Lane) -> Option<u32> {
        self.states.get(lane as usize).and_then(|state| state.epoch)
    }

    pub(crate) fn stage(&self, lane: Lane) -> Stage {
        self.states[lane as usize].stage
    }

    pub(crate) fn set_stage(&mut self, lane: Lane, stage: Stage) {
        if self.epoch(lane).is_some() {
            self.state(lane).stage = stage;
        }
    }

    /// Where to wait for new entries from.
    pub(crate) fn woken(&self, lane: Lane) -> EntryId {
        self.states[lane as usize].woken
    }

    /// The last entry that came.
    pub(crate) fn seen(&self, lane: Lane) -> EntryId {
        self.states[lane as usize].seen
    }

    /// Notes that `id` came, or is known to have been given out.
    pub(crate) fn note(&mut self, lane: Lane, id: EntryId) {
        let state = self.state(lane);
        state.seen = state.seen.max(id);
        state.woken = state.woken.max(id);
    }

    /// Notes that `id` is in the stream.
    pub(crate) fn wake(&mut self, lane: Lane, id: EntryId) {
        let state = self.state(lane);
        state.woken = state.woken.max(id);
    }

    /// Holds an entry.
    pub(crate) fn hold(&mut self, lane: Lane, id: EntryId, marked: bool) {
        self.state(lane).held.insert(id, marked);
    }

    pub(crate) fn holds(&self, lane: Lane, id: EntryId) -> bool {
        self.states[lane as usize].held.contains_key(&id)
    }

    /// Returns whether the delivery is this member's, and if so whether there may be a mark of it.
    pub(crate) fn check(&self, token: Token) -> Option<bool> {
        let state = self.states.get(token.lane as usize)?;
        if state.epoch != Some(token.epoch) {
            return None;
        }
        state.held.get(&id_of(token)).copied()
    }

    /// Forgets an entry whose settlement was answered.
    pub(crate) fn settled(&mut self, token: Token) {
        let state = self.state(token.lane);
        if state.epoch == Some(token.epoch) {
            state.held.remove(&id_of(token));
        }
        if !self.uncertain.is_empty() {
            self.uncertain.remove(&(token.lane, id_of(token)));
        }
    }

    /// Remembers a settlement whose answer was lost.
    pub(crate) fn doubt(&mut self, token: Token) {
        if self.epoch(token.lane) == Some(token.epoch) {
            self.uncertain.insert((token.lane, id_of(token)));
        }
    }

    /// Returns whether an earlier settlement of it may have passed.
    pub(crate) fn doubted(&self, token: Token) -> bool {
        !self.uncertain.is_empty() && self.uncertain.contains(&(token.lane, id_of(token)))
    }
}

pub(crate) fn id_of(token: Token) -> EntryId {
    EntryId { ms: token.high, seq: token.low }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn token(lane: Lane, epoch: u32, ms: u64) -> Token {
        Token { lane, epoch, high: ms, low: 0 }
    }

    #[test]
    fn an_old_epoch_is_not_ours() {
        let mut lanes = Lanes::new(2);
        lanes.acquire(0, Stage::Reading);
        let old = lanes.epoch(0).unwrap();
        lanes.hold(0, EntryId { ms: 1, seq: 0 }, true);
        assert_eq!(lanes.check(token(0, old, 1)), Some(true));
        assert_eq!(lanes.lose(0), Some(old));
        assert_eq!(lanes.check(token(0, old, 1)), None);
        lanes.acquire(0, Stage::Scanning(None));
        assert_ne!(lanes.epoch(0), Some(old));
        assert_eq!((lanes.check(token(0, old, 1)), lanes.check(token(9, 1, 1))), (None, None));
    }

    #[test]
    fn doubt_ends_with_the_answer_or_the_lane() {
        let mut lanes = Lanes::new(1);
        lanes.acquire(0, Stage::Reading);
        let token = token(0, lanes.epoch(0).unwrap(), 1);
        lanes.doubt(token);
        assert!(lanes.doubted(token));
        lanes.settled(token);
        assert!(!lanes.doubted(token));
        lanes.doubt(token);
        lanes.lose(0);
        assert!(!lanes.doubted(token));
    }

    proptest! {
        /// An epoch is never given twice, and what is held is what came and was not settled.
        #[test]
        fn epochs_are_unique(steps in proptest::collection::vec((0u8..4, 0u32..3, 1u64..5), 1..200)) {
            let mut lanes = Lanes::new(3);
            let mut epochs = HashSet::new();
            let mut held = HashSet::new();
            for (step, lane, ms) in steps {
                match step {
                    0 => {
                        held.retain(|(known, _, _)| *known != lane);
                        lanes.acquire(lane, Stage::Reading);
                        prop_assert!(epochs.insert(lanes.epoch(lane).unwrap()));
                    }
                    1 => {
                        held.retain(|(known, _, _)| *known != lane);
                        lanes.lose(lane);
                    }
                    2 => if let Some(epoch) = lanes.epoch(lane) {
                        lanes.hold(lane, EntryId { ms, seq: 0 }, false);
                        held.insert((lane, epoch, ms));
                    }
                    _ => if let Some(epoch) = lanes.epoch(lane) {
                        lanes.settled(token(lane, epoch, ms));
                        held.remove(&(lane, epoch, ms));
                    }
                }
                for (lane, epoch, ms) in &held {
                    prop_assert_eq!(lanes.check(token(*lane, *epoch, *ms)), Some(false));
                }
            }
        }
    }
}

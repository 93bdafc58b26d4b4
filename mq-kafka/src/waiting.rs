//! What a forwarder holds: per partition of a rung the records that wait, in order, and those
//! on their way. Pure bookkeeping.

use std::collections::{BTreeMap, VecDeque};

use crate::tracker::{Ending, Tracker};

/// A partition of a rung.
pub(crate) type Place = (usize, i32);

/// So much of a partition is held; more stays with the broker.
const RECORDS: usize = 2000;
const BYTES: usize = 1 << 20;

/// A record that waits for its time.
#[derive(Debug)]
pub(crate) struct Held<R> {
    pub(crate) offset: i64,
    /// In milliseconds since the epoch.
    pub(crate) due: u64,
    pub(crate) bytes: usize,
    pub(crate) record: R,
}

#[derive(Debug)]
struct Part<R> {
    tracker: Tracker,
    held: VecDeque<Held<R>>,
    bytes: usize,
    moving: BTreeMap<i64, Held<R>>,
    paused: bool,
    /// After a failure, not before this time.
    not_before: u64,
    committed: i64,
}

/// What became of a record that was forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It is stored where it goes, or there is no such place any more.
    Done,
    /// It is tried again, not before this time.
    Again(u64),
}

/// All of a forwarder's partitions.
#[derive(Debug)]
pub(crate) struct Waiting<R>(BTreeMap<Place, Part<R>>);

impl<R> Default for Waiting<R> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<R> Waiting<R> {
    /// Takes a record from the broker.
    pub(crate) fn add(&mut self, place: Place, held: Held<R>) {
        let part = self.0.entry(place).or_insert_with(|| Part {
            tracker: Tracker::resume(held.offset, ""),
            held: VecDeque::new(),
            bytes: 0,
            moving: BTreeMap::new(),
            paused: false,
            not_before: 0,
            committed: held.offset,
        });
        if part.tracker.deliver(held.offset).is_some() {
            part.bytes += held.bytes;
            part.held.push_back(held);
        }
    }

    /// Takes up to `limit` records that are due out; `make` makes of each what is sent.
    pub(crate) fn take_due<T>(
        &mut self,
        now: u64,
        limit: usize,
        mut make: impl FnMut(&Held<R>) -> T,
    ) -> Vec<(Place, i64, T)> {
        let mut due = Vec::new();
        for (place, part) in &mut self.0 {
            while due.len() < limit && part.not_before <= now {
                let Some(held) = part.held.pop_front_if(|held| held.due <= now) else { break };
                part.bytes -= held.bytes;
                due.push((*place, held.offset, make(&held)));
                part.moving.insert(held.offset, held);
            }
        }
        due
    }

    /// Records what became of a record that was taken out.
    pub(crate) fn settle(&mut self, place: Place, offset: i64, fate: Fate) {
        let Some(part) = self.0.get_mut(&place) else { return };
        let Some(held) = part.moving.remove(&offset) else { return };
        match fate {
            Fate::Done => {
                part.tracker.ack(offset);
            }
            Fate::Again(not_before) => {
                part.not_before = part.not_before.max(not_before);
                part.bytes += held.bytes;
                let at = part.held.partition_point(|known| known.offset < offset);
                part.held.insert(at, held);
            }
        }
    }

    /// Returns when the next record is due.
    pub(crate) fn next_due(&self) -> Option<u64> {
        self.0.values().filter_map(|part| Some(part.held.front()?.due.max(part.not_before))).min()
    }

    /// Returns the partitions to pause and those to resume from now on.
    pub(crate) fn flow(&mut self) -> (Vec<Place>, Vec<Place>) {
        let (mut pause, mut resume) = (Vec::new(), Vec::new());
        for (place, part) in &mut self.0 {
            let full = part.held.len() >= RECORDS || part.bytes >= BYTES;
            let low = part.held.len() < RECORDS / 2 && part.bytes < BYTES / 2;
            if full && !part.paused {
                part.paused = true;
                pause.push(*place);
            } else if low && part.paused {
                part.paused = false;
                resume.push(*place);
            }
        }
        (pause, resume)
    }

    /// Returns the positions that moved since the last call.
    pub(crate) fn commits(&mut self) -> Vec<(Place, i64)> {
        let mut moved = Vec::new();
        for (place, part) in &mut self.0 {
            let offset = part.tracker.snapshot(Ending::Clean).offset;
            if offset != part.committed {
                part.committed = offset;
                moved.push((*place, offset));
            }
        }
        moved
    }

    /// Returns the positions of these partitions.
    pub(crate) fn positions(&self, places: &[Place]) -> Vec<(Place, i64)> {
        let part = |place: &Place| Some((*place, self.0.get(place)?.tracker.snapshot(Ending::Clean).offset));
        places.iter().filter_map(part).collect()
    }

    /// Whether any of these partitions has a record on its way.
    pub(crate) fn is_moving(&self, places: &[Place]) -> bool {
        places.iter().any(|place| self.0.get(place).is_some_and(|part| !part.moving.is_empty()))
    }

    /// Stops handing out of these partitions; what is on its way still counts.
    pub(crate) fn stop(&mut self, places: &[Place]) {
        for place in places {
            if let Some(part) = self.0.get_mut(place) {
                part.held.clear();
                part.bytes = 0;
            }
        }
    }

    /// Forgets partitions; returns those that were paused.
    pub(crate) fn forget(&mut self, places: &[Place]) -> Vec<Place> {
        places.iter().copied().filter(|place| self.0.remove(place).is_some_and(|part| part.paused)).collect()
    }

    /// Returns all partitions.
    pub(crate) fn places(&self) -> Vec<Place> {
        self.0.keys().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(offset: i64, due: u64) -> Held<()> {
        Held { offset, due, bytes: 10, record: () }
    }

    #[test]
    fn due_records_move_in_order_and_failures_come_again() {
        let mut waiting = Waiting::default();
        for (offset, due) in [(5, 100), (6, 200), (8, 300)] {
            waiting.add((0, 0), held(offset, due));
        }
        assert_eq!(waiting.next_due(), Some(100));
        let due: Vec<i64> =
            waiting.take_due(250, 9, |_| ()).into_iter().map(|(_, offset, ())| offset).collect();
        assert_eq!(due, [5, 6]);
        assert!(waiting.is_moving(&[(0, 0)]) && waiting.commits().is_empty());
        waiting.settle((0, 0), 6, Fate::Done);
        assert!(waiting.commits().is_empty());
        waiting.settle((0, 0), 5, Fate::Again(400));
        assert_eq!(waiting.next_due(), Some(400));
        assert!(waiting.take_due(399, 9, |_| ()).is_empty());
        assert_eq!(waiting.take_due(400, 9, |_| ()).len(), 2);
        waiting.settle((0, 0), 5, Fate::Done);
        assert_eq!(waiting.commits(), [((0, 0), 8)]);
        waiting.settle((0, 0), 8, Fate::Done);
        assert_eq!(waiting.commits(), [((0, 0), 9)]);
        assert!(waiting.commits().is_empty() && !waiting.is_moving(&[(0, 0)]));
        assert_eq!(waiting.positions(&[(0, 0), (0, 1)]), [((0, 0), 9)]);
    }

    #[test]
    fn a_full_partition_pauses_and_resumes_when_half_is_gone() {
        let mut waiting = Waiting::default();
        for offset in 0..RECORDS as i64 {
            waiting.add((1, 2), held(offset, 0));
        }
        assert_eq!(waiting.flow(), (vec![(1, 2)], vec![]));
        assert_eq!(waiting.flow(), (vec![], vec![]));
        waiting.take_due(0, RECORDS / 2 + 1, |_| ());
        assert_eq!(waiting.flow(), (vec![], vec![(1, 2)]));
        assert!(waiting.forget(&[(1, 2)]).is_empty() && waiting.places().is_empty());
    }
}

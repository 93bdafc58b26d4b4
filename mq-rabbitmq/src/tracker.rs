//! Which deliveries of a channel are unsettled, and which frames settle them; pure.

use std::collections::VecDeque;

/// Delivery tags of one channel, from 1 without gaps.
#[derive(Debug)]
pub(crate) struct Tracker<T> {
    /// The tag of the first slot; all before it are settled.
    base: u64,
    slots: VecDeque<Slot<T>>,
}

#[derive(Debug)]
enum Slot<T> {
    /// On its way: later tags were seen first.
    Unseen,
    /// Held.
    Held(T),
    /// Being settled.
    Taken,
    /// Settled, or about to be by a frame that was written.
    Settled,
}

/// A frame that settles one tag, or all up to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) tag: u64,
    pub(crate) multiple: bool,
}

impl<T> Default for Tracker<T> {
    fn default() -> Self {
        Self { base: 1, slots: VecDeque::new() }
    }
}

impl<T> Tracker<T> {
    /// Notes a delivery.
    pub(crate) fn hold(&mut self, tag: u64, entry: T) {
        let Some(index) = self.index(tag) else { return };
        while self.slots.len() <= index {
            self.slots.push_back(Slot::Unseen);
        }
        self.slots[index] = Slot::Held(entry);
    }

    /// Returns what is held under a tag.
    pub(crate) fn get(&self, tag: u64) -> Option<&T> {
        match self.slots.get(self.index(tag)?)? {
            Slot::Held(entry) => Some(entry),
            _ => None,
        }
    }

    /// Returns what is held under a tag, to be changed.
    pub(crate) fn get_mut(&mut self, tag: u64) -> Option<&mut T> {
        let index = self.index(tag)?;
        match self.slots.get_mut(index)? {
            Slot::Held(entry) => Some(entry),
            _ => None,
        }
    }

    /// Returns everything that is held.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.slots.iter().filter_map(|slot| match slot {
            Slot::Held(entry) => Some(entry),
            _ => None,
        })
    }

    /// Returns everything that is held, to be changed.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.slots.iter_mut().filter_map(|slot| match slot {
            Slot::Held(entry) => Some(entry),
            _ => None,
        })
    }

    /// Takes a delivery to settle it; nobody else can then.
    pub(crate) fn take(&mut self, tag: u64) -> Option<T> {
        let index = self.index(tag)?;
        let slot = self.slots.get_mut(index)?;
        match std::mem::replace(slot, Slot::Taken) {
            Slot::Held(entry) => Some(entry),
            other => {
                *slot = other;
                None
            }
        }
    }

    /// Gives a delivery back that could not be settled.
    pub(crate) fn restore(&mut self, tag: u64, entry: T) {
        if let Some(slot) = self.index(tag).and_then(|index| self.slots.get_mut(index)) {
            *slot = Slot::Held(entry);
        }
    }

    /// Takes everything that is held, in the order of the tags.
    pub(crate) fn take_all(&mut self) -> Vec<(u64, T)> {
        self.take_all_if(|_| true)
    }

    /// Takes everything held that `which` selects, in the order of the tags.
    pub(crate) fn take_all_if(&mut self, which: impl Fn(&T) -> bool) -> Vec<(u64, T)> {
        let base = self.base;
        let mut taken = Vec::new();
        for (slot, tag) in self.slots.iter_mut().zip(base..) {
            if !matches!(slot, Slot::Held(entry) if which(entry)) {
                continue;
            }
            if let Slot::Held(entry) = std::mem::replace(slot, Slot::Taken) {
                taken.push((tag, entry));
            }
        }
        taken
    }

    /// Plans the frames that settle `tags`, all of them taken before. They must be written in this
    /// order, and before those of any later plan.
    pub(crate) fn settle(&mut self, tags: &mut [u64]) -> Vec<Frame> {
        tags.sort_unstable();
        for tag in tags.iter() {
            if let Some(slot) = self.index(*tag).and_then(|index| self.slots.get_mut(index)) {
                *slot = Slot::Settled;
            }
        }
        let settled = self.slots.iter().take_while(|slot| matches!(slot, Slot::Settled)).count();
        let covered = self.base + settled as u64;
        let split = tags.partition_point(|tag| *tag < covered);
        let mut frames = Vec::with_capacity(tags.len() - split + 1);
        match &tags[..split] {
            [] => {}
            [tag] => frames.push(Frame { tag: *tag, multiple: false }),
            [.., last] => frames.push(Frame { tag: *last, multiple: true }),
        }
        frames.extend(tags[split..].iter().map(|tag| Frame { tag: *tag, multiple: false }));
        self.slots.drain(..settled);
        self.base = covered;
        frames
    }

    fn index(&self, tag: u64) -> Option<usize> {
        usize::try_from(tag.checked_sub(self.base)?).ok()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// A broker's side of a channel.
    #[derive(Default)]
    struct Broker(BTreeSet<u64>);

    impl Broker {
        fn receive(&mut self, frame: Frame) -> Result<(), String> {
            let settled: Vec<u64> = match frame.multiple {
                true => self.0.range(..=frame.tag).copied().collect(),
                false => self.0.get(&frame.tag).into_iter().copied().collect(),
            };
            if settled.is_empty() {
                return Err(format!("unknown delivery tag {}", frame.tag));
            }
            self.0.retain(|tag| !settled.contains(tag));
            Ok(())
        }
    }

    proptest! {
        /// Tags seen in any order, settled in any order and in batches: the broker knows exactly
        /// what was settled, never a tag that was not, and never an unknown one.
        #[test]
        fn frames_settle_what_was_asked(
            seen in Just((1u64..=40).collect::<Vec<_>>()).prop_shuffle(),
            batches in proptest::collection::vec(proptest::collection::vec(1u64..=40, 0..12), 0..12),
        ) {
            let mut broker = Broker((1..=40).collect());
            let mut tracker = Tracker::default();
            let mut asked = BTreeSet::new();
            let (early, late) = seen.split_at(30);
            early.iter().for_each(|tag| tracker.hold(*tag, *tag));
            for (turn, batch) in batches.into_iter().enumerate() {
                if turn == 3 {
                    late.iter().for_each(|tag| tracker.hold(*tag, *tag));
                }
                let mut taken: Vec<u64> = batch.into_iter().filter_map(|tag| tracker.take(tag)).collect();
                asked.extend(taken.iter().copied());
                for frame in tracker.settle(&mut taken) {
                    prop_assert_eq!(broker.receive(frame), Ok(()));
                }
                let left: BTreeSet<u64> = (1..=40).filter(|tag| !asked.contains(tag)).collect();
                prop_assert_eq!(&broker.0, &left);
            }
        }
    }

    #[test]
    fn contiguous_tags_take_one_frame() {
        let mut tracker = Tracker::default();
        (1..=1000).for_each(|tag| tracker.hold(tag, ()));
        let mut tags: Vec<u64> = (1..=1000).rev().collect();
        tags.iter().for_each(|tag| assert!(tracker.take(*tag).is_some()));
        assert_eq!(tracker.settle(&mut tags), [Frame { tag: 1000, multiple: true }]);
        assert_eq!(tracker.take(1000), None);
    }

    #[test]
    fn what_failed_is_held_again() {
        let mut tracker = Tracker::default();
        tracker.hold(1, "a");
        assert_eq!(tracker.take(1), Some("a"));
        assert_eq!(tracker.take(1), None);
        tracker.restore(1, "a");
        assert_eq!(tracker.get(1), Some(&"a"));
        assert_eq!(tracker.take_all(), [(1, "a")]);
    }
}

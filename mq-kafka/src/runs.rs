//! A set of offsets kept as runs: pure bookkeeping.

use std::collections::VecDeque;
use std::ops::Range;

/// Offsets as ordered runs that neither overlap nor touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Runs(VecDeque<Range<i64>>);

impl Runs {
    pub(crate) fn contains(&self, offset: i64) -> bool {
        let behind = self.0.partition_point(|run| run.end <= offset);
        self.0.get(behind).is_some_and(|run| run.start <= offset)
    }

    /// Adds `run`, joining it with those it overlaps or touches.
    pub(crate) fn insert(&mut self, run: Range<i64>) {
        if run.is_empty() {
            return;
        }
        match self.0.back_mut() {
            Some(last) if last.end == run.start => last.end = run.end,
            Some(last) if last.end > run.start => self.insert_within(run),
            _ => self.0.push_back(run),
        }
    }

    fn insert_within(&mut self, run: Range<i64>) {
        let first = self.0.partition_point(|known| known.end < run.start);
        let after = self.0.partition_point(|known| known.start <= run.end);
        if first == after {
            self.0.insert(first, run);
            return;
        }
        let start = run.start.min(self.0[first].start);
        let end = run.end.max(self.0[after - 1].end);
        self.0[first] = start..end;
        self.0.drain(first + 1..after);
    }

    /// Removes what reaches down to `from`; returns where the first gap begins.
    pub(crate) fn pop_through(&mut self, mut from: i64) -> i64 {
        while let Some(run) = self.0.front().filter(|run| run.start <= from) {
            from = from.max(run.end);
            self.0.pop_front();
        }
        from
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Range<i64>> {
        self.0.iter()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn behaves_like_a_set(steps in proptest::collection::vec((0i64..60, 0i64..6), 0..60), through in 0i64..60) {
            let mut runs = Runs::default();
            let mut set = BTreeSet::new();
            for (start, len) in steps {
                runs.insert(start..start + len);
                set.extend(start..start + len);
                prop_assert!(runs.0.iter().zip(runs.0.iter().skip(1)).all(|(a, b)| a.end < b.start));
                prop_assert!((0..70).all(|offset| runs.contains(offset) == set.contains(&offset)));
            }
            let gap = runs.pop_through(through);
            let mut expected = through;
            while set.contains(&expected) {
                expected += 1;
            }
            prop_assert_eq!(gap, expected);
            prop_assert!((gap..70).all(|offset| runs.contains(offset) == set.contains(&offset)));
        }
    }
}

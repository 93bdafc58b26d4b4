//! Which offsets of a partition are done, and what to commit: pure bookkeeping, the only authority.
//!
//! Offsets are told in the order the broker delivers them, with gaps where there is no message,
//! and are done in any order. Everything below the watermark is done; the rest goes into the
//! [metadata](crate::metadata) of the commit.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::metadata::{Kept, Progress, fits};
use crate::runs::Runs;

/// So many runs of done offsets above the watermark are enough: hand out no more until they join.
const FRAGMENTS: usize = 1000;

/// What is known of an offset that is delivered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Delivered {
    /// How many members died with it.
    pub(crate) crashes: u32,
    /// Whether it was about to run alone when the last of them died.
    pub(crate) started: bool,
    /// Whether it was fetched before.
    pub(crate) seen: bool,
    /// What was recorded of it, if it holds its key.
    pub(crate) kept: Option<Kept>,
}

/// What became of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keeping {
    /// It goes into the next commit.
    Noted,
    /// There is no room for it beside the others.
    Full,
    /// The offset is not pending.
    Unknown,
}

/// What an ack found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Acked {
    /// It was pending and is done now.
    Now,
    /// It was done before.
    Before,
    /// It was not delivered in this ownership.
    Unknown,
}

/// Why a snapshot is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The owner goes on; should it die, what is pending is suspect.
    Live,
    /// The owner gives the partition back in order: nothing is suspect.
    Clean,
}

/// What to commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Snapshot {
    pub(crate) offset: i64,
    pub(crate) metadata: String,
    /// Whether all that is done is in it; if not, it did not fit.
    pub(crate) complete: bool,
}

/// A run of offsets with the number of members that died with it.
type Segment = (Range<i64>, u32);

/// The state of one ownership of a partition.
#[derive(Clone, Debug)]
pub(crate) struct Tracker {
    /// All below is done.
    watermark: i64,
    /// The offset after the last delivered one.
    next: i64,
    /// Done offsets above the watermark.
    done: Runs,
    pending: usize,
    seen: i64,
    /// Ascending and adjacent.
    crashes: Vec<Segment>,
    /// Started by an owner that died, ascending.
    inherited: Vec<i64>,
    /// Started by this owner, ascending.
    started: Vec<i64>,
    /// What is kept to hold its key, by offset.
    kept: BTreeMap<i64, Kept>,
}

impl Tracker {
    /// Takes over at a committed offset with the metadata found there.
    pub(crate) fn resume(offset: i64, metadata: &str) -> Self {
        // Text of another program says nothing of ours.
        let progress = Progress::decode(metadata).unwrap_or_default();
        let at = |relative: u64| offset.saturating_add_unsigned(relative);
        let mut tracker = Self {
            watermark: offset,
            next: offset,
            done: Runs::default(),
            pending: 0,
            seen: at(progress.seen),
            crashes: Vec::new(),
            inherited: progress.started.iter().map(|start| at(*start)).collect(),
            started: Vec::new(),
            kept: progress.kept.iter().map(|(offset, kept)| (at(*offset), *kept)).collect(),
        };
        for run in &progress.done {
            tracker.done.insert(at(run.start)..at(run.end));
        }
        let mut from = offset;
        for (len, count) in &progress.crashes {
            let end = from.saturating_add_unsigned(*len);
            tracker.crashes.push((from..end, *count));
            from = end;
        }
        tracker.add_crash(at(progress.reserved));
        tracker.advance(offset);
        tracker
    }

    /// Counts one more crash for all below `reserved`.
    fn add_crash(&mut self, reserved: i64) {
        let mut counted: Vec<Segment> = Vec::with_capacity(self.crashes.len() + 2);
        let mut known = self.watermark;
        for (run, count) in self.crashes.drain(..) {
            let cut = reserved.clamp(run.start, run.end);
            counted.push((run.start..cut, count.saturating_add(1)));
            counted.push((cut..run.end, count));
            known = run.end;
        }
        counted.push((known..reserved, 1));
        for (run, count) in counted.into_iter().filter(|(run, _)| run.start < run.end) {
            match self.crashes.last_mut() {
                Some((last, same)) if *same == count => last.end = run.end,
                _ => self.crashes.push((run, count)),
            }
        }
        while self.crashes.last().is_some_and(|(_, count)| *count == 0) {
            self.crashes.pop();
        }
    }

    /// Returns where to fetch from.
    pub(crate) fn position(&self) -> i64 {
        self.next
    }

    /// Takes note of a message from the broker; `None` if it was done before, or delivered before.
    pub(crate) fn deliver(&mut self, offset: i64) -> Option<Delivered> {
        if offset < self.next {
            return None;
        }
        if offset > self.next {
            self.skip(self.next..offset);
        }
        self.next = offset + 1;
        if !self.done.is_empty() && self.done.contains(offset) || offset < self.watermark {
            return None;
        }
        self.pending += 1;
        if offset >= self.seen && self.crashes.is_empty() {
            return Some(Delivered::default());
        }
        let crashes = self.crashes_of(offset);
        let started = crashes > 0 && self.inherited.contains(&offset);
        let kept = self.kept.get(&offset).copied();
        Some(Delivered { crashes, started, seen: offset < self.seen || crashes > 0, kept })
    }

    /// The broker has no message there.
    fn skip(&mut self, gap: Range<i64>) {
        if gap.start <= self.watermark {
            self.advance(gap.end);
        } else {
            self.done.insert(gap);
        }
    }

    fn crashes_of(&self, offset: i64) -> u32 {
        self.crashes.iter().find(|(run, _)| run.contains(&offset)).map_or(0, |(_, count)| *count)
    }

    /// The message is done with.
    pub(crate) fn ack(&mut self, offset: i64) -> Acked {
        if offset >= self.next {
            return Acked::Unknown;
        }
        if offset < self.watermark || self.done.contains(offset) {
            return Acked::Before;
        }
        self.pending -= 1;
        if !self.kept.is_empty() {
            self.kept.remove(&offset);
        }
        if offset == self.watermark {
            self.advance(offset + 1);
        } else {
            self.done.insert(offset..offset + 1);
        }
        Acked::Now
    }

    /// Returns whether the offset was delivered and is not done.
    pub(crate) fn is_pending(&self, offset: i64) -> bool {
        (self.watermark..self.next).contains(&offset) && !self.done.contains(offset)
    }

    /// Records that a pending offset is about to run alone; returns whether it is pending.
    pub(crate) fn start(&mut self, offset: i64) -> bool {
        if !self.is_pending(offset) {
            return false;
        }
        self.inherited.retain(|start| *start != offset);
        if let Err(place) = self.started.binary_search(&offset) {
            self.started.insert(place, offset);
        }
        true
    }

    /// Records what a pending offset comes with next; that counts the crashes so far.
    pub(crate) fn keep(&mut self, offset: i64, kept: Kept) -> Keeping {
        if !self.is_pending(offset) {
            return Keeping::Unknown;
        }
        let before = self.kept.insert(offset, kept);
        if !fits(&self.kept_from(self.watermark)) {
            match before {
                Some(before) => self.kept.insert(offset, before),
                None => self.kept.remove(&offset),
            };
            return Keeping::Full;
        }
        self.inherited.retain(|start| *start != offset);
        self.started.retain(|start| *start != offset);
        self.acquit(offset);
        Keeping::Noted
    }

    fn kept_from(&self, from: i64) -> Vec<(u64, Kept)> {
        let relative = |offset: i64| u64::try_from(offset - from).unwrap_or(0);
        self.kept.range(from..).map(|(offset, kept)| (relative(*offset), *kept)).collect()
    }

    /// Counts no crash of one offset.
    fn acquit(&mut self, offset: i64) {
        let Some(place) = self.crashes.iter().position(|(run, _)| run.contains(&offset)) else { return };
        let (run, count) = self.crashes[place].clone();
        let parts = [(run.start..offset, count), (offset..offset + 1, 0), (offset + 1..run.end, count)];
        self.crashes.splice(place..=place, parts.into_iter().filter(|(run, _)| !run.is_empty()));
    }

    fn advance(&mut self, to: i64) {
        self.watermark = if self.done.is_empty() { to } else { self.done.pop_through(to) };
        self.next = self.next.max(self.watermark);
        if !self.crashes.is_empty() {
            let passed = self.crashes.iter().take_while(|(run, _)| run.end <= self.watermark).count();
            self.crashes.drain(..passed);
        }
        if !self.kept.is_empty() {
            self.kept = self.kept.split_off(&self.watermark);
        }
    }

    /// How many offsets were delivered and are not done.
    pub(crate) fn pending(&self) -> usize {
        self.pending
    }

    /// Whether to hand out no more until the done offsets join.
    pub(crate) fn is_fragmented(&self) -> bool {
        self.done.len() > FRAGMENTS
    }

    /// Returns what to commit.
    pub(crate) fn snapshot(&self, ending: Ending) -> Snapshot {
        let from = self.watermark;
        let relative = |offset: i64| u64::try_from(offset - from).unwrap_or(0);
        let reserved = if ending == Ending::Live && self.pending > 0 { relative(self.next) } else { 0 };
        let progress = Progress {
            reserved,
            seen: relative(self.seen.max(self.next)),
            crashes: self
                .crashes
                .iter()
                .map(|(run, count)| (relative(run.end) - relative(run.start), *count))
                .collect(),
            started: self.starts(ending).into_iter().map(relative).collect(),
            done: self.done.iter().map(|run| relative(run.start)..relative(run.end)).collect(),
            kept: self.kept_from(from),
        };
        let (metadata, complete) = progress.encode();
        Snapshot { offset: from, metadata, complete }
    }

    /// What this owner started is no suspect if it leaves in order; what it found stays.
    fn starts(&self, ending: Ending) -> Vec<i64> {
        let own: &[i64] = if ending == Ending::Live { &self.started } else { &[] };
        let stands = |start: &i64| *start >= self.watermark && !self.done.contains(*start);
        let mut starts: Vec<i64> = self.inherited.iter().chain(own).copied().filter(stands).collect();
        starts.sort_unstable();
        starts
    }
}

#[cfg(test)]
#[path = "tracker_tests.rs"]
mod tests;

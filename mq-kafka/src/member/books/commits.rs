//! The books' commits: what settlements owe, and whom a confirmed commit answers.

use mq_core::driver::Token;
use mq_core::{Error, ErrorKind, Result};
use tokio::sync::oneshot;

use super::{Books, Commit, LaneCommit, Owned, Ownership, Stage, Standing, Waiter, offset};
use crate::metadata::Kept;
use crate::tracker::{Acked, Ending, Keeping};

impl Books {
    /// Whether a settlement of this delivery would count.
    pub(crate) fn check(&self, token: &Token) -> Standing {
        match self.lanes.get(&token.lane) {
            Some(owned) if owned.accepts(token) => match offset(token) {
                at if owned.tracker.is_pending(at) => Standing::Pending,
                at if at < owned.tracker.position() => Standing::Done,
                _ => Standing::Stale,
            },
            _ => Standing::Stale,
        }
    }

    /// Marks deliveries as done. Returns an answer to wait for, and calls `stale` for each that is not this member's.
    pub(crate) fn ack<'a>(
        &mut self,
        tokens: impl Iterator<Item = (usize, &'a Token)>,
        mut stale: impl FnMut(usize),
    ) -> Option<oneshot::Receiver<Vec<Ownership>>> {
        let mut lanes: Vec<Ownership> = Vec::new();
        for (index, token) in tokens {
            let owned = self.lanes.get_mut(&token.lane).filter(|owned| owned.accepts(token));
            let Some(owned) = owned else {
                stale(index);
                continue;
            };
            match owned.tracker.ack(offset(token)) {
                Acked::Unknown => {
                    stale(index);
                    continue;
                }
                Acked::Now => {
                    self.held -= 1;
                    self.work += 1;
                    owned.dirty = true;
                }
                // The commit of the first ack may have failed or be on its way.
                Acked::Before => owned.dirty = true,
            }
            let ownership = (token.lane, token.epoch);
            if lanes.last() != Some(&ownership) && !lanes.contains(&ownership) {
                lanes.push(ownership);
            }
        }
        (!lanes.is_empty()).then(|| self.wait(lanes))
    }

    /// Records that a delivery is about to run alone; `None` if it is stale.
    pub(crate) fn start(&mut self, token: &Token) -> Option<oneshot::Receiver<Vec<Ownership>>> {
        let owned = self.lanes.get_mut(&token.lane).filter(|owned| owned.accepts(token))?;
        if !owned.tracker.start(offset(token)) {
            return None;
        }
        owned.dirty = true;
        Some(self.wait(vec![(token.lane, token.epoch)]))
    }

    /// Records what a delivery that is kept comes with next; `None` if it is stale.
    ///
    /// # Errors
    /// There is no room for it beside others that are kept.
    pub(crate) fn keep(
        &mut self,
        token: &Token,
        kept: Kept,
    ) -> Result<Option<oneshot::Receiver<Vec<Ownership>>>> {
        let owned = self.lanes.get_mut(&token.lane).filter(|owned| owned.accepts(token));
        let Some(owned) = owned else { return Ok(None) };
        match owned.tracker.keep(offset(token), kept) {
            Keeping::Noted => {
                owned.dirty = true;
                Ok(Some(self.wait(vec![(token.lane, token.epoch)])))
            }
            Keeping::Full => {
                let text = "no more of this partition's messages can be kept until some that wait end";
                Err(Error::new(ErrorKind::Unavailable, text))
            }
            Keeping::Unknown => Ok(None),
        }
    }

    /// Has the next commit ask the broker whether the lanes of these deliveries are this member's.
    pub(crate) fn ask<'a>(
        &mut self,
        tokens: impl Iterator<Item = &'a Token>,
    ) -> Option<oneshot::Receiver<Vec<Ownership>>> {
        let mut lanes: Vec<Ownership> = Vec::new();
        for token in tokens {
            let ownership = (token.lane, token.epoch);
            if !lanes.contains(&ownership)
                && let Some(owned) = self.owned(ownership)
            {
                owned.dirty = true;
                lanes.push(ownership);
            }
        }
        (!lanes.is_empty()).then(|| self.wait_for(lanes, false))
    }

    fn wait(&mut self, lanes: Vec<Ownership>) -> oneshot::Receiver<Vec<Ownership>> {
        self.wait_for(lanes, true)
    }

    pub(super) fn wait_for(
        &mut self,
        lanes: Vec<Ownership>,
        covered: bool,
    ) -> oneshot::Receiver<Vec<Ownership>> {
        let (done, answer) = oneshot::channel();
        self.waiters.push(Waiter { after: self.number, covered, lanes, lost: Vec::new(), done });
        answer
    }

    /// Returns the next commit if there is anything to commit.
    pub(crate) fn commit(&mut self) -> Option<Commit> {
        let mut lanes = Vec::new();
        for (lane, owned) in &mut self.lanes {
            let last = owned.stage == Stage::Last;
            if !owned.dirty && !last {
                continue;
            }
            owned.dirty = false;
            let ending = if last { Ending::Clean } else { Ending::Live };
            let snapshot = owned.tracker.snapshot(ending);
            lanes.push(LaneCommit { lane: *lane, epoch: owned.epoch, snapshot, last });
        }
        if lanes.is_empty() {
            return None;
        }
        self.number += 1;
        Some(Commit { number: self.number - 1, lanes, work: std::mem::take(&mut self.work) })
    }

    /// The broker has the commit, but for the lanes in `failed`.
    pub(crate) fn confirm(&mut self, commit: &Commit, failed: &[Ownership]) {
        self.confirmed = self.confirmed.max(commit.number);
        let mut incomplete: Vec<Ownership> = Vec::new();
        for part in &commit.lanes {
            let ownership = (part.lane, part.epoch);
            if failed.contains(&ownership) {
                continue;
            }
            if !part.snapshot.complete {
                incomplete.push(ownership);
            }
            if part.last
                && let Some(owned) = self.owned(ownership)
            {
                owned.stage = Stage::Left;
            }
        }
        self.retry(failed);
        for chunk in self.queue.iter_mut().filter(|chunk| failed.contains(&(chunk.lane, chunk.epoch))) {
            chunk.after = chunk.after.max(commit.number + 1);
        }
        self.answer(|waiter| {
            let is_open =
                |lane: &Ownership| failed.contains(lane) || (waiter.covered && incomplete.contains(lane));
            if waiter.after <= commit.number && waiter.lanes.iter().any(is_open) {
                waiter.after = commit.number + 1;
            }
            waiter.after <= commit.number
        });
    }

    /// The broker does not have the commit of these lanes: they go into the next.
    pub(crate) fn retry(&mut self, failed: &[Ownership]) {
        for ownership in failed {
            if let Some(owned) = self.owned(*ownership) {
                owned.dirty = true;
            }
        }
    }

    fn owned(&mut self, (lane, epoch): Ownership) -> Option<&mut Owned> {
        self.lanes.get_mut(&lane).filter(|owned| owned.epoch == epoch)
    }

    /// Answers and drops the waiters of which `is_done` says so.
    pub(super) fn answer(&mut self, mut is_done: impl FnMut(&mut Waiter) -> bool) {
        let mut index = 0;
        while index < self.waiters.len() {
            if is_done(&mut self.waiters[index]) {
                let waiter = self.waiters.swap_remove(index);
                // Who asked may have gone.
                drop(waiter.done.send(waiter.lost));
            } else {
                index += 1;
            }
        }
    }
}

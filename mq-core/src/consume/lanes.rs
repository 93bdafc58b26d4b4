//! Lanes that go, suspects that run alone, and counts: the rarer half of [`State`].

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::sync::Arc;

use super::state::{Phase, Solo, State, Turn};
use crate::driver::{Incoming, Lane, Revocation, Token};
use crate::error::{ErrorKind, Result};

impl State {
    /// Gives up a lane: what was not handed out is forgotten; a lost lane's hand-outs are stale.
    pub(crate) fn revoke(&mut self, revocation: Revocation) {
        let lane = revocation.lane;
        for incoming in self.gate.forget(lane) {
            self.forget(&incoming);
        }
        let (gone, kept) = self.ready.drain(..).partition(|incoming| incoming.token.lane == lane);
        self.ready = kept;
        let gone: VecDeque<Arc<Incoming>> = gone;
        for incoming in gone {
            if self.settings[incoming.subscription].ordered {
                self.pass_by(&incoming);
            } else {
                self.forget(&incoming);
            }
        }
        let held = std::mem::take(&mut self.held).into_vec();
        let alone = std::mem::take(&mut self.alone);
        for Reverse(held) in held {
            match (held.2.token.lane == lane, held.3) {
                (true, Turn::Taken) => self.pass_by(&held.2),
                (true, Turn::Without) => self.forget(&held.2),
                (false, _) => self.held.push(Reverse(held)),
            }
        }
        if self.solo == Solo::Started && alone.front().is_some_and(|first| first.token.lane == lane) {
            self.solo = Solo::Idle;
        }
        for incoming in alone {
            match incoming.token.lane == lane {
                true if self.holds_key(&incoming) => self.pass_by(&incoming),
                true => self.forget(&incoming),
                false => self.alone.push_back(incoming),
            }
        }
        for (_, hand) in self.hands.iter_mut().filter(|(_, hand)| hand.token.lane == lane) {
            hand.leaving = true;
        }
        if revocation.release.is_some() {
            self.revoking.push(revocation);
            self.finish_revocations();
        } else {
            self.lose(lane);
        }
    }

    /// Drops what is in hand from a lost lane; what is settling gets the driver's answer.
    pub(super) fn lose(&mut self, lane: Lane) {
        let lost: Vec<usize> = self
            .hands
            .iter()
            .filter(|(_, hand)| hand.token.lane == lane && hand.deadline.is_some())
            .map(|(slot, _)| slot)
            .collect();
        for slot in lost {
            self.complete(slot);
        }
        self.revoking.retain(|revocation| revocation.lane != lane);
    }

    pub(super) fn finish_revocations(&mut self) {
        let hands = &self.hands;
        self.revoking.retain(|revocation| hands.iter().any(|(_, hand)| hand.token.lane == revocation.lane));
    }

    /// Returns how many of each subscription are in hand or settling.
    pub(crate) fn in_hand_by_subscription(&self) -> Vec<u64> {
        let mut counts = vec![0; self.settings.len()];
        for (_, hand) in &self.hands {
            counts[hand.subscription] += 1;
        }
        counts
    }

    /// Returns the suspect whose start must be recorded now: nothing is in hand.
    pub(crate) fn next_solo(&mut self) -> Option<Token> {
        if self.solo != Solo::Idle || !self.hands.is_empty() || self.phase != Phase::Open {
            return None;
        }
        let token = self.alone.front()?.token;
        self.solo = Solo::Starting;
        Some(token)
    }

    /// Takes in whether the start was recorded.
    pub(crate) fn solo_started(&mut self, token: Token, recorded: &Result<()>) {
        let first = self.alone.front().is_some_and(|first| first.token == token);
        self.solo = if first && recorded.is_ok() { Solo::Started } else { Solo::Idle };
        if first
            && recorded.as_ref().is_err_and(|error| error.kind() == ErrorKind::StaleDelivery)
            && let Some(gone) = self.alone.pop_front()
        {
            match self.holds_key(&gone) {
                true => self.pass_by(&gone),
                false => self.forget(&gone),
            }
        }
    }
}

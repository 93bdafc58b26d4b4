//! The state with its lock and its wake-ups: what handles and tasks share.

use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::reply::{Answer, BatchReply, Reply};
use super::state::{Action, HandKey, Phase, State};
use crate::clock::Timestamp;
use crate::counters::Counters;
use crate::driver::{Consumer, Context, Incoming, Spent};
use crate::error::Result;
use crate::table::Label;

/// A message handed out, and its place in the books.
pub(crate) type Taken = (Arc<Incoming>, HandKey);

/// Aligned, so that the reference counts, which every delivery changes, are not on the lock's cache line.
#[derive(Debug)]
#[repr(align(64))]
pub(crate) struct Shared {
    pub(crate) state: Mutex<State>,
    pub(crate) consumer: Arc<dyn Consumer>,
    pub(crate) spent: Spent,
    pub(crate) context: Context,
    pub(crate) counters: Arc<Counters>,
    /// Where deliveries are counted, by subscription.
    pub(crate) counted: Box<[Label]>,
    pub(crate) backend: &'static str,
    /// Something may be handed out.
    pub(crate) ready: Notify,
    /// There is room to fetch.
    pub(crate) room: Notify,
    /// There are settlements.
    pub(crate) settle: Notify,
    /// A timer may have moved forward, or a suspect may run.
    pub(crate) timers: Notify,
    /// The last settlement in hand is done, or the consumer failed.
    pub(crate) idle: Notify,
    /// Turns true when the tasks are to end.
    pub(crate) stop: watch::Sender<bool>,
}

impl Shared {
    /// Hands out one message if there is one.
    pub(crate) fn take(&self) -> Result<Option<Taken>> {
        let mut state = self.state.lock();
        let taken = if state.acks_first() {
            self.take_acked(&mut state, 1).pop()
        } else {
            state.take(Instant::now())
        };
        self.taken(state, taken.as_slice())?;
        Ok(taken)
    }

    /// Hands out up to `max` messages under one lock.
    pub(crate) fn take_many(&self, max: usize) -> Result<Vec<Taken>> {
        let now = Instant::now();
        let mut state = self.state.lock();
        let taken = if state.acks_first() {
            self.take_acked(&mut state, max)
        } else {
            std::iter::from_fn(|| state.take(now)).take(max).collect()
        };
        self.taken(state, &taken)?;
        Ok(taken)
    }

    fn take_acked(&self, state: &mut State, max: usize) -> Vec<Taken> {
        let acked = state.take_acked(max, Instant::now(), self.context.clock.now());
        if acked.is_empty() && state.has_settlements() {
            self.settle.notify_one();
        }
        acked.into_iter().map(|incoming| (incoming, HandKey::SETTLED)).collect()
    }

    /// Wakes who may go on now; fails if nothing was taken and nothing will come.
    fn taken(&self, mut state: MutexGuard<'_, State>, taken: &[Taken]) -> Result<()> {
        if taken.is_empty() {
            return state.ended().map_or(Ok(()), Err);
        }
        match &*self.counted {
            [only] => self.counters.add_received(*only, state.first_time(0, taken.len())),
            many => {
                for run in taken.chunk_by(|one, next| one.0.subscription == next.0.subscription) {
                    let subscription = run[0].0.subscription;
                    let first = state.first_time(subscription, run.len());
                    self.counters.add_received(many[subscription], first);
                }
            }
        }
        let more = state.has_ready();
        drop(state);
        if more {
            self.ready.notify_one();
        } else {
            self.room.notify_one();
        }
        Ok(())
    }

    /// Takes back what was handed out and not looked at.
    pub(crate) fn put_back(&self, key: HandKey, incoming: Arc<Incoming>) {
        let mut state = self.state.lock();
        let gone = if key == HandKey::SETTLED {
            state.put_back_acked(incoming);
            None
        } else {
            state.put_back(key)
        };
        let (ready, room, idle) = (state.has_ready(), state.room().is_some(), state.unsettled() == 0);
        drop(state);
        drop(gone);
        self.wake(ready, room, idle);
    }

    /// Wakes who may go on.
    pub(super) fn wake(&self, ready: bool, room: bool, idle: bool) {
        if ready {
            self.ready.notify_one();
        }
        if room {
            self.room.notify_one();
        }
        if idle {
            self.idle.notify_waiters();
            // A suspect may wait for empty hands.
            self.timers.notify_one();
        }
    }

    /// Holds everything back, or lets it flow again.
    pub(crate) fn pause(&self, paused: bool) {
        self.state.lock().pause(paused);
        if !paused {
            self.ready.notify_one();
            self.room.notify_one();
        }
    }

    /// Settles one delivery: queued when this returns.
    pub(crate) fn settle(&self, key: HandKey, action: Action, reply: Reply) {
        self.settling(|state, now| state.settle(key, action, reply, now));
    }

    /// Acks many deliveries under one lock, each with its index in the batch.
    pub(crate) fn ack_all(&self, keys: impl Iterator<Item = (usize, HandKey)>, reply: Arc<BatchReply>) {
        self.settling(|state, now| state.ack_all(keys, reply, now));
    }

    fn settling(&self, settle: impl FnOnce(&mut State, Timestamp) -> Option<Answer>) {
        let now = self.context.clock.now();
        let mut state = self.state.lock();
        let idle = !state.has_settlements();
        let answer = settle(&mut state, now);
        let wake = idle && state.has_settlements();
        drop(state);
        if wake {
            self.settle.notify_one();
        }
        if let Some(answer) = answer {
            answer.send();
        }
    }

    pub(crate) fn extend(&self, key: HandKey) -> Result<()> {
        let subscription = self.state.lock().extend(key, Instant::now())?;
        self.counters.add_renewed(self.counted[subscription]);
        Ok(())
    }

    /// Stops handing out; returns when nothing is in hand or settling.
    pub(crate) async fn drained(&self) {
        self.state.lock().drain();
        self.ready.notify_waiters();
        loop {
            let idle = self.idle.notified();
            tokio::pin!(idle);
            idle.as_mut().enable();
            {
                let state = self.state.lock();
                if state.unsettled() == 0 || state.phase() == Phase::Closed {
                    return;
                }
            }
            idle.await;
        }
    }

    /// Ends the tasks, and waits for settle calls under way; what is in hand turns stale at once. Returns how many
    /// are not settled.
    pub(crate) async fn end(&self) -> usize {
        let answers = self.state.lock().close();
        self.stop.send_replace(true);
        self.settle.notify_one();
        self.ready.notify_waiters();
        self.idle.notify_waiters();
        answers.into_iter().for_each(Answer::send);
        // Each task has a receiver until it ends.
        self.stop.closed().await;
        self.state.lock().forget_all()
    }

    /// Answers what is not answered with `unanswered`: the tasks have ended.
    pub(crate) fn abandon(&self) {
        self.state.lock().abandon();
    }
}

//! The three tasks of a consumer: fetch, settle, and keep time.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::reply::Answer;
use super::shared::Shared;
use super::state::{Action, Fate, Pending, Phase, SettleBatch, State};
use crate::coalesce::{self, Next};
use crate::counters::Counts;
use crate::driver::{Fetched, Token};
use crate::error::{Error, ErrorKind, Result};
use crate::event::Event;
use crate::spent::SpentBatch;

/// Settle calls in flight at once.
const SETTLE_CALLS: usize = 8;
/// The longest wait between two tries of a settlement that failed.
const SETTLE_PAUSE: Duration = Duration::from_secs(5);

/// How long settle calls under way may take when the consumer is closed. Given up too early, one may have stored a copy
/// whose source comes again as well.
const LAST_CALLS: Duration = Duration::from_millis(2500);

/// Starts the tasks; they end when `stop` turns true, settle calls under way when they are answered.
pub(crate) fn start(shared: &Arc<Shared>) {
    tokio::spawn(until_stopped(shared.stop.subscribe(), Duration::ZERO, fetch(shared.clone())));
    let settling = until_stopped(shared.stop.subscribe(), LAST_CALLS, settle(shared.clone()));
    let ending = shared.clone();
    tokio::spawn(async move {
        settling.await;
        ending.abandon();
    });
    tokio::spawn(until_stopped(shared.stop.subscribe(), Duration::ZERO, keep_time(shared.clone())));
}

/// Runs `task` to its end, or until the stop and `longer`.
async fn until_stopped(mut stop: watch::Receiver<bool>, longer: Duration, task: impl Future<Output = ()>) {
    let over = async {
        // The sender lives in what the task holds.
        let _ = stop.wait_for(|stop| *stop).await;
        if !longer.is_zero() {
            tokio::time::sleep(longer).await;
        }
    };
    tokio::select! {
        () = task => {}
        () = over => {}
    }
}

async fn fetch(shared: Arc<Shared>) {
    loop {
        let room = shared.state.lock().room();
        let Some(room) = room else {
            shared.room.notified().await;
            continue;
        };
        match shared.consumer.fetch(room).await {
            Ok(fetched) => take_in(&shared, fetched),
            Err(error) => {
                if error.kind() != ErrorKind::Closed {
                    shared.context.events.failed("fetch", &error);
                }
                let answers = shared.state.lock().fail(error.during(shared.backend, "receive"));
                shared.ready.notify_waiters();
                shared.idle.notify_waiters();
                answers.into_iter().for_each(Answer::send);
                return;
            }
        }
    }
}

fn take_in(shared: &Shared, fetched: Fetched) {
    let now = shared.context.clock.now();
    let suspects = fetched.deliveries.iter().filter(|incoming| incoming.suspect.is_some()).count() as u64;
    let timed = suspects > 0
        || fetched.deliveries.iter().any(|incoming| incoming.message.deliver_at.is_some_and(|at| at > now));
    let mut state = shared.state.lock();
    for revocation in fetched.revoked {
        state.revoke(revocation);
    }
    state.admit(fetched.deliveries, now);
    let settle = state.has_settlements();
    let idle = state.unsettled() == 0;
    let timed = state.take_timed() || timed;
    drop(state);
    shared.ready.notify_one();
    if timed {
        shared.timers.notify_one();
    }
    if settle {
        shared.settle.notify_one();
    }
    if idle {
        shared.idle.notify_waiters();
    }
    if suspects > 0 {
        shared.context.events.emit(Event::TakenOver { messages: suspects });
    }
}

async fn settle(shared: Arc<Shared>) {
    let next = || {
        let mut state = shared.state.lock();
        if state.phase() == Phase::Closed {
            return Next::Closed;
        }
        if !state.has_settlements() {
            return Next::Empty;
        }
        Next::Call(Box::pin(settle_batch(shared.clone(), state.take_settlements(&shared.spent))))
    };
    coalesce::pump(&shared.settle, SETTLE_CALLS, next).await;
}

async fn settle_batch(shared: Arc<Shared>, batch: SettleBatch) {
    shared.spent.put(batch.spent);
    let verdicts = shared.consumer.settle(batch.settlements).await;
    let mut done = Done::default();
    {
        let mut state = shared.state.lock();
        for (pending, verdict) in batch.pending.into_iter().zip(verdicts) {
            done.take(&mut state, &shared, pending, verdict);
        }
        let (ready, room, idle) = (state.has_ready(), state.room().is_some(), state.unsettled() == 0);
        let timed = state.take_timed();
        drop(state);
        shared.wake(ready, room, idle);
        if timed {
            shared.timers.notify_one();
        }
    }
    done.tell(&shared);
    if !done.failed.is_empty() {
        tokio::spawn(try_again(shared, done.failed));
    }
}

/// What came of a batch of settlements.
#[derive(Default)]
struct Done {
    spent: SpentBatch,
    answers: Vec<Answer>,
    failed: Vec<(Pending, Error)>,
    /// What came of those of `subscription`.
    counts: Counts,
    subscription: usize,
}

impl Done {
    fn take(&mut self, state: &mut State, shared: &Shared, mut pending: Pending, verdict: Result<()>) {
        if let Err(error) = &verdict
            && state.phase() != Phase::Closed
            && error.kind() != ErrorKind::StaleDelivery
        {
            if matches!(error.kind(), ErrorKind::Rejected | ErrorKind::InvalidInput) {
                self.answers.extend(state.refuse(&mut pending, error));
            }
            self.failed.extend(verdict.err().map(|error| (pending, error)));
            return;
        }
        let message = match pending.hold.take() {
            Some(hold) if verdict.is_ok() => state.keep(pending.slot, *hold),
            _ => state.complete(pending.slot),
        };
        if state.acks_first() && matches!(pending.action, Action::Ack) {
            state.acked(message.filter(|_| verdict.is_ok()).map(|(message, _)| message));
        } else if let Some((message, size)) = message {
            self.spent.add(&shared.spent, message, size);
        }
        self.count(shared, &pending, verdict.is_ok());
        let verdict = verdict.map_err(|error| error.during(shared.backend, "settle"));
        self.answers.extend(state.answer(pending.reply, verdict));
    }

    /// Counts a settlement, those of one subscription together.
    fn count(&mut self, shared: &Shared, pending: &Pending, settled: bool) {
        if pending.subscription != self.subscription {
            self.tell_counts(shared);
            self.subscription = pending.subscription;
        }
        let count = match pending.fate {
            _ if !settled => &mut self.counts.stale,
            Fate::Acked => &mut self.counts.acked,
            Fate::Retried => &mut self.counts.retried,
            Fate::Dead => &mut self.counts.dead,
            Fate::Deferred => &mut self.counts.deferred,
        };
        *count += 1;
    }

    fn tell_counts(&mut self, shared: &Shared) {
        let counts = std::mem::take(&mut self.counts);
        shared.counters.add_delivered(shared.counted[self.subscription], &counts);
    }

    /// Counts, answers and frees.
    fn tell(&mut self, shared: &Shared) {
        self.tell_counts(shared);
        self.answers.drain(..).for_each(Answer::send);
        shared.spent.put(std::mem::take(&mut self.spent));
    }
}

/// The source is still this consumer's and nobody else will get it: settle it until it succeeds,
/// turns stale, or the consumer is closed.
async fn try_again(shared: Arc<Shared>, failed: Vec<(Pending, Error)>) {
    if let Some((_, error)) = failed.first() {
        shared.context.events.failed("settle", error);
    }
    let tries = failed.iter().map(|(pending, _)| pending.tries).max().unwrap_or(0);
    let pause = Duration::from_millis(50).saturating_mul(1 << tries.min(10)).min(SETTLE_PAUSE);
    let mut stop = shared.stop.subscribe();
    let stopped =
        tokio::time::timeout(pause.mul_f64(0.5 + fastrand::f64() / 2.0), stop.wait_for(|stop| *stop))
            .await
            .is_ok();
    let now = shared.context.clock.now();
    let mut state = shared.state.lock();
    let closed = stopped || state.phase() == Phase::Closed;
    let mut answers = Vec::new();
    for (pending, error) in failed {
        if closed {
            answers.extend(state.answer(pending.reply, Err(error)));
        } else {
            state.again(pending, now);
        }
    }
    drop(state);
    shared.settle.notify_one();
    answers.into_iter().for_each(Answer::send);
}

async fn keep_time(shared: Arc<Shared>) {
    loop {
        let (next, solo) = tick(&shared);
        if let Some(token) = solo {
            let recorded = shared.consumer.start(token).await;
            if let Err(error) = &recorded
                && error.kind() != ErrorKind::StaleDelivery
            {
                shared.context.events.failed("start", error);
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            shared.state.lock().solo_started(token, &recorded);
            shared.ready.notify_one();
            continue;
        }
        tokio::select! {
            () = tokio::time::sleep_until(next) => {}
            () = shared.timers.notified() => {}
        }
    }
}

/// Moves time forward in the state; returns when to look again, and a suspect to start.
fn tick(shared: &Shared) -> (Instant, Option<Token>) {
    let (now, wall) = (Instant::now(), shared.context.clock.now());
    let mut expired = Vec::new();
    let mut state = shared.state.lock();
    let lease = state.expire(now, wall, |incoming| {
        expired.push((incoming.subscription, incoming.message.id.to_string()));
    });
    let due = state.release_due(wall).map(|at| now + at.since(wall));
    let solo = state.next_solo();
    let (ready, settle) = (state.has_ready(), state.has_settlements());
    drop(state);
    if ready {
        shared.ready.notify_one();
    }
    if settle {
        shared.settle.notify_one();
    }
    for (subscription, id) in expired {
        let one = Counts { expired: 1, ..Counts::default() };
        shared.counters.add_delivered(shared.counted[subscription], &one);
        shared.context.events.emit(Event::LeaseExpired { id });
    }
    (due.map_or(lease, |due| due.min(lease)), solo)
}

/// The error of a settlement whose consumer went away before it was answered.
pub(crate) fn unanswered() -> Error {
    Error::new(ErrorKind::Closed, "the subscriber was closed before this was settled")
}

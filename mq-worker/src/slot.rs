//! One of a handler's places: a message at a time, from receiving to settling.

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt as _;
use mq_core::{Delivery, ErrorKind, Result, Settled};
use tokio::time::{Interval, MissedTickBehavior};

use crate::backoff::Backoff;
use crate::context::Context;
use crate::control::Control;
use crate::failure::{Failure, Verdict};
use crate::health::Stage;
use crate::layer::Next;
use crate::limiter::Limiter;
use crate::outcome::Outcome;
use crate::route::Route;
use crate::shared::{Counts, Settlement, Shared};

/// The most settlements of a slot that wait for the broker's answer; more where all slots' together are less than half
/// of what may be held.
const UNANSWERED: usize = 128;

/// Takes a message, handles it, settles it, and takes the next one while the broker answers.
pub(crate) struct Slot {
    pub(crate) control: Control,
    /// Its number among the handler's places.
    pub(crate) index: usize,
    /// How many of these places are in use, where that changes.
    pub(crate) limiter: Option<Arc<Limiter>>,
    pub(crate) route: Arc<Route>,
    pub(crate) backoff: Backoff,
    pub(crate) shared: Arc<Shared>,
}

impl Slot {
    /// Works until the subscriber is closed.
    ///
    /// # Errors
    /// What ended the subscriber and time can't heal.
    pub(crate) async fn run(self) -> Result<()> {
        // Renews whatever is in hand: no timer per message.
        let mut renewal = tokio::time::interval(self.route.settings.lease / 3);
        renewal.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut answers = Answers(VecDeque::new());
        let end = loop {
            let delivery = match self.next(&mut answers).await {
                Ok(Some(delivery)) => delivery,
                Ok(None) => break Ok(()),
                Err(error) if error.kind() == ErrorKind::Closed => break Ok(()),
                Err(error) => break Err(error),
            };
            let started = self.limiter.as_ref().map(|limiter| limiter.start());
            let Some(outcome) = self.handle(&delivery, &mut renewal).await else { break Ok(()) };
            if let Some(started) = started {
                started.end(outcome.as_ref().err().is_none_or(|failure| !failure.is_fault()));
            }
            answers.0.push_back(self.settle(delivery, outcome));
        };
        while !answers.0.is_empty() {
            answers.first(&self.shared.counts).await;
        }
        end
    }

    /// Returns `None` if the worker stops.
    async fn next(&self, answers: &mut Answers) -> Result<Option<Delivery>> {
        while !self.shared.is_stopping() {
            // By then most are there: looking earlier costs more than the answer does.
            if answers.0.len() >= self.unanswered() {
                answers.first(&self.shared.counts).await;
                answers.take(&self.shared.counts);
            }
            tokio::select! {
                biased;
                () = self.closed() => tokio::select! {
                    () = self.opened() => {}
                    () = answers.first(&self.shared.counts), if !answers.0.is_empty() => {}
                    () = self.shared.stopping() => {}
                },
                received = self.control.subscriber.receive() => return received.map(Some),
                () = answers.first(&self.shared.counts), if !answers.0.is_empty() => {}
                () = self.control.paused() => tokio::select! {
                    () = self.control.open() => {}
                    () = self.shared.stopping() => {}
                },
            }
        }
        Ok(None)
    }

    fn unanswered(&self) -> usize {
        let held = self.route.prefetch.unwrap_or(mq_core::PREFETCH.messages);
        (held / 2 / self.route.concurrency.most()).max(UNANSWERED)
    }

    /// Returns once this place is one too many.
    async fn closed(&self) {
        match &self.limiter {
            Some(limiter) => limiter.below(self.index).await,
            None => std::future::pending().await,
        }
    }

    /// Returns once this place is in use.
    async fn opened(&self) {
        if let Some(limiter) = &self.limiter {
            limiter.above(self.index).await;
        }
    }

    /// Returns `None` if the run is over before the handler is.
    async fn handle(&self, delivery: &Delivery, renewal: &mut Interval) -> Option<Outcome> {
        let mut context = Context::new(delivery, &self.route, &self.control, &self.shared);
        let handled = AssertUnwindSafe(self.try_often(&mut context)).catch_unwind();
        let mut handled = std::pin::pin!(handled);
        loop {
            tokio::select! {
                biased;
                outcome = &mut handled => {
                    return Some(outcome.unwrap_or_else(|panic| Err(Failure::panicked(&*panic))));
                }
                _ = renewal.tick() => if let Err(lost) = delivery.extend() {
                    return Some(Err(lost.into()));
                },
                () = self.shared.reached(Stage::Over) => return None,
            }
        }
    }

    /// The attempt, with its immediate tries.
    async fn try_often(&self, context: &mut Context<'_>) -> Outcome {
        let next = Next { layers: &self.route.layers, handler: &*self.route.handler };
        let mut left = self.backoff.immediate_tries();
        loop {
            let failure = match next.run(context).await {
                Ok(mut done) => match context.publish(std::mem::take(&mut done.publish)).await {
                    Ok(()) => return Ok(done),
                    Err(failure) => failure,
                },
                Err(failure) => failure,
            };
            let failure = self.shared.judge(failure);
            if failure.verdict() != Verdict::Policy || left == 0 || self.shared.is_stopping() {
                return Err(failure);
            }
            left -= 1;
        }
    }

    fn settle(&self, delivery: Delivery, outcome: Outcome) -> (Settled, Settlement) {
        let failure = match outcome {
            Ok(done) if done.skipped => return (delivery.ack(), Settlement::Skipped),
            Ok(_) => return (delivery.ack(), Settlement::Handled),
            Err(failure) => failure,
        };
        let attempt = delivery.attempt();
        let after = match failure.verdict() {
            Verdict::Defer(after) => return (delivery.defer(after), Settlement::Deferred),
            Verdict::Reject => {
                self.tell_dead(&delivery, &failure);
                return (delivery.dead_letter(failure.to_string()), Settlement::Dead);
            }
            Verdict::Retry(after) => after,
            Verdict::Policy => self.backoff.delay(attempt),
        };
        let settlement = if attempt >= self.route.settings.max_attempts {
            self.tell_dead(&delivery, &failure);
            Settlement::Dead
        } else {
            let id = &delivery.message().id;
            tracing::info!(target: "mq", topic = %self.control.topic(), %id, attempt, ?after, %failure, "failed, is tried again");
            Settlement::Retried
        };
        (delivery.retry_because(after, failure), settlement)
    }

    fn tell_dead(&self, delivery: &Delivery, failure: &Failure) {
        let (topic, group, id) = (self.control.topic(), self.control.group(), &delivery.message().id);
        tracing::warn!(target: "mq", %topic, %group, %id, attempt = delivery.attempt(), %failure, "is a dead letter");
    }
}

/// Settlements whose answers are awaited, in order, beside other work.
struct Answers(VecDeque<(Settled, Settlement)>);

impl Answers {
    /// Takes the answers that are there.
    fn take(&mut self, counts: &Counts) {
        while let Some((answer, settlement)) = self.0.front_mut() {
            let Some(answer) = answer.now_or_never() else { return };
            count(counts, *settlement, &answer);
            self.0.pop_front();
        }
    }

    /// Waits for the first answer.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    async fn first(&mut self, counts: &Counts) {
        if let Some((answer, settlement)) = self.0.front_mut() {
            let answer = answer.await;
            count(counts, *settlement, &answer);
            self.0.pop_front();
        }
    }
}

fn count(counts: &Counts, settlement: Settlement, answer: &Result<()>) {
    match answer {
        Ok(()) => counts.add(settlement),
        Err(error) => match error.kind() {
            ErrorKind::StaleDelivery => counts.add(Settlement::Stale),
            // The broker refused the copy: core made a dead letter of it.
            ErrorKind::Rejected | ErrorKind::InvalidInput => counts.add(Settlement::Dead),
            // Closed before it was answered: among those given back.
            _ => {}
        },
    }
}

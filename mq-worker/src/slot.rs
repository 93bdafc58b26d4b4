//! One of a handler's places: from receiving to settling, one message under way at a time.

use std::any::Any;
use std::future::poll_fn;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::FutureExt as _;
use mq_core::{Delivery, ErrorKind, Result, Settled};
use tokio::time::{Interval, MissedTickBehavior};

use crate::answers::Answers;
use crate::backoff::Backoff;
use crate::context::Context;
use crate::control::Control;
use crate::failure::{Failure, Verdict};
use crate::health::Stage;
use crate::layer::Next;
use crate::limiter::Limiter;
use crate::outcome::Outcome;
use crate::route::Route;
use crate::shared::{Settlement, Shared};
use crate::taken::{Pace, Taken};

/// How long to wait for a message; nothing depends on it.
const LONG: Duration = Duration::from_secs(3600);

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
        let mut answers = Answers::default();
        let mut pace = Pace::default();
        let end = loop {
            let mut taken = match self.next(&mut answers, pace).await {
                Ok(Some(taken)) => taken,
                Ok(None) => break Ok(()),
                Err(error) if error.kind() == ErrorKind::Closed => break Ok(()),
                Err(error) => break Err(error),
            };
            if !self.work_off(&mut taken, &mut answers, &mut renewal).await {
                break Ok(());
            }
            // What adapts measures one message at a time.
            if self.limiter.is_none() {
                pace.note(&taken);
            }
        };
        while !answers.are_there() {
            answers.first(&self.shared.counts).await;
        }
        end
    }

    /// Returns `None` if the worker stops.
    async fn next(&self, answers: &mut Answers, pace: Pace) -> Result<Option<Taken>> {
        while !self.shared.is_stopping() {
            // By then most are there: looking earlier costs more than the answer does.
            if answers.missing() >= self.unanswered() {
                answers.first(&self.shared.counts).await;
                answers.take(&self.shared.counts);
            }
            tokio::select! {
                biased;
                () = self.closed() => tokio::select! {
                    () = self.opened() => {}
                    () = answers.first(&self.shared.counts), if !answers.are_there() => {}
                    () = self.shared.stopping() => {}
                },
                received = self.receive(pace) => return received.map(Some),
                () = answers.first(&self.shared.counts), if !answers.are_there() => {}
                () = self.control.paused() => tokio::select! {
                    () = self.control.open() => {}
                    () = self.shared.stopping() => {}
                },
            }
        }
        Ok(None)
    }

    async fn receive(&self, pace: Pace) -> Result<Taken> {
        if pace.many() == 1 {
            return self.control.subscriber.receive().await.map(Taken::one);
        }
        loop {
            let batch = self.control.subscriber.receive_batch(pace.many(), LONG).await?;
            if let Some(taken) = Taken::new(batch) {
                return Ok(taken);
            }
        }
    }

    /// Handles what was taken as long as it is quick; what is left goes to other places. Returns whether the run
    /// goes on.
    async fn work_off(&self, taken: &mut Taken, answers: &mut Answers, renewal: &mut Interval) -> bool {
        while let Some(delivery) = taken.next() {
            let started = self.limiter.as_ref().map(|limiter| limiter.start());
            let handled = self.handle(&delivery, renewal, || {
                taken.put_back();
                answers.send_acks();
            });
            let Some(outcome) = handled.await else { return false };
            if let Some(started) = started {
                started.end(outcome.as_ref().err().is_none_or(|failure| !failure.is_fault()));
            }
            match outcome {
                Ok(done) => {
                    let settlement = if done.skipped { Settlement::Skipped } else { Settlement::Handled };
                    if taken.are_many() {
                        answers.ack(delivery, settlement);
                    } else {
                        answers.add(delivery.ack(), settlement);
                    }
                    if taken.is_late() || self.control.is_paused() || self.shared.is_stopping() {
                        taken.put_back();
                    }
                }
                Err(failure) => {
                    taken.put_back();
                    let (answer, settlement) = self.settle(delivery, failure);
                    answers.add(answer, settlement);
                }
            }
        }
        answers.send_acks();
        true
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

    /// Returns `None` if the run is over before the handler is. Calls `waits` if the handler does not end at once.
    async fn handle(
        &self,
        delivery: &Delivery,
        renewal: &mut Interval,
        waits: impl FnOnce(),
    ) -> Option<Outcome> {
        let mut context = Context::new(delivery, &self.route, &self.control, &self.shared);
        let handled = AssertUnwindSafe(self.try_often(&mut context)).catch_unwind();
        let mut handled = std::pin::pin!(handled);
        let panicked = |panic: Box<dyn Any + Send>| Err(Failure::panicked(&*panic));
        let at_once = poll_fn(|cx| Poll::Ready(handled.as_mut().poll(cx)));
        if let Poll::Ready(outcome) = at_once.await {
            return Some(outcome.unwrap_or_else(panicked));
        }
        waits();
        loop {
            tokio::select! {
                biased;
                outcome = &mut handled => {
                    return Some(outcome.unwrap_or_else(panicked));
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

    fn settle(&self, delivery: Delivery, failure: Failure) -> (Settled, Settlement) {
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

//! How a service works off its messages, in batches and without losing or repeating an effect.
//!
//! For each batch: decide; make the effects durable in the journal; return what is to be told to the next
//! stage. The worker publishes that, waits for the broker's confirmation, and only then acks. A crash at any point
//! leads to a redelivery. An order whose effect is known from an earlier delivery is told again, because the
//! crash may have come in between, and has no second effect.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use mq::Timestamp;
use mq::worker::{
    Attempt, Backoff, Context, Failure, FromMessage, Health, Json, Layer, Next, Outcome, Publish, Rejection,
    State, Worker, batch,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, Notify};

use crate::journal::Journal;
use crate::judge::Judge;
use crate::kill::{Trap, kill_this_process};
use crate::meter::Meter;
use crate::order::{AGAIN, Event, Order};
use crate::shop::{self, Shop};

/// The most orders worked on together.
const BATCH: usize = 500;
/// How long a batch waits for more orders.
const WITHIN: Duration = Duration::from_millis(5);
/// Orders fetched ahead: waiting behind their customer's earlier ones, or to be the next batch.
const PREFETCH: usize = 4000;
/// How long going home may take.
pub(crate) const CLOSE: Duration = Duration::from_secs(10);

/// The rules of a service.
pub(crate) trait Service: Debug + Default + Send + 'static {
    /// Its group.
    const NAME: &'static str;
    /// What it is told.
    const READS: &'static [Event];
    /// What it tells when it is done with an order.
    const TELLS: Option<Event>;
    /// Whether it needs each customer's orders in order.
    const ORDERED: bool = true;
    /// After how many attempts an order goes to the dead letters.
    const MAX_ATTEMPTS: u32 = 5;
    /// What it does to an order, as its journal has it.
    type Effect: Debug + Serialize + DeserializeOwned + Send + Sync;

    /// Decides about an order; `attempt` counts from 1.
    fn handle(&self, event: Event, order: &Order, attempt: u32) -> Step<Self::Effect>;

    /// Learns an effect: of now, or of before a restart.
    fn apply(&mut self, order: u64, effect: &Self::Effect);

    /// Returns how many orders (analytics: events) it is done with.
    fn finished(&self) -> usize;

    /// Returns how many orders it tried and will try again.
    fn waiting(&self) -> usize {
        0
    }
}

/// What becomes of an order.
#[derive(Debug)]
pub(crate) enum Step<E> {
    /// It is done.
    Done(E),
    /// It was done before.
    Known,
    /// It failed, and may succeed later.
    Retry { effect: E, after: Duration, because: &'static str },
}

/// A line of a service's journal.
#[derive(Debug, Serialize, Deserialize)]
struct Record<E> {
    order: u64,
    customer: String,
    line: u64,
    /// Whether the order was sent or handled before; see [`crate::judge`].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    again: bool,
    effect: E,
}

/// What a service is told about an order.
#[derive(Debug)]
struct Told {
    order: Order,
    event: Event,
    attempt: u32,
    redelivered: bool,
    again: bool,
    sent_at: Option<Timestamp>,
}

impl FromMessage for Told {
    fn from_message(context: &Context<'_>) -> Result<Self, Rejection> {
        let (Json(order), Attempt(attempt)) = <_>::from_message(context)?;
        let (message, redelivered) = (context.message(), context.delivery().redelivered());
        let event = Event::of_topic(context.topic().as_str());
        Ok(Self {
            order,
            event: event.ok_or_else(|| Rejection::malformed("the topic tells no event"))?,
            attempt,
            redelivered,
            again: redelivered || message.headers.get(AGAIN).is_some(),
            sent_at: message.published_at,
        })
    }
}

/// A service at work: its rules, its journal and what it tells.
#[derive(Debug)]
pub(crate) struct Stage<S: Service> {
    desk: Mutex<Desk<S>>,
    pub(crate) meter: Arc<Meter>,
    shop: Shop,
    broken: Notify,
}

/// What is changed by a batch at a time.
#[derive(Debug)]
struct Desk<S: Service> {
    service: S,
    judge: Judge,
    journal: Journal<Record<S::Effect>>,
    /// Why it cannot go on.
    failure: Option<anyhow::Error>,
}

impl<S: Service> Stage<S> {
    /// Learns from the service's journal what it did before.
    pub(crate) fn open(shop: &Shop) -> Result<Arc<Self>> {
        let (journal, records) = shop.journal::<Record<S::Effect>>(S::NAME)?;
        let (mut service, mut judge) = (S::default(), Judge::default());
        for record in &records {
            service.apply(record.order, &record.effect);
            if S::ORDERED && !record.again {
                judge.restore(&record.customer, record.line);
            }
        }
        let meter = Arc::new(Meter::new(S::NAME));
        meter.progress(service.finished(), service.waiting());
        let desk = Mutex::new(Desk { service, judge, journal, failure: None });
        Ok(Arc::new(Self { desk, meter, shop: shop.clone(), broken: Notify::new() }))
    }

    /// Returns who works, and how that is.
    pub(crate) fn worker(self: &Arc<Self>) -> (Worker, Health) {
        let sent = Sent(Trap::new(self.shop.kill_at.as_ref(), &format!("{}.sent", S::NAME)).into());
        let mut worker = Worker::new(&self.shop.client, S::NAME)
            .state(self.clone())
            .layer(sent)
            .retry(Backoff::default().attempts(S::MAX_ATTEMPTS))
            .drain(CLOSE);
        if let Some(metrics) = &self.shop.metrics {
            worker = metrics.watch(worker);
        }
        for event in S::READS {
            let route = batch(work::<S>).size(BATCH).within(WITHIN).route();
            let route = route.spec(shop::topic_spec()).prefetch(PREFETCH);
            let route = if S::ORDERED { route.ordered() } else { route };
            worker = worker.on(event.topic(&self.shop.run), route);
        }
        let health = worker.health();
        (worker, health)
    }

    /// Works until it is told to stop; returns what the service knows then.
    pub(crate) async fn run(self: Arc<Self>, worker: Worker) -> Result<S> {
        let until = async {
            tokio::select! {
                () = self.shop.stopped() => {}
                () = self.broken.notified() => {}
            }
        };
        let ran = worker.run_until(until).await;
        let mut desk = self.desk.lock().await;
        let failed = desk.failure.take().map_or(Ok(()), Err).and(ran.map_err(Into::into));
        let report = failed.with_context(|| format!("the service {} failed", S::NAME))?;
        self.meter.stale(report.stale);
        Ok(std::mem::take(&mut desk.service))
    }
}

/// Handles a batch.
async fn work<S: Service>(
    orders: Vec<Told>,
    State(stage): State<Arc<Stage<S>>>,
) -> Vec<Result<Option<Publish>, Failure>> {
    let mut desk = stage.desk.lock().await;
    let sent_at: Vec<Timestamp> =
        orders.iter().filter(|told| !told.redelivered).filter_map(|told| told.sent_at).collect();
    let mut effects = Vec::new();
    let verdicts: Vec<_> =
        orders.into_iter().map(|told| stage.decide(&mut desk, told, &mut effects)).collect();
    if let Err(error) = desk.journal.append(&effects).await {
        desk.failure.get_or_insert(error);
        stage.broken.notify_one();
        // Given back as they are; the worker stops.
        return verdicts.into_iter().map(|_| Err(Failure::defer(Duration::ZERO))).collect();
    }
    stage.meter.handled(effects.len(), &sent_at);
    stage.meter.progress(desk.service.finished(), desk.service.waiting());
    stage.shop.changed.notify_one();
    verdicts
}

impl<S: Service> Stage<S> {
    /// Decides about an order. Its effect counts for the rest of the batch already.
    fn decide(
        &self,
        desk: &mut Desk<S>,
        told: Told,
        effects: &mut Vec<Record<S::Effect>>,
    ) -> Result<Option<Publish>, Failure> {
        let Told { order, event, attempt, again, .. } = told;
        match desk.service.handle(event, &order, attempt) {
            Step::Known => {
                self.meter.known();
                self.tell(&order, true)
            }
            Step::Done(effect) => {
                let told = self.tell(&order, again);
                effects.push(self.learn(desk, order, again, effect));
                told
            }
            Step::Retry { effect, after, because } => {
                effects.push(self.learn(desk, order, again, effect));
                Err(Failure::retry(after).because(because))
            }
        }
    }

    fn tell(&self, order: &Order, again: bool) -> Result<Option<Publish>, Failure> {
        let Some(event) = S::TELLS else { return Ok(None) };
        Ok(Some(Publish::new(event.topic(&self.shop.run), order.message(event, again)?)))
    }

    fn learn(&self, desk: &mut Desk<S>, order: Order, again: bool, effect: S::Effect) -> Record<S::Effect> {
        if S::ORDERED && !again {
            desk.judge.see(&order.customer, order.line);
            self.meter.out_of_order(desk.judge.out_of_order());
        }
        desk.service.apply(order.id, &effect);
        Record { order: order.id, customer: order.customer, line: order.line, again, effect }
    }
}

/// A layer that sees what the broker confirmed to the next stage and is not acked yet.
struct Sent(std::sync::Mutex<Trap>);

impl Layer for Sent {
    async fn call(&self, context: &mut Context<'_>, next: Next<'_>) -> Outcome {
        let outcome = next.run(context).await;
        let mut trap = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if outcome.is_ok() && trap.pass(1).is_some() {
            kill_this_process();
        }
        drop(trap);
        outcome
    }
}

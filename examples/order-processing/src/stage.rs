//! How a service works off its messages, in batches and without losing or repeating an effect.
//!
//! For each batch: decide; make the effects durable in the journal; tell the next stage and wait
//! for the broker's confirmation; only then ack. A crash at any point leads to a redelivery. An
//! order whose effect is known from an earlier delivery is told again, because the crash may have come in
//! between, and has no second effect.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use futures_util::future::join_all;
use mq::{
    Delivery, ErrorKind, GroupSettings, Message, Publisher, Settled, SettledAll, Subscriber, Timestamp,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::journal::Journal;
use crate::judge::Judge;
use crate::kill::{Trap, kill_this_process};
use crate::meter::Meter;
use crate::order::{AGAIN, Event, Order};
use crate::send::send_all;
use crate::shop::{self, Shop};

/// The most orders worked on together.
const BATCH: usize = 1000;
/// Orders fetched ahead: waiting behind their customer's earlier ones, or to be the next batch.
const PREFETCH: usize = 4000;
/// How long to wait for messages before looking after what is unsettled.
const IDLE: Duration = Duration::from_millis(200);
/// How long going home may take.
pub(crate) const CLOSE: Duration = Duration::from_secs(10);

/// The rules of a service.
pub(crate) trait Service: Debug + Send + 'static {
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

    /// Returns the settings of the service's group: declared once, the same for all its members.
    fn group() -> GroupSettings {
        let settings = GroupSettings::default().max_attempts(Self::MAX_ATTEMPTS);
        if Self::ORDERED { settings.ordered() } else { settings }
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

/// A service at work: its rules, its subscription, its publisher and its journal.
#[derive(Debug)]
pub(crate) struct Stage<S: Service> {
    pub(crate) service: S,
    pub(crate) meter: Arc<Meter>,
    judge: Judge,
    subscriber: Subscriber,
    publisher: Option<(Event, Publisher)>,
    journal: Journal<Record<S::Effect>>,
    shop: Shop,
    unsettled: Unsettled,
    sent_trap: Trap,
    retry_trap: Trap,
}

/// Settlements whose answers are not in yet.
#[derive(Debug, Default)]
struct Unsettled {
    acks: Option<SettledAll>,
    retries: Vec<Settled>,
}

/// A batch after its decisions.
#[derive(Debug)]
struct Work<E> {
    effects: Vec<Record<E>>,
    forward: Vec<Message>,
    done: Vec<Delivery>,
    retries: Vec<(Delivery, Duration, &'static str)>,
    foreign: Vec<(Delivery, String)>,
    /// When the orders that came for the first time were sent.
    sent_at: Vec<Timestamp>,
}

impl<E> Default for Work<E> {
    fn default() -> Self {
        Self {
            effects: Vec::new(),
            forward: Vec::new(),
            done: Vec::new(),
            retries: Vec::new(),
            foreign: Vec::new(),
            sent_at: Vec::new(),
        }
    }
}

impl<S: Service> Stage<S> {
    /// Joins the service's group and learns from its journal what it did before.
    pub(crate) async fn open(shop: &Shop, mut service: S) -> Result<Self> {
        let mut topics = S::READS.iter().map(|event| event.topic(&shop.run));
        let first = topics.next().context("a service reads at least one topic")?;
        let builder = shop.client.subscriber(first, S::NAME);
        let builder = topics.fold(builder, mq::SubscriberBuilder::and_topic);
        let subscriber =
            builder.spec(shop::topic_spec()).settings(S::group()).prefetch(PREFETCH).open().await?;
        let publisher = match S::TELLS {
            Some(event) => Some((event, shop.publisher(event).await?)),
            None => None,
        };
        let (journal, records) = shop.journal::<Record<S::Effect>>(S::NAME)?;
        let mut judge = Judge::default();
        for record in &records {
            service.apply(record.order, &record.effect);
            if S::ORDERED && !record.again {
                judge.restore(&record.customer, record.line);
            }
        }
        let meter = Arc::new(Meter::new(S::NAME));
        meter.progress(service.finished(), service.waiting());
        let trap = |point: &str| Trap::new(shop.kill_at.as_ref(), point);
        Ok(Self {
            service,
            meter,
            judge,
            subscriber,
            publisher,
            journal,
            shop: shop.clone(),
            unsettled: Unsettled::default(),
            sent_trap: trap(&format!("{}.sent", S::NAME)),
            retry_trap: trap("retry"),
        })
    }

    /// Works until it is told to stop; then settles what is in hand and leaves the group.
    pub(crate) async fn run(mut self) -> Result<Self> {
        self.work().await.with_context(|| format!("the service {} failed", S::NAME))?;
        self.subscriber.close(CLOSE).await?;
        Ok(self)
    }

    async fn work(&mut self) -> Result<()> {
        loop {
            let batch = tokio::select! {
                batch = self.subscriber.receive_batch(BATCH, IDLE) => batch?,
                () = self.shop.stopped() => return self.settled().await,
            };
            if batch.is_empty() {
                self.settled().await?;
            } else {
                self.process(batch).await?;
            }
        }
    }

    async fn process(&mut self, batch: Vec<Delivery>) -> Result<()> {
        let mut work = Work::default();
        for delivery in batch {
            self.decide(delivery, &mut work)?;
        }
        self.journal.append(&work.effects).await?;
        if let Some((_, publisher)) = &self.publisher {
            let sent = work.forward.len();
            send_all(publisher, work.forward).await?;
            if self.sent_trap.pass(sent).is_some() {
                kill_this_process();
            }
        }
        // The answers to the last batch's settlements came in meanwhile; nobody waited for them.
        self.settled().await?;
        self.unsettled.acks = Some(mq::ack_all(work.done));
        for (delivery, after, because) in work.retries {
            self.unsettled.retries.push(delivery.retry_because(after, because));
        }
        for (delivery, problem) in work.foreign {
            self.unsettled.retries.push(delivery.dead_letter(problem));
        }
        self.meter.handled(work.effects.len(), &work.sent_at);
        self.meter.progress(self.service.finished(), self.service.waiting());
        self.shop.changed.notify_one();
        Ok(())
    }

    /// Decides about one delivery. Its effect counts for the rest of the batch already.
    fn decide(&mut self, delivery: Delivery, work: &mut Work<S::Effect>) -> Result<()> {
        let order = match delivery.json::<Order>() {
            Ok(order) => order,
            Err(error) => {
                work.foreign.push((delivery, format!("not an order: {error:?}")));
                return Ok(());
            }
        };
        let again = delivery.redelivered() || delivery.message().headers.get(AGAIN).is_some();
        match self.service.handle(S::READS[delivery.subscription()], &order, delivery.attempt()) {
            Step::Known => {
                self.meter.known();
                self.forward(&order, true, work)?;
                work.done.push(delivery);
            }
            Step::Done(effect) => {
                work.sent_at.extend(delivery.message().published_at.filter(|_| !delivery.redelivered()));
                self.forward(&order, again, work)?;
                self.remember(order, again, effect, work);
                work.done.push(delivery);
            }
            Step::Retry { effect, after, because } => {
                self.remember(order, again, effect, work);
                work.retries.push((delivery, after, because));
            }
        }
        Ok(())
    }

    fn forward(&self, order: &Order, again: bool, work: &mut Work<S::Effect>) -> Result<()> {
        if let Some((event, _)) = &self.publisher {
            work.forward.push(order.message(*event, again)?);
        }
        Ok(())
    }

    fn remember(&mut self, order: Order, again: bool, effect: S::Effect, work: &mut Work<S::Effect>) {
        if S::ORDERED && !again {
            self.judge.see(&order.customer, order.line);
            self.meter.out_of_order(self.judge.out_of_order());
        }
        self.service.apply(order.id, &effect);
        work.effects.push(Record {
            order: order.id,
            customer: order.customer,
            line: order.line,
            again,
            effect,
        });
    }

    /// Waits for the answers to the settlements under way.
    async fn settled(&mut self) -> Result<()> {
        let Unsettled { acks, retries } = std::mem::take(&mut self.unsettled);
        let mut failures = Vec::new();
        if let Some(acks) = acks {
            failures.extend(acks.await.err().unwrap_or_default().into_iter().map(|(_, error)| error));
        }
        let retries = join_all(retries).await;
        let confirmed = retries.iter().filter(|settled| settled.is_ok()).count();
        failures.extend(retries.into_iter().filter_map(Result::err));
        if self.retry_trap.pass(confirmed).is_some() {
            kill_this_process();
        }
        for error in failures {
            // The delivery went to another holder before the answer; it comes as a known order.
            if error.kind() != ErrorKind::StaleDelivery {
                return Err(error).context("a settlement failed");
            }
            self.meter.stale();
        }
        Ok(())
    }
}

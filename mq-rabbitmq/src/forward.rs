//! Moves delayed messages on: from the queue of what is due to the next lane, or to the target.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use bytestring::ByteString;
use futures_util::StreamExt;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions};
use lapin::types::{FieldTable, ShortString};
use mq_core::{ErrorKind, Event, Events, Result};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::backend::Shared;
use crate::codec::Publication;
use crate::connection::{Link, Pause};
use crate::delay::Delay;
use crate::names::{DUE, Target};
use crate::passing::Passing;
use crate::publish::Publisher;
use crate::topology::Topology;

/// Messages forwarded together, and how many a task may hold: the next ones are there when a batch is done.
const BATCH: usize = 256;
const AHEAD: u16 = 1024;
/// How long a message stays that cannot be forwarded now.
const RETRY: Duration = Duration::from_secs(1);
/// How long a task that is to end waits for its channel to be closed.
const GOODBYE: Duration = Duration::from_secs(1);

/// How many tasks forward: while one waits for a target that does not answer, others go on.
const TASKS: usize = 4;
/// How long a target that did not confirm is left alone, and the rung (4 s) where its messages wait meanwhile.
const SHUN: Duration = Duration::from_secs(60);
const ASIDE: usize = 3;

/// The forwarding tasks of a client, which run while it has open consumers.
#[derive(Debug, Default)]
pub(crate) struct Forwarder(Mutex<Running>);

#[derive(Debug, Default)]
struct Running {
    consumers: usize,
    /// Ends the tasks that serve the consumers there are.
    stop: Option<Arc<watch::Sender<bool>>>,
    /// Those of tasks that were told to end and finish what they have in hand; each task keeps a receiver.
    stopped: Vec<Arc<watch::Sender<bool>>>,
    closed: bool,
}

impl Running {
    fn stop(&mut self) {
        if let Some(stop) = self.stop.take() {
            stop.send_replace(true);
            self.stopped.retain(|stop| !stop.is_closed());
            self.stopped.push(stop);
        }
    }
}

/// One consumer's share of the tasks; given up when it is dropped.
#[derive(Debug)]
pub(crate) struct Forwarding(Arc<Forwarder>);

impl Drop for Forwarding {
    fn drop(&mut self) {
        let mut running = self.0.0.lock();
        running.consumers -= 1;
        if running.consumers == 0 {
            running.stop();
        }
    }
}

impl Forwarding {
    /// Gives up the share; if it was the last, waits until the tasks have ended.
    pub(crate) async fn leave(self) {
        let forwarder = self.0.clone();
        drop(self);
        let idle = forwarder.0.lock().consumers == 0;
        if idle {
            forwarder.ended().await;
        }
    }
}

impl Forwarder {
    /// Starts the tasks with the first consumer.
    pub(crate) fn enter(self: &Arc<Self>, shared: &Arc<Shared>) -> Forwarding {
        let mut running = self.0.lock();
        running.consumers += 1;
        if running.stop.is_none() && !running.closed {
            let stop = watch::Sender::new(false);
            let shunned = Arc::default();
            for _ in 0..TASKS {
                tokio::spawn(Forward::new(shared, Arc::clone(&shunned)).run(stop.subscribe()));
            }
            running.stop = Some(Arc::new(stop));
            tokio::spawn(prepare(shared.delay.clone(), shared.context.events.clone()));
        }
        Forwarding(self.clone())
    }

    /// Ends the tasks for good: what is in hand reaches its next place and is acknowledged, so that
    /// nothing is forwarded twice.
    pub(crate) async fn close(&self) {
        {
            let mut running = self.0.lock();
            running.closed = true;
            running.stop();
        }
        self.ended().await;
    }

    async fn ended(&self) {
        let stopped = self.0.lock().stopped.clone();
        for stop in stopped {
            stop.closed().await;
        }
    }
}

/// Declares the shortest lanes, so that the first delayed message does not wait for new queues.
async fn prepare(delay: Arc<Delay>, events: Events) {
    // Nothing was published, so there is nothing to wait for.
    if let Err(error) = delay.ensure(&(0..=ASIDE).collect()).await.map(drop) {
        events.failed("declaring the delay lanes", &error);
    }
}

struct Forward {
    link: Arc<Link>,
    topology: Arc<Topology>,
    delay: Arc<Delay>,
    courier: Publisher,
    events: Events,
    shunned: Arc<Mutex<Shunned>>,
}

impl Forward {
    fn new(shared: &Shared, shunned: Arc<Mutex<Shunned>>) -> Self {
        Self {
            link: shared.consume.clone(),
            topology: shared.topology.clone(),
            delay: shared.delay.clone(),
            courier: shared.courier(shared.config.publish_timeout),
            events: shared.context.events.clone(),
            shunned,
        }
    }

    async fn run(self, mut stopped: watch::Receiver<bool>) {
        let mut pause = Pause::default();
        while !*stopped.borrow() {
            if let Err(error) = self.serve(&mut pause, &mut stopped).await {
                self.events.failed("forwarding delayed messages", &error);
            }
            tokio::select! {
                () = tokio::time::sleep(pause.next()) => {}
                _ = stopped.wait_for(|stop| *stop) => break,
            }
        }
        self.courier.close().await;
    }

    /// Forwards until the channel ends or the task is stopped.
    async fn serve(&self, pause: &mut Pause, stopped: &mut watch::Receiver<bool>) -> Result<()> {
        tokio::select! {
            opened = self.delay.open_due() => opened?,
            _ = stopped.wait_for(|stop| *stop) => return Ok(()),
        }
        let channel = tokio::select! {
            channel = self.link.channel(None) => channel?,
            _ = stopped.wait_for(|stop| *stop) => return Ok(()),
        };
        let served = self.consume(&channel, pause, stopped).await;
        let topology = self.topology.clone();
        let left = tokio::spawn(async move { topology.leave(&channel).await });
        // A broker that does not answer must not hold up who closes.
        let hurry = async {
            drop(stopped.wait_for(|stop| *stop).await);
            tokio::time::sleep(GOODBYE).await;
        };
        tokio::select! {
            _ = left => {}
            () = hurry => {}
        }
        served
    }

    async fn consume(
        &self,
        channel: &lapin::Channel,
        pause: &mut Pause,
        stopped: &mut watch::Receiver<bool>,
    ) -> Result<()> {
        let stream = tokio::select! {
            opened = self.open(channel) => opened?,
            _ = stopped.wait_for(|stop| *stop) => return Ok(()),
        };
        let mut batches = stream.ready_chunks(BATCH);
        loop {
            let batch = tokio::select! {
                batch = batches.next() => batch,
                _ = stopped.wait_for(|stop| *stop) => return Ok(()),
            };
            let Some(batch) = batch else { return Ok(()) };
            let mut due = Vec::with_capacity(batch.len());
            for delivery in batch {
                due.push(delivery.map_err(crate::error::from_native)?);
            }
            self.forward(channel, due).await?;
            pause.reset();
        }
    }

    async fn open(&self, channel: &lapin::Channel) -> Result<lapin::Consumer> {
        let limited = channel.basic_qos(AHEAD, BasicQosOptions::default());
        self.topology.reply("limiting the prefetch", limited).await?;
        let (options, arguments) = (BasicConsumeOptions::default(), FieldTable::default());
        let consumed = channel.basic_consume(DUE.into(), ShortString::default(), options, arguments);
        self.topology.reply("consuming the queue of what is due", consumed).await
    }

    async fn forward(&self, channel: &lapin::Channel, due: Vec<Delivery>) -> Result<()> {
        let mut steps: Vec<Step> = due.into_iter().map(Step::read).collect();
        let shunned = self.shunned.lock().current();
        self.publish(&mut steps, |delay, step| step.next(delay, &shunned)).await?;
        for step in steps.iter().filter(|step| step.verdict == Verdict::Failed) {
            self.shunned.lock().insert(step);
        }
        // A queue that does not answer must not hold up what others wait for.
        self.publish(&mut steps, |delay, step| (step.verdict == Verdict::Failed).then(|| step.aside(delay)))
            .await?;
        if steps.iter().any(|step| step.verdict == Verdict::Failed) {
            // It was not the target: the broker takes nothing at all.
            self.shunned.lock().0.clear();
        }
        let lost = steps.iter().filter(|step| step.verdict == Verdict::Lost).count();
        if lost > 0 {
            let what = format!("{lost} delayed messages whose topic or group was deleted");
            self.events.emit(Event::Lost { what });
        }
        self.settle(channel, &steps).await
    }

    /// Publishes what `next` makes of the steps, and notes the verdicts.
    async fn publish(
        &self,
        steps: &mut [Step],
        next: impl Fn(&Delay, &Step) -> Option<(Option<usize>, Publication)>,
    ) -> Result<()> {
        let mut rungs = BTreeSet::new();
        let mut items = Vec::with_capacity(steps.len());
        let mut which = Vec::with_capacity(steps.len());
        for (index, step) in steps.iter().enumerate() {
            if let Some((rung, item)) = next(&self.delay, step) {
                rungs.extend(rung);
                items.push(item);
                which.push(index);
            }
        }
        if items.is_empty() {
            return Ok(());
        }
        let firm = self.delay.ensure(&rungs).await?;
        let verdicts = self.courier.publish(items).await;
        firm.wait().await;
        for (index, verdict) in which.into_iter().zip(verdicts) {
            steps[index].verdict = match verdict {
                Ok(()) => Verdict::Moved,
                Err(error) if error.kind() == ErrorKind::NotFound && rungs.is_empty() => Verdict::Lost,
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    self.delay.forget().await;
                    if steps[index].waits(&self.delay) { Verdict::Failed } else { Verdict::Lost }
                }
                Err(error) => {
                    self.events.failed("forwarding a delayed message", &error);
                    Verdict::Failed
                }
            };
        }
        Ok(())
    }

    async fn settle(&self, channel: &lapin::Channel, steps: &[Step]) -> Result<()> {
        let native = crate::error::from_native;
        let failed = steps.iter().any(|step| step.verdict == Verdict::Failed);
        if let (false, Some(last)) = (failed, steps.last()) {
            return channel.basic_ack(last.tag, BasicAckOptions { multiple: true }).await.map_err(native);
        }
        tokio::time::sleep(RETRY).await;
        for step in steps {
            match step.verdict {
                Verdict::Failed => {
                    let back = BasicNackOptions { requeue: true, multiple: false };
                    channel.basic_nack(step.tag, back).await.map_err(native)?;
                }
                Verdict::Moved | Verdict::Lost => {
                    channel.basic_ack(step.tag, BasicAckOptions::default()).await.map_err(native)?;
                }
            }
        }
        Ok(())
    }
}

/// Targets that did not answer, and until when they are left alone.
#[derive(Clone, Debug, Default)]
struct Shunned(HashMap<ByteString, Instant>);

impl Shunned {
    fn current(&mut self) -> Self {
        let now = Instant::now();
        self.0.retain(|_, until| *until > now);
        self.clone()
    }

    fn insert(&mut self, step: &Step) {
        if let Some(target) = &step.passing.target {
            self.0.insert(target.clone(), Instant::now() + SHUN);
        }
    }

    fn contains(&self, step: &Step) -> bool {
        step.passing.target.as_ref().is_some_and(|target| self.0.contains_key(target))
    }
}

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Moved,
    Lost,
    Failed,
}

/// A message on its way.
#[derive(Debug)]
struct Step {
    tag: u64,
    passing: Passing,
    /// One that says nowhere to go is lost from the start.
    verdict: Verdict,
}

impl Step {
    fn read(delivery: Delivery) -> Self {
        let tag = delivery.delivery_tag;
        Self { tag, passing: Passing::read(delivery), verdict: Verdict::Lost }
    }

    fn waits(&self, delay: &Delay) -> bool {
        delay.rung(Some(self.passing.deliver_at)).is_some()
    }

    fn next(&self, delay: &Delay, shunned: &Shunned) -> Option<(Option<usize>, Publication)> {
        let target = Target::parse(self.passing.target.as_deref()?)?;
        if let Some(rung) = delay.rung(Some(self.passing.deliver_at)) {
            return Some((Some(rung), self.passing.publication("", &delay.lane(rung), false)));
        }
        if shunned.contains(self) {
            return Some(self.aside(delay));
        }
        let item = match target {
            Target::Queue(queue) => self.passing.publication("", queue, true),
            Target::Topic(topic) => self.passing.publication(topic, &self.passing.subject, true),
        };
        Some((None, item))
    }

    /// Back on a lane, to be tried again later.
    fn aside(&self, delay: &Delay) -> (Option<usize>, Publication) {
        (Some(ASIDE), self.passing.publication("", &delay.lane(ASIDE), false))
    }
}

//! How a member joins its group, and joins again.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use lapin::options::{BasicConsumeOptions, BasicQosOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use mq_core::driver::Subscription;
use mq_core::{ErrorKind, Event, Result};
use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::RabbitConsumer;
use crate::connection::Pause;
use crate::error::heals;
use crate::intake::Intake;
use crate::names;
use crate::settle::{Lane, Session};
use crate::window::{ORDERED_WINDOW, window};

/// How often a member looks whether its topics are still there, and after how many looks it
/// declares them and their groups again in any case.
const LOOK: Duration = Duration::from_secs(2);
const DECLARE: u32 = 5;

impl RabbitConsumer {
    /// Opens a channel and consumes all queues on it.
    pub(super) async fn join(&self, intake: &mut Intake, deadline: Option<Instant>) -> Result<()> {
        let lanes = self.lanes().await?;
        let topology = &self.shared.topology;
        let channel = self.shared.consume.channel(deadline).await?;
        let joined = Instant::now();
        topology.reply("starting transactions", channel.tx_select()).await?;
        let mut streams = Vec::with_capacity(lanes.len());
        let mut limit = None;
        for lane in &lanes {
            // It holds for the consumers that follow.
            if limit.replace(lane.window) != Some(lane.window) {
                let limited = channel.basic_qos(lane.window, BasicQosOptions::default());
                topology.reply("limiting the prefetch", limited).await?;
            }
            let mut arguments = FieldTable::default();
            if lane.ordered {
                let rank = names::rendezvous(self.id, &lane.queue);
                arguments.insert("x-priority".into(), AMQPValue::LongInt(rank));
            }
            let consumed = channel.basic_consume(
                (&*lane.queue).into(),
                ShortString::default(),
                BasicConsumeOptions::default(),
                arguments,
            );
            streams.push(topology.reply("consuming a queue", consumed).await?);
        }
        let session = Arc::new(Session {
            epoch: self.epoch.fetch_add(1, Ordering::SeqCst) + 1,
            channel,
            kept: lanes.iter().map(|_| tokio::sync::Mutex::default()).collect(),
            lanes,
            held: Mutex::default(),
            within: self.shared.config.request_timeout,
            answered: Mutex::new(joined),
            kept_for: self.shared.config.heartbeat / 2,
        });
        *self.session.lock() = Some(session.clone());
        intake.begin(session, streams);
        Ok(())
    }

    async fn lanes(&self) -> Result<Vec<Lane>> {
        let mut lanes = Vec::new();
        for (subscription, Subscription { topic, settings }) in self.options.subscriptions.iter().enumerate()
        {
            let topology = &self.shared.topology;
            let queues = topology.queues(topic, &self.options.group, settings.ordered).await?;
            lanes.extend(queues.names.into_iter().map(|queue| Lane {
                subscription,
                topic: topic.clone(),
                queue: queue.into(),
                ordered: queues.ordered,
                window: ORDERED_WINDOW,
                max_attempts: settings.max_attempts,
                hold_key: settings.hold_key,
            }));
        }
        let share = window(self.options.prefetch, lanes.len());
        lanes.iter_mut().filter(|lane| !lane.ordered).for_each(|lane| lane.window = share);
        Ok(lanes)
    }

    /// Joins again, for as long as it takes. It begins with a pause, because members must not all
    /// come at once, and a queue that is just being deleted is no good to consume.
    pub(super) async fn rejoin(&self, intake: &mut Intake) -> Result<()> {
        let mut pause = Pause::default();
        loop {
            tokio::time::sleep(pause.next()).await;
            let error = match self.join(intake, None).await {
                Ok(()) => {
                    self.rejoined.notify_one();
                    return Ok(());
                }
                Err(error) if error.kind() == ErrorKind::NotFound => match self.rebuild().await {
                    Ok(true) => continue,
                    Ok(false) => return Err(error),
                    Err(error) => error,
                },
                Err(error) => error,
            };
            if !heals(&error) {
                return Err(error);
            }
            self.shared.context.events.failed("rejoin", &error);
        }
    }

    /// Makes again what is missing; returns whether it may.
    async fn rebuild(&self) -> Result<bool> {
        let group = &self.options.group;
        let mut rebuilt = false;
        for Subscription { topic, .. } in &self.options.subscriptions {
            if self.shared.topology.rebuild(topic, group).await? {
                self.shared.context.events.emit(Event::Rebuilt { what: format!("group {group} of {topic}") });
                rebuilt = true;
            }
        }
        Ok(rebuilt)
    }

    /// Declares the topology again now and then, and as soon as the member has joined again: an exchange that goes
    /// takes its bindings along, a broker that was killed may have forgotten some, and no consumer is told.
    pub(super) fn keep(&self) -> JoinHandle<()> {
        let topology = self.shared.topology.clone();
        let events = self.shared.context.events.clone();
        let group = self.options.group.clone();
        let topics: Vec<_> = self.options.subscriptions.iter().map(|each| each.topic.clone()).collect();
        let rejoined = self.rejoined.clone();
        tokio::spawn(async move {
            for look in 1u32.. {
                let pause = LOOK.mul_f64(0.75 + fastrand::f64() / 2.0);
                let again = tokio::time::timeout(pause, rejoined.notified()).await.is_ok();
                for topic in &topics {
                    let looked = match again || look % DECLARE == 0 {
                        true => topology.rebuild(topic, &group).await.map(|_| ()),
                        false => topology.look_after(topic, &group).await,
                    };
                    if let Err(error) = looked {
                        events.failed("looking after the topology", &error);
                    }
                }
            }
        })
    }
}

//! A member of a group.

mod join;
mod leave;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use async_trait::async_trait;
use futures_util::future::join_all;
use mq_core::driver::{
    Budget, Consumer, ConsumerOptions, Fetched, Revocation, Settlement, Subscription, Token,
};
use mq_core::{Error, Event, Result};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::backend::Shared;
use crate::connection::Pause;
use crate::error::{closed, heals, stale};
use crate::forward::Forwarding;
use crate::intake::{Intake, Polled};
use crate::names;
use crate::record;
use crate::settle::Session;
use crate::topology::no_group;

pub(crate) struct RabbitConsumer {
    shared: Arc<Shared>,
    options: ConsumerOptions,
    /// Ranks this member among others for each queue of an ordered group.
    id: u64,
    epoch: AtomicU32,
    intake: tokio::sync::Mutex<Intake>,
    /// The current session, for settlements.
    session: Mutex<Option<Arc<Session>>>,
    closed: AtomicBool,
    closing: Notify,
    /// It has joined again.
    rejoined: Arc<Notify>,
    keeper: Mutex<Option<tokio::task::JoinHandle<()>>>,
    forwarding: Mutex<Option<Forwarding>>,
}

impl std::fmt::Debug for RabbitConsumer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RabbitConsumer").field("group", &self.options.group).finish_non_exhaustive()
    }
}

impl RabbitConsumer {
    /// Joins the group.
    pub(crate) async fn open(shared: Arc<Shared>, options: ConsumerOptions) -> Result<Self> {
        let consumer = Self {
            options,
            id: fastrand::u64(..),
            epoch: AtomicU32::new(0),
            intake: tokio::sync::Mutex::default(),
            session: Mutex::default(),
            closed: AtomicBool::new(false),
            closing: Notify::new(),
            rejoined: Arc::default(),
            keeper: Mutex::default(),
            forwarding: Mutex::new(None),
            shared,
        };
        let deadline = Instant::now() + consumer.shared.config.connect_timeout;
        {
            let mut intake = consumer.intake.lock().await;
            consumer.join(&mut intake, Some(deadline)).await?;
        }
        *consumer.forwarding.lock() = Some(consumer.shared.forwarder.enter(&consumer.shared));
        *consumer.keeper.lock() = Some(consumer.keep());
        Ok(consumer)
    }

    async fn wait_closed(&self) {
        let closing = self.closing.notified();
        if !self.closed.load(Ordering::SeqCst) {
            closing.await;
        }
    }

    async fn next(&self, intake: &mut Intake, budget: Budget) -> Result<Fetched> {
        loop {
            if !intake.is_open() {
                self.rejoin(intake).await?;
            }
            self.judge_returned(intake).await?;
            self.recall(intake).await?;
            self.find_started(intake).await?;
            let deliveries = intake.take_ready();
            if !deliveries.is_empty() {
                let deliveries = deliveries.into_iter().map(Arc::new).collect();
                return Ok(Fetched { deliveries, revoked: Vec::new() });
            }
            match std::future::poll_fn(|context| intake.poll(budget, context)).await {
                Polled::Arrived => {}
                Polled::Ended(reason) => {
                    self.shared.context.events.emit(Event::Disconnected { what: "consumer", reason });
                    return Ok(Fetched { deliveries: Vec::new(), revoked: self.end(intake) });
                }
            }
        }
    }

    /// Finds out which messages of ordered queues come from members that died, and which from
    /// members that left.
    async fn judge_returned(&self, intake: &mut Intake) -> Result<()> {
        let doubtful = intake.in_doubt();
        let reads = doubtful.iter().map(|(_, queue)| record::read(&self.shared.topology, queue));
        for ((lane, _), read) in doubtful.iter().zip(join_all(reads).await) {
            match read {
                Ok(returns) => intake.learn(*lane, returns),
                Err(error) if heals(&error) => {
                    // Too many attempts are better than too few.
                    self.shared.context.events.failed("reading orderly returns", &error);
                }
                Err(error) => return Err(error),
            }
        }
        intake.judge();
        Ok(())
    }

    /// Reads what former holders recorded of messages that hold their key: each time, because the queue may have
    /// been another member's since.
    async fn recall(&self, intake: &mut Intake) -> Result<()> {
        let mut pause = Pause::default();
        while let Some((session, lane)) = intake.unread() {
            // Who writes has the record in hand meanwhile, where nobody sees it.
            let alone = session.kept[lane].lock().await;
            let read = record::read_kept(&self.shared.topology, &session.lanes[lane].queue).await;
            drop(alone);
            match read {
                Ok(lines) => intake.recall(lane, &lines),
                Err(error) if heals(&error) => {
                    // Without it there would be too few attempts, and too early.
                    self.shared.context.events.failed("reading what holds its key", &error);
                    tokio::time::sleep(pause.next()).await;
                    if !intake.is_live() {
                        intake.forget_ready();
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Looks up whether suspects on their last attempt had been about to run alone.
    async fn find_started(&self, intake: &mut Intake) -> Result<()> {
        const AT_ONCE: usize = 16;
        while intake.is_open() && !intake.unchecked().is_empty() {
            let names: Vec<String> =
                intake.unchecked().iter().take(AT_ONCE).map(|(_, name)| name.clone()).collect();
            let found = join_all(names.iter().map(|name| self.shared.copier.starts.find(name))).await;
            if let Some(Err(error)) = found.iter().find(|found| found.is_err()) {
                if !heals(error) {
                    return Err(error.duplicate());
                }
                // The session is over as well, or will be asked again.
                self.shared.context.events.failed("looking for a lone start", error);
                tokio::time::sleep(Pause::default().next()).await;
                if !intake.is_live() {
                    intake.forget_ready();
                }
                continue;
            }
            intake.checked(found.into_iter().map(|found| matches!(found, Ok(true))).collect());
        }
        Ok(())
    }

    /// Ends the session: everything held comes back to somebody.
    fn end(&self, intake: &mut Intake) -> Vec<Revocation> {
        let session = self.session.lock().take();
        intake.end();
        let Some(session) = session else { return Vec::new() };
        // Those that ran alone here are alive: their next holder must not take them for killers.
        for (_, entry) in session.held.lock().take_all() {
            self.shared.copier.starts.clear(entry.lone.filter(|lone| lone.mine));
        }
        let lanes = 0..u32::try_from(session.lanes.len()).unwrap_or(u32::MAX);
        lanes.map(|lane| Revocation { lane, epoch: session.epoch, release: None }).collect()
    }
}

impl Drop for RabbitConsumer {
    fn drop(&mut self) {
        if let Some(keeper) = self.keeper.lock().take() {
            keeper.abort();
        }
    }
}

#[async_trait]
impl Consumer for RabbitConsumer {
    async fn fetch(&self, budget: Budget) -> Result<Fetched> {
        let mut intake = tokio::select! {
            intake = self.intake.lock() => intake,
            () = self.wait_closed() => return Err(closed()),
        };
        tokio::select! {
            biased;
            () = self.wait_closed() => Err(closed()),
            fetched = self.next(&mut intake, budget) => fetched,
        }
    }

    async fn settle(&self, batch: Vec<Settlement>) -> Vec<Result<()>> {
        let session = self.session.lock().clone();
        match session {
            Some(session) => self.shared.copier.settle(&session, &self.options.group, batch).await,
            None => batch.iter().map(|_| Err(stale())).collect(),
        }
    }

    async fn start(&self, token: Token) -> Result<()> {
        let session = self.session.lock().clone().filter(|session| session.epoch == token.epoch);
        let Some(session) = session.filter(|session| session.is_live()) else { return Err(stale()) };
        let starts = &self.shared.copier.starts;
        let name = {
            let mut held = session.held.lock();
            let Some(entry) = held.get_mut(token.high) else { return Err(stale()) };
            let name = names::started(&session.lanes[entry.lane as usize].queue, &entry.message.id);
            // Before it is made: whatever becomes of the delivery meanwhile then removes it.
            entry.lone = Some(starts.announce(&name));
            name
        };
        starts.record(&name).await?;
        session.held.lock().get(token.high).map(|_| ()).ok_or_else(stale)
    }

    async fn close(&self) -> Result<()> {
        self.closed.store(true, Ordering::SeqCst);
        self.closing.notify_waiters();
        if let Some(keeper) = self.keeper.lock().take() {
            keeper.abort();
        }
        let mut intake = self.intake.lock().await;
        let session = self.session.lock().take();
        let mut given_back = Ok(());
        if let Some(session) = session.filter(|session| session.is_live()) {
            given_back = self.give_back(&session, &mut intake).await;
            let left = session.channel.close(200, "closed".into());
            given_back = given_back.and(self.shared.topology.reply("closing a channel", left).await);
        }
        intake.end();
        let forwarding = self.forwarding.lock().take();
        if let Some(forwarding) = forwarding {
            forwarding.leave().await;
        }
        for Subscription { topic, settings } in &self.options.subscriptions {
            if settings.ephemeral {
                let removed = self.shared.topology.delete_group(topic, &self.options.group).await;
                given_back = given_back.and(removed.or_else(ignore_missing));
            }
        }
        given_back
    }
}

fn ignore_missing(error: Error) -> Result<()> {
    if error.kind() == no_group().kind() { Ok(()) } else { Err(error) }
}

//! Deliveries as they arrive on the queues of a session.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::{FutureExt, Stream, StreamExt};
use lapin::message::Delivery;
use lapin::options::BasicCancelOptions;
use mq_core::driver::{Budget, Incoming, Suspect, Token};
use tokio::time::Instant;

use crate::codec::{Received, decode};
use crate::names;
use crate::settle::{Entry, Lone, Session};
use crate::topology::Topology;

/// How long a member that leaves waits for what the broker is still sending.
const QUIET: Duration = Duration::from_millis(500);

/// The queues of the current session, and what was received and not handed on.
#[derive(Default)]
pub(crate) struct Intake {
    session: Option<Arc<Session>>,
    streams: Vec<lapin::Consumer>,
    /// Where the next turn begins.
    turn: usize,
    ready: Vec<Incoming>,
    /// Suspects among the ready whose record is to be looked up: index and the record's name.
    unchecked: Vec<(usize, String)>,
}

/// What a wait brought.
#[derive(Debug)]
pub(crate) enum Polled {
    /// Some are ready.
    Arrived { suspects: u64 },
    /// The session is over.
    Ended(String),
}

impl Intake {
    /// Starts a session; stream `n` is that of lane `n`.
    pub(crate) fn begin(&mut self, session: Arc<Session>, streams: Vec<lapin::Consumer>) {
        self.session = Some(session);
        self.streams = streams;
        self.turn = 0;
        self.forget_ready();
    }

    pub(crate) fn is_open(&self) -> bool {
        self.session.is_some()
    }

    pub(crate) fn is_live(&self) -> bool {
        self.session.as_ref().is_some_and(|session| session.is_live())
    }

    /// Ends the session.
    pub(crate) fn end(&mut self) {
        self.session = None;
        self.streams.clear();
        self.forget_ready();
    }

    pub(crate) fn forget_ready(&mut self) {
        self.ready.clear();
        self.unchecked.clear();
    }

    pub(crate) fn take_ready(&mut self) -> Vec<Incoming> {
        std::mem::take(&mut self.ready)
    }

    pub(crate) fn unchecked(&self) -> &[(usize, String)] {
        &self.unchecked
    }

    /// Notes for the first unchecked whether their records were found.
    pub(crate) fn checked(&mut self, found: Vec<bool>) {
        let Some(session) = &self.session else { return };
        let mut held = session.held.lock();
        for ((index, name), found) in self.unchecked.drain(..found.len()).zip(found) {
            let Some(incoming) = self.ready.get_mut(index).filter(|_| found) else { continue };
            incoming.suspect = Some(Suspect { started: true });
            if let Some(entry) = held.get_mut(incoming.token.high) {
                entry.lone = Some(Lone { name, mine: false });
            }
        }
    }

    /// Takes what is there from each queue in turn, up to the budget.
    pub(crate) fn poll(&mut self, budget: Budget, context: &mut Context<'_>) -> Poll<Polled> {
        let Some(session) = self.session.clone() else { return Poll::Ready(Polled::Ended(String::new())) };
        let (mut bytes, mut suspects) = (0, 0);
        let lanes = self.streams.len();
        for step in 0..lanes {
            let lane = (self.turn + step) % lanes;
            loop {
                if !self.ready.is_empty() && (self.ready.len() >= budget.messages || bytes >= budget.bytes) {
                    self.turn = lane;
                    return Poll::Ready(Polled::Arrived { suspects });
                }
                match Pin::new(&mut self.streams[lane]).poll_next(context) {
                    Poll::Pending => break,
                    Poll::Ready(Some(Ok(delivery))) => {
                        let incoming = self.receive(&session, lane, delivery);
                        bytes += incoming.message.size();
                        suspects += u64::from(incoming.suspect.is_some());
                        self.ready.push(incoming);
                    }
                    Poll::Ready(Some(Err(error))) => {
                        return Poll::Ready(Polled::Ended(crate::error::from_native(error).to_string()));
                    }
                    Poll::Ready(None) => {
                        let queue = &session.lanes[lane].queue;
                        return Poll::Ready(Polled::Ended(format!(
                            "the broker ended the consumption of {queue}"
                        )));
                    }
                }
            }
        }
        self.turn = (self.turn + 1) % lanes.max(1);
        if self.ready.is_empty() { Poll::Pending } else { Poll::Ready(Polled::Arrived { suspects }) }
    }

    fn receive(&mut self, session: &Session, lane: usize, delivery: Delivery) -> Incoming {
        let (tag, mut redelivered) = (delivery.delivery_tag, delivery.redelivered);
        let Received { message, mut envelope, returned } = decode(delivery);
        let place = &session.lanes[lane];
        let lane = u32::try_from(lane).unwrap_or(u32::MAX);
        redelivered |= envelope.attempt > 1 || envelope.first_seen.is_some();
        envelope.target = None;
        envelope.attempt = envelope.attempt.saturating_add(returned);
        let suspect = (returned > 0).then_some(Suspect { started: false });
        if suspect.is_some() && envelope.attempt >= place.max_attempts {
            self.unchecked.push((self.ready.len(), names::started(&place.queue, &message.id)));
        }
        let entry = Entry { lane, message: message.clone(), envelope: envelope.clone(), lone: None };
        session.held.lock().hold(tag, entry);
        Incoming {
            token: Token { lane, epoch: session.epoch, high: tag, low: 0 },
            subscription: place.subscription,
            message,
            envelope,
            redelivered,
            suspect,
            position: None,
        }
    }

    /// Takes in what an unordered queue still sends: until the window is full or nothing is left.
    /// What is under way when a consumer is cancelled can't be given back as it was.
    async fn quiesce(&mut self, session: &Session, lane: usize, topology: &Topology) {
        let deadline = Instant::now() + QUIET;
        let held = |session: &Session| {
            let held = session.held.lock();
            held.iter().filter(|entry| entry.lane as usize == lane).count()
        };
        loop {
            let last = match topology.find_queue(&session.lanes[lane].queue).await {
                Ok(Some(queue)) => queue.message_count() == 0,
                _ => true,
            };
            if topology.reply("settling", session.channel.tx_commit()).await.is_err() {
                return;
            }
            while let Some(Some(Ok(delivery))) = self.streams[lane].next().now_or_never() {
                self.receive(session, lane, delivery);
            }
            if last || held(session) >= usize::from(session.prefetch) || Instant::now() > deadline {
                return;
            }
        }
    }

    /// Stops the broker from sending more on unordered queues and takes in what it sent before.
    /// An ordered queue goes to its next consumer when the channel closes, and not before: that
    /// would be ahead of what is held here.
    pub(crate) async fn cancel(&mut self, session: &Session, topology: &Topology) {
        self.forget_ready();
        for lane in 0..self.streams.len() {
            if session.lanes[lane].ordered {
                continue;
            }
            self.quiesce(session, lane, topology).await;
            let tag = self.streams[lane].tag();
            let cancelled = session.channel.basic_cancel(tag, BasicCancelOptions::default());
            if topology.reply("cancelling a consumer", cancelled).await.is_err() {
                return;
            }
            while let Some(Ok(delivery)) = self.streams[lane].next().await {
                self.receive(session, lane, delivery);
            }
        }
        self.forget_ready();
    }
}

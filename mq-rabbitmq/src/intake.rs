//! Deliveries as they arrive on the queues of a session.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::{FutureExt, Stream, StreamExt};
use lapin::message::Delivery;
use lapin::options::{BasicCancelOptions, BasicConsumeOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use mq_core::Result;
use mq_core::driver::{Budget, Incoming, Suspect, Token};
use tokio::time::Instant;

use crate::codec::{Received, decode};
use crate::kept::Lines;
use crate::names;
use crate::returns::{Mark, Returns};
use crate::settle::{Entry, Session, Stored};
use crate::starts::Lone;
use crate::topology::Topology;

/// How long a member that leaves waits for what the broker is still sending.
const QUIET: Duration = Duration::from_millis(500);

/// The queues of the current session, and what was received and not handed on.
#[derive(Default)]
pub(crate) struct Intake {
    session: Option<Arc<Session>>,
    streams: Vec<lapin::Consumer>,
    /// Consumers that only keep queues from sending.
    halting: Vec<lapin::Consumer>,
    /// Where the next turn begins.
    turn: usize,
    ready: Vec<Incoming>,
    /// Those among the ready that an ordered group's queue took back from somebody, and how often.
    returned: Vec<(usize, u32)>,
    /// The orderly returns to each queue, as far as they are known.
    known: Vec<Returns>,
    /// Those among the ready of which a former holder may have recorded that they hold their key.
    unread: Vec<usize>,
    /// Suspects among the ready whose record is to be looked up: index and the record's name.
    unchecked: Vec<(usize, String)>,
}

/// What a wait brought.
#[derive(Debug)]
pub(crate) enum Polled {
    /// Some are ready.
    Arrived,
    /// The session is over.
    Ended(String),
}

impl Intake {
    /// Starts a session; stream `n` is that of lane `n`.
    pub(crate) fn begin(&mut self, session: Arc<Session>, streams: Vec<lapin::Consumer>) {
        self.known = vec![Returns::default(); streams.len()];
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
        self.halting.clear();
        self.forget_ready();
    }

    pub(crate) fn forget_ready(&mut self) {
        self.ready.clear();
        self.unchecked.clear();
        self.returned.clear();
        self.unread.clear();
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
        let mut bytes = 0;
        let lanes = self.streams.len();
        for step in 0..lanes {
            let lane = (self.turn + step) % lanes;
            loop {
                if !self.ready.is_empty() && (self.ready.len() >= budget.messages || bytes >= budget.bytes) {
                    self.turn = lane;
                    return Poll::Ready(Polled::Arrived);
                }
                match Pin::new(&mut self.streams[lane]).poll_next(context) {
                    Poll::Pending => break,
                    Poll::Ready(Some(Ok(delivery))) => {
                        bytes += self.receive(&session, lane, delivery);
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
        if self.ready.is_empty() { Poll::Pending } else { Poll::Ready(Polled::Arrived) }
    }

    /// Takes in a delivery; returns its size.
    fn receive(&mut self, session: &Session, lane: usize, delivery: Delivery) -> usize {
        let (tag, mut redelivered) = (delivery.delivery_tag, delivery.redelivered);
        let Received { message, mut envelope, returned } = decode(delivery);
        let place = &session.lanes[lane];
        let lane = u32::try_from(lane).unwrap_or(u32::MAX);
        redelivered |= envelope.attempt > 1 || envelope.first_seen.is_some();
        envelope.target = None;
        let stored = place.ordered.then(|| (Mark::new(&message, &envelope), returned));
        let entry = Entry {
            lane,
            message: message.clone(),
            envelope: envelope.clone(),
            lone: None,
            stored,
            deaths: 0,
            kept: false,
        };
        session.held.lock().hold(tag, entry);
        let size = message.size();
        let index = self.ready.len();
        self.ready.push(Incoming {
            token: Token { lane, epoch: session.epoch, high: tag, low: 0 },
            subscription: place.subscription,
            message,
            envelope,
            redelivered,
            suspect: None,
            not_before: None,
            position: None,
        });
        if place.hold_key && redelivered {
            self.unread.push(index);
        }
        match (returned, place.ordered) {
            (0, _) => {}
            (_, true) => self.returned.push((index, returned)),
            (_, false) => self.suspect(session, index, returned),
        }
        size
    }

    /// Notes that members died with a message.
    fn suspect(&mut self, session: &Session, index: usize, deaths: u32) {
        let incoming = &mut self.ready[index];
        let place = &session.lanes[incoming.token.lane as usize];
        incoming.envelope.attempt = incoming.envelope.attempt.saturating_add(deaths);
        incoming.suspect = Some(Suspect { started: false });
        if let Some(entry) = session.held.lock().get_mut(incoming.token.high) {
            entry.envelope.attempt = incoming.envelope.attempt;
        }
        if incoming.envelope.attempt >= place.max_attempts {
            self.unchecked.push((index, names::started(&place.queue, &incoming.message.id)));
        }
    }

    /// Returns the lanes to which more was returned than is known to be orderly, with their queues.
    pub(crate) fn in_doubt(&self) -> Vec<(usize, Arc<str>)> {
        let Some(session) = &self.session else { return Vec::new() };
        let mut lanes = BTreeSet::new();
        for (index, returned) in &self.returned {
            let (lane, orderly) = self.orderly(session, *index, *returned);
            if orderly < *returned {
                lanes.insert(lane);
            }
        }
        lanes.into_iter().map(|lane| (lane, session.lanes[lane].queue.clone())).collect()
    }

    fn orderly(&self, session: &Session, index: usize, returned: u32) -> (usize, u32) {
        let token = self.ready[index].token;
        let lane = token.lane as usize;
        let stored = session.held.lock().get(token.high).and_then(|entry| entry.stored);
        (lane, stored.map_or(0, |(mark, _)| self.known[lane].orderly(mark, returned)))
    }

    /// Adds to what is known of a lane.
    pub(crate) fn learn(&mut self, lane: usize, returns: Returns) {
        if let Some(known) = self.known.get_mut(lane) {
            known.merge(returns);
        }
    }

    pub(crate) fn known(&self, lane: usize) -> &Returns {
        &self.known[lane]
    }

    /// Returns a lane of whose messages a former holder may have recorded something, with its session.
    pub(crate) fn unread(&self) -> Option<(Arc<Session>, usize)> {
        let session = self.session.clone()?;
        let lane = self.ready[*self.unread.first()?].token.lane as usize;
        Some((session, lane))
    }

    /// Gives the messages of a lane that hold their key the history and the time recorded of them.
    pub(crate) fn recall(&mut self, lane: usize, lines: &Lines) {
        let Some(session) = self.session.clone() else { return };
        let of = |index: &mut usize| self.ready[*index].token.lane as usize == lane;
        let unread: Vec<usize> = self.unread.extract_if(.., of).collect();
        for index in unread {
            let incoming = &mut self.ready[index];
            let mut held = session.held.lock();
            let Some(entry) = held.get_mut(incoming.token.high) else { continue };
            let Some(line) = entry.stored.and_then(|(mark, _)| lines.get(mark)) else { continue };
            (entry.kept, entry.envelope) = (true, line.history().clone());
            incoming.envelope = line.history().clone();
            incoming.not_before = Some(line.not_before());
            incoming.redelivered = true;
            incoming.suspect = None;
            let deaths = line.deaths_since(entry.deaths);
            drop(held);
            self.unchecked.retain(|(known, _)| *known != index);
            if deaths > 0 {
                self.suspect(&session, index, deaths);
            }
        }
    }

    /// Decides by what is known which of the returned were held by members that died.
    pub(crate) fn judge(&mut self) {
        let Some(session) = self.session.clone() else { return };
        for (index, returned) in std::mem::take(&mut self.returned) {
            let (_, orderly) = self.orderly(&session, index, returned);
            if orderly < returned {
                if let Some(entry) = session.held.lock().get_mut(self.ready[index].token.high) {
                    entry.deaths = returned - orderly;
                }
                self.suspect(&session, index, returned - orderly);
            }
        }
    }

    /// Takes in what the broker sent, and stops it from sending more on unordered queues.
    pub(crate) async fn cancel(&mut self, session: &Session, topology: &Topology) -> Result<()> {
        self.forget_ready();
        for lane in 0..self.streams.len() {
            if session.lanes[lane].ordered {
                continue;
            }
            self.quiesce(session, lane, topology).await?;
            let tag = self.streams[lane].tag();
            let cancelled = session.channel.basic_cancel(tag, BasicCancelOptions::default());
            topology.reply("cancelling a consumer", cancelled).await?;
            while let Some(Ok(delivery)) = self.streams[lane].next().await {
                self.receive(session, lane, delivery);
            }
        }
        self.forget_ready();
        Ok(())
    }

    /// Takes in what an unordered queue still sends: until the window is full or nothing is left.
    /// What is under way when a consumer is cancelled can't be given back as it was.
    async fn quiesce(&mut self, session: &Session, lane: usize, topology: &Topology) -> Result<()> {
        let deadline = Instant::now() + QUIET;
        loop {
            let found = topology.find_queue(&session.lanes[lane].queue).await?;
            let last = found.is_none_or(|queue| queue.message_count() == 0);
            topology.reply("settling", session.channel.tx_commit()).await?;
            self.drain(session, lane);
            let held = session.held.lock().iter().filter(|entry| entry.lane as usize == lane).count();
            if last || held >= usize::from(session.lanes[lane].window) || Instant::now() > deadline {
                return Ok(());
            }
        }
    }

    fn drain(&mut self, session: &Session, lane: usize) {
        while let Some(Some(Ok(delivery))) = self.streams[lane].next().now_or_never() {
            self.receive(session, lane, delivery);
        }
    }

    /// Takes in all that ordered queues have for this member, and stops those of which it holds
    /// something; returns what it holds of each queue stopped now. An ordered queue goes to its next
    /// consumer when the channel closes, and not before: that would be ahead of what is held here.
    ///
    /// To stop it, another consumer of the same channel asks for it with the highest priority: the
    /// broker sends nothing more to the first, and nothing to the second while the first holds
    /// something. A queue of which nothing is held may be another member's, which that would stall.
    pub(crate) async fn halt(
        &mut self,
        session: &Session,
        halted: &mut BTreeSet<usize>,
        topology: &Topology,
    ) -> Result<Vec<(usize, Vec<Stored>)>> {
        topology.reply("settling", session.channel.tx_commit()).await?;
        let mut now = BTreeSet::new();
        for lane in (0..self.streams.len()).filter(|lane| session.lanes[*lane].ordered) {
            self.drain(session, lane);
            let holds = session.held.lock().iter().any(|entry| entry.lane as usize == lane);
            if !holds || !halted.insert(lane) {
                continue;
            }
            let mut arguments = FieldTable::default();
            arguments.insert("x-priority".into(), AMQPValue::LongInt(i32::MAX));
            let consumed = session.channel.basic_consume(
                (&*session.lanes[lane].queue).into(),
                ShortString::default(),
                BasicConsumeOptions::default(),
                arguments,
            );
            self.halting.push(topology.reply("stopping a queue", consumed).await?);
            now.insert(lane);
        }
        // What the queue sent before it stopped is ahead of this reply.
        topology.reply("settling", session.channel.tx_commit()).await?;
        now.iter().for_each(|lane| self.drain(session, *lane));
        self.forget_ready();
        let held = session.held.lock();
        let of = |lane: usize| held.iter().filter(move |entry| entry.lane as usize == lane);
        Ok(now.into_iter().map(|lane| (lane, of(lane).filter_map(|entry| entry.stored).collect())).collect())
    }
}

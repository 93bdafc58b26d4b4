//! Settlements: acknowledgements, and copies that are confirmed before their source is acknowledged.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use lapin::Channel;
use lapin::options::BasicAckOptions;
use mq_core::driver::{Destination, Outcome, Relocation, Settlement};
use mq_core::envelope::Envelope;
use mq_core::{ErrorKind, Event, Events, GroupName, Message, Result, TopicName, derived};
use parking_lot::Mutex;
use tokio::time::{Instant, timeout};

use crate::codec;
use crate::delay::Delay;
use crate::error::{stale, timed_out, unknown};
use crate::hold::Held;
use crate::kept::Keep;
use crate::names::Target;
use crate::publish::{Publisher, Verdicts};
use crate::returns::Mark;
use crate::starts::{Lone, Starts};
use crate::topology::Topology;
use crate::tracker::Tracker;

/// A delivery as long as it is unsettled.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) lane: u32,
    pub(crate) message: Message,
    pub(crate) envelope: Envelope,
    pub(crate) lone: Option<Lone>,
    /// Only in an ordered group.
    pub(crate) stored: Option<Stored>,
    /// How many members died with it as it is stored.
    pub(crate) deaths: u32,
    /// Whether something is recorded of it because it holds its key.
    pub(crate) kept: bool,
}

impl Entry {
    /// Returns its lane and mark if something may be recorded of it.
    fn mark(&self) -> Option<(usize, Mark)> {
        self.stored.filter(|_| self.kept).map(|(mark, _)| (self.lane as usize, mark))
    }
}

/// A message as an ordered queue knows it, and how often it came back.
pub(crate) type Stored = (Mark, u32);

/// A queue as this member consumes it.
#[derive(Clone, Debug)]
pub(crate) struct Lane {
    pub(crate) subscription: usize,
    pub(crate) topic: TopicName,
    pub(crate) queue: Arc<str>,
    pub(crate) ordered: bool,
    /// How many the broker sends ahead.
    pub(crate) window: u16,
    pub(crate) max_attempts: u32,
    pub(crate) hold_key: bool,
}

/// One channel's worth of deliveries, until the channel is lost.
pub(crate) struct Session {
    pub(crate) epoch: u32,
    pub(crate) channel: Channel,
    pub(crate) lanes: Vec<Lane>,
    /// The records of what holds its key, by lane; who reads or writes one has its lock.
    pub(crate) kept: Vec<tokio::sync::Mutex<Keep>>,
    pub(crate) held: Mutex<Tracker<Entry>>,
    pub(crate) within: Duration,
    /// When the last request was made that the broker answered.
    pub(crate) answered: Mutex<Instant>,
    /// How long the broker keeps the deliveries of a connection on which it hears nothing, at least.
    pub(crate) kept_for: Duration,
}

impl Session {
    /// Returns whether settlements can still reach the broker.
    pub(crate) fn is_live(&self) -> bool {
        self.channel.status().connected()
    }

    /// Acknowledges deliveries that were taken, and waits until the broker has seen it: a reply on
    /// the same channel comes after everything written before.
    pub(crate) async fn ack(&self, mut tags: Vec<u64>) -> Result<()> {
        if tags.is_empty() {
            return Ok(());
        }
        let asked = Instant::now();
        let seen = {
            // Frames are queued under the lock, in the order they were planned.
            let mut held = self.held.lock();
            for frame in held.settle(&mut tags) {
                let acked = self.channel.basic_ack(frame.tag, BasicAckOptions { multiple: frame.multiple });
                if let Poll::Ready(Err(error)) = begin(std::pin::pin!(acked)) {
                    return Err(lost(&error));
                }
            }
            let mut seen = Box::pin(self.channel.tx_commit());
            match begin(seen.as_mut()) {
                Poll::Ready(reply) => return reply.map_err(|error| lost(&error)),
                Poll::Pending => seen,
            }
        };
        self.seen(asked, seen).await
    }

    /// Makes sure that what is held is still this member's: who hung, or was cut off, lost it before it knows, and
    /// must not store copies of it. Asks the broker if it did not answer lately.
    pub(crate) async fn prove(&self) -> Result<()> {
        let asked = Instant::now();
        if asked.duration_since(*self.answered.lock()) < self.kept_for {
            return Ok(());
        }
        let proved = self.seen(asked, self.channel.tx_commit()).await;
        proved.map_err(|error| if self.is_live() { error.with_kind(ErrorKind::Unavailable) } else { stale() })
    }

    async fn seen(&self, asked: Instant, reply: impl Future<Output = lapin::Result<()>>) -> Result<()> {
        match timeout(self.within, reply).await {
            Ok(Ok(())) => {
                let mut answered = self.answered.lock();
                *answered = asked.max(*answered);
                Ok(())
            }
            Ok(Err(error)) => Err(lost(&error)),
            Err(_) => Err(timed_out("settling", self.within).with_kind(ErrorKind::UnknownOutcome)),
        }
    }
}

/// Queues the frames of a request; who wants the reply polls again.
fn begin<F: Future>(request: std::pin::Pin<&mut F>) -> Poll<F::Output> {
    request.poll(&mut Context::from_waker(Waker::noop()))
}

fn lost(error: &lapin::Error) -> mq_core::Error {
    unknown(format!("the channel ended before the broker saw the settlement: {error}"))
}

/// A copy to be stored in one of a group's queues.
#[derive(Clone, Debug)]
pub(crate) struct Copy {
    pub(crate) topic: TopicName,
    pub(crate) group: GroupName,
    pub(crate) queue: Arc<str>,
    pub(crate) message: Message,
    pub(crate) envelope: Envelope,
}

/// Stores copies: in the group's queue, in its dead letters, or on the way to them.
#[derive(Debug)]
pub(crate) struct Copier {
    pub(crate) courier: Publisher,
    pub(crate) delay: Arc<Delay>,
    pub(crate) topology: Arc<Topology>,
    pub(crate) starts: Arc<Starts>,
    pub(crate) events: Events,
}

impl Copier {
    /// Stores copies and returns their verdicts. A queue that is missing is made again, if the
    /// group was declared so, and its copies are tried once more.
    pub(crate) async fn store(&self, copies: &[Copy]) -> Verdicts {
        let mut verdicts = self.attempt(copies, &(0..copies.len()).collect::<Vec<_>>()).await;
        let missing: Vec<usize> = (0..copies.len()).filter(|index| is_missing(&verdicts[*index])).collect();
        if missing.is_empty() {
            return verdicts;
        }
        self.delay.forget().await;
        let groups: BTreeSet<_> =
            missing.iter().map(|index| (&copies[*index].topic, &copies[*index].group)).collect();
        for (topic, group) in groups {
            match self.topology.rebuild(topic, group).await {
                Ok(true) => self.events.emit(Event::Rebuilt { what: format!("queues of {topic} {group}") }),
                Ok(false) => {}
                Err(error) => self.events.failed("rebuild", &error),
            }
        }
        for (index, verdict) in missing.iter().zip(self.attempt(copies, &missing).await) {
            verdicts[*index] = verdict;
        }
        verdicts
    }

    async fn attempt(&self, copies: &[Copy], which: &[usize]) -> Verdicts {
        let rungs = self.delay.rungs(which.iter().map(|index| copies[*index].message.deliver_at));
        let firm = match self.delay.ensure(&rungs).await {
            Ok(firm) => firm,
            Err(error) => return which.iter().map(|_| Err(error.duplicate())).collect(),
        };
        let copy = |index: usize| self.publication(&copies[which[index]], &rungs);
        let verdicts = self.courier.publish_each(which.len(), copy).await;
        firm.wait().await;
        verdicts
    }

    fn publication(&self, copy: &Copy, rungs: &BTreeSet<usize>) -> Result<codec::Publication> {
        let message = copy.message.clone();
        let Some(lane) = self.delay.lane_of(message.deliver_at, rungs) else {
            return codec::to_queue(&copy.queue, message, &copy.envelope);
        };
        let target = Some(Target::Queue(&copy.queue).to_string().into());
        let envelope = Envelope { target, ..copy.envelope.clone() };
        codec::to_queue(&lane, message, &envelope)
    }

    /// Settles a batch of one session.
    pub(crate) async fn settle(
        &self,
        session: &Session,
        group: &GroupName,
        batch: Vec<Settlement>,
    ) -> Verdicts {
        let mut plan = Plan::new(session, group, batch);
        let (acked, stored, ()) = tokio::join!(
            session.ack(plan.acks.iter().map(|(_, tag, _)| *tag).collect()),
            self.move_all(session, &plan.moves, &plan.copies),
            self.keep_all(session, group, std::mem::take(&mut plan.holds), &mut plan.verdicts),
        );
        let mut ended = if acked.is_ok() { plan.ended } else { Vec::new() };
        for (place, _, lone) in std::mem::take(&mut plan.acks) {
            // If the broker did not see it, the message comes again, and not because its holder died.
            self.starts.clear(lone.filter(|lone| lone.mine || acked.is_ok()));
            plan.verdicts[place] = copied(&acked);
        }
        for ((place, tag, entry), verdict) in plan.moves.into_iter().zip(stored) {
            match &verdict {
                Ok(()) => {
                    ended.extend(entry.mark());
                    self.starts.clear(entry.lone);
                }
                Err(error) if error.kind() == ErrorKind::StaleDelivery => {
                    self.starts.clear(entry.lone.filter(|lone| lone.mine));
                }
                Err(_) => session.held.lock().restore(tag, entry),
            }
            plan.verdicts[place] = verdict;
        }
        self.forget_all(session, group, &ended).await;
        plan.verdicts
    }

    /// Stores the copies and then acknowledges the sources of those that were confirmed.
    async fn move_all(&self, session: &Session, moves: &[(usize, u64, Entry)], copies: &[Copy]) -> Verdicts {
        if copies.is_empty() {
            return Vec::new();
        }
        if let Err(error) = session.prove().await {
            return copies.iter().map(|_| Err(error.duplicate())).collect();
        }
        let mut verdicts = self.store(copies).await;
        let confirmed =
            moves.iter().zip(&verdicts).filter(|(_, verdict)| verdict.is_ok()).map(|((_, tag, _), _)| *tag);
        if session.ack(confirmed.collect()).await.is_err() {
            // The copy is stored, and its source is delivered again.
            verdicts.iter_mut().filter(|verdict| verdict.is_ok()).for_each(|verdict| *verdict = Err(stale()));
        }
        verdicts
    }
}

/// A batch, sorted.
struct Plan {
    verdicts: Verdicts,
    acks: Vec<(usize, u64, Option<Lone>)>,
    moves: Vec<(usize, u64, Entry)>,
    holds: Vec<Held>,
    /// What is acked, and was recorded because it held its key.
    ended: Vec<(usize, Mark)>,
    copies: Vec<Copy>,
}

impl Plan {
    /// Takes the deliveries that are still this member's; the others stay stale.
    fn new(session: &Session, group: &GroupName, batch: Vec<Settlement>) -> Self {
        let mut plan = Self {
            verdicts: Vec::with_capacity(batch.len()),
            acks: Vec::with_capacity(batch.len()),
            moves: Vec::new(),
            holds: Vec::new(),
            ended: Vec::new(),
            copies: Vec::new(),
        };
        let live = session.is_live();
        let mut held = session.held.lock();
        for (place, Settlement { token, outcome, .. }) in batch.into_iter().enumerate() {
            plan.verdicts.push(Err(stale()));
            if !live || token.epoch != session.epoch {
                continue;
            }
            match outcome {
                Outcome::Ack => {
                    let Some(entry) = held.take(token.high) else { continue };
                    plan.ended.extend(entry.mark());
                    plan.acks.push((place, token.high, entry.lone));
                }
                Outcome::Relocate(relocation) => {
                    let Some(entry) = held.take(token.high) else { continue };
                    plan.copies.push(copy_of(session, group, &entry, *relocation));
                    plan.moves.push((place, token.high, entry));
                }
                // It stays where it is.
                Outcome::Hold(hold) => plan.holds.push(Held { place, tag: token.high, hold: *hold }),
            }
        }
        plan
    }
}

/// A group's queue is private to it, so it is its inbox too.
fn copy_of(session: &Session, group: &GroupName, entry: &Entry, relocation: Relocation) -> Copy {
    let lane = &session.lanes[entry.lane as usize];
    let Relocation { to, message, envelope } = relocation;
    let queue = match to {
        Destination::Inbox => lane.queue.clone(),
        Destination::Dead => derived::dead(&lane.topic, group).into(),
    };
    Copy { topic: lane.topic.clone(), group: group.clone(), queue, message, envelope }
}

fn is_missing(verdict: &Result<()>) -> bool {
    matches!(verdict, Err(error) if error.kind() == ErrorKind::NotFound)
}

pub(crate) fn copied(verdict: &Result<()>) -> Result<()> {
    match verdict {
        Ok(()) => Ok(()),
        Err(error) => Err(error.duplicate()),
    }
}

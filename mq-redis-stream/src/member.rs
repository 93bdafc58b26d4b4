//! What the parts of a consumer share: who it is, its lanes, and what has to be done.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mq_core::driver::{Context, Incoming, Lane, ReleaseGuard, Revocation, Suspect, Token};
use mq_core::envelope::Envelope;
use mq_core::{Error, ErrorKind, GroupName, GroupSettings, Message, Result, TopicName};
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use crate::codec;
use crate::connection::{Connector, Link};
use crate::entry::{EntryId, Pending};
use crate::lanes::{Lanes, Stage};
use crate::names::{GroupKeys, MEMBER, Side};
use crate::topology::Registry;

/// A topic of the consumer.
#[derive(Debug)]
pub(crate) struct Subscribed {
    pub(crate) topic: TopicName,
    pub(crate) keys: GroupKeys,
    pub(crate) settings: GroupSettings,
    /// The first of its lanes: two for each partition.
    pub(crate) first: Lane,
    /// Whether something was settled since the last trimming.
    pub(crate) settled: AtomicBool,
    /// Whether members are gone that may have left something.
    pub(crate) takeover: AtomicBool,
}

impl Subscribed {
    pub(crate) fn partitions(&self) -> u32 {
        self.keys.topic.partitions
    }

    pub(crate) fn lanes(&self) -> std::ops::Range<Lane> {
        self.first..self.first + 2 * self.partitions()
    }

    /// The lanes of a partition: the topic's stream, the inbox.
    pub(crate) fn pair(&self, partition: u32) -> [Lane; 2] {
        [self.first + 2 * partition, self.first + 2 * partition + 1]
    }
}

/// A stream that is read.
#[derive(Debug)]
pub(crate) struct LaneInfo {
    pub(crate) subscription: usize,
    pub(crate) partition: u32,
    pub(crate) side: Side,
    pub(crate) stream: String,
    pub(crate) ordered: bool,
    /// The partition as scripts want it: empty where lanes have no owners.
    pub(crate) fence: String,
    /// What the start marks of its entries begin with.
    pub(crate) mark: String,
}

/// How the member stands with its groups.
#[derive(Debug)]
pub(crate) enum Phase {
    /// Its sessions are alive, as far as it knows.
    Live,
    /// A session was lost; it has to join again under another name.
    Lost,
    /// It left.
    Closed,
    /// It can't go on.
    Failed(Error),
}

#[derive(Debug)]
pub(crate) struct State {
    /// The name in the groups; another one for each incarnation.
    pub(crate) name: Arc<str>,
    pub(crate) phase: Phase,
    pub(crate) lanes: Lanes,
    pub(crate) revoked: Vec<Revocation>,
    /// Whether a reply with entries was lost, so that some may be pending for nobody.
    pub(crate) recover: bool,
}

/// A member of a group.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) group: GroupName,
    pub(crate) subscribed: Vec<Subscribed>,
    pub(crate) lanes: Vec<LaneInfo>,
    pub(crate) streams: HashMap<String, Lane>,
    pub(crate) session: Duration,
    pub(crate) registry: Arc<Registry>,
    pub(crate) connector: Arc<Connector>,
    pub(crate) context: Context,
    /// For scripts: heartbeats, settlements, take-overs.
    pub(crate) control: Link,
    pub(crate) state: Mutex<State>,
    /// Wakes a fetch.
    pub(crate) changed: Notify,
    /// Wakes the upkeep.
    pub(crate) duty: Notify,
}

/// A name that sorts by the time of joining and is never used again.
pub(crate) fn fresh_name(now: mq_core::Timestamp) -> Arc<str> {
    let mut name = String::from(MEMBER);
    // Writing to a string does not fail.
    let written = write!(name, "{:013}-{:016x}", now.as_millis(), fastrand::u64(..));
    debug_assert!(written.is_ok());
    name.into()
}

impl Member {
    /// Lays out the lanes.
    pub(crate) fn lay_out(subscribed: &[Subscribed]) -> Vec<LaneInfo> {
        let mut lanes = Vec::new();
        for (subscription, topic) in subscribed.iter().enumerate() {
            for partition in 0..topic.partitions() {
                for (side, letter) in [(Side::Topic, 't'), (Side::Inbox, 'i')] {
                    let ordered = topic.settings.ordered;
                    lanes.push(LaneInfo {
                        subscription,
                        partition,
                        side,
                        stream: topic.keys.stream(partition, side),
                        ordered,
                        fence: if ordered { partition.to_string() } else { String::new() },
                        mark: format!("{letter}{partition}:"),
                    });
                }
            }
        }
        lanes
    }

    pub(crate) fn lane(&self, lane: Lane) -> &LaneInfo {
        &self.lanes[lane as usize]
    }

    pub(crate) fn of_lane(&self, lane: Lane) -> &Subscribed {
        &self.subscribed[self.lane(lane).subscription]
    }

    pub(crate) fn name(&self) -> Arc<str> {
        self.state.lock().name.clone()
    }

    /// Returns the name if the member is `Live`.
    pub(crate) fn live_name(&self) -> Option<Arc<str>> {
        let state = self.state.lock();
        matches!(state.phase, Phase::Live).then(|| state.name.clone())
    }

    /// Notes that the session of `name` is lost, unless it was replaced already.
    pub(crate) fn lost(&self, name: &str) {
        let mut state = self.state.lock();
        if *state.name == *name && matches!(state.phase, Phase::Live) {
            state.phase = Phase::Lost;
            drop(state);
            self.changed.notify_one();
            self.duty.notify_one();
        }
    }

    /// Ends the member for a reason that time can't heal.
    pub(crate) fn fail(&self, error: Error) {
        let mut state = self.state.lock();
        if matches!(state.phase, Phase::Live | Phase::Lost) {
            state.phase = Phase::Failed(error);
        }
        drop(state);
        self.changed.notify_one();
    }

    /// Notes that entries may be pending for nobody.
    pub(crate) fn recover(&self) {
        let mut state = self.state.lock();
        state.recover = true;
        for (lane, info) in (0..).zip(&self.lanes) {
            if info.ordered && state.lanes.stage(lane) == Stage::Reading {
                let seen = state.lanes.seen(lane);
                state.lanes.set_stage(lane, Stage::Scanning(Some(seen)));
            }
        }
        drop(state);
        self.changed.notify_one();
    }

    /// Starts the orderly end of a partition of an ordered group; resolves when core holds nothing of it.
    pub(crate) fn revoke(
        &self,
        subscribed: &Subscribed,
        partition: u32,
        within: Duration,
    ) -> Vec<oneshot::Receiver<std::convert::Infallible>> {
        let mut state = self.state.lock();
        let mut waits = Vec::with_capacity(2);
        for lane in subscribed.pair(partition) {
            let Some(epoch) = state.lanes.epoch(lane) else { continue };
            state.lanes.set_stage(lane, Stage::Releasing);
            let (done, wait) = oneshot::channel();
            let release = Some(ReleaseGuard { within, done });
            state.revoked.push(Revocation { lane, epoch, release });
            waits.push(wait);
        }
        drop(state);
        self.changed.notify_one();
        waits
    }

    /// Takes entries in: those whose lane is still of `epoch`, others stay with whom they belong to.
    pub(crate) fn admit(
        &self,
        lane: Lane,
        epoch: u32,
        entries: Vec<Arc<Incoming>>,
        out: &mut Vec<Arc<Incoming>>,
    ) {
        let mut state = self.state.lock();
        let reading = matches!(state.lanes.stage(lane), Stage::Reading | Stage::Scanning(_));
        if state.lanes.epoch(lane) != Some(epoch) || !reading {
            return;
        }
        for incoming in &entries {
            let id = crate::lanes::id_of(incoming.token);
            let marked = incoming.suspect.is_some() || incoming.not_before.is_some();
            state.lanes.hold(lane, id, marked);
            state.lanes.note(lane, id);
        }
        out.extend(entries);
    }

    /// Makes a delivery of an entry that is new to the group.
    pub(crate) fn first(
        &self,
        lane: Lane,
        epoch: u32,
        id: EntryId,
        decoded: (Message, Envelope),
    ) -> Arc<Incoming> {
        Arc::new(self.incoming(lane, epoch, id, decoded, 1))
    }

    /// Makes a delivery of an entry that was pending before.
    pub(crate) fn again(&self, lane: Lane, epoch: u32, pending: Pending) -> Arc<Incoming> {
        let suspect = (pending.count > 1).then_some(Suspect { started: pending.started });
        let (entry, count) = (pending.entry, pending.count);
        let mut incoming = self.incoming(lane, epoch, entry.id, codec::decode_entry(&entry), count);
        (incoming.redelivered, incoming.suspect) = (true, suspect);
        if let Some(kept) = pending.kept {
            let (deaths, clock) = (count.saturating_sub(1), &self.context.clock);
            incoming.not_before = Some(kept.apply(deaths, &mut incoming.envelope, clock));
        }
        Arc::new(incoming)
    }

    fn incoming(
        &self,
        lane: Lane,
        epoch: u32,
        id: EntryId,
        decoded: (Message, Envelope),
        count: u32,
    ) -> Incoming {
        let info = self.lane(lane);
        let (message, mut envelope) = codec::due(decoded, &self.context.clock);
        envelope.attempt = envelope.attempt.saturating_add(count.saturating_sub(1));
        Incoming {
            token: Token { lane, epoch, high: id.ms, low: id.seq },
            subscription: info.subscription,
            redelivered: info.side == Side::Inbox || envelope.attempt > 1,
            suspect: None,
            not_before: None,
            position: (info.side == Side::Topic).then(|| id.position(info.partition)),
            message,
            envelope,
        }
    }
}

impl Subscribed {
    pub(crate) fn note_settled(&self) {
        if !self.settled.load(Ordering::Relaxed) {
            self.settled.store(true, Ordering::Relaxed);
        }
    }
}

/// The error after `close`.
pub(crate) fn closed() -> Error {
    Error::new(ErrorKind::Closed, "the consumer was closed")
}

/// Passes unless the member ended.
pub(crate) fn going(phase: &Phase) -> Result<()> {
    match phase {
        Phase::Live | Phase::Lost => Ok(()),
        Phase::Closed => Err(closed()),
        Phase::Failed(error) => Err(error.duplicate()),
    }
}

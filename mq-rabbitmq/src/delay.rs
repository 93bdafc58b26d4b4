//! The lanes that hold delayed messages.
//!
//! Each rung has queues with one constant time to live, so that the head of each is
//! always the next one due. The broker moves what is due to one queue, from where every client
//! with an open consumer forwards it: to the next rung, or to its target.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use lapin::Channel;
use lapin::types::FieldTable;
use mq_core::ladder::{RUNGS, Step, step};
use mq_core::{Clock, Result, Timestamp};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until};

use crate::names;
use crate::topology::{FRESH, Topology, long_string, millis, queue_arguments};

/// A lane lets go this much early: the forwarding takes time, and who receives a message holds the rest.
const EARLY: Duration = Duration::from_millis(250);
/// Between two rungs of core's ladder lie the double and the triple of the lower one, so that a
/// message passes each at most once or twice: every stop costs a publication.
const PARTS: usize = 3;
/// The longest rung whose time the broker's timers can count: 48.5 days.
const LONGEST: usize = 11 * PARTS;
/// The rungs that most messages pass, below a minute, have several queues side by side.
const BUSY: usize = 3 * PARTS;
const SIDES: usize = 4;

/// Chooses lanes, and declares them when they are first needed.
#[derive(Debug)]
pub(crate) struct Delay {
    topology: Arc<Topology>,
    clock: Clock,
    next: AtomicUsize,
    /// The rungs declared, and since when what their queues confirm may be believed.
    declared: Mutex<BTreeMap<usize, Instant>>,
    /// Had by who makes sure that what is due may be consumed.
    opening: Mutex<()>,
}

/// From when on the confirmations of some lanes may be believed: what was published to them is
/// delivered in time, but a broker that is killed before may forget it.
#[derive(Clone, Copy, Debug)]
#[must_use]
pub(crate) struct Firm(Instant);

impl Firm {
    /// Waits until then; verdicts are told after that.
    pub(crate) async fn wait(self) {
        if self.0 > Instant::now() {
            sleep_until(self.0).await;
        }
    }
}

impl Delay {
    pub(crate) fn new(topology: Arc<Topology>, clock: Clock) -> Self {
        Self {
            topology,
            clock,
            next: AtomicUsize::new(0),
            declared: Mutex::default(),
            opening: Mutex::default(),
        }
    }

    /// Returns the rung a message waits on, or `None` if it goes to its target now.
    pub(crate) fn rung(&self, deliver_at: Option<Timestamp>) -> Option<usize> {
        rung(deliver_at?.since(self.clock.now()))
    }

    /// Returns the rungs that messages are on now or, when lanes were declared and what is before them published, then.
    pub(crate) fn rungs(&self, times: impl Iterator<Item = Option<Timestamp>>) -> BTreeSet<usize> {
        times.filter_map(|at| self.rung(at)).flat_map(|rung| [rung.saturating_sub(1), rung]).collect()
    }

    /// Returns the queue of the longest of `rungs` that is not too long by now, or `None` if each is.
    pub(crate) fn lane_of(&self, deliver_at: Option<Timestamp>, rungs: &BTreeSet<usize>) -> Option<String> {
        Some(self.lane(*rungs.range(..=self.rung(deliver_at)?).next_back()?))
    }

    /// Returns the queue of a rung for the next message.
    pub(crate) fn lane(&self, rung: usize) -> String {
        names::delay(time(rung).as_secs(), self.next.fetch_add(1, Ordering::Relaxed) % sides(rung))
    }

    /// Declares the queues of `rungs`, unless that was done.
    pub(crate) async fn ensure(&self, rungs: &BTreeSet<usize>) -> Result<Firm> {
        let past = Instant::now();
        if rungs.is_empty() {
            return Ok(Firm(past));
        }
        let mut declared = self.declared.lock().await;
        let new: Vec<usize> = rungs.iter().filter(|rung| !declared.contains_key(rung)).copied().collect();
        if !new.is_empty() {
            // The lanes let go into it, so it is there first.
            let mut fresh = self.declare_due().await?;
            for declared in join_all(new.iter().map(|rung| self.declare(queues(*rung)))).await {
                fresh |= declared?;
            }
            let firm = if fresh { Instant::now() + FRESH } else { past };
            declared.extend(new.into_iter().map(|rung| (rung, firm)));
        }
        let firm = rungs.iter().filter_map(|rung| declared.get(rung)).max();
        Ok(Firm(firm.copied().unwrap_or(past)))
    }

    /// Declares the queue that all lanes let go into; returns whether it is new.
    async fn declare_due(&self) -> Result<bool> {
        self.declare(vec![(names::DUE.to_owned(), None)]).await
    }

    /// Declares that queue for who consumes it. While the broker still starts a queue for another client it says that
    /// it is there, and ends the connection of who consumes it (4.0.5: `INTERNAL_ERROR`), with all that is held there.
    pub(crate) async fn open_due(&self) -> Result<()> {
        let _one = self.opening.lock().await;
        self.declare_due().await?;
        if self.topology.find_queue(names::DUE_OPEN).await?.is_none() {
            tokio::time::sleep(FRESH).await;
            self.topology.declare_record(names::DUE_OPEN).await?;
        }
        Ok(())
    }

    /// Declares queues that are always declared together, each with the time that it holds a message,
    /// if it does; returns whether they are new.
    async fn declare(&self, queues: Vec<(String, Option<Duration>)>) -> Result<bool> {
        let topology = &self.topology;
        let Some((last, _)) = queues.last() else { return Ok(false) };
        let fresh = topology.find_queue(last).await?.is_none();
        let queues = &queues;
        let declare = |channel: Channel| async move {
            // Asked for at once; the broker makes them one after the other, and the last one last.
            let all =
                queues.iter().map(|(name, hold)| topology.declare_queue(&channel, name, arguments(*hold)));
            join_all(all).await.into_iter().try_for_each(|one| one.map(|_| ()))
        };
        topology.declare(declare).await?;
        Ok(fresh)
    }

    /// Declares them again next time: one was not there.
    pub(crate) async fn forget(&self) {
        self.declared.lock().await.clear();
    }
}

fn rung(remaining: Duration) -> Option<usize> {
    match step(remaining) {
        Step::Deliver => None,
        Step::Wait(rung) => {
            let parts = remaining.as_millis() / RUNGS[rung].as_millis();
            let part = usize::try_from(parts).unwrap_or(PARTS).clamp(1, PARTS);
            Some((rung * PARTS + part - 1).min(LONGEST))
        }
    }
}

/// Returns the time of a rung.
fn time(rung: usize) -> Duration {
    RUNGS[rung / PARTS] * u32::try_from(rung % PARTS + 1).unwrap_or(1)
}

/// Returns the queues of a rung.
fn queues(rung: usize) -> Vec<(String, Option<Duration>)> {
    let (seconds, hold) = (time(rung).as_secs(), time(rung) - EARLY);
    (0..sides(rung)).map(|side| (names::delay(seconds, side), Some(hold))).collect()
}

/// The broker itself moves on what was held for the time.
fn arguments(hold: Option<Duration>) -> FieldTable {
    let mut arguments = queue_arguments(false, false);
    if let Some(hold) = hold {
        arguments.insert("x-message-ttl".into(), millis(hold));
        arguments.insert("x-dead-letter-exchange".into(), long_string(""));
        arguments.insert("x-dead-letter-routing-key".into(), long_string(names::DUE));
        arguments.insert("x-dead-letter-strategy".into(), long_string("at-least-once"));
        arguments.insert("x-overflow".into(), long_string("reject-publish"));
    }
    arguments
}

fn sides(rung: usize) -> usize {
    if rung < BUSY { SIDES } else { 1 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_broker_can_count_every_rung() {
        assert!((0..=LONGEST).all(|rung| (time(rung) - EARLY).as_millis() <= u128::from(u32::MAX)));
    }

    #[test]
    fn a_message_waits_on_the_longest_rung_that_fits() {
        for (millis, seconds) in [
            (999, None),
            (1000, Some(1)),
            (2500, Some(2)),
            (3999, Some(3)),
            (4000, Some(4)),
            (15_999, Some(12)),
        ] {
            assert_eq!(rung(Duration::from_millis(millis)).map(|rung| time(rung).as_secs()), seconds);
        }
    }

    proptest! {
        /// However late each hop is, the message arrives less than a rung early.
        #[test]
        fn a_message_arrives(millis in 0u64..400 * 86_400_000, late in 0u64..300) {
            let mut remaining = Duration::from_millis(millis);
            let mut hops = 0;
            while let Some(rung) = rung(remaining) {
                remaining = remaining.saturating_sub(time(rung) - EARLY + Duration::from_millis(late));
                hops += 1;
            }
            prop_assert!(remaining < RUNGS[0] && hops < 40, "{} hops", hops);
        }
    }
}

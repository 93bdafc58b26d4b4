//! Messages that hold their key: unacknowledged while they wait, with a record beside their queue.

use std::collections::{BTreeMap, BTreeSet};

use mq_core::driver::Hold;
use mq_core::{ErrorKind, Event, GroupName, Result};

use crate::error::stale;
use crate::kept::{Line, Lines};
use crate::publish::Verdicts;
use crate::record;
use crate::returns::Mark;
use crate::settle::{Copier, Lane, Session, copied};

/// A delivery that stays, and its place in the batch.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) place: usize,
    pub(crate) tag: u64,
    pub(crate) hold: Hold,
}

/// A message and its line.
type Record = (Mark, Line);

impl Copier {
    /// Records what messages that hold their key come with next; they stay this member's.
    pub(crate) async fn keep_all(
        &self,
        session: &Session,
        group: &GroupName,
        holds: Vec<Held>,
        verdicts: &mut Verdicts,
    ) {
        if holds.is_empty() {
            return;
        }
        if let Err(error) = session.prove().await {
            holds.iter().for_each(|held| verdicts[held.place] = Err(error.duplicate()));
            return;
        }
        let mut lanes: BTreeMap<usize, Vec<(usize, u64, Record)>> = BTreeMap::new();
        for Held { place, tag, hold } in holds {
            let mut held = session.held.lock();
            let Some(entry) = held.get_mut(tag) else { continue };
            let Some((mark, _)) = entry.stored else { continue };
            // Before it is written: whatever becomes of it, its settlement then removes it.
            entry.kept = true;
            let line = (mark, Line::new(entry.deaths, hold));
            lanes.entry(entry.lane as usize).or_default().push((place, tag, line));
        }
        for (lane, kept) in lanes {
            let new = kept.iter().map(|(.., line)| line.clone()).collect();
            let written = self.write(session, group, lane, &[], &new).await;
            for (place, tag, (_, line)) in kept {
                verdicts[place] = copied(&written).and_then(|()| {
                    let mut held = session.held.lock();
                    let entry = held.get_mut(tag).filter(|_| session.is_live()).ok_or_else(stale)?;
                    entry.envelope = line.history().clone();
                    self.starts.clear(entry.lone.take());
                    Ok(())
                });
            }
        }
    }

    /// Removes what is recorded of messages that are settled.
    pub(crate) async fn forget_all(&self, session: &Session, group: &GroupName, ended: &[(usize, Mark)]) {
        let lanes: BTreeSet<usize> = ended.iter().map(|(lane, _)| *lane).collect();
        for lane in lanes {
            let of = ended.iter().filter(|(known, _)| *known == lane).map(|(_, mark)| *mark);
            let gone: Vec<Mark> = of.collect();
            if let Err(error) = self.write(session, group, lane, &gone, &Lines::default()).await {
                // The next record of the queue leaves it out.
                self.events.failed("removing what held its key", &error);
            }
        }
    }

    async fn write(
        &self,
        session: &Session,
        group: &GroupName,
        lane: usize,
        gone: &[Mark],
        new: &Lines,
    ) -> Result<()> {
        let mut keep = session.kept[lane].lock().await;
        gone.iter().for_each(|mark| keep.forget(*mark));
        let Lane { topic, queue, .. } = &session.lanes[lane];
        let written = record::write_kept(&self.topology, &self.courier, queue, &mut keep, new).await;
        match written {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                if self.topology.rebuild(topic, group).await? {
                    self.events.emit(Event::Rebuilt { what: format!("queues of {topic} {group}") });
                }
                Err(error.with_kind(ErrorKind::Unavailable))
            }
            written => written,
        }
    }
}

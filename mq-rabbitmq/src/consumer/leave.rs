//! How a member leaves its group.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use mq_core::{Clock, Result};

use super::RabbitConsumer;
use crate::intake::Intake;
use crate::record;
use crate::settle::{Copy, Entry, Session};

impl RabbitConsumer {
    /// Gives back what is held. Copies keep their count, where the broker would add to it; the
    /// queues of an ordered group must keep their order, so there the broker itself takes it back,
    /// and a record says that it is no crash.
    pub(super) async fn give_back(&self, session: &Session, intake: &mut Intake) -> Result<()> {
        intake.cancel(session, &self.shared.topology).await?;
        let removed = self.remove_start(session).await;
        let copied = self.copy_back(session).await;
        let recorded = self.record_returns(session, intake).await;
        session.held.lock().take_all();
        removed.and(copied).and(recorded)
    }

    /// Removes the record of what runs alone here: its next holder would take it for the killer of
    /// this process.
    async fn remove_start(&self, session: &Session) -> Result<()> {
        let lone = session.held.lock().iter_mut().find_map(|entry| entry.lone.take_if(|lone| lone.mine));
        match lone {
            Some(lone) => self.shared.copier.starts.remove(lone).await,
            None => Ok(()),
        }
    }

    async fn copy_back(&self, session: &Session) -> Result<()> {
        let now = Clock::now(&self.shared.context.clock);
        let mut sources = Vec::new();
        let mut copies = Vec::new();
        let unordered = |entry: &Entry| !session.lanes[entry.lane as usize].ordered;
        let entries = session.held.lock().take_all_if(unordered);
        for (tag, Entry { lane, message, mut envelope, .. }) in entries {
            let lane = &session.lanes[lane as usize];
            envelope.first_seen = envelope.first_seen.or(Some(now));
            let (topic, group) = (lane.topic.clone(), self.options.group.clone());
            copies.push(Copy { topic, group, queue: lane.queue.clone(), message, envelope });
            sources.push(tag);
        }
        let verdicts = self.shared.copier.store(&copies).await;
        let confirmed = sources.into_iter().zip(&verdicts).filter(|(_, verdict)| verdict.is_ok());
        session.ack(confirmed.map(|(tag, _)| tag).collect()).await?;
        verdicts.into_iter().find_map(Result::err).map_or(Ok(()), Err)
    }

    /// Records what the ordered queues are about to take back, until nothing more comes.
    async fn record_returns(&self, session: &Session, intake: &mut Intake) -> Result<()> {
        let (topology, courier) = (&self.shared.topology, &self.shared.copier.courier);
        let mut halted = BTreeSet::new();
        loop {
            let held = intake.halt(session, &mut halted, topology).await?;
            if held.is_empty() {
                return Ok(());
            }
            let records = held.iter().map(|(lane, held)| {
                record::write(topology, courier, &session.lanes[*lane].queue, intake.known(*lane), held)
            });
            join_all(records).await.into_iter().collect::<Result<()>>()?;
        }
    }
}

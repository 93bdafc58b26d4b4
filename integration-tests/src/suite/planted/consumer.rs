//! A consumer with a defect.

use std::sync::Arc;

use async_trait::async_trait;
use mq_core::driver::{
    Budget, Consumer, Destination, Fetched, Hold, Incoming, Outcome, Relocation, Settlement, Token,
};
use mq_core::{Message, Result};
use parking_lot::Mutex;

use super::defect::{Defect, Turn};
use super::producer::earlier;

#[derive(Debug)]
pub(super) struct BadConsumer {
    pub(super) inner: Arc<dyn Consumer>,
    pub(super) defect: Defect,
    pub(super) turn: Turn,
    /// What was fetched, where it must be known again.
    pub(super) fetched: Mutex<Vec<Arc<Incoming>>>,
}

impl BadConsumer {
    fn spoil_fetched(&self, fetched: &mut Fetched) {
        for incoming in &mut fetched.deliveries {
            let incoming = Arc::make_mut(incoming);
            match self.defect {
                Defect::CrashNotCounted if incoming.suspect.take().is_some() => {
                    incoming.envelope.attempt = (incoming.envelope.attempt - 1).max(1);
                }
                _ => {}
            }
        }
        match self.defect {
            Defect::FetchedReversed => fetched.deliveries.reverse(),
            Defect::HoldMoved => self.fetched.lock().extend(fetched.deliveries.iter().cloned()),
            _ => {}
        }
    }

    /// Changes what is to be settled, or says what its verdict is without settling it.
    fn spoil(&self, settlement: &mut Settlement) -> Option<Result<()>> {
        let forgotten = Some(Ok(()));
        match (self.defect, &mut settlement.outcome) {
            (Defect::AckedWhenFetched, _) => return forgotten,
            (Defect::AckForgotten, Outcome::Ack) if self.turn.hits() => return forgotten,
            (Defect::HoldForgotten, Outcome::Hold(_)) => return forgotten,
            (Defect::HoldShortened, Outcome::Hold(hold)) => hold.until = hold.until.map(earlier),
            (Defect::HoldMoved, Outcome::Hold(hold)) => {
                let hold = hold.clone();
                settlement.outcome = self.moved(&settlement.token, *hold);
            }
            (defect, Outcome::Relocate(copy)) => {
                if defect == Defect::DeathForgotten && copy.to == Destination::Dead {
                    settlement.outcome = Outcome::Ack;
                    return None;
                }
                spoil_copy(defect, copy);
            }
            _ => {}
        }
        None
    }

    /// A copy behind the others of its key.
    fn moved(&self, token: &Token, hold: Hold) -> Outcome {
        let fetched = self.fetched.lock();
        let found = fetched.iter().find(|incoming| incoming.token == *token);
        let mut message = found.map_or_else(|| Message::new(""), |incoming| incoming.message.clone());
        message.deliver_at = hold.until;
        Outcome::Relocate(Box::new(Relocation { to: Destination::Inbox, message, envelope: hold.envelope }))
    }
}

fn spoil_copy(defect: Defect, copy: &mut Relocation) {
    match defect {
        Defect::HistoryLost => (copy.envelope.error, copy.envelope.first_seen) = (None, None),
        Defect::RetryNotCounted if copy.to == Destination::Inbox => {
            copy.envelope.attempt = (copy.envelope.attempt - 1).max(1);
        }
        Defect::RetryDelayDropped => copy.message.deliver_at = None,
        Defect::CopyChanged => copy.message.payload = [&copy.message.payload[..], b"?"].concat().into(),
        _ => {}
    }
}

#[async_trait]
impl Consumer for BadConsumer {
    async fn fetch(&self, budget: Budget) -> Result<Fetched> {
        let mut fetched = self.inner.fetch(budget).await?;
        self.spoil_fetched(&mut fetched);
        match self.defect {
            Defect::AckedWhenFetched => {
                let ack = |incoming: &Arc<Incoming>| Settlement {
                    token: incoming.token,
                    subscription: incoming.subscription,
                    outcome: Outcome::Ack,
                };
                let acks = fetched.deliveries.iter().map(ack).collect();
                drop(self.inner.settle(acks).await);
            }
            Defect::FetchedForgotten => {
                fetched.deliveries.retain(|_| !self.turn.hits());
                if fetched.deliveries.is_empty() && fetched.revoked.is_empty() {
                    return self.inner.fetch(budget).await;
                }
            }
            _ => {}
        }
        Ok(fetched)
    }

    async fn settle(&self, mut batch: Vec<Settlement>) -> Vec<Result<()>> {
        let verdicts: Vec<Option<Result<()>>> = batch.iter_mut().map(|each| self.spoil(each)).collect();
        let kept: Vec<_> = batch
            .into_iter()
            .zip(&verdicts)
            .filter(|(_, verdict)| verdict.is_none())
            .map(|(settlement, _)| settlement)
            .collect();
        let mut settled = self.inner.settle(kept).await.into_iter();
        verdicts.into_iter().map(|verdict| verdict.or_else(|| settled.next()).unwrap_or(Ok(()))).collect()
    }

    async fn start(&self, token: Token) -> Result<()> {
        if self.defect == Defect::StartForgotten {
            return Ok(());
        }
        self.inner.start(token).await
    }

    async fn close(&self) -> Result<()> {
        if self.defect == Defect::NothingGivenBack {
            return Ok(());
        }
        self.inner.close().await
    }
}

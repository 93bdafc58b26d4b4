//! The producer of a client: messages in, receipts out.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use async_trait::async_trait;
use mq_core::driver::{Outgoing, Producer};
use mq_core::ladder::{Step, step};
use mq_core::{Error, ErrorKind, MessageId, Position, Receipt, Result};

use crate::codec;
use crate::connection::Inner;
use crate::error::from_delivery;
use crate::routing;
use crate::transaction;
use crate::verdicts::Verdict;

/// The producer of a client.
#[derive(Debug)]
pub(crate) struct KafkaProducer(pub(crate) Arc<Inner>);

#[async_trait]
impl Producer for KafkaProducer {
    async fn send(&self, batch: Vec<Outgoing>) -> Vec<Result<Receipt>> {
        if batch.iter().any(|outgoing| outgoing.terms.require_group) {
            return self.send_routed(batch).await;
        }
        self.queue(batch).await
    }

    async fn send_atomic(&self, batch: Vec<Outgoing>) -> Result<Vec<Receipt>> {
        transaction::send(&self.0, batch).await
    }

    async fn close(&self) {
        self.0.sender.flush().await;
    }
}

impl KafkaProducer {
    /// Sends what has a group to go to, and refuses the rest.
    async fn send_routed(&self, batch: Vec<Outgoing>) -> Vec<Result<Receipt>> {
        let gate = self.0.routes.gate.lock().await;
        let refused = routing::refused(&self.0, &batch).await;
        let mut verdicts: Vec<Option<Error>> = Vec::with_capacity(batch.len());
        let mut passed = Vec::with_capacity(batch.len());
        for outgoing in batch {
            let error = refused.get(&outgoing.topic).filter(|_| outgoing.terms.require_group);
            verdicts.push(error.map(Error::duplicate));
            if error.is_none() {
                passed.push(outgoing);
            }
        }
        let mut queued = Box::pin(self.queue(passed));
        // Its first poll queues the messages; then others may.
        let first = poll_fn(|context| Poll::Ready(queued.as_mut().poll(context))).await;
        drop(gate);
        let sent = match first {
            Poll::Ready(sent) => sent,
            Poll::Pending => queued.await,
        };
        let mut sent = sent.into_iter();
        verdicts
            .into_iter()
            .filter_map(|refused| refused.map_or_else(|| sent.next(), |error| Some(Err(error))))
            .collect()
    }

    async fn queue(&self, batch: Vec<Outgoing>) -> Vec<Result<Receipt>> {
        let now = self.0.context.clock.now();
        let mut ids: Vec<(MessageId, bool)> = Vec::with_capacity(batch.len());
        let mut records = Vec::with_capacity(batch.len());
        let mut delayed = Vec::new();
        for (index, outgoing) in batch.into_iter().enumerate() {
            let Outgoing { topic, message, .. } = outgoing;
            ids.push((message.id.clone(), message.deliver_at.is_some_and(|at| at > now)));
            match message.deliver_at.map(|at| step(at.since(now))) {
                Some(Step::Wait(rung)) => {
                    delayed.push((index, crate::rungs::delayed_first(rung, &topic, &message, now)));
                }
                _ => records.push(codec::first(topic, &message)),
            }
        }
        let queueing = self.0.transactions.order.read().await;
        let at_once = self.0.sender.send(records);
        drop(queueing);
        if delayed.is_empty() {
            return ids
                .into_iter()
                .zip(at_once.await)
                .map(|((id, held), verdict)| receipt(id, held, verdict))
                .collect();
        }
        let (at_once, later) = futures_util::future::join(at_once, self.0.send_delayed(delayed)).await;
        merge(ids, at_once, later)
    }
}

/// Puts the verdicts of two parts of a batch back in order.
fn merge(
    ids: Vec<(MessageId, bool)>,
    at_once: Vec<Verdict>,
    later: Vec<(usize, Result<Verdict>)>,
) -> Vec<Result<Receipt>> {
    let (mut at_once, mut later) = (at_once.into_iter(), later.into_iter().peekable());
    let verdict_of = |(index, (id, held)): (usize, (MessageId, bool))| {
        let verdict = match later.next_if(|(place, _)| *place == index) {
            Some((_, verdict)) => verdict?,
            None => at_once.next().unwrap_or(Verdict::Pending),
        };
        receipt(id, held, verdict)
    };
    ids.into_iter().enumerate().map(verdict_of).collect()
}

fn receipt(id: MessageId, held: bool, verdict: Verdict) -> Result<Receipt> {
    match verdict {
        Verdict::Stored { .. } if held => Ok(Receipt::new(id, None)),
        Verdict::Stored { partition, offset } => Ok(Receipt::new(id, position(partition, offset))),
        Verdict::Failed(code) => Err(from_delivery(code)),
        Verdict::Pending => Err(Error::new(ErrorKind::UnknownOutcome, "the broker's answer was lost")),
    }
}

/// Returns where a record is; `None` where the broker did not say.
pub(crate) fn position(partition: i32, offset: i64) -> Option<Position> {
    Some(Position {
        partition: u32::try_from(partition).ok()?,
        offset: u64::try_from(offset).ok()?,
        sub: None,
    })
}

#[cfg(test)]
mod tests {
    use rdkafka::error::RDKafkaErrorCode as Code;

    use super::*;

    #[test]
    fn verdicts_return_to_their_places() {
        let ids = ["a", "b", "c"].map(|id| (MessageId::from(id), id == "b")).to_vec();
        let stored = |offset| Verdict::Stored { partition: 0, offset };
        let merged =
            merge(ids, vec![stored(1), Verdict::Failed(Code::MessageSizeTooLarge)], vec![(1, Ok(stored(9)))]);
        let kinds: Vec<_> =
            merged.iter().map(|receipt| receipt.as_ref().map(|r| r.position).map_err(Error::kind)).collect();
        assert_eq!(kinds, [Ok(position(0, 1)), Ok(None), Err(ErrorKind::Rejected)]);
    }
}

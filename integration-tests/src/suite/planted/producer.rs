//! A producer with a defect.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use mq_core::driver::{Outgoing, Producer};
use mq_core::{Error, ErrorKind, Headers, MessageId, Receipt, Result, Timestamp};

use super::defect::{Defect, Turn};

#[derive(Debug)]
pub(super) struct BadProducer {
    pub(super) inner: Arc<dyn Producer>,
    pub(super) defect: Defect,
    pub(super) turn: Turn,
}

impl BadProducer {
    fn spoil(&self, batch: &mut [Outgoing]) {
        for Outgoing { message, terms, .. } in batch.iter_mut() {
            match self.defect {
                Defect::PayloadChanged => message.payload = [&message.payload[..], b"?"].concat().into(),
                Defect::HeadersLost => message.headers = Headers::default(),
                Defect::KeyLost => message.key = None,
                Defect::SubjectLost => message.subject = None,
                Defect::IdChanged => message.id = MessageId::generate(),
                Defect::ContentTypeLost => message.content_type = None,
                Defect::DelayDropped => message.deliver_at = None,
                Defect::DelayShortened => message.deliver_at = message.deliver_at.map(earlier),
                Defect::DelayLengthened => {
                    message.deliver_at = message.deliver_at.map(|at| at.plus(Duration::from_secs(15)));
                }
                Defect::GroupNotRequired => terms.require_group = false,
                _ => {}
            }
        }
        if self.defect == Defect::BatchReversed {
            batch.reverse();
        }
    }

    /// Confirms one in some without sending it.
    async fn lose(&self, batch: Vec<Outgoing>) -> Vec<Result<Receipt>> {
        let mut verdicts: Vec<Option<Result<Receipt>>> = Vec::new();
        let mut kept = Vec::new();
        for outgoing in batch {
            let lost = self.turn.hits();
            verdicts.push(lost.then(|| Ok(Receipt::new(outgoing.message.id.clone(), None))));
            if !lost {
                kept.push(outgoing);
            }
        }
        let mut sent = self.inner.send(kept).await.into_iter();
        let verdict =
            |lost: Option<Result<Receipt>>| lost.or_else(|| sent.next()).unwrap_or_else(|| Err(odd()));
        verdicts.into_iter().map(verdict).collect()
    }
}

pub(super) fn earlier(at: Timestamp) -> Timestamp {
    Timestamp::from_millis(at.as_millis().saturating_sub(250))
}

fn odd() -> Error {
    Error::new(ErrorKind::Other, "fewer verdicts than messages")
}

#[async_trait]
impl Producer for BadProducer {
    async fn send(&self, mut batch: Vec<Outgoing>) -> Vec<Result<Receipt>> {
        self.spoil(&mut batch);
        let size = batch.len();
        let mut verdicts = match self.defect {
            Defect::LosesConfirmed => self.lose(batch).await,
            Defect::SendsTwice => {
                let again: Vec<_> = batch.iter().filter(|_| self.turn.hits()).cloned().collect();
                batch.extend(again);
                self.inner.send(batch).await
            }
            _ => self.inner.send(batch).await,
        };
        verdicts.truncate(size);
        if self.defect == Defect::MissingUntold {
            for error in verdicts.iter_mut().filter_map(|verdict| verdict.as_mut().err()) {
                *error = error.duplicate().with_kind(ErrorKind::Unroutable);
            }
        }
        if self.defect == Defect::BatchReversed {
            verdicts.reverse();
        }
        verdicts
    }

    async fn send_atomic(&self, mut batch: Vec<Outgoing>) -> Result<Vec<Receipt>> {
        if matches!(self.defect, Defect::HalfATransaction | Defect::LosesConfirmed) {
            return self.send(batch).await.into_iter().collect();
        }
        self.spoil(&mut batch);
        self.inner.send_atomic(batch).await
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}

//! A pipeline on its way, and what its replies say of its messages.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;

use mq_core::driver::Outgoing;
use mq_core::{Error, ErrorKind, Receipt, Result};
use redis::Value;

use super::is_synced;
use crate::entry::{EntryId, integer, unexpected};
use crate::error::{refused, unanswered};
use crate::topology;

/// The replies, and whether what they tell of is on disk, if that was asked.
type Replies = Result<(Vec<Value>, Result<()>)>;
pub(super) type InFlight<'a> = Pin<Box<dyn Future<Output = Replies> + Send + 'a>>;

/// A pipeline on its way.
pub(super) struct Chunk<'a> {
    reply: Step<'a>,
    /// Which messages of the batch, and to which partition.
    places: Vec<(usize, u32)>,
}

enum Step<'a> {
    Waiting(InFlight<'a>),
    Done(Replies),
}

impl<'a> Chunk<'a> {
    pub(super) fn new(sending: InFlight<'a>, places: Vec<(usize, u32)>) -> Self {
        Self { reply: Step::Waiting(sending), places }
    }

    /// Hands the pipeline to the connection.
    pub(super) async fn poll_once(&mut self) {
        let Step::Waiting(sending) = &mut self.reply else { return };
        let ready = poll_fn(|context| match sending.as_mut().poll(context) {
            Poll::Ready(replies) => Poll::Ready(Some(replies)),
            Poll::Pending => Poll::Ready(None),
        });
        if let Some(replies) = ready.await {
            self.reply = Step::Done(replies);
        }
    }

    pub(super) async fn finish(self, batch: &[Outgoing], verdicts: &mut [Option<Result<Receipt>>]) {
        let replies = match self.reply {
            Step::Waiting(sending) => sending.await,
            Step::Done(replies) => replies,
        };
        match replies {
            Ok((replies, on_disk)) => {
                let mut replies = replies.into_iter();
                for (place, partition) in self.places {
                    let outgoing = &batch[place];
                    let mut verdict = verdict(replies.next().unwrap_or_default(), outgoing, partition);
                    if let (Ok(_), Err(error), true) = (&verdict, &on_disk, is_synced(outgoing)) {
                        verdict = Err(unanswered(error));
                    }
                    verdicts[place] = Some(verdict);
                }
            }
            Err(error) => {
                for (place, _) in self.places {
                    verdicts[place] = Some(Err(unanswered(&error)));
                }
            }
        }
    }
}

fn verdict(reply: Value, outgoing: &Outgoing, partition: u32) -> Result<Receipt> {
    let receipt = |position| Ok(Receipt::new(outgoing.message.id.clone(), position));
    match reply {
        Value::BulkString(id) => receipt(EntryId::parse(&id).map(|id| id.position(partition))),
        Value::ServerError(error) => Err(refused(error)),
        Value::Nil => Err(topology::no_topic(&outgoing.topic)),
        reply => match integer(&reply) {
            Some(0) => Err(topology::no_topic(&outgoing.topic)),
            Some(-1) => Err(Error::unroutable()),
            Some(_) => receipt(None),
            None => Err(unexpected("XADD").with_kind(ErrorKind::UnknownOutcome)),
        },
    }
}

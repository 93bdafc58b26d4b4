//! Transactions: one script that adds all messages or none.

use std::future::poll_fn;
use std::task::Poll;

use mq_core::driver::Outgoing;
use mq_core::envelope::Envelope;
use mq_core::{Error, ErrorKind, Receipt, Result};
use redis::{Pipeline, Value};

use crate::codec::{self, MAX_HEADERS};
use crate::connection::Live;
use crate::entry::{array, id, unexpected};
use crate::error::{refused, unanswered};
use crate::producer::{StreamProducer, is_synced, score, too_many_headers};
use crate::scripts::Script;
use crate::synced;
use crate::topology;

impl StreamProducer {
    /// Sends all of a batch or nothing; a topic that was declared and is gone is made again once.
    pub(crate) async fn send_all(&self, batch: &[Outgoing]) -> Result<Vec<Receipt>> {
        for last in [false, true] {
            match self.try_all(batch).await {
                Err((error, Some(missing))) if !last => {
                    let topic = &batch[missing].topic;
                    self.shared.registry.forget(topic);
                    let shared = &self.shared;
                    let events = &shared.context.events;
                    if !topology::restore(&shared.link, &shared.registry, events, topic).await? {
                        return Err(error);
                    }
                }
                outcome => return outcome.map_err(|(error, _)| error),
            }
        }
        Err(unexpected("a transaction"))
    }

    /// As [`send_all`](Self::send_all), once; an error comes with the message whose topic is missing.
    async fn try_all(&self, batch: &[Outgoing]) -> Result<Vec<Receipt>, (Error, Option<usize>)> {
        let plain = |error: Error| (error, None);
        if batch.iter().any(is_synced) {
            self.can_sync().await.map_err(plain)?;
        }
        let mut topics = Vec::with_capacity(batch.len());
        for outgoing in batch {
            let headers = outgoing.message.headers.len();
            if headers > MAX_HEADERS {
                return Err(plain(too_many_headers(headers)));
            }
            topics.push(self.topic(&outgoing.topic).await.map_err(plain)?);
        }
        self.shared.wrote(batch.iter().map(|outgoing| &outgoing.topic));
        let link = &self.shared.link;
        let deadline = link.deadline();
        // As long as this is held, nothing that was sent later goes before.
        let mut gate = link.soon(deadline, self.gate.lock()).await.map_err(plain)?;
        let live = link.soon(deadline, link.live()).await.and_then(|live| live).map_err(plain)?;
        let now = self.shared.context.clock.now();
        let mut keys = Vec::with_capacity(2 * batch.len());
        let mut partitions = Vec::with_capacity(batch.len());
        let mut arguments = Vec::with_capacity(3 * batch.len());
        for (outgoing, topic) in batch.iter().zip(&topics) {
            let partition = gate.partition(outgoing, topic);
            keys.extend([topic.streams[partition as usize].as_str(), topic.delayed.as_str()]);
            partitions.push(partition);
            let message = &outgoing.message;
            let required: &[u8] = if outgoing.terms.require_group { b"1" } else { b"0" };
            arguments.push(required.to_vec());
            arguments.push(message.deliver_at.map_or(0, score).to_string().into_bytes());
            arguments.push(codec::delayed(gate.order.next(now), partition, message, &Envelope::default()));
        }
        let mut pipeline = Pipeline::with_capacity(1);
        pipeline.add_command(Script::Atomic.call(&keys));
        pipeline.arg(&arguments);
        let mut running = Box::pin(self.run(live, &pipeline, batch));
        let first = poll_fn(|context| Poll::Ready(running.as_mut().poll(context))).await;
        drop(gate);
        let reply = match first {
            Poll::Ready(reply) => reply,
            Poll::Pending => running.await,
        };
        receipts(reply.map_err(plain)?, batch, &partitions)
    }

    /// Runs the script, and waits for the disk if some message asks for it.
    async fn run(&self, live: Live, pipeline: &Pipeline, batch: &[Outgoing]) -> Result<Value> {
        let link = &self.shared.link;
        let sent = link.pipeline_on(live.clone(), pipeline).await;
        let reply = match sent.map_err(|error| unanswered(&error))?.into_iter().next() {
            Some(Value::ServerError(error)) => return Err(refused(error)),
            reply => reply.unwrap_or_default(),
        };
        if batch.iter().any(is_synced) {
            synced::wait(link, live).await.map_err(|error| unanswered(&error))?;
        }
        Ok(reply)
    }
}

/// Reads the script's reply; an error comes with the message whose topic is missing.
fn receipts(
    reply: Value,
    batch: &[Outgoing],
    partitions: &[u32],
) -> Result<Vec<Receipt>, (Error, Option<usize>)> {
    let reply = array(reply);
    if let [code @ Value::Int(0 | -1), Value::Int(place)] = reply.as_slice()
        && let Some(place) = usize::try_from(*place).ok().and_then(|place| place.checked_sub(1))
        && let Some(outgoing) = batch.get(place)
    {
        return Err(match code {
            Value::Int(0) => (topology::no_topic(&outgoing.topic), Some(place)),
            _ => (Error::unroutable().on_topic(&outgoing.topic), None),
        });
    }
    if reply.len() != batch.len() {
        return Err((unexpected("a transaction").with_kind(ErrorKind::UnknownOutcome), None));
    }
    let receipt = |((outgoing, partition), reply): ((&Outgoing, &u32), &Value)| {
        Receipt::new(outgoing.message.id.clone(), id(reply).map(|id| id.position(*partition)))
    };
    Ok(batch.iter().zip(partitions).zip(&reply).map(receipt).collect())
}

//! Transactions: a native producer of its own, one transaction at a time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mq_core::driver::Outgoing;
use mq_core::ladder::{Step, step};
use mq_core::{Error, ErrorKind, MessageId, Receipt, Result};
use parking_lot::Mutex;
use rdkafka::error::KafkaError;
use rdkafka::producer::Producer as _;

use crate::codec::{self, Record};
use crate::connection::{ANSWER, Inner};
use crate::error::{from_delivery, from_native};
use crate::producer::position;
use crate::routing;
use crate::rungs;
use crate::sender::Sender;
use crate::verdicts::Verdict;

/// How much longer than a send may take the broker keeps a transaction open whose process is gone.
/// Meanwhile groups wait for what follows it.
const OPEN: Duration = Duration::from_secs(5);

/// The pause before a commit that failed is tried again.
const AGAIN: Duration = Duration::from_millis(50);

/// The transactional side of a client.
#[derive(Debug)]
pub(crate) struct Transactions {
    /// What the broker knows this client by: a new producer of this name ends what the one before left open.
    id: String,
    /// Ready for the next transaction; gone after a failure that it does not survive.
    sender: Mutex<Option<Arc<Sender>>>,
    /// Whoever sends holds a share until its messages are queued; a transaction holds it alone, after
    /// all that was queued before is stored.
    pub(crate) order: tokio::sync::RwLock<()>,
}

impl Default for Transactions {
    fn default() -> Self {
        let id = format!("mq-{}", MessageId::generate());
        Self { id, sender: Mutex::default(), order: tokio::sync::RwLock::default() }
    }
}

/// Sends all of a batch or nothing.
pub(crate) async fn send(inner: &Arc<Inner>, batch: Vec<Outgoing>) -> Result<Vec<Receipt>> {
    if let Some((topic, error)) = routing::refused(inner, &batch).await.into_iter().next() {
        return Err(error.on_topic(topic));
    }
    let alone = inner.transactions.order.write().await;
    let now = inner.context.clock.now();
    let mut places: Vec<(MessageId, bool)> = Vec::with_capacity(batch.len());
    let mut records = Vec::with_capacity(batch.len());
    for Outgoing { topic, message, .. } in batch {
        let rung = message.deliver_at.map(|at| step(at.since(now)));
        places.push((message.id.clone(), matches!(rung, Some(Step::Wait(_)))));
        records.push(match rung {
            Some(Step::Wait(rung)) => rungs::delayed_first(rung, &topic, &message, now),
            _ => codec::first(topic, &message),
        });
    }
    if places.iter().any(|(_, held)| *held) {
        inner.ladder().await?;
    }
    inner.sender.flush().await;
    let sender = ready(inner).await?;
    let stored = commit(inner, &sender, records).await;
    drop(alone);
    let receipt = |((id, held), at): ((MessageId, bool), Option<mq_core::Position>)| {
        Receipt::new(id, at.filter(|_| !held))
    };
    Ok(places.into_iter().zip(stored?).map(receipt).collect())
}

/// Returns a producer that may begin a transaction.
async fn ready(inner: &Arc<Inner>) -> Result<Arc<Sender>> {
    if let Some(sender) = &*inner.transactions.sender.lock() {
        return Ok(sender.clone());
    }
    inner
        .ask(|inner| {
            let open = inner.config.send_timeout + OPEN;
            let sender =
                Arc::new(Sender::transactional(&inner.config, &inner.context, &inner.transactions.id, open)?);
            sender.native().init_transactions(ANSWER).map_err(|error| from_native(&error))?;
            *inner.transactions.sender.lock() = Some(sender.clone());
            Ok(sender)
        })
        .await
}

/// Runs a transaction; a failed one is aborted, or its producer given up, which aborts it too.
async fn commit(
    inner: &Arc<Inner>,
    sender: &Arc<Sender>,
    records: Vec<Record>,
) -> Result<Vec<Option<mq_core::Position>>> {
    let begun = sender.clone();
    let begun = inner.ask(move |inner| {
        begun.native().begin_transaction().map_err(|error| {
            give_up(inner);
            from_native(&error)
        })
    });
    begun.await?;
    let mut positions = Vec::with_capacity(records.len());
    let mut failed = None;
    for verdict in sender.send(records).await {
        match verdict {
            Verdict::Stored { partition, offset } => positions.push(position(partition, offset)),
            Verdict::Failed(code) => failed = failed.or_else(|| Some(from_delivery(code))),
            Verdict::Pending => failed = failed.or_else(|| Some(unanswered())),
        }
    }
    let sender = sender.clone();
    let ended = inner.ask(move |inner| match failed {
        Some(error) => Err(abort(inner, &sender, error)),
        None => end(inner, &sender),
    });
    ended.await.map(|()| positions)
}

fn unanswered() -> Error {
    Error::new(ErrorKind::Unavailable, "the broker did not answer; the transaction was aborted")
}

/// Commits; asks again while that may help. Blocks.
fn end(inner: &Inner, sender: &Sender) -> Result<()> {
    let native = sender.native();
    let deadline = Instant::now() + inner.config.send_timeout;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let error = match native.commit_transaction(left) {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        match &error {
            KafkaError::Transaction(native) if native.txn_requires_abort() => {
                return Err(abort(inner, sender, from_native(&error)));
            }
            KafkaError::Transaction(native) if native.is_retriable() && Instant::now() < deadline => {
                std::thread::sleep(AGAIN);
            }
            _ => {
                give_up(inner);
                return Err(from_native(&error).with_kind(ErrorKind::UnknownOutcome));
            }
        }
    }
}

/// Aborts; whether the broker hears of it or not, nothing of the transaction is delivered. Blocks.
fn abort(inner: &Inner, sender: &Sender, error: Error) -> Error {
    if sender.native().abort_transaction(ANSWER).is_err() {
        give_up(inner);
    }
    if error.is_unknown_outcome() { error.with_kind(ErrorKind::Unavailable) } else { error }
}

/// Has the next transaction begin with a new producer, which ends this one's at the broker.
fn give_up(inner: &Inner) {
    drop(inner.transactions.sender.lock().take());
}

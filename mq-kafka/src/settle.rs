//! Settling: copies are stored first, then the sources are done with, then a commit says so. What is kept is
//! recorded in the commit.

use futures_util::future::join_all;
use mq_core::driver::{Destination, Outcome, Relocation, Settlement, Token};
use mq_core::ladder::{Step, step};
use mq_core::{Error, ErrorKind, Result, Timestamp};
use tokio::sync::oneshot;

use crate::codec::{self, Record};
use crate::consumer::{KafkaConsumer, stale};
use crate::error::from_delivery;
use crate::groups;
use crate::member::{Ownership, Standing, is_inbox, partition_of};
use crate::metadata::Kept;
use crate::rungs;
use crate::verdicts::Verdict;

pub(crate) async fn settle(consumer: &KafkaConsumer, batch: Vec<Settlement>) -> Vec<Result<()>> {
    let mut verdicts: Vec<Result<()>> = batch.iter().map(|_| Ok(())).collect();
    make_sure(consumer, &batch, &mut verdicts).await;
    relocate(consumer, &batch, &mut verdicts).await;
    let mut answers = keep(consumer, &batch, &mut verdicts);
    for (index, member) in consumer.members.iter().enumerate() {
        let mut refused = Vec::new();
        let mine = batch.iter().enumerate().filter(|(place, settlement)| {
            verdicts[*place].is_ok()
                && !matches!(settlement.outcome, Outcome::Hold(_))
                && is_of(consumer, index, settlement)
        });
        let answer = member
            .ack(mine.map(|(place, settlement)| (place, &settlement.token)), |place| refused.push(place));
        refused.into_iter().for_each(|place| verdicts[place] = Err(stale()));
        answers.extend(answer);
    }
    match lost(consumer, answers).await {
        Ok(lost) => forsake(&batch, &mut verdicts, &lost),
        Err(error) => {
            for verdict in verdicts.iter_mut().filter(|verdict| verdict.is_ok()) {
                *verdict = Err(error.duplicate());
            }
        }
    }
    verdicts
}

/// Whether a settlement is of the member with this index.
fn is_of(consumer: &KafkaConsumer, index: usize, settlement: &Settlement) -> bool {
    consumer.topics.get(settlement.subscription).is_some_and(|topic| topic.member == index)
}

/// Waits for answers; returns the partitions that went before.
async fn lost(
    consumer: &KafkaConsumer,
    answers: Vec<oneshot::Receiver<Vec<Ownership>>>,
) -> Result<Vec<Ownership>> {
    match tokio::time::timeout(consumer.inner.config.send_timeout, join_all(answers)).await {
        Ok(answers) => Ok(answers.into_iter().flatten().flatten().collect()),
        Err(_) => Err(unconfirmed()),
    }
}

pub(crate) async fn start(consumer: &KafkaConsumer, token: Token) -> Result<()> {
    let answer = consumer.member(&token).and_then(|member| member.start(&token)).ok_or_else(stale)?;
    match tokio::time::timeout(consumer.inner.config.send_timeout, answer).await {
        Ok(Ok(lost)) if lost.is_empty() => Ok(()),
        Ok(_) => Err(stale()),
        Err(_) => Err(unconfirmed()),
    }
}

/// Records what is kept of a batch; returns the answers to wait for.
fn keep(
    consumer: &KafkaConsumer,
    batch: &[Settlement],
    verdicts: &mut [Result<()>],
) -> Vec<oneshot::Receiver<Vec<Ownership>>> {
    let mut answers = Vec::with_capacity(consumer.members.len());
    for (settlement, verdict) in batch.iter().zip(verdicts) {
        let Outcome::Hold(hold) = &settlement.outcome else { continue };
        let until = hold.until.map_or(0, Timestamp::as_millis);
        let kept = Kept { attempt: hold.envelope.attempt, until };
        let member = consumer.member(&settlement.token);
        match member.map_or(Ok(None), |member| member.keep(&settlement.token, kept)) {
            Ok(Some(answer)) => answers.push(answer),
            Ok(None) => *verdict = Err(stale()),
            Err(error) => *verdict = Err(error),
        }
    }
    answers
}

/// The partition went before a commit covered the settlement: it may come back.
fn forsake(batch: &[Settlement], verdicts: &mut [Result<()>], lost: &[Ownership]) {
    if lost.is_empty() {
        return;
    }
    for (settlement, verdict) in batch.iter().zip(verdicts) {
        if verdict.is_ok() && lost.contains(&(settlement.token.lane, settlement.token.epoch)) {
            *verdict = Err(stale());
        }
    }
}

fn unconfirmed() -> Error {
    Error::new(ErrorKind::Unavailable, "the broker did not confirm the commit in time")
}

/// Before copies are made of what may be another member's by now, asks the broker; see [`Member::ask`].
async fn make_sure(consumer: &KafkaConsumer, batch: &[Settlement], verdicts: &mut [Result<()>]) {
    let moves = |settlement: &Settlement| matches!(settlement.outcome, Outcome::Relocate(_));
    let mut answers = Vec::new();
    for (index, member) in consumer.members.iter().enumerate() {
        let mine = batch.iter().filter(|settlement| moves(settlement) && is_of(consumer, index, settlement));
        answers.extend(member.ask(mine.map(|settlement| &settlement.token)));
    }
    if answers.is_empty() {
        return;
    }
    match lost(consumer, answers).await {
        Ok(lost) => forsake(batch, verdicts, &lost),
        Err(error) => {
            for (_, verdict) in batch.iter().zip(verdicts).filter(|(settlement, _)| moves(settlement)) {
                *verdict = Err(error.duplicate());
            }
        }
    }
}

/// Stores the copies of a batch; where that fails, the verdict says why and the source stays as it is.
async fn relocate(consumer: &KafkaConsumer, batch: &[Settlement], verdicts: &mut [Result<()>]) {
    let now = consumer.inner.context.clock.now();
    let (mut places, mut records, mut ladder) = (Vec::new(), Vec::new(), false);
    for (place, settlement) in batch.iter().enumerate() {
        let Outcome::Relocate(relocation) = &settlement.outcome else { continue };
        if verdicts[place].is_err() {
            continue;
        }
        match consumer.member(&settlement.token).map(|member| member.check(&settlement.token)) {
            Some(Standing::Pending) => {
                let (record, waits) = copy(consumer, settlement, relocation, now);
                ladder |= waits;
                places.push(place);
                records.push(record);
            }
            // An earlier try stored the copy; what is missing is the commit.
            Some(Standing::Done) => {}
            Some(Standing::Stale) | None => verdicts[place] = Err(stale()),
        }
    }
    if records.is_empty() {
        return;
    }
    if ladder && let Err(error) = consumer.inner.ladder().await {
        places.iter().for_each(|place| verdicts[*place] = Err(error.duplicate()));
        return;
    }
    let stored = consumer.inner.sender.send(records).await;
    for (place, verdict) in places.into_iter().zip(stored) {
        if let Verdict::Failed(code) = verdict {
            let error = from_delivery(code);
            if error.kind() == ErrorKind::NotFound {
                rebuild(consumer, batch[place].subscription).await;
            }
            verdicts[place] = Err(error);
        }
    }
}

/// Makes the record of a copy; returns whether it waits on the ladder.
fn copy(
    consumer: &KafkaConsumer,
    settlement: &Settlement,
    relocation: &Relocation,
    now: Timestamp,
) -> (Record, bool) {
    let topic = &consumer.topics[settlement.subscription];
    let Relocation { to, message, envelope } = relocation;
    let lane = settlement.token.lane;
    let partition = partition_of(lane);
    if *to == Destination::Dead {
        let key = groups::letter_key(is_inbox(lane), partition, settlement.token.high);
        return (codec::dead(topic.dead.clone(), key, message, envelope, now), false);
    }
    let partition = groups::inbox_partition(&topic.subscription.settings, partition);
    let remaining = message.deliver_at.map(|at| at.since(now)).unwrap_or_default();
    match step(remaining) {
        Step::Wait(rung) => {
            let target = codec::target(&topic.inbox, Some(partition));
            (rungs::delayed(rung, target, message, envelope, now), true)
        }
        Step::Deliver => (codec::copy(topic.inbox.clone(), Some(partition), message, envelope, now), false),
    }
}

/// The inbox or the dead letters are gone: makes them again, so that the next try finds them.
async fn rebuild(consumer: &KafkaConsumer, subscription: usize) {
    let topic = &consumer.topics[subscription];
    let settings = &topic.subscription.settings;
    let made =
        groups::ensure(&consumer.inner, &topic.name, &consumer.group, settings, mq_core::Policy::Create)
            .await;
    let events = &consumer.inner.context.events;
    match made {
        Ok(()) => events
            .emit(mq_core::Event::Rebuilt { what: format!("group {} of {}", consumer.group, topic.name) }),
        Err(error) => events.failed("rebuild group", &error),
    }
}

//! The thread that commits: one commit in flight, the next carries all that came up meanwhile.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::TopicPartitionList;
use rdkafka::consumer::{CommitMode, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::topic_partition_list::Offset;

use super::books::{Commit, LaneCommit, Ownership};
use super::{Native, Shared, partition_of};
use crate::error::from_code;

/// So long a lane's commits may be refused for reasons of its own, such as a deleted topic.
const REFUSED: Duration = Duration::from_secs(5);
const SHORT_PAUSE: Duration = Duration::from_millis(10);
const LONG_PAUSE: Duration = Duration::from_secs(1);
/// A commit costs the broker as much as hundreds of messages: after one that covered many, the
/// next waits so long for each of them, at most. A commit for a few follows at once.
const PACE: (Duration, Duration) = (Duration::from_micros(5), Duration::from_millis(5));
/// A shorter pause than this is none: timers are no finer.
const TIMER: Duration = Duration::from_micros(100);

/// Commits until `stop` says so and nothing is left.
pub(super) fn run(shared: &Arc<Shared>, native: &Arc<Native>, stop: impl Fn() -> bool) {
    let mut pause = SHORT_PAUSE;
    let mut refused: Vec<(Ownership, Instant)> = Vec::new();
    while let Some(commit) = next(shared, &stop) {
        // A process may hang while the answer is on its way: it says what was true when it was asked.
        let asked = Instant::now();
        match send(native, shared, &commit.lanes) {
            Ok(()) => {
                pause = SHORT_PAUSE;
                refused.clear();
                shared.link.answered();
                *shared.heard.lock() = asked;
                settle(shared, &commit, &[]);
                rest(commit.work);
            }
            Err(code) if is_of_one_lane(code) => {
                let failed = one_by_one(native, shared, &commit);
                settle(shared, &commit, &failed);
                give_up(shared, &mut refused, &failed, code);
                wait(shared, &mut pause, &stop);
            }
            Err(code) => {
                tracing::debug!(target: "mq", group = shared.group, %code, "a commit failed and will be tried again");
                let lanes: Vec<Ownership> = commit.lanes.iter().map(|part| (part.lane, part.epoch)).collect();
                shared.books.lock().retry(&lanes);
                if code == Code::RebalanceInProgress {
                    pause = SHORT_PAUSE;
                }
                wait(shared, &mut pause, &stop);
            }
        }
    }
}

fn next(shared: &Shared, stop: &impl Fn() -> bool) -> Option<Commit> {
    let mut books = shared.books.lock();
    loop {
        if let Some(commit) = books.commit() {
            return Some(commit);
        }
        if stop() {
            return None;
        }
        shared.changed.wait(&mut books);
    }
}

/// Lets messages gather for the next commit.
fn rest(work: usize) {
    let (each, most) = PACE;
    let pause = each.saturating_mul(u32::try_from(work).unwrap_or(u32::MAX)).min(most);
    if pause >= TIMER {
        std::thread::sleep(pause);
    }
}

fn settle(shared: &Shared, commit: &Commit, failed: &[Ownership]) {
    shared.books.lock().confirm(commit, failed);
    shared.changed.notify_all();
    shared.arrived.notify_one();
}

/// Waits before the next try; an ending cuts it short.
fn wait(shared: &Shared, pause: &mut Duration, stop: &impl Fn() -> bool) {
    let until = Instant::now() + pause.mul_f64(0.5 + fastrand::f64() / 2.0);
    let mut books = shared.books.lock();
    while !stop() && !shared.changed.wait_until(&mut books, until).timed_out() {}
    *pause = (*pause * 2).min(LONG_PAUSE);
}

fn send(native: &Native, shared: &Shared, lanes: &[LaneCommit]) -> Result<(), Code> {
    let mut offsets = TopicPartitionList::with_capacity(lanes.len());
    for part in lanes {
        let Some(source) = shared.source_of(part.lane) else { continue };
        let mut element = offsets.add_partition(&source.topic, partition_of(part.lane));
        if element.set_offset(Offset::Offset(part.snapshot.offset)).is_ok()
            && !part.snapshot.metadata.is_empty()
        {
            element.set_metadata(&part.snapshot.metadata);
        }
    }
    match native.commit(&offsets, CommitMode::Sync) {
        Ok(()) | Err(KafkaError::ConsumerCommit(Code::NoOffset)) => Ok(()),
        Err(error) => Err(error.rdkafka_error_code().unwrap_or(Code::Unknown)),
    }
}

fn is_of_one_lane(code: Code) -> bool {
    matches!(
        code,
        Code::UnknownTopicOrPartition
            | Code::OffsetMetadataTooLarge
            | Code::InvalidCommitOffsetSize
            | Code::TopicAuthorizationFailed
    )
}

/// The client reports one error for all lanes; asks each alone. Returns those that failed.
fn one_by_one(native: &Native, shared: &Shared, commit: &Commit) -> Vec<Ownership> {
    let fails = |part: &&LaneCommit| send(native, shared, std::slice::from_ref(*part)).is_err();
    commit.lanes.iter().filter(fails).map(|part| (part.lane, part.epoch)).collect()
}

/// Lanes refused for too long are lost.
fn give_up(shared: &Arc<Shared>, refused: &mut Vec<(Ownership, Instant)>, failed: &[Ownership], code: Code) {
    refused.retain(|(ownership, _)| failed.contains(ownership));
    for ownership in failed {
        if !refused.iter().any(|(known, _)| known == ownership) {
            refused.push((*ownership, Instant::now()));
        }
    }
    for ((lane, _), since) in &*refused {
        if since.elapsed() > REFUSED {
            shared.inner.context.events.failed("commit", &from_code(code).in_group(&shared.group));
            shared.lose(&[*lane]);
        }
    }
}

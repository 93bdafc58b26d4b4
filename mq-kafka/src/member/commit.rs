//! The thread that commits: one commit in flight, the next carries all that came up meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
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

/// How a commit thread is to go on, and since when the native client owes it an answer.
#[derive(Debug, Default)]
pub(super) struct Course {
    ending: AtomicBool,
    given_up: AtomicBool,
    asked: Mutex<Option<Instant>>,
}

impl Course {
    /// Has the thread end once nothing is left to commit.
    pub(super) fn end(&self, shared: &Shared) {
        self.tell(shared, &self.ending);
    }

    /// Has the thread end as soon as the native client answers, and touch the books no more.
    pub(super) fn give_up(&self, shared: &Shared) {
        self.tell(shared, &self.given_up);
    }

    fn tell(&self, shared: &Shared, flag: &AtomicBool) {
        let _books = shared.books.lock();
        flag.store(true, Ordering::Release);
        shared.changed.notify_all();
    }

    fn is_given_up(&self) -> bool {
        self.given_up.load(Ordering::Acquire)
    }

    /// Whether the thread is to end when there is nothing to commit.
    fn is_over(&self) -> bool {
        self.ending.load(Ordering::Acquire) || self.is_given_up()
    }

    /// Whether the native client has owed an answer for so long.
    pub(super) fn is_owed(&self, long: Duration) -> bool {
        self.asked.lock().is_some_and(|asked| asked.elapsed() > long)
    }
}

/// Commits until it is told to end and nothing is left.
pub(super) fn run(shared: &Arc<Shared>, native: &Arc<Native>, course: &Course) {
    let mut pause = SHORT_PAUSE;
    let mut refused: Vec<(Ownership, Instant)> = Vec::new();
    while let Some(commit) = next(shared, course) {
        // A process may hang while the answer is on its way: it says what was true when it was asked.
        let asked = Instant::now();
        let sent = send(native, shared, course, &commit.lanes);
        if course.is_given_up() {
            return;
        }
        match sent {
            Ok(()) => {
                pause = SHORT_PAUSE;
                refused.clear();
                shared.link.answered();
                *shared.heard.lock() = asked;
                settle(shared, &commit, &[]);
                rest(commit.work);
            }
            Err(code) if is_of_one_lane(code) => {
                let failed = one_by_one(native, shared, course, &commit);
                if course.is_given_up() {
                    return;
                }
                settle(shared, &commit, &failed);
                give_up(shared, &mut refused, &failed, code);
                wait(shared, &mut pause, course);
            }
            Err(code) => {
                tracing::debug!(target: "mq", group = shared.group, %code, "a commit failed and will be tried again");
                let lanes: Vec<Ownership> = commit.lanes.iter().map(|part| (part.lane, part.epoch)).collect();
                shared.books.lock().retry(&lanes);
                if code == Code::RebalanceInProgress {
                    pause = SHORT_PAUSE;
                }
                wait(shared, &mut pause, course);
            }
        }
    }
}

fn next(shared: &Shared, course: &Course) -> Option<Commit> {
    let mut books = shared.books.lock();
    loop {
        if course.is_given_up() {
            return None;
        }
        if let Some(commit) = books.commit() {
            return Some(commit);
        }
        if course.is_over() {
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
fn wait(shared: &Shared, pause: &mut Duration, course: &Course) {
    let until = Instant::now() + pause.mul_f64(0.5 + fastrand::f64() / 2.0);
    let mut books = shared.books.lock();
    while !course.is_over() && !shared.changed.wait_until(&mut books, until).timed_out() {}
    *pause = (*pause * 2).min(LONG_PAUSE);
}

fn send(native: &Native, shared: &Shared, course: &Course, lanes: &[LaneCommit]) -> Result<(), Code> {
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
    *course.asked.lock() = Some(Instant::now());
    let answer = native.commit(&offsets, CommitMode::Sync);
    *course.asked.lock() = None;
    match answer {
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
fn one_by_one(native: &Native, shared: &Shared, course: &Course, commit: &Commit) -> Vec<Ownership> {
    let fails = |part: &&LaneCommit| send(native, shared, course, std::slice::from_ref(*part)).is_err();
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

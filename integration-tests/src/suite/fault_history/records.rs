//! What happened in a history.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use mq::ErrorKind;
use parking_lot::Mutex;

use super::plan::{Act, Fault};

/// Time since the history began, by the system's clock: processes that take part use the same one.
pub(super) type Time = Duration;

/// What the broker said to a send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Confirmed,
    Failed(ErrorKind, String),
}

/// A message on its way out; its number is its place.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    pub(super) key: usize,
    pub(super) begun: Time,
    pub(super) answer: Option<(Time, Verdict)>,
}

/// A delivery, and what became of it.
#[derive(Clone, Debug)]
pub(super) struct Came {
    pub(super) number: usize,
    pub(super) attempt: u32,
    /// The member, by number; process members are told apart by `process`.
    pub(super) member: usize,
    pub(super) at: Time,
    pub(super) act: Option<(Time, Act)>,
    /// The answer to the act: `None` in it for one that held.
    pub(super) answer: Option<(Time, Option<String>)>,
}

/// A fault's time.
#[derive(Clone, Debug)]
#[allow(dead_code, reason = "what is not read is printed")]
pub(super) struct Window {
    pub(super) what: Fault,
    pub(super) begun: Time,
    pub(super) ended: Time,
    /// Until when it may show.
    pub(super) over: Time,
}

/// A dead letter as listed in the end.
#[derive(Clone, Debug)]
pub(super) struct Letter {
    pub(super) number: usize,
    pub(super) reason: String,
}

/// All that happened.
#[derive(Clone, Debug, Default)]
pub(super) struct Records {
    pub(super) ordered: bool,
    pub(super) sent: Vec<Sent>,
    pub(super) came: Vec<Came>,
    pub(super) faults: Vec<Window>,
    /// How long an answered ack may be in the broker's memory alone.
    pub(super) ack_lag: Duration,
    /// From when to when members left in order, where the broker counts an attempt for what is under way then.
    pub(super) counted_leaves: Vec<(Time, Time)>,
    pub(super) letters: Vec<Letter>,
    /// What is wrong by itself.
    pub(super) wrong: Vec<String>,
}

impl Records {
    /// Returns whether a fault shows between the two times.
    pub(super) fn fault_between(&self, from: Time, to: Time) -> bool {
        self.faults.iter().any(|fault| fault.begun <= to && from <= fault.over)
    }

    /// Returns whether a death of the broker may have undone what it answered at that time.
    pub(super) fn undone(&self, answered: Time) -> bool {
        let until = answered + self.ack_lag;
        self.faults.iter().any(|fault| fault.what.stops_broker() && (answered..until).contains(&fault.begun))
    }

    /// Returns how many attempts members that left may have added to a message between the two times.
    pub(super) fn counted_between(&self, from: Time, to: Time) -> u32 {
        let between = self.counted_leaves.iter().filter(|(begun, ended)| *begun <= to && from <= *ended);
        u32::try_from(between.count()).unwrap_or(u32::MAX)
    }

    /// Tells all that happened to a message.
    pub(super) fn story(&self, number: usize) -> String {
        let mut story = format!("{number}:");
        // Writing to a string does not fail.
        if let Some(sent) = self.sent.get(number) {
            let _ = write!(story, " sent at {:?} key {}, {:?};", sent.begun, sent.key, sent.answer);
        }
        for came in self.came.iter().filter(|came| came.number == number) {
            let Came { attempt, member, at, act, answer, .. } = came;
            let _ = write!(story, " came at {at:?} attempt {attempt} to {member}, {act:?}, {answer:?};");
        }
        for letter in self.letters.iter().filter(|letter| letter.number == number) {
            let _ = write!(story, " dead: {};", letter.reason);
        }
        story
    }
}

/// The records while they are written.
#[derive(Debug)]
pub(super) struct Log {
    pub(super) begun: SystemTime,
    pub(super) records: Mutex<Records>,
}

impl Log {
    pub(super) fn new(ordered: bool, ack_lag: Duration) -> Self {
        let records = Records { ordered, ack_lag, ..Records::default() };
        Self { begun: SystemTime::now(), records: Mutex::new(records) }
    }

    pub(super) fn now(&self) -> Time {
        self.begun.elapsed().unwrap_or_default()
    }

    pub(super) fn wrong(&self, what: impl Into<String>) {
        self.records.lock().wrong.push(what.into());
    }

    /// Notes that a message is about to be sent; returns its number.
    pub(super) fn sending(&self, key: usize) -> usize {
        let begun = self.now();
        let mut records = self.records.lock();
        records.sent.push(Sent { key, begun, answer: None });
        records.sent.len() - 1
    }

    pub(super) fn answered<T>(&self, number: usize, result: Result<T, mq::Error>) {
        let verdict = match result {
            Ok(_) => Verdict::Confirmed,
            Err(error) => Verdict::Failed(error.kind(), error.to_string()),
        };
        let now = self.now();
        self.records.lock().sent[number].answer = Some((now, verdict));
    }

    /// Notes a delivery; returns its place and how often the message came before.
    pub(super) fn came(&self, came: Came) -> (usize, usize) {
        let mut records = self.records.lock();
        let turn = records.came.iter().filter(|other| other.number == came.number).count();
        records.came.push(came);
        (records.came.len() - 1, turn)
    }

    pub(super) fn settling(&self, place: usize, at: Time, act: Act) {
        self.records.lock().came[place].act = Some((at, act));
    }

    pub(super) fn settled(&self, place: usize, at: Time, error: Option<String>) {
        self.records.lock().came[place].answer = Some((at, error));
    }
}

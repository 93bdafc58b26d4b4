//! Whether what happened may happen.

use std::collections::{BTreeSet, HashMap};

use mq::ErrorKind;

use super::plan::Act;
use super::records::{Came, Records, Time, Verdict};

/// The reason that histories give for dead letters.
pub(super) const REASON: &str = "by the history";

/// What a history amounts to.
#[derive(Clone, Debug, Default)]
pub(super) struct Findings {
    pub(super) confirmed: usize,
    /// Messages confirmed and lost.
    pub(super) lost: BTreeSet<usize>,
    /// What must not have happened, with the message if it was one's.
    pub(super) unexpected: Vec<(Option<usize>, String)>,
}

/// Judges the records of a history that has come to rest.
pub(super) fn check(records: &Records) -> Findings {
    let mut findings = Findings { lost: unfinished(records), ..Findings::default() };
    findings.confirmed = records.sent.iter().filter(|sent| is_confirmed(sent.answer.as_ref())).count();
    let mut wrong = |number, what: String| findings.unexpected.push((number, what));
    for what in &records.wrong {
        wrong(None, what.clone());
    }
    for (number, sent) in records.sent.iter().enumerate() {
        if sent.answer.is_none() {
            wrong(Some(number), "a send was never answered".into());
        }
    }
    for (number, visits) in visits(records) {
        match records.sent.get(number) {
            None => wrong(Some(number), "came and was never sent".into()),
            Some(sent) => {
                if let Some((_, Verdict::Failed(kind, _))) = &sent.answer
                    && *kind != ErrorKind::UnknownOutcome
                {
                    wrong(Some(number), format!("came though its send failed with {kind:?}"));
                }
                for what in repeated(records, sent.begun, &visits) {
                    wrong(Some(number), what);
                }
            }
        }
    }
    letters(records, &mut wrong);
    if records.ordered {
        order(records, &mut wrong);
    }
    findings
}

fn is_confirmed(answer: Option<&(Time, Verdict)>) -> bool {
    matches!(answer, Some((_, Verdict::Confirmed)))
}

/// Returns the deliveries by message, each message's by time.
fn visits(records: &Records) -> HashMap<usize, Vec<&Came>> {
    let mut visits: HashMap<usize, Vec<&Came>> = HashMap::new();
    for came in &records.came {
        visits.entry(came.number).or_default().push(came);
    }
    for visits in visits.values_mut() {
        visits.sort_by_key(|came| came.at);
    }
    visits
}

/// Returns what was confirmed and has not come to its end: neither acked nor a dead letter.
pub(super) fn unfinished(records: &Records) -> BTreeSet<usize> {
    let confirmed = |number: &usize| is_confirmed(records.sent[*number].answer.as_ref());
    let mut open: BTreeSet<usize> = (0..records.sent.len()).filter(confirmed).collect();
    for came in records.came.iter().filter(|came| is_ended(records, came)) {
        open.remove(&came.number);
    }
    for letter in &records.letters {
        open.remove(&letter.number);
    }
    open
}

/// An ack ends a message if it held, or if a fault may have taken its answer.
fn is_ended(records: &Records, came: &Came) -> bool {
    let Some((_, Act::Ack)) = came.act else { return false };
    match &came.answer {
        Some((_, None)) => true,
        Some((at, Some(_))) => records.fault_between(came.at, *at),
        None => records.fault_between(came.at, Time::MAX),
    }
}

/// Tells which of a message's deliveries nothing explains.
fn repeated(records: &Records, sent: Time, visits: &[&Came]) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut failed = 0;
    for (place, came) in visits.iter().enumerate() {
        if place > 0 {
            let before = visits[place - 1];
            let given_back = before.act.is_some_and(|(at, act)| at <= came.at && gives_back(act));
            // Nobody is told when what was dropped is settled.
            let dropped = visits[..place].iter().any(|came| matches!(came.act, Some((_, Act::Drop))));
            let answered = before.answer.as_ref().filter(|_| !dropped).map(|(at, _)| *at);
            let over = answered.map_or(came.at, |at| at.min(came.at));
            if !given_back && !records.fault_between(sent, over) && !records.undone(over) {
                wrong.push(format!("came again at {:?} though nothing explains it", came.at));
            }
        }
        let quiet = !records.fault_between(sent, came.at);
        let may_be = failed + 1..=failed + 1 + records.counted_between(sent, came.at);
        if quiet && !may_be.contains(&came.attempt) {
            wrong.push(format!("attempt {} is {} without a fault", failed + 1, came.attempt));
        }
        if let Some((_, act)) = came.act {
            failed += u32::from(matches!(act, Act::Retry(_) | Act::Drop));
        }
        if let Some((at, Some(error))) = &came.answer
            && !records.fault_between(came.at, *at)
        {
            wrong.push(format!("a settlement failed without a fault: {error}"));
        }
    }
    wrong
}

fn gives_back(act: Act) -> bool {
    matches!(act, Act::Retry(_) | Act::Defer(_) | Act::Drop)
}

fn letters(records: &Records, wrong: &mut impl FnMut(Option<usize>, String)) {
    let mut seen = BTreeSet::new();
    for letter in &records.letters {
        let number = letter.number;
        let condemned = |came: &&Came| came.number == number && matches!(came.act, Some((_, Act::Dead)));
        if letter.reason != REASON || !records.came.iter().any(|came| condemned(&came)) {
            wrong(Some(number), format!("is dead and nobody said so: {}", letter.reason));
        }
        if !seen.insert(number) {
            let sent = records.sent.get(number).map_or(Time::ZERO, |sent| sent.begun);
            if !records.fault_between(sent, Time::MAX) {
                wrong(Some(number), "is dead twice without a fault".into());
            }
        }
    }
}

/// First deliveries of what was confirmed come in the order of sending, key by key, one at a time.
fn order(records: &Records, wrong: &mut impl FnMut(Option<usize>, String)) {
    let mut came: Vec<&Came> = records.came.iter().filter(|came| came.number < records.sent.len()).collect();
    came.sort_by_key(|came| came.at);
    let mut seen = BTreeSet::new();
    let mut last: HashMap<usize, usize> = HashMap::new();
    let mut held: HashMap<usize, &Came> = HashMap::new();
    for came in came {
        let sent = &records.sent[came.number];
        if let Some(other) = held.insert(sent.key, came) {
            let until = other.act.map_or(Time::MAX, |(at, _)| at);
            if until > came.at && !records.fault_between(other.at, came.at) {
                wrong(Some(came.number), format!("came while {} of its key was in hand", other.number));
            }
        }
        if is_confirmed(sent.answer.as_ref())
            && seen.insert(came.number)
            && let Some(other) = last.insert(sent.key, came.number).filter(|last| *last > came.number)
        {
            wrong(Some(came.number), format!("came for the first time after {other} of its key"));
        }
    }
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;

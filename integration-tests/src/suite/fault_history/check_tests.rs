use std::time::Duration;

use mq::ErrorKind;

use super::*;
use crate::suite::fault_history::plan::Fault;
use crate::suite::fault_history::records::{Letter, Sent, Window};

fn s(seconds: u64) -> Time {
    Duration::from_secs(seconds)
}

/// Ten messages of two keys, each sent, delivered and acked in a second of its own, without a fault.
fn good() -> Records {
    let mut records = Records { ordered: true, ..Records::default() };
    for number in 0..10 {
        let at = s(100 + 10 * number as u64);
        records.sent.push(Sent { key: number % 2, begun: at, answer: Some((at + s(1), Verdict::Confirmed)) });
        records.came.push(visit(number, 1, at + s(2), Act::Ack));
    }
    records
}

fn visit(number: usize, attempt: u32, at: Time, act: Act) -> Came {
    let (act, answer) = (Some((at + s(1), act)), Some((at + s(2), None)));
    Came { number, attempt, member: 0, at, act, answer }
}

fn fault(records: &mut Records, from: u64, to: u64) {
    let (begun, ended) = (s(from), s(to));
    records.faults.push(Window { what: Fault::Cut, begun, ended, over: ended + s(1) });
}

#[track_caller]
fn accepts(records: &Records) {
    let findings = check(records);
    assert!(findings.lost.is_empty() && findings.unexpected.is_empty(), "{findings:?}");
}

#[track_caller]
fn finds(records: &Records, number: usize, what: &str) {
    let findings = check(records);
    let found = |(of, text): &(Option<usize>, String)| *of == Some(number) && text.contains(what);
    assert!(findings.unexpected.iter().any(found), "{findings:?}");
}

#[test]
fn a_good_history_is_accepted() {
    accepts(&good());
    assert_eq!(check(&good()).confirmed, 10);
}

#[test]
fn what_never_comes_is_lost_whatever_the_faults() {
    let mut records = good();
    records.came.retain(|came| came.number != 4);
    fault(&mut records, 0, 1_000);
    assert_eq!(check(&records).lost, BTreeSet::from([4]));
}

#[test]
fn a_retry_that_never_comes_back_is_lost() {
    let mut records = good();
    records.came[4].act = Some((s(143), Act::Retry(1)));
    assert_eq!(check(&records).lost, BTreeSet::from([4]));
    records.came.push(visit(4, 2, s(145), Act::Ack));
    accepts(&records);
}

#[test]
fn a_broker_that_dies_may_undo_the_acks_it_has_only_in_memory() {
    let mut records = good();
    // Acked at 144; the broker dies half a second later.
    records.came.push(visit(4, 2, s(150), Act::Ack));
    let begun = s(144) + Duration::from_millis(500);
    records.faults.push(Window { what: Fault::Kill, begun, ended: s(151), over: s(152) });
    finds(&records, 4, "came again at 150s though nothing explains it");
    records.ack_lag = s(1);
    accepts(&records);
    records.faults[0].what = Fault::Cut;
    finds(&records, 4, "came again at 150s though nothing explains it");
    (records.faults[0].what, records.faults[0].begun) = (Fault::Kill, s(146));
    finds(&records, 4, "came again at 150s though nothing explains it");
}

#[test]
fn a_drop_may_be_settled_late_and_so_come_twice_beside_a_fault() {
    let mut records = good();
    records.came[4].act = Some((s(143), Act::Drop));
    records.came.push(visit(4, 2, s(144), Act::Ack));
    records.came.push(visit(4, 2, s(148), Act::Ack));
    finds(&records, 4, "came again at 148s though nothing explains it");
    fault(&mut records, 147, 147);
    accepts(&records);
    // An ack that was answered before the fault is final.
    records.came[4].act = Some((s(143), Act::Retry(1)));
    finds(&records, 4, "came again at 148s though nothing explains it");
}

#[test]
fn a_leave_adds_one_attempt_where_the_broker_counts_it_and_no_more() {
    let mut records = good();
    records.came[4].attempt = 2;
    finds(&records, 4, "attempt 1 is 2 without a fault");
    records.counted_leaves.push((s(130), s(139)));
    finds(&records, 4, "attempt 1 is 2 without a fault");
    records.counted_leaves.push((s(139), s(141)));
    accepts(&records);
    records.came[4].attempt = 3;
    finds(&records, 4, "attempt 1 is 3 without a fault");
}

#[test]
fn an_ack_that_failed_ends_a_message_only_beside_a_fault() {
    let mut records = good();
    records.came[4].answer = Some((s(144), Some("stale".into())));
    assert_eq!(check(&records).lost, BTreeSet::from([4]));
    finds(&records, 4, "a settlement failed without a fault");
    fault(&mut records, 143, 143);
    accepts(&records);
}

#[test]
fn an_unknown_send_may_come_or_not_and_a_refused_one_may_not() {
    let unknown = |kind| Some((s(141), Verdict::Failed(kind, String::new())));
    let mut records = good();
    records.sent[4].answer = unknown(ErrorKind::UnknownOutcome);
    accepts(&records);
    let came = records.came.remove(4);
    accepts(&records);
    records.came.insert(4, came);
    records.sent[4].answer = unknown(ErrorKind::Unavailable);
    finds(&records, 4, "came though its send failed");
}

#[test]
fn a_send_without_an_answer_and_a_stranger_are_found() {
    let mut records = good();
    records.sent[4].answer = None;
    finds(&records, 4, "never answered");
    records.came.push(visit(77, 1, s(300), Act::Ack));
    finds(&records, 77, "never sent");
}

#[test]
fn a_message_comes_twice_only_beside_a_fault() {
    let mut records = good();
    records.came.push(visit(4, 1, s(300), Act::Ack));
    finds(&records, 4, "came again");
    // One that began after the ack held explains nothing.
    fault(&mut records, 200, 201);
    finds(&records, 4, "came again");
    fault(&mut records, 141, 142);
    accepts(&records);
}

#[test]
fn attempts_are_exact_without_a_fault() {
    let mut records = good();
    records.came[4].attempt = 2;
    finds(&records, 4, "attempt 1 is 2");
    fault(&mut records, 140, 141);
    accepts(&records);
}

#[test]
fn a_deferral_does_not_count() {
    let mut records = good();
    records.came[4].act = Some((s(143), Act::Defer(1)));
    records.came.push(visit(4, 1, s(145), Act::Ack));
    accepts(&records);
    records.came[10].attempt = 2;
    finds(&records, 4, "attempt 1 is 2");
}

#[test]
fn keys_are_in_order_even_beside_faults() {
    let mut records = good();
    records.came[4].at = s(167);
    fault(&mut records, 0, 1_000);
    finds(&records, 4, "for the first time after 6");
    records.ordered = false;
    accepts(&records);
}

#[test]
fn one_message_of_a_key_is_in_hand_unless_a_fault_took_it() {
    let mut records = good();
    records.came[4].act = Some((s(163), Act::Ack));
    records.came[4].answer = Some((s(164), None));
    finds(&records, 6, "while 4 of its key was in hand");
    fault(&mut records, 150, 151);
    accepts(&records);
}

#[test]
fn dead_letters_are_those_that_were_condemned() {
    let mut records = good();
    records.came[4].act = Some((s(143), Act::Dead));
    assert_eq!(check(&records).lost, BTreeSet::from([4]));
    records.letters.push(Letter { number: 4, reason: REASON.into() });
    accepts(&records);
    records.letters.push(Letter { number: 4, reason: REASON.into() });
    finds(&records, 4, "dead twice");
    records.letters[1] = Letter { number: 5, reason: REASON.into() };
    finds(&records, 5, "nobody said so");
    records.letters[1] = Letter { number: 4, reason: "after 100 attempts".into() };
    finds(&records, 4, "nobody said so");
}

#[test]
fn what_is_wrong_by_itself_is_told() {
    let mut records = good();
    records.wrong.push("a member's consumer ended".into());
    assert_eq!(check(&records).unexpected.len(), 1);
}

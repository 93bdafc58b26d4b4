//! Tests of the tracker.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

/// A life of one owner: fetch so many, settle some, keep some, reserve, then die or leave.
#[derive(Clone, Debug)]
struct Life {
    fetch: usize,
    acks: Vec<prop::sample::Index>,
    keeps: Vec<prop::sample::Index>,
    uncommitted: Vec<prop::sample::Index>,
    clean: bool,
}

fn life() -> impl Strategy<Value = Life> {
    let picks = || proptest::collection::vec(any::<prop::sample::Index>(), 0..30);
    (0usize..60, picks(), picks(), picks(), any::<bool>())
        .prop_map(|(fetch, acks, keeps, uncommitted, clean)| Life { fetch, acks, keeps, uncommitted, clean })
}

proptest! {
    /// Whatever is settled in whatever order, over several owners: what a commit covers never
    /// comes back, everything else does, in order, with one crash per unclean end that held it.
    #[test]
    fn lives(gaps in proptest::collection::vec(1i64..4, 200), lives in proptest::collection::vec(life(), 1..8)) {
        let log: Vec<i64> = gaps.iter().scan(5, |at, gap| { *at += gap; Some(*at) }).collect();
        let mut done = BTreeSet::new();
        let mut crashes: BTreeMap<i64, u32> = BTreeMap::new();
        let mut seen = BTreeSet::new();
        let mut kept: BTreeMap<i64, Kept> = BTreeMap::new();
        let (mut offset, mut metadata) = (0, String::new());
        for life in lives {
            let mut tracker = Tracker::resume(offset, &metadata);
            let mut held: Vec<i64> = Vec::new();
            let from = tracker.position();
            for record in log.iter().copied().filter(|record| *record >= from).take(life.fetch) {
                let delivered = tracker.deliver(record);
                prop_assert_eq!(delivered.is_none(), done.contains(&record));
                if let Some(delivered) = delivered {
                    prop_assert_eq!(delivered.crashes, crashes.get(&record).copied().unwrap_or(0));
                    prop_assert_eq!(delivered.seen, seen.contains(&record));
                    prop_assert_eq!(delivered.kept, kept.get(&record).copied());
                    held.push(record);
                }
            }
            prop_assert!(log.iter().all(|record| *record >= from || done.contains(record)));
            for pick in life.acks.iter().filter(|_| !held.is_empty()) {
                let record = *pick.get(&held);
                let expected = if done.insert(record) { Acked::Now } else { Acked::Before };
                prop_assert_eq!(tracker.ack(record), expected);
            }
            for (number, pick) in (2u32..).zip(life.keeps.iter().filter(|_| !held.is_empty())) {
                let (record, next) = (*pick.get(&held), Kept { attempt: number, until: u64::from(number % 3) * 900 });
                let expected = if done.contains(&record) { Keeping::Unknown } else { Keeping::Noted };
                prop_assert_eq!(tracker.keep(record, next), expected);
                if expected == Keeping::Noted {
                    kept.insert(record, next);
                    crashes.remove(&record);
                }
            }
            let ending = if life.clean { Ending::Clean } else { Ending::Live };
            let snapshot = tracker.snapshot(ending);
            prop_assert!(snapshot.complete);
            let pending: Vec<i64> = held.iter().copied().filter(|record| !done.contains(record)).collect();
            prop_assert_eq!(tracker.pending(), pending.len());
            prop_assert!(pending.iter().all(|record| tracker.is_pending(*record)));
            for pick in life.uncommitted.iter().filter(|_| !life.clean && !held.is_empty()) {
                tracker.ack(*pick.get(&held));
            }
            seen.extend(held.iter().copied());
            if !life.clean {
                for record in pending {
                    *crashes.entry(record).or_default() += 1;
                }
            }
            (offset, metadata) = (snapshot.offset, snapshot.metadata);
        }
    }
}

#[test]
fn what_is_kept_comes_as_recorded_with_the_crashes_since() {
    let kept = Kept { attempt: 3, until: 5000 };
    let mut tracker = Tracker::resume(0, "1;C");
    (0..3).for_each(|offset| assert!(tracker.deliver(offset).is_some()));
    assert!(tracker.start(1));
    assert_eq!((tracker.keep(1, kept), tracker.keep(3, kept)), (Keeping::Noted, Keeping::Unknown));
    tracker.ack(0);
    for (ending, crashes) in [(Ending::Clean, 0), (Ending::Live, 1), (Ending::Live, 2)] {
        let left = tracker.snapshot(ending);
        tracker = Tracker::resume(left.offset, &left.metadata);
        let known = Delivered { crashes, started: false, seen: true, kept: Some(kept) };
        assert_eq!(tracker.deliver(1), Some(known));
        assert_eq!(tracker.deliver(2).unwrap().kept, None);
    }
    assert_eq!(tracker.keep(1, Kept { attempt: 6, until: 0 }), Keeping::Noted);
    let died = tracker.snapshot(Ending::Live);
    let mut tracker = Tracker::resume(died.offset, &died.metadata);
    assert_eq!(tracker.deliver(1).map(|known| (known.crashes, known.kept.unwrap().attempt)), Some((1, 6)));
    tracker.deliver(2);
    tracker.ack(2);
    tracker.ack(1);
    assert_eq!(tracker.snapshot(Ending::Live).metadata, "");
}

#[test]
fn what_does_not_fit_is_refused_and_the_rest_goes_on() {
    let mut tracker = Tracker::resume(0, "");
    (0..2000).for_each(|offset| assert!(tracker.deliver(offset).is_some()));
    let kept = |offset: i64| Kept { attempt: 2, until: 1 << 40 | offset.unsigned_abs() };
    let fitted =
        (0..2000).take_while(|offset| tracker.keep(*offset, kept(*offset)) == Keeping::Noted).count();
    assert!((200..1000).contains(&fitted), "{fitted}");
    let full = i64::try_from(fitted).unwrap();
    assert_eq!(tracker.keep(0, kept(1)), Keeping::Noted, "again");
    (full..2000).for_each(|offset| assert_eq!(tracker.ack(offset), Acked::Now));
    let snapshot = tracker.snapshot(Ending::Live);
    assert!(snapshot.complete && snapshot.metadata.len() <= crate::metadata::LIMIT);
    tracker.ack(0);
    tracker.ack(1);
    assert!(tracker.deliver(2000).is_some());
    assert_eq!(tracker.keep(2000, kept(2000)), Keeping::Noted, "there is room again");
}

#[test]
fn an_idle_partition_commits_no_metadata() {
    let mut tracker = Tracker::resume(10, "");
    for offset in 10..20 {
        tracker.deliver(offset);
    }
    assert_eq!(tracker.snapshot(Ending::Live).metadata, "1;K");
    for offset in (10..20).rev() {
        tracker.ack(offset);
    }
    let snapshot = tracker.snapshot(Ending::Live);
    assert_eq!((snapshot.offset, snapshot.metadata.as_str(), snapshot.complete), (20, "", true));
}

#[test]
fn a_start_is_known_after_a_crash_and_gone_when_done() {
    let mut tracker = Tracker::resume(0, "");
    tracker.deliver(0);
    tracker.deliver(1);
    assert!(tracker.start(1) && !tracker.start(2));
    let died = tracker.snapshot(Ending::Live);
    let mut tracker = Tracker::resume(died.offset, &died.metadata);
    assert_eq!(tracker.deliver(0), Some(Delivered { crashes: 1, started: false, seen: true, kept: None }));
    assert_eq!(tracker.deliver(1), Some(Delivered { crashes: 1, started: true, seen: true, kept: None }));
    tracker.ack(1);
    assert!(Tracker::resume(0, &tracker.snapshot(Ending::Live).metadata).inherited.is_empty());
}

#[test]
fn a_start_ends_with_a_clean_end() {
    let mut tracker = Tracker::resume(0, "");
    tracker.deliver(0);
    tracker.start(0);
    let left = tracker.snapshot(Ending::Clean);
    let mut tracker = Tracker::resume(left.offset, &left.metadata);
    assert_eq!(tracker.deliver(0), Some(Delivered { crashes: 0, started: false, seen: true, kept: None }));
    let died = tracker.snapshot(Ending::Live);
    let delivered = Tracker::resume(died.offset, &died.metadata).deliver(0);
    assert_eq!(delivered, Some(Delivered { crashes: 1, started: false, seen: true, kept: None }));
}

#[test]
fn too_many_holes_brake_before_they_overflow() {
    let mut tracker = Tracker::resume(0, "");
    let mut offset = 0;
    while !tracker.is_fragmented() {
        tracker.deliver(offset);
        tracker.deliver(offset + 1);
        tracker.ack(offset + 1);
        offset += 2;
    }
    assert!(tracker.snapshot(Ending::Live).complete);
    for offset in (0..8000).skip(offset as usize) {
        tracker.deliver(offset);
        if offset % 2 == 1 {
            tracker.ack(offset);
        }
    }
    let over = tracker.snapshot(Ending::Live);
    assert!(!over.complete && over.metadata.len() <= crate::metadata::LIMIT);
}

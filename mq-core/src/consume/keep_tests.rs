//! Tests of groups with `hold_key`.

use super::*;

fn holding() -> State {
    let settings = GroupSettings::default().ordered().hold_key(true).max_attempts(3);
    State::new(
        vec![settings.lease(Duration::from_secs(1))],
        Budget { messages: 8, bytes: 1 << 20 },
        AckMode::Manual,
    )
}

fn keyed(serial: u64, key: u8) -> Incoming {
    incoming(serial, Some(&[key]))
}

fn at(millis: u64) -> Timestamp {
    Timestamp::from_millis(millis)
}

fn retry(after: u64) -> Action {
    Action::Retry { after: Duration::from_millis(after), error: Some("no".into()) }
}

/// As the settling task does when the driver said yes to all; returns the outcomes.
fn answer(state: &mut State) -> Vec<Outcome> {
    let batch = state.take_settlements(&Spent::default());
    for mut pending in batch.pending {
        match pending.hold.take() {
            Some(hold) => drop(state.keep(pending.slot, *hold)),
            None => drop(state.complete(pending.slot)),
        }
    }
    batch.settlements.into_iter().map(|settlement| settlement.outcome).collect()
}

fn take(state: &mut State) -> Option<(u64, u32, HandKey)> {
    let (incoming, key) = state.take(Instant::now())?;
    Some((incoming.token.high, incoming.envelope.attempt, key))
}

#[tokio::test]
async fn a_retry_keeps_its_place_and_its_key_while_others_flow() {
    let mut state = holding();
    admit(&mut state, vec![keyed(1, 0), keyed(2, 0), keyed(3, 1)], NOW);
    let (_, _, key) = take(&mut state).unwrap();
    settle(&mut state, key, retry(500), Reply::Nobody, NOW);
    assert!(matches!(&answer(&mut state)[..], [Outcome::Hold(hold)] if hold.until == Some(at(1500))));
    assert!(state.take_timed(), "the timer is told");
    let (serial, _, other) = take(&mut state).unwrap();
    assert_eq!(serial, 3);
    assert!(
        take(&mut state).is_none() && state.unsettled() == 1,
        "2 waits behind 1, which is in nobody's hand"
    );
    settle(&mut state, other, Action::Ack, Reply::Nobody, NOW);
    answer(&mut state);
    assert_eq!(state.release_due(at(1499)), Some(at(1500)));
    assert!(take(&mut state).is_none());
    state.release_due(at(1500));
    let (again, key) = state.take(Instant::now()).unwrap();
    assert_eq!((again.token.high, again.envelope.attempt, again.redelivered), (1, 2, true));
    assert_eq!(again.envelope.error.as_deref(), Some("no"));
    settle(&mut state, key, Action::Ack, Reply::Nobody, at(1500));
    answer(&mut state);
    assert_eq!(take(&mut state).map(|(serial, attempt, _)| (serial, attempt)), Some((2, 1)));
}

#[tokio::test]
async fn the_last_attempt_ends_in_a_dead_letter_and_the_key_goes_on() {
    let mut state = holding();
    admit(&mut state, vec![keyed(1, 0), keyed(2, 0)], NOW);
    for attempt in 1..=3 {
        let (serial, made, key) = take(&mut state).unwrap();
        assert_eq!((serial, made), (1, attempt));
        settle(&mut state, key, retry(0), Reply::Nobody, NOW);
        let outcomes = answer(&mut state);
        assert_eq!(matches!(outcomes[0], Outcome::Hold(_)), attempt < 3, "{outcomes:?}");
    }
    assert_eq!(take(&mut state).unwrap().0, 2);
}

#[tokio::test]
async fn what_a_former_holder_recorded_holds_its_key_too() {
    let mut state = holding();
    let waits = |mut incoming: Incoming, until| {
        incoming.not_before = Some(at(until));
        incoming.redelivered = true;
        incoming.envelope.attempt = 2;
        incoming
    };
    let last = |mut incoming: Incoming| {
        incoming.suspect = Some(Suspect { started: false });
        incoming.envelope.attempt = 3;
        incoming
    };
    let all = vec![waits(keyed(1, 0), 1200), keyed(2, 0), last(waits(keyed(3, 1), 1300)), keyed(4, 1)];
    admit(&mut state, all, NOW);
    assert_eq!(state.release_due(NOW), Some(at(1200)));
    assert!(take(&mut state).is_none() && state.next_solo().is_none());
    state.release_due(at(1200));
    let (serial, attempt, key) = take(&mut state).unwrap();
    assert_eq!((serial, attempt), (1, 2));
    settle(&mut state, key, Action::Ack, Reply::Nobody, at(1200));
    answer(&mut state);
    state.release_due(at(1300));
    assert!(take(&mut state).is_none(), "2 waits for the one that runs alone");
    let token = state.next_solo().unwrap();
    state.solo_started(token, &Ok(()));
    let (serial, _, key) = take(&mut state).unwrap();
    assert_eq!(serial, 3);
    settle(&mut state, key, Action::Defer { after: Duration::ZERO }, Reply::Nobody, at(1300));
    answer(&mut state);
    let order: Vec<(u64, u32)> =
        std::iter::from_fn(|| take(&mut state)).map(|(serial, attempt, _)| (serial, attempt)).collect();
    assert_eq!(order, [(2, 1), (3, 3)], "4 waits: what ran alone holds its key, suspect no more");
}

#[tokio::test]
async fn a_lane_that_goes_gives_back_what_waits_and_what_is_being_recorded() {
    let mut state = holding();
    admit(&mut state, vec![keyed(1, 0), keyed(2, 1), keyed(3, 2)], NOW);
    let keys: Vec<HandKey> = std::iter::from_fn(|| take(&mut state)).map(|(.., key)| key).collect();
    settle(&mut state, keys[0], retry(10), Reply::Nobody, NOW);
    answer(&mut state);
    settle(&mut state, keys[1], retry(10), Reply::Nobody, NOW);
    let (done, mut released) = tokio::sync::oneshot::channel();
    let release = Some(ReleaseGuard { within: Duration::from_secs(1), done });
    state.revoke(Revocation { lane: 0, epoch: 0, release });
    assert_eq!(released.try_recv().unwrap_err(), tokio::sync::oneshot::error::TryRecvError::Empty);
    settle(&mut state, keys[2], Action::Ack, Reply::Nobody, NOW);
    answer(&mut state);
    assert_eq!(released.try_recv().unwrap_err(), tokio::sync::oneshot::error::TryRecvError::Closed);
    state.release_due(at(5000));
    assert!(take(&mut state).is_none());
    assert_eq!(state.have, Budget { messages: 0, bytes: 0 });
    admit(&mut state, vec![keyed(4, 0), keyed(5, 1)], NOW);
    assert_eq!(std::iter::from_fn(|| take(&mut state)).count(), 2, "the keys are free");
}

#[tokio::test]
async fn a_close_waits_for_no_held_message() {
    let mut state = holding();
    admit(&mut state, vec![keyed(1, 0), keyed(2, 1)], NOW);
    let keys: Vec<HandKey> = std::iter::from_fn(|| take(&mut state)).map(|(.., key)| key).collect();
    settle(&mut state, keys[0], retry(60_000), Reply::Nobody, NOW);
    answer(&mut state);
    settle(&mut state, keys[1], retry(60_000), Reply::Nobody, NOW);
    state.drain();
    assert_eq!(state.unsettled(), 1, "its hold is not recorded yet");
    answer(&mut state);
    assert_eq!(state.unsettled(), 0);
}

proptest! {
    /// However messages are settled, and lanes come and go: of each key one at a time, and none passes
    /// another that had not ended.
    #[test]
    fn keys_end_in_order(steps in proptest::collection::vec((0u8..8, 0u8..3), 1..200)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let _guard = runtime.enter();
        let mut state = holding();
        // Of each key on its lane: what has not ended, with the attempts made and when it is due.
        let mut log: Vec<Vec<(u64, u32, Option<Timestamp>)>> = vec![Vec::new(); 3];
        let (mut epoch, mut serial, mut wall) = (0, 0, NOW);
        let mut hands: Vec<(u8, HandKey)> = Vec::new();
        for (step, key) in steps {
            match step {
                0 | 1 if state.room().is_some() => {
                    serial += 1;
                    log[usize::from(key)].push((serial, 1, None));
                    admit(&mut state, vec![keyed(serial, key)], wall);
                }
                2 | 3 => while let Some((taken, attempt, hand)) = take(&mut state) {
                    let key = (0..3).find(|key| log[usize::from(*key)].first().is_some_and(|first| first.0 == taken));
                    prop_assert!(key.is_some(), "{} passed another", taken);
                    let key = key.unwrap_or(0);
                    prop_assert!(hands.iter().all(|(busy, _)| *busy != key));
                    let (_, made, due) = log[usize::from(key)][0];
                    prop_assert_eq!(attempt, made);
                    prop_assert!(due.is_none_or(|due| due <= wall));
                    hands.push((key, hand));
                },
                4 | 5 => if let Some((key, hand)) = hands.pop() {
                    let entry = &mut log[usize::from(key)];
                    if step == 4 || entry[0].1 == 3 {
                        settle(&mut state, hand, if step == 4 { Action::Ack } else { retry(0) }, Reply::Nobody, wall);
                        entry.remove(0);
                    } else {
                        settle(&mut state, hand, retry(200), Reply::Nobody, wall);
                        entry[0].1 += 1;
                        entry[0].2 = Some(wall.plus(Duration::from_millis(200)));
                    }
                    answer(&mut state);
                },
                6 => {
                    wall = wall.plus(Duration::from_millis(150));
                    state.release_due(wall);
                }
                _ => {
                    // Lost, and back at once: as recorded, in order, what was in hand included.
                    state.revoke(Revocation { lane: 0, epoch, release: None });
                    epoch += 1;
                    hands.clear();
                    prop_assert_eq!(state.have, Budget { messages: 0, bytes: 0 });
                    let mut back: Vec<Incoming> = Vec::new();
                    for (key, entries) in (0u8..).zip(&log) {
                        back.extend(entries.iter().map(|(serial, attempt, due)| {
                            let mut incoming = keyed(*serial, key);
                            incoming.envelope.attempt = *attempt;
                            incoming.not_before = *due;
                            incoming.redelivered = true;
                            incoming
                        }));
                    }
                    admit(&mut state, back, wall);
                }
            }
        }
    }
}

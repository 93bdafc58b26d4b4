//! Tests of the consumer's state.

use proptest::prelude::*;

use super::super::reply::BatchReply;
use super::*;
use crate::driver::{Outcome, ReleaseGuard, Spent, Suspect, Token};
use crate::envelope::Envelope;
use crate::message::Message;

#[path = "keep_tests.rs"]
mod keep;

pub(crate) fn incoming(serial: u64, key: Option<&[u8]>) -> Incoming {
    let mut message = Message::with_id("body", "id");
    message.key = key.map(bytes::Bytes::copy_from_slice);
    Incoming {
        token: Token { lane: 0, epoch: 0, high: serial, low: 0 },
        subscription: 0,
        message,
        envelope: Envelope::default(),
        redelivered: false,
        suspect: None,
        not_before: None,
        position: None,
    }
}

fn suspect(serial: u64, attempt: u32, started: bool) -> Incoming {
    let mut incoming = incoming(serial, None);
    incoming.envelope.attempt = attempt;
    incoming.suspect = Some(Suspect { started });
    incoming
}

fn state() -> State {
    state_with(AckMode::Manual)
}

fn state_with(mode: AckMode) -> State {
    let settings = vec![GroupSettings::default().max_attempts(2).lease(Duration::from_secs(1))];
    State::new(settings, Budget { messages: 8, bytes: 1 << 20 }, mode)
}

const NOW: Timestamp = Timestamp::from_millis(1000);

fn admit(state: &mut State, deliveries: Vec<Incoming>, now: Timestamp) {
    state.admit(deliveries.into_iter().map(Arc::new).collect(), now);
}

fn finish(state: &mut State) -> usize {
    let batch = state.take_settlements(&Spent::default());
    batch.pending.iter().for_each(|pending| drop(state.complete(pending.slot)));
    batch.pending.len()
}

/// Settles, and tells the caller what there is to tell.
fn settle(state: &mut State, key: HandKey, action: Action, reply: Reply, now: Timestamp) {
    state.settle(key, action, reply, now).into_iter().for_each(Answer::send);
}

#[tokio::test]
async fn a_last_attempt_runs_alone_after_its_start_is_recorded() {
    let mut state = state();
    let now = Instant::now();
    admit(&mut state, vec![incoming(1, None), suspect(2, 2, false), incoming(3, None)], NOW);
    assert!(state.take(now).is_none(), "the suspect goes first, alone");
    let token = state.next_solo().unwrap();
    assert!(state.take(now).is_none(), "its start is not recorded yet");
    state.solo_started(token, &Ok(()));
    let (running, key) = state.take(now).unwrap();
    assert_eq!(running.token.high, 2);
    assert!(state.take(now).is_none(), "nothing beside it");
    settle(&mut state, key, Action::Ack, Reply::Nobody, NOW);
    assert_eq!(finish(&mut state), 1);
    assert_eq!(state.take(now).unwrap().0.token.high, 1);
}

#[tokio::test]
async fn what_is_put_back_is_next_whatever_it_was() {
    let mut state = state();
    let now = Instant::now();
    let mut ordered = incoming(1, Some(b"k"));
    ordered.subscription = 1;
    state.settings.push(state.settings[0].clone().ordered());
    let mut behind = incoming(2, Some(b"k"));
    behind.subscription = 1;
    admit(&mut state, vec![ordered, behind, incoming(3, None)], NOW);
    let keys: Vec<HandKey> = std::iter::from_fn(|| state.take(now)).map(|(_, key)| key).collect();
    assert_eq!((keys.len(), state.first_time(0, 1), state.first_time(1, 1)), (2, 1, 1));
    for key in keys.iter().rev() {
        assert!(state.put_back(*key).is_none());
        assert!(state.put_back(*key).is_none(), "once");
    }
    let (first, key) = state.take(now).unwrap();
    assert_eq!((first.token.high, state.unsettled()), (1, 1));
    assert_eq!(state.take(now).unwrap().0.token.high, 3);
    assert!(state.take(now).is_none(), "2 waits behind 1");
    assert_eq!((state.first_time(0, 1), state.first_time(1, 1), state.first_time(1, 1)), (0, 0, 1));
    settle(&mut state, key, Action::Ack, Reply::Nobody, NOW);
    assert_eq!(finish(&mut state), 1);
    let (_, key) = state.take(now).unwrap();
    state.drain();
    assert!(state.put_back(key).is_some_and(|(message, _)| message.token.high == 2), "there is no next time");
    assert_eq!(state.unsettled(), 1);
}

#[tokio::test]
async fn a_suspect_that_is_put_back_still_runs_alone() {
    let mut state = state();
    let now = Instant::now();
    admit(&mut state, vec![suspect(1, 2, false), incoming(2, None)], NOW);
    let token = state.next_solo().unwrap();
    state.solo_started(token, &Ok(()));
    let (_, key) = state.take(now).unwrap();
    assert!(state.put_back(key).is_none());
    assert_eq!(state.take(now).unwrap().0.token.high, 1);
    assert!(state.take(now).is_none(), "nothing beside it");
}

#[tokio::test]
async fn a_started_suspect_is_dead_lettered() {
    let mut state = state();
    admit(&mut state, vec![suspect(1, 3, true)], NOW);
    let batch = state.take_settlements(&Spent::default());
    let Outcome::Relocate(relocation) = &batch.settlements[0].outcome else { panic!("not relocated") };
    assert_eq!(relocation.envelope.attempt, 2);
    assert!(relocation.envelope.death.is_some());
}

#[tokio::test]
async fn what_runs_alone_or_dies_leaves_the_turn_of_its_key_to_others() {
    let mut state = state();
    state.settings[0].ordered = true;
    let now = Instant::now();
    let keyed = |mut incoming: Incoming| {
        incoming.message.key = Some("k".into());
        incoming
    };
    let suspects = [suspect(1, 2, false), suspect(2, 3, true)];
    let others = [incoming(3, None), incoming(4, None)];
    admit(&mut state, suspects.into_iter().chain(others).map(keyed).collect(), NOW);
    assert_eq!(finish(&mut state), 1, "one is dead");
    let token = state.next_solo().unwrap();
    state.solo_started(token, &Ok(()));
    let (_, key) = state.take(now).unwrap();
    settle(&mut state, key, Action::Ack, Reply::Nobody, NOW);
    assert_eq!(finish(&mut state), 1);
    assert_eq!(state.take(now).unwrap().0.token.high, 3);
    assert!(state.take(now).is_none(), "4 waits behind 3");
}

#[tokio::test]
async fn a_copy_that_is_refused_for_good_becomes_a_dead_letter() {
    let mut state = state();
    admit(&mut state, vec![incoming(1, None)], NOW);
    let (_, key) = state.take(Instant::now()).unwrap();
    let (caller, mut answer) = tokio::sync::oneshot::channel();
    let retry = Action::Retry { after: Duration::ZERO, error: None };
    settle(&mut state, key, retry, Reply::One(caller), NOW);
    let mut pending = state.take_settlements(&Spent::default()).pending.remove(0);
    let refused = state.refuse(&mut pending, &Error::new(ErrorKind::Rejected, "too large"));
    refused.into_iter().for_each(Answer::send);
    assert_eq!(answer.try_recv().unwrap().unwrap_err().kind(), ErrorKind::Rejected);
    state.again(pending, NOW);
    let batch = state.take_settlements(&Spent::default());
    let Outcome::Relocate(relocation) = &batch.settlements[0].outcome else { panic!("not relocated") };
    let death = relocation.envelope.death.as_ref().unwrap();
    assert_eq!(&*death.reason, policy::REFUSED);
}

#[tokio::test]
async fn an_expired_lease_makes_the_late_settlement_stale() {
    let mut state = state();
    let now = Instant::now();
    admit(&mut state, vec![incoming(1, None)], NOW);
    let (_, key) = state.take(now).unwrap();
    let later = now + Duration::from_millis(600);
    state.extend(key, later).unwrap();
    assert_eq!(
        state.expire(now + Duration::from_millis(1100), NOW, |_| panic!("extended")),
        later + Duration::from_secs(1)
    );
    let mut expired = 0;
    state.expire(later + Duration::from_secs(1), NOW, |_| expired += 1);
    assert_eq!(expired, 1);
    let (caller, mut answer) = tokio::sync::oneshot::channel();
    settle(&mut state, key, Action::Ack, Reply::One(caller), NOW);
    assert_eq!(answer.try_recv().unwrap().unwrap_err().kind(), ErrorKind::StaleDelivery);
    assert_eq!(finish(&mut state), 1, "only the relocation");
}

#[tokio::test]
async fn held_messages_come_in_due_order() {
    let mut state = state();
    let hold = |serial, at| {
        let mut incoming = incoming(serial, None);
        incoming.message.deliver_at = Some(Timestamp::from_millis(at));
        incoming
    };
    admit(&mut state, vec![hold(1, 1300), hold(2, 1100), hold(3, 900)], NOW);
    assert_eq!(state.take(Instant::now()).unwrap().0.token.high, 3);
    assert!(state.take(Instant::now()).is_none());
    assert_eq!(state.release_due(Timestamp::from_millis(1100)), Some(Timestamp::from_millis(1300)));
    assert_eq!(state.take(Instant::now()).unwrap().0.token.high, 2);
}

#[tokio::test]
async fn a_lane_is_not_released_by_draining_before_its_hand_is_settled() {
    let mut state = state();
    admit(&mut state, vec![incoming(1, None)], NOW);
    let (_, key) = state.take(Instant::now()).unwrap();
    let (done, mut released) = tokio::sync::oneshot::channel();
    let release = Some(ReleaseGuard { within: Duration::from_secs(1), done });
    state.revoke(Revocation { lane: 0, epoch: 0, release });
    state.drain();
    assert_eq!(state.room(), None, "nothing is fetched while draining");
    assert_eq!(released.try_recv().unwrap_err(), tokio::sync::oneshot::error::TryRecvError::Empty);
    settle(&mut state, key, Action::Ack, Reply::Nobody, NOW);
    finish(&mut state);
    assert_eq!(released.try_recv().unwrap_err(), tokio::sync::oneshot::error::TryRecvError::Closed);
}

#[tokio::test]
async fn an_orderly_revocation_waits_for_what_is_in_hand() {
    let mut state = state();
    admit(&mut state, vec![incoming(1, None), incoming(2, None)], NOW);
    let (_, key) = state.take(Instant::now()).unwrap();
    let (done, mut released) = tokio::sync::oneshot::channel();
    let release = Some(ReleaseGuard { within: Duration::from_secs(1), done });
    state.revoke(Revocation { lane: 0, epoch: 0, release });
    assert!(state.take(Instant::now()).is_none());
    assert_eq!(released.try_recv().unwrap_err(), tokio::sync::oneshot::error::TryRecvError::Empty);
    settle(&mut state, key, Action::Ack, Reply::Nobody, NOW);
    finish(&mut state);
    assert_eq!(released.try_recv().unwrap_err(), tokio::sync::oneshot::error::TryRecvError::Closed);
}

proptest! {
    /// Whatever happens, what is held is counted right and comes back to nothing.
    #[test]
    fn the_window_is_returned_in_full(steps in proptest::collection::vec(0u8..7, 1..300)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let _guard = runtime.enter();
        let mut state = state();
        let (mut now, mut wall, mut serial) = (Instant::now(), NOW, 0);
        let mut hands = Vec::new();
        for step in steps {
            match step {
                0 | 1 if state.room().is_some() => {
                    serial += 1;
                    let mut message = if serial % 5 == 0 { suspect(serial, 2, false) } else { incoming(serial, None) };
                    if serial % 3 == 0 {
                        message.message.deliver_at = Some(wall.plus(Duration::from_millis(400)));
                    }
                    message.token.lane = (serial % 2) as u32;
                    admit(&mut state, vec![message], wall);
                }
                2 => hands.extend(state.take(now).map(|(_, key)| key)),
                3 => if let Some(key) = hands.pop() { settle(&mut state, key, Action::Defer { after: Duration::ZERO }, Reply::Nobody, wall) },
                4 => { finish(&mut state); }
                5 => {
                    now += Duration::from_millis(300);
                    wall = wall.plus(Duration::from_millis(300));
                    state.expire(now, wall, |_| {});
                    state.release_due(wall);
                    if let Some(token) = state.next_solo() { state.solo_started(token, &Ok(())); }
                }
                _ => state.revoke(Revocation { lane: (serial % 2) as u32, epoch: 0, release: None }),
            }
            prop_assert!(state.have.messages <= 8);
        }
        for _ in 0..100 {
            now += Duration::from_secs(2);
            wall = wall.plus(Duration::from_secs(2));
            state.expire(now, wall, |_| {});
            state.release_due(wall);
            finish(&mut state);
            if let Some(token) = state.next_solo() { state.solo_started(token, &Ok(())); }
            while state.take(now).is_some() {}
        }
        prop_assert_eq!(state.have, Budget { messages: 0, bytes: 0 });
    }
}

#[tokio::test]
async fn a_batch_is_answered_once_with_its_failures() {
    let (mut one, mut other) = (state(), state());
    let now = Instant::now();
    admit(&mut one, (1..=3).map(|serial| incoming(serial, None)).collect(), NOW);
    admit(&mut other, vec![incoming(4, None)], NOW);
    let keys: Vec<HandKey> = (0..3).map(|_| one.take(now).unwrap().1).collect();
    let (_, late) = other.take(now).unwrap();
    settle(&mut one, keys[1], Action::Ack, Reply::Nobody, NOW);
    other.lose(0);
    let (reply, mut answer) = BatchReply::new(4);
    assert!(one.ack_all(keys.into_iter().enumerate(), reply.clone(), NOW).is_none(), "two are under way");
    other.ack_all(std::iter::once((3, late)), reply, NOW).unwrap().send();
    let mut pending = one.take_settlements(&Spent::default()).pending;
    assert!(answer.try_recv().is_err());
    let again = pending.remove(2);
    for pending in pending {
        one.answer(pending.reply, Ok(())).into_iter().for_each(Answer::send);
    }
    assert!(answer.try_recv().is_err(), "one failed and is tried again");
    one.answer(again.reply, Ok(())).unwrap().send();
    let mut stale: Vec<usize> = answer.try_recv().unwrap().into_iter().map(|(index, _)| index).collect();
    stale.sort_unstable();
    assert_eq!(stale, [1, 3]);
}

#[tokio::test]
async fn what_is_acked_first_is_handed_over_when_the_ack_is_answered() {
    let mut state = state_with(AckMode::Auto);
    let now = Instant::now();
    admit(&mut state, (1..=3).map(|serial| incoming(serial, None)).collect(), NOW);
    let taken = |state: &mut State| -> Vec<u64> {
        state.take_acked(2, now, NOW).iter().map(|incoming| incoming.token.high).collect()
    };
    assert!(taken(&mut state).is_empty() && taken(&mut state).is_empty());
    let pending = state.take_settlements(&Spent::default()).pending;
    assert_eq!(pending.len(), 2, "no more than was asked for");
    for (pending, kept) in pending.into_iter().zip([true, false]) {
        let message = state.complete(pending.slot).map(|(message, _)| message);
        state.acked(message.filter(|_| kept));
    }
    state.pause(true);
    assert!(taken(&mut state).is_empty(), "paused");
    state.pause(false);
    assert_eq!(taken(&mut state), [1], "the other's ack was stale");
    assert!(taken(&mut state).is_empty() && state.has_settlements());
}

#[tokio::test]
async fn a_pause_holds_back_and_fetches_nothing() {
    let mut state = state();
    admit(&mut state, vec![incoming(1, None)], NOW);
    state.pause(true);
    assert!(!state.has_ready() && state.room().is_none() && state.take(Instant::now()).is_none());
    state.pause(false);
    assert!(state.room().is_some() && state.take(Instant::now()).is_some());
}

#[tokio::test]
async fn what_is_acked_is_let_go_before_the_answer_and_can_be_acked_again() {
    let mut state = state();
    admit(&mut state, (1..=8).map(|serial| incoming(serial, None)).collect(), NOW);
    let (message, key) = state.take(Instant::now()).unwrap();
    let left = Arc::downgrade(&message);
    settle(&mut state, key, Action::Ack, Reply::Nobody, NOW);
    drop(message);
    assert_eq!(left.strong_count(), 1, "the books have it");
    let mut batch = state.take_settlements(&Spent::default());
    Spent::default().put(std::mem::take(&mut batch.spent));
    assert_eq!(left.strong_count(), 0, "nobody needs it");
    assert!(state.room().is_none() && state.unsettled() == 1, "its place is kept");
    // The broker was away; the ack needs no message.
    state.again(batch.pending.remove(0), NOW);
    let batch = state.take_settlements(&Spent::default());
    assert!(matches!(batch.settlements[0].outcome, Outcome::Ack) && batch.settlements[0].token.high == 1);
    assert!(state.complete(batch.pending[0].slot).is_none());
    assert_eq!((state.unsettled(), state.have), (0, Budget { messages: 7, bytes: 7 * 4 }));
}

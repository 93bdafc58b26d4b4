//! Layers that change, refuse, record, hold back.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use mq_core::{Clock, Message};
use mq_worker::layers::{Audit, ConcurrencyLimit, Map, RateLimit, ScheduleWindow, Validate};
use mq_worker::{Attempt, Failure, Handler, Key, State, Text, Worker};

use crate::support::{Notes, SECOND, client, dead, epitaph, numbered, serve};

async fn note(Text(text): Text, State(notes): State<Notes>) {
    notes.add(text.to_string());
}

#[tokio::test(start_paused = true)]
async fn a_handler_gets_what_was_made_of_the_message_and_the_dead_letter_is_the_original() {
    async fn fussy(Text(text): Text) -> Result<(), Failure> {
        Err(Failure::reject(format!("got {text}")))
    }
    let upper = || {
        Map::new(|mut message| {
            let text = std::str::from_utf8(&message.payload).map_err(Failure::reject)?;
            message.payload = text.to_uppercase().into();
            Ok(message)
        })
    };
    let client = client();
    let twice = Map::new(|mut message| {
        message.payload = [&message.payload[..], &message.payload[..]].concat().into();
        Ok(message)
    });
    let worker = Worker::new(&client, "g").on("in", fussy.layer(upper()).layer(twice));
    serve(&client, worker, [Message::new("a")]).await;
    assert_eq!(epitaph(&client).await.0, "got AA");
    assert_eq!(&dead(&client, "in").await[0].message.payload[..], b"a");

    let worker = Worker::new(&client, "h").on("bytes", fussy.layer(upper()));
    let report =
        worker.run_until(crate::support::send_and_wait(&client, "bytes", vec![Message::new(vec![255])]));
    assert_eq!(report.await.unwrap().dead, 1);
}

#[tokio::test(start_paused = true)]
async fn what_is_not_valid_reaches_no_handler() {
    let (client, notes) = (client(), Notes::default());
    let short = Validate::new(|message| match message.payload.len() {
        0..3 => Ok(()),
        long => Err(format!("{long} bytes; 2 are allowed")),
    });
    let worker = Worker::new(&client, "g").on("in", note.layer(short)).state(notes.clone());
    let report = serve(&client, worker, [Message::new("ok"), Message::new("long"), Message::new("so")]).await;
    assert_eq!((report.handled, report.dead, report.retried), (2, 1, 0));
    assert_eq!(notes.all(), ["ok", "so"]);
    assert_eq!(epitaph(&client).await.0, "4 bytes; 2 are allowed");
}

#[tokio::test(start_paused = true)]
async fn an_audit_has_a_record_of_each_attempt() {
    async fn second_time(Attempt(attempt): Attempt) -> Result<(), Failure> {
        tokio::time::sleep(2 * SECOND).await;
        if attempt == 1 { Err(Failure::retry(SECOND)) } else { Ok(()) }
    }
    let (client, notes) = (client(), Notes::default());
    let audit = Audit::new({
        let notes = notes.clone();
        move |record| {
            let (topic, group, took) = (record.topic, record.group, record.took.as_secs());
            notes.add(format!("{topic} {group} {} {took} {:?}", record.attempt, record.outcome.is_ok()));
        }
    });
    let worker = Worker::new(&client, "g").on("in", second_time.layer(audit));
    serve(&client, worker, numbered(1)).await;
    assert_eq!(notes.all(), ["in g 1 2 false", "in g 2 2 true"]);
}

#[tokio::test(start_paused = true)]
async fn what_handlers_share_is_used_by_so_many_at_once_and_of_a_key_by_one() {
    type Gauge = Arc<(AtomicUsize, AtomicUsize)>;
    async fn hold(Key(key): Key, State(notes): State<Notes>, State(gauge): State<Gauge>) {
        let now = gauge.0.fetch_add(1, Ordering::Relaxed) + 1;
        gauge.1.fetch_max(now, Ordering::Relaxed);
        notes.add(format!("{key:?} in"));
        tokio::time::sleep(SECOND).await;
        notes.add(format!("{key:?} out"));
        gauge.0.fetch_sub(1, Ordering::Relaxed);
    }
    let (client, notes, gauge) = (client(), Notes::default(), Gauge::default());
    let limit = Arc::new(ConcurrencyLimit::new(3));
    let of_key = Arc::new(ConcurrencyLimit::new(1).per_key());
    let worker = Worker::new(&client, "g")
        .on("in", hold.layer(of_key.clone()).layer(limit.clone()))
        .on("also", hold.layer(of_key).layer(limit))
        .state(notes.clone())
        .state(gauge.clone());
    let messages =
        |count: usize| (0..count).map(|n| Message::new("").key((n % 5).to_string())).collect::<Vec<_>>();
    let also = client.publisher("also").await.unwrap();
    let sending = async {
        also.send_batch(messages(10)).await.into_iter().for_each(|verdict| drop(verdict.unwrap()));
        crate::support::send_and_wait(&client, "in", messages(10)).await;
    };
    assert_eq!(worker.run_until(sending).await.unwrap().handled, 20);
    assert_eq!(gauge.1.load(Ordering::Relaxed), 3);
    for key in 0..5 {
        let key = format!("b\"{key}\"");
        let of_key: Vec<_> = notes.all().into_iter().filter(|note| note.starts_with(&key)).collect();
        assert_eq!(of_key.len(), 8);
        assert!(
            of_key.chunks(2).all(|pair| pair[0].ends_with("in") && pair[1].ends_with("out")),
            "{of_key:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_rate_for_each_key() {
    async fn keyed(Key(key): Key, State(notes): State<Notes>) {
        notes.add(format!("{key:?}"));
    }
    let (client, notes) = (client(), Notes::default());
    let route = keyed.layer(RateLimit::new(1, SECOND).per_key());
    let worker = Worker::new(&client, "g").on("in", route).state(notes.clone());
    let messages: Vec<_> = (0..6).map(|n| Message::new("").key(["a", "b"][n % 2])).collect();
    assert_eq!(serve(&client, worker, messages).await.handled, 6);
    assert_eq!(notes.seconds(), [0, 0, 1, 1, 2, 2]);
}

#[tokio::test(start_paused = true)]
async fn outside_its_window_nothing_is_handled_and_no_attempt_is_counted() {
    async fn attempts(Attempt(attempt): Attempt, State(notes): State<Notes>) {
        notes.add(attempt.to_string());
    }
    let (client, notes, clock) = (client(), Notes::default(), Clock::tokio());
    let opens = clock.now().plus(600 * SECOND);
    let window = ScheduleWindow::new(move |now| (now < opens).then(|| opens.since(now))).clock(clock);
    let worker = Worker::new(&client, "g").on("in", attempts.layer(window)).state(notes.clone());
    let report = serve(&client, worker, numbered(3)).await;
    // The first one pauses the intake: the others need not be given back.
    assert_eq!((report.handled, report.retried), (3, 0));
    assert!((1..=3).contains(&report.deferred), "{report:?}");
    assert_eq!(notes.all(), ["1", "1", "1"]);
    assert!(notes.seconds().iter().all(|second| (600..602).contains(second)), "{:?}", notes.seconds());
}

#[cfg(feature = "encryption")]
#[tokio::test(start_paused = true)]
async fn what_cannot_be_decrypted_is_a_dead_letter_and_the_next_proceeds() {
    use mq_worker::layers::{AeadCipher, Cipher as _, Decrypt};
    let (client, notes, cipher) = (client(), Notes::default(), AeadCipher::new("a", &[1; 32]));
    let sealed = |text: &str| cipher.seal(Message::new(text.to_owned())).unwrap();
    let foreign = AeadCipher::new("b", &[2; 32]).seal(Message::new("x")).unwrap();
    let messages = [sealed("one"), Message::new("plain"), foreign, sealed("two")];
    let worker =
        Worker::new(&client, "g").on("in", note.layer(Decrypt::new(cipher.clone()))).state(notes.clone());
    let report = serve(&client, worker, messages).await;
    assert_eq!((report.handled, report.dead), (2, 2));
    assert_eq!(notes.all(), ["one", "two"]);
    let mut reasons: Vec<_> = dead(&client, "in")
        .await
        .iter()
        .map(|dead| dead.envelope.death.as_ref().unwrap().reason.to_string())
        .collect();
    reasons.sort();
    assert!(reasons[0].contains("no key is known") && reasons[1].contains("not encrypted"), "{reasons:?}");
}

//! What is done about failures.

use mq_core::{ErrorKind, Message};
use mq_worker::{Attempt, Backoff, Failure, Handler, State, Text, Verdict, Worker, retry};

use crate::support::{Notes, SECOND, client, epitaph, numbered, run, serve};

async fn fails(Attempt(attempt): Attempt, State(notes): State<Notes>) -> Result<(), String> {
    notes.add(attempt.to_string());
    Err(format!("no {attempt}"))
}

#[tokio::test(start_paused = true)]
async fn attempts_with_growing_pauses_then_a_dead_letter() {
    let (client, notes) = (client(), Notes::default());
    let worker = Worker::new(&client, "g").on("in", fails).state(notes.clone());
    let worker = worker.retry(Backoff::exponential(SECOND..=60 * SECOND).multiplier(10.0).attempts(4));
    let report = serve(&client, worker, numbered(1)).await;
    assert_eq!((notes.all().join(" "), notes.seconds()), ("1 2 3 4".into(), vec![0, 1, 11, 71]));
    assert_eq!((report.retried, report.dead), (3, 1));
    assert_eq!(epitaph(&client).await, ("max attempts".into(), Some("no 4".into())));
}

#[tokio::test(start_paused = true)]
async fn immediate_tries_come_first_and_a_handlers_policy_before_the_workers() {
    let (client, notes) = (client(), Notes::default());
    let backoff = Backoff::constant(SECOND).attempts(2).immediate(2);
    let worker = Worker::new(&client, "g").on("in", fails.retry(backoff)).state(notes.clone());
    let report = serve(&client, worker.retry(Backoff::default().attempts(9)), numbered(1)).await;
    assert_eq!((notes.all().join(" "), notes.seconds()), ("1 1 1 2 2 2".into(), vec![0, 0, 0, 1, 1, 1]));
    assert_eq!((report.retried, report.dead), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn rules_go_by_the_error_and_leave_explicit_verdicts_alone() {
    async fn parse(Text(text): Text) -> Result<(), Failure> {
        if text == "explicit" {
            return Err(Failure::defer(100 * 24 * 3600 * SECOND));
        }
        text.parse::<u8>()?;
        text.parse::<bool>()?;
        Ok(())
    }
    let client = client();
    let worker = Worker::new(&client, "g")
        .on("in", parse)
        .rule(|failure| failure.downcast_ref::<std::num::ParseIntError>().map(|_| Verdict::Reject))
        .rule(|_| Some(Verdict::Defer(100 * 24 * 3600 * SECOND)));
    let report = serve(&client, worker, ["x", "1", "explicit"].map(Message::new)).await;
    assert_eq!((report.dead, report.deferred, report.retried), (1, 2, 0));
    assert_eq!(epitaph(&client).await.0, "invalid digit found in string");
}

#[tokio::test(start_paused = true)]
async fn the_groups_attempts_are_the_policys() {
    let client = client();
    client.subscriber("in", "g").max_attempts(3).open().await.unwrap().close(SECOND).await.unwrap();
    let worker = Worker::new(&client, "g").on("in", fails).state(Notes::default());
    let error = run(&client, worker.retry(Backoff::default().attempts(4)), []).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Mismatch);
    assert!(error.to_string().contains("max_attempts is 3, not 4"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn retry_works_inside_a_handler() {
    async fn calls(State(notes): State<Notes>) -> Result<(), &'static str> {
        let backoff = Backoff::constant(SECOND).attempts(3);
        retry(backoff, || async { if notes.add("") < 3 { Err("busy") } else { Ok(()) } }).await
    }
    let (client, notes) = (client(), Notes::default());
    let report =
        serve(&client, Worker::new(&client, "g").on("in", calls).state(notes.clone()), numbered(1)).await;
    assert_eq!((report.handled, report.retried), (1, 0));
    assert_eq!(notes.seconds(), [0, 1, 2]);
}

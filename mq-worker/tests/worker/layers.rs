//! Layers, but for the idempotent one.

use std::error::Error as _;
use std::sync::Arc;

use mq_core::{ErrorKind, Message};
use mq_worker::layers::{CircuitBreaker, Filter, KillSwitch, RateLimit, Timeout};
use mq_worker::{
    Backoff, Context, Failure, Handler, Layer, Next, Outcome, Publish, State, Stopped, Text, Worker,
};

use crate::support::{HOUR, Notes, SECOND, client, numbered, run, serve, texts};

#[derive(Clone)]
struct Trace(&'static str, Notes);

impl Layer for Trace {
    async fn call(&self, context: &mut Context<'_>, next: Next<'_>) -> Outcome {
        self.1.add(format!("{} in", self.0));
        let outcome = next.run(context).await;
        self.1.add(format!("{} {}", self.0, if outcome.is_ok() { "ok" } else { "failed" }));
        outcome
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_is_the_outermost_and_a_workers_are_outside() {
    async fn publishes() -> Publish {
        Publish::new("no topic", Message::new(""))
    }
    let (client, notes) = (client(), Notes::default());
    let trace = |name| Trace(name, notes.clone());
    let worker = Worker::new(&client, "g")
        .on("in", publishes.layer(trace("c")).layer(Arc::new(trace("d"))))
        .layer(trace("a"))
        .layer(trace("b"))
        .retry(Backoff::default().attempts(1));
    serve(&client, worker, numbered(1)).await;
    // A layer sees what failed to be published as failed.
    let seen = ["a in", "b in", "c in", "d in", "d failed", "c failed", "b failed", "a failed"];
    assert_eq!(notes.all(), seen);
}

#[tokio::test(start_paused = true)]
async fn a_panic_is_a_failure_to_layers_and_a_layers_panic_fails_the_message() {
    struct Panics;
    impl Layer for Panics {
        async fn call(&self, _: &mut Context<'_>, _: Next<'_>) -> Outcome {
            panic!("a layer's")
        }
    }
    async fn panics() {
        panic!("no")
    }
    let (client, notes) = (client(), Notes::default());
    let worker = Worker::new(&client, "g")
        .on("in", panics.layer(Trace("a", notes.clone())).retry(Backoff::default().attempts(1)));
    assert_eq!(serve(&client, worker, numbered(1)).await.dead, 1);
    assert_eq!(notes.all(), ["a in", "a failed"]);
    let worker =
        Worker::new(&client, "g").on("in", panics.layer(Panics).retry(Backoff::default().attempts(1)));
    assert_eq!(serve(&client, worker, numbered(2)).await.dead, 2);
}

#[tokio::test(start_paused = true)]
async fn timeout_covers_the_layers_inside() {
    struct Slow;
    impl Layer for Slow {
        async fn call(&self, context: &mut Context<'_>, next: Next<'_>) -> Outcome {
            tokio::time::sleep(10 * SECOND).await;
            next.run(context).await
        }
    }
    async fn quick() {}
    let client = client();
    for (route, handled) in [
        (quick.layer(Timeout::new(5 * SECOND)).layer(Slow), 0),
        (quick.layer(Slow).layer(Timeout::new(5 * SECOND)), 1),
    ] {
        let worker = Worker::new(&client, "g").on("in", route.retry(Backoff::default().attempts(1)));
        let report = serve(&client, worker, numbered(1)).await;
        assert_eq!((report.handled, report.dead), (handled, 1 - handled));
    }
}

#[tokio::test(start_paused = true)]
async fn filter_acks_and_skips_the_rest() {
    async fn handle(Text(text): Text, State(notes): State<Notes>) {
        notes.add(&*text);
    }
    let (client, notes) = (client(), Notes::default());
    let route = handle
        .layer(Filter::header("region", "eu"))
        .layer(Filter::subject("order.#"))
        .layer(Filter::new(|message| message.payload.len() < 3));
    let worker = Worker::new(&client, "g").on("in", route).state(notes.clone());
    let good = |text: &'static str| Message::new(text).header("region", "eu").subject("order.paid");
    let mut elsewhere = Message::new("b").subject("order.paid");
    elsewhere.headers.push("region", "us");
    let messages = [good("a"), elsewhere, good("long"), good("c").subject("bill"), Message::new("d")];
    let report = serve(&client, worker, messages).await;
    assert_eq!((report.handled, report.skipped, report.dead), (1, 4, 0));
    assert_eq!(notes.all(), ["a"]);
}

#[cfg(feature = "regex")]
#[tokio::test(start_paused = true)]
async fn filter_by_regular_expression() {
    async fn handle(Text(text): Text, State(notes): State<Notes>) {
        notes.add(&*text);
    }
    let (client, notes) = (client(), Notes::default());
    let route = handle
        .layer(Filter::subject_regex(r"^order\.\d+$").unwrap())
        .layer(Filter::header_regex("region", "(?i)^EU-").unwrap());
    let worker = Worker::new(&client, "g").on("in", route).state(notes.clone());
    let from =
        |text: &'static str, subject, region| Message::new(text).subject(subject).header("region", region);
    let messages = [
        from("a", "order.12", "eu-west"),
        from("b", "order.x", "eu-west"),
        from("c", "my.order.12", "eu-west"),
        from("d", "order.12", "us-eu-1"),
        Message::new("e").subject("order.12"),
        Message::new("f").header("region", "eu-west"),
    ];
    let report = serve(&client, worker, messages).await;
    assert_eq!((report.handled, report.skipped, report.dead), (1, 5, 0));
    assert_eq!(notes.all(), ["a"]);
    for refused in [Filter::subject_regex("(").err(), Filter::header_regex("region", "x{1000000}").err()] {
        let error = refused.unwrap();
        assert_eq!(error.kind(), mq_core::ErrorKind::InvalidInput);
        assert!(error.to_string().contains("expression"), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn rate_limit_shaves_a_peak() {
    async fn handle(State(notes): State<Notes>) {
        notes.add("");
    }
    let (client, notes) = (client(), Notes::default());
    let route = handle.layer(RateLimit::new(2, SECOND).burst(4)).lease(SECOND);
    let worker = Worker::new(&client, "g").on("in", route).state(notes.clone());
    let report = serve(&client, worker, numbered(24)).await;
    assert_eq!((report.handled, report.stale), (24, 0));
    // 4 at once, then 2 a second.
    assert_eq!(notes.seconds().iter().filter(|second| **second == 0).count(), 5);
    assert_eq!(notes.seconds().last(), Some(&10));
    assert!((1..10).all(|second| notes.seconds().iter().filter(|seen| **seen == second).count() == 2));
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_a_turn_is_given_back_at_once_when_the_worker_stops() {
    async fn handle() {}
    let client = client();
    let worker = Worker::new(&client, "g").on("in", handle.layer(RateLimit::new(1, HOUR))).drain(HOUR);
    let publisher = client.publisher("in").await.unwrap();
    let start = tokio::time::Instant::now();
    let report = worker.run_until(async {
        for message in numbered(5) {
            publisher.send(message).await.unwrap();
        }
        tokio::time::sleep(SECOND).await;
    });
    let report = report.await.unwrap();
    assert_eq!((report.handled, report.deferred, report.given_back), (1, 4, 0));
    assert_eq!(start.elapsed().as_secs(), 1);
}

#[tokio::test(start_paused = true)]
async fn circuit_breaker_pauses_probes_and_goes_on() {
    async fn down_for_25_s(Text(text): Text, State(notes): State<Notes>) -> Result<(), Failure> {
        notes.add(&*text);
        if notes.seconds().last() < Some(&25) { Err("down".into()) } else { Ok(()) }
    }
    let (client, notes) = (client(), Notes::default());
    let route = down_for_25_s.layer(CircuitBreaker::after(3).pause(10 * SECOND)).concurrency(1);
    let worker = Worker::new(&client, "g")
        .on("in", route)
        .state(notes.clone())
        .retry(Backoff::constant(1000 * SECOND));
    let report = serve(&client, worker, numbered(20)).await;
    // Three failures, a probe at 10 s and at 20 s, and at 30 s one that succeeds: the rest follows.
    assert_eq!(notes.seconds()[..6], [0, 0, 0, 10, 20, 30]);
    assert_eq!(notes.seconds()[6..20], [30; 14]);
    assert_eq!((report.handled, report.retried, report.dead), (20, 5, 0));
}

#[tokio::test(start_paused = true)]
async fn circuit_breaker_lets_one_probe_through_at_a_time_and_does_not_count_rejects() {
    async fn handle(Text(text): Text, State(notes): State<Notes>) -> Result<(), Failure> {
        notes.add(&*text);
        tokio::time::sleep(SECOND).await;
        if text.starts_with("bad") { Err(Failure::reject("bad")) } else { Err("down".into()) }
    }
    let (client, notes) = (client(), Notes::default());
    let route = handle.layer(CircuitBreaker::after(2).pause(100 * SECOND)).concurrency(8);
    let worker =
        Worker::new(&client, "g").on("in", route).state(notes.clone()).retry(Backoff::constant(HOUR));
    let publisher = client.publisher("in").await.unwrap();
    let report = worker.run_until(async {
        for _ in 0..20 {
            publisher.send(Message::new("bad")).await.unwrap();
        }
        tokio::time::sleep(50 * SECOND).await;
        for message in numbered(20) {
            publisher.send(message).await.unwrap();
        }
        tokio::time::sleep(300 * SECOND).await;
    });
    let report = report.await.unwrap();
    assert_eq!(report.dead, 20);
    // 9 began before the second failure at 51 s; a probe at 151 s, 252 s.
    assert_eq!(notes.seconds()[20..], [50, 50, 50, 50, 50, 50, 50, 50, 51, 151, 252]);
    assert_eq!((report.retried, report.given_back), (11, 0));
}

#[tokio::test(start_paused = true)]
async fn kill_switch_stops_and_says_so() {
    async fn handle(Text(text): Text) -> Result<(), String> {
        if text == "3" { Ok(()) } else { Err("misconfigured".into()) }
    }
    let client = client();
    let route = handle.layer(KillSwitch::after(5)).concurrency(1).retry(Backoff::constant(HOUR));
    let error = run(&client, Worker::new(&client, "g").on("in", route), numbered(100)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Other);
    let says = "the worker stopped itself: 5 failures in a row on topic in, the last one: misconfigured; remove the cause";
    assert!(error.to_string().contains(says), "{error}");
    let stopped = error.source().unwrap().downcast_ref::<Stopped>().unwrap();
    // 0, 1, 2, then 3 begins anew, 4 to 8.
    assert_eq!((stopped.report.handled, stopped.report.retried, stopped.report.dead), (1, 8, 0));
}

#[tokio::test(start_paused = true)]
async fn what_a_layer_returns_is_published() {
    struct Answer;
    impl Layer for Answer {
        async fn call(&self, context: &mut Context<'_>, next: Next<'_>) -> Outcome {
            let mut done = next.run(context).await?;
            assert!(done.publish.is_empty(), "the handler's is published by now");
            done.publish.push(Publish::new("out", Message::new("layer")));
            Ok(done)
        }
    }
    async fn handle() -> Publish {
        Publish::new("out", Message::new("handler"))
    }
    let client = client();
    let out = client.subscriber("out", "reader").open().await.unwrap();
    serve(&client, Worker::new(&client, "g").on("in", handle.layer(Answer)), numbered(1)).await;
    assert_eq!(texts(&out).await, ["handler", "layer"]);
}

async fn fails_first(Text(text): Text, State(notes): State<Notes>) -> Result<(), Failure> {
    if notes.add(&*text) == 1 { Err("down".into()) } else { Ok(()) }
}

#[tokio::test(start_paused = true)]
async fn circuit_breaker_takes_nothing_while_it_is_open_but_what_finds_out() {
    let (client, notes) = (client(), Notes::default());
    let breaker = Arc::new(CircuitBreaker::after(1).pause(100 * SECOND));
    let worker = Worker::new(&client, "g")
        .on("in", fails_first.layer(breaker.clone()).concurrency(8))
        .on("other", fails_first.layer(breaker).concurrency(4))
        .state(notes.clone())
        .retry(Backoff::constant(HOUR));
    let [publisher, other] =
        [client.publisher("in").await.unwrap(), client.publisher("other").await.unwrap()];
    let report = worker.run_until(async {
        publisher.send(Message::new("first")).await.unwrap();
        tokio::time::sleep(SECOND).await;
        for message in numbered(20) {
            publisher.send(message).await.unwrap();
        }
        tokio::time::sleep(SECOND).await;
        assert_eq!(client.counts().received, 1);
        other.send(Message::new("finds out")).await.unwrap();
        tokio::time::sleep(SECOND).await;
        for message in numbered(19) {
            other.send(message).await.unwrap();
        }
        tokio::time::sleep(90 * SECOND).await;
        assert_eq!(client.counts().received, 2);
        tokio::time::sleep(90 * SECOND).await;
    });
    let report = report.await.unwrap();
    assert_eq!((report.handled, report.retried), (40, 1));
    assert!(notes.seconds()[1..].iter().all(|second| *second == 100));
}

#[tokio::test(start_paused = true)]
async fn circuit_breaker_probes_again_after_a_probe_that_was_cancelled() {
    async fn handle(State(notes): State<Notes>) -> Result<(), Failure> {
        match notes.add("") {
            1 => Err("down".into()),
            2 => std::future::pending().await,
            _ => Ok(()),
        }
    }
    let (client, notes) = (client(), Notes::default());
    let route =
        handle.layer(Timeout::new(SECOND)).layer(CircuitBreaker::after(1).pause(10 * SECOND)).concurrency(1);
    let worker =
        Worker::new(&client, "g").on("in", route).state(notes.clone()).retry(Backoff::constant(60 * SECOND));
    let report = serve(&client, worker, numbered(3)).await;
    assert_eq!((report.handled, report.retried), (3, 2));
    assert_eq!(notes.seconds(), [0, 10, 11, 60, 71]);
}

#[tokio::test(start_paused = true)]
async fn circuit_breaker_gives_back_what_waits_for_a_probe_when_the_worker_stops() {
    async fn handle(State(notes): State<Notes>) -> Result<(), Failure> {
        if notes.add("") == 1 { Err("down".into()) } else { std::future::pending().await }
    }
    let (client, notes) = (client(), Notes::default());
    let route = handle.layer(CircuitBreaker::after(1).pause(10 * SECOND)).concurrency(8);
    let worker = Worker::new(&client, "g").on("in", route).state(notes).retry(Backoff::constant(HOUR));
    let publisher = client.publisher("in").await.unwrap();
    let report = worker.drain(SECOND).run_until(async {
        for wait in [1, 20] {
            publisher.send_batch(numbered(8)).await;
            tokio::time::sleep(wait * SECOND).await;
        }
    });
    let report = report.await.unwrap();
    assert_eq!((report.retried, report.deferred, report.given_back), (1, 7, 1));
}

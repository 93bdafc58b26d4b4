//! Leases, panics, order, concurrency and the end of a run.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use mq_core::{ErrorKind, Message};
use mq_worker::{Attempt, Backoff, Handler, Key, State, Text, Worker};
use tokio::sync::Notify;

use crate::support::{HOUR, Notes, SECOND, client, dead, epitaph, numbered, send_and_wait, serve};

#[derive(Clone, Debug, Default)]
struct Gauge(Arc<(AtomicUsize, AtomicUsize)>);

impl Gauge {
    async fn hold(&self, time: Duration) {
        let now = self.0.0.fetch_add(1, Ordering::Relaxed) + 1;
        self.0.1.fetch_max(now, Ordering::Relaxed);
        tokio::time::sleep(time).await;
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }

    fn most(&self) -> usize {
        self.0.1.load(Ordering::Relaxed)
    }
}

#[tokio::test(start_paused = true)]
async fn so_many_at_once_and_no_more() {
    async fn hold(State(gauge): State<Gauge>) {
        gauge.hold(SECOND).await;
    }
    let (client, gauge) = (client(), Gauge::default());
    let worker = Worker::new(&client, "g").on("in", hold.concurrency(7)).state(gauge.clone());
    assert_eq!(serve(&client, worker, numbered(100)).await.handled, 100);
    assert_eq!(gauge.most(), 7);
}

#[tokio::test(start_paused = true)]
async fn what_is_behind_a_message_that_waits_goes_to_another_place() {
    // Quick messages are taken several at once; number 100 waits for the one behind it.
    async fn handle(Text(text): Text, State(state): State<(Notes, Arc<Notify>)>) {
        match &*text {
            "100" => state.1.notified().await,
            "101" => state.1.notify_one(),
            _ => {}
        }
        state.0.add(text);
    }
    let (client, notes) = (client(), Notes::default());
    let state = (notes.clone(), Arc::new(Notify::new()));
    let worker = Worker::new(&client, "g").on("in", handle.concurrency(2)).state(state);
    let report = serve(&client, worker, numbered(200)).await;
    let (mut all, expected) = (notes.all(), (0..200).map(|number| number.to_string()).collect::<Vec<_>>());
    // When number 100 goes on is up to the runtime.
    let waited = all.iter().position(|text| text == "100").unwrap();
    let waited = all.remove(waited);
    all.insert(100, waited);
    assert_eq!((report.handled, all), (200, expected));
    assert_eq!(client.counts().received, 200, "what is put back is counted once");
}

#[tokio::test(start_paused = true)]
async fn a_failure_costs_those_behind_it_nothing() {
    async fn handle(
        Text(text): Text,
        Attempt(attempt): Attempt,
        State(notes): State<Notes>,
    ) -> Result<(), String> {
        notes.add(format!("{text}#{attempt}"));
        if text == "100" && attempt == 1 { Err("not now".into()) } else { Ok(()) }
    }
    let (client, notes) = (client(), Notes::default());
    let worker = Worker::new(&client, "g").on("in", handle.concurrency(1)).state(notes.clone());
    let report = serve(&client, worker, numbered(200)).await;
    let first = (0..200).map(|number| format!("{number}#1"));
    let expected: Vec<String> = first.chain(["100#2".into()]).collect();
    assert_eq!((report.handled, report.retried, notes.all()), (200, 1, expected));
}

#[tokio::test(start_paused = true)]
async fn a_keys_order_is_kept_while_other_keys_run() {
    async fn hold(Key(key): Key, Text(text): Text, State(state): State<(Gauge, Notes)>) {
        state.0.hold(SECOND).await;
        state.1.add(format!("{}{text}", String::from_utf8_lossy(&key)));
    }
    let (client, gauge, notes) = (client(), Gauge::default(), Notes::default());
    let route = hold.concurrency(16).ordered();
    let worker = Worker::new(&client, "g").on("in", route).state((gauge.clone(), notes.clone()));
    let messages: Vec<_> = (0..40)
        .map(|number| Message::new(format!("{}", number / 4)).key(["a", "b", "c", "d"][number % 4]))
        .collect();
    assert_eq!(serve(&client, worker, messages).await.handled, 40);
    assert_eq!(gauge.most(), 4);
    for key in ["a", "b", "c", "d"] {
        let of_key: Vec<_> = notes.all().into_iter().filter(|note| note.starts_with(key)).collect();
        assert_eq!(of_key, (0..10).map(|number| format!("{key}{number}")).collect::<Vec<_>>());
    }
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_renewed_while_the_handler_runs() {
    async fn slow(State(notes): State<Notes>, Attempt(attempt): Attempt) {
        notes.add(attempt.to_string());
        tokio::time::sleep(300 * SECOND).await;
    }
    let (client, notes) = (client(), Notes::default());
    let worker = Worker::new(&client, "g").on("in", slow.lease(SECOND)).state(notes.clone());
    let report = serve(&client, worker, numbered(1)).await;
    assert_eq!((report.handled, report.stale, notes.all().join(" ")), (1, 0, "1".into()));
}

#[tokio::test(start_paused = true)]
async fn a_late_result_is_refused_and_counted() {
    let client = client();
    let deleting = client.clone();
    let gone = move || {
        let client = deleting.clone();
        // Nobody's any more: its group is deleted meanwhile.
        async move { client.admin().delete_group(&"in".parse().unwrap(), &"g".parse().unwrap()).await.unwrap() }
    };
    let report = serve(&client, Worker::new(&client, "g").on("in", gone), numbered(1)).await;
    assert_eq!((report.handled, report.stale), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_panic_fails_its_message_and_not_the_worker() {
    async fn panics(Text(text): Text) {
        assert_ne!(text, "0", "zero is too little");
    }
    fn panics_early() -> std::future::Ready<()> {
        panic!("early")
    }
    let client = client();
    let worker =
        Worker::new(&client, "g").on("in", panics.concurrency(1)).retry(Backoff::default().attempts(2));
    let report = serve(&client, worker, numbered(3)).await;
    assert_eq!((report.handled, report.retried, report.dead), (2, 1, 1));
    let (reason, error) = epitaph(&client).await;
    assert_eq!(reason, "max attempts");
    assert!(
        error
            .unwrap()
            .starts_with("the handler panicked: assertion `left != right` failed: zero is too little")
    );

    let worker = Worker::new(&client, "h").on("in", panics_early).retry(Backoff::default().attempts(1));
    assert_eq!(serve(&client, worker, numbered(1)).await.dead, 1);
}

struct Dropped(Notes);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.add("dropped");
    }
}

async fn hangs(State(notes): State<Notes>) {
    let _dropped = Dropped(notes);
    std::future::pending::<()>().await;
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_hangs_is_cancelled() {
    let (client, notes) = (client(), Notes::default());
    let worker = Worker::new(&client, "g").on("in", hangs.concurrency(1)).state(notes.clone());
    let worker = worker.timeout(10 * SECOND).retry(Backoff::constant(SECOND).attempts(2));
    let report = serve(&client, worker, numbered(1)).await;
    assert_eq!((report.retried, report.dead, report.given_back), (1, 1, 0));
    assert_eq!(notes.seconds(), [10, 21]);
    let error = epitaph(&client).await.1.unwrap();
    assert_eq!(error, "it took longer than 10s and was cancelled; allow it more with `timeout`");
}

#[tokio::test(start_paused = true)]
async fn what_is_under_way_ends_and_what_hangs_is_given_back_uncounted() {
    async fn mixed(Text(text): Text, state: State<Notes>) {
        match &*text {
            "0" => hangs(state).await,
            _ => tokio::time::sleep(5 * SECOND).await,
        }
    }
    let (client, notes) = (client(), Notes::default());
    let worker = Worker::new(&client, "g").on("in", mixed).state(notes.clone()).drain(60 * SECOND);
    let publisher = client.publisher("in").await.unwrap();
    let start = tokio::time::Instant::now();
    let report = worker.run_until(async {
        for message in numbered(2) {
            publisher.send(message).await.unwrap();
        }
        tokio::time::sleep(SECOND).await;
    });
    let report = report.await.unwrap();
    assert_eq!((report.handled, report.given_back), (1, 1));
    assert_eq!((start.elapsed().as_secs(), notes.seconds()), (61, vec![61]));

    let again = client.subscriber("in", "g").open().await.unwrap();
    let delivery = again.receive().await.unwrap();
    assert_eq!((delivery.payload().as_ref(), delivery.attempt()), (&b"0"[..], 1));
    delivery.ack().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_dropped_run_gives_back_what_it_had() {
    let (client, notes) = (client(), Notes::default());
    let worker = Worker::new(&client, "g").on("in", hangs).state(notes.clone());
    let run = worker.run_until(send_and_wait(&client, "in", numbered(1)));
    assert!(tokio::time::timeout(SECOND, run).await.is_err());
    let again = client.subscriber("in", "g").open().await.unwrap();
    let delivery = tokio::time::timeout(SECOND, again.receive()).await.unwrap().unwrap();
    assert_eq!((delivery.attempt(), delivery.last_error()), (2, Some("dropped unsettled")));
    assert_eq!(notes.all(), ["dropped"]);
}

#[tokio::test(start_paused = true)]
async fn several_topics_each_with_its_own_settings() {
    async fn hold(State(gauge): State<Gauge>) {
        gauge.hold(SECOND).await;
    }
    async fn other(State(notes): State<Notes>) {
        notes.add("");
    }
    let (client, gauge, notes) = (client(), Gauge::default(), Notes::default());
    let worker = Worker::new(&client, "g")
        .on("in", hold.concurrency(2))
        .on("other", other)
        .state(gauge.clone())
        .state(notes.clone());
    let publisher = client.publisher("other").await.unwrap();
    let run = worker.run_until(async {
        for message in numbered(10) {
            publisher.send(message).await.unwrap();
        }
        send_and_wait(&client, "in", numbered(10)).await;
    });
    assert_eq!(run.await.unwrap().handled, 20);
    assert_eq!((gauge.most(), notes.all().len()), (2, 10));
    assert_eq!(notes.seconds(), [0; 10]);
}

#[tokio::test(start_paused = true)]
async fn a_client_closed_under_the_worker_is_an_error() {
    let client = client();
    let worker = Worker::new(&client, "g").on("in", || async {});
    let closing = client.clone();
    let gone = Notify::new();
    let run = worker.run_until(async {
        closing.close(SECOND).await.unwrap();
        gone.notified().await;
    });
    let error = tokio::time::timeout(HOUR, run).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Closed);
    assert!(error.to_string().contains("end the worker first"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn thousands_are_handled_and_all_settlements_are_answered() {
    let client = client();
    let worker = Worker::new(&client, "g").on("in", || async {});
    assert_eq!(serve(&client, worker, numbered(5000)).await.handled, 5000);
    assert_eq!(client.counts().acked, 5000);
    assert!(dead(&client, "in").await.is_empty());
}

/// In real time: a blocked thread is what keeps the worker from renewing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_whose_lease_is_lost_is_cancelled() {
    async fn blocks_then_hangs(Attempt(attempt): Attempt, State(notes): State<Notes>) {
        let _dropped = Dropped(notes);
        if attempt == 1 {
            std::thread::sleep(Duration::from_millis(400));
            std::future::pending::<()>().await;
        }
    }
    let (client, notes) = (client(), Notes::default());
    let route = blocks_then_hangs.lease(Duration::from_millis(100));
    let worker = Worker::new(&client, "g").on("in", route).state(notes.clone());
    let report = worker.run_until(async {
        client.publisher("in").await.unwrap().send(Message::new("x")).await.unwrap();
        notes.reached(2).await;
    });
    let report = report.await.unwrap();
    assert_eq!((report.handled, report.stale, report.given_back), (1, 1, 0));
}

#[tokio::test(start_paused = true)]
async fn an_idle_worker_stops_at_once() {
    let client = client();
    let worker = Worker::new(&client, "g").on("in", || async {});
    let start = tokio::time::Instant::now();
    // A run is a task like others.
    let report = tokio::spawn(worker.run_until(std::future::ready(()))).await.unwrap().unwrap();
    assert_eq!((report, start.elapsed().as_secs()), (mq_worker::Report::default(), 0));
}

#[tokio::test(start_paused = true)]
async fn within_a_range_concurrency_follows_how_it_goes() {
    async fn hold(State(gauge): State<Gauge>, State(notes): State<Notes>) -> anyhow::Result<()> {
        gauge.hold(SECOND).await;
        anyhow::ensure!(notes.add("") <= 200, "down");
        Ok(())
    }
    let (client, gauge) = (client(), Gauge::default());
    let route = hold.concurrency(2..=12);
    let worker = Worker::new(&client, "g")
        .on("in", route)
        .state(gauge.clone())
        .state(Notes::default())
        .retry(Backoff::constant(HOUR));
    let sending = async {
        send_and_wait(&client, "in", numbered(200)).await;
        assert_eq!(gauge.most(), 12, "it grew");
        // From here all fail: one place after the other is left.
        let publisher = client.publisher("in").await.unwrap();
        publisher.send_batch(numbered(100)).await.into_iter().for_each(|verdict| drop(verdict.unwrap()));
        tokio::time::sleep(15 * SECOND).await;
        gauge.0.1.store(0, Ordering::Relaxed);
        tokio::time::sleep(10 * SECOND).await;
        assert_eq!(gauge.most(), 2, "it shrank");
    };
    let report = worker.run_until(sending).await.unwrap();
    assert_eq!(report.handled, 200);
}

#[tokio::test(start_paused = true)]
async fn a_worker_may_serve_several_groups_of_a_topic() {
    async fn note(mq_worker::Group(group): mq_worker::Group, State(notes): State<Notes>) {
        notes.add(group.to_string());
    }
    let (client, notes) = (client(), Notes::default());
    let worker = Worker::new(&client, "g")
        .on("in", note)
        .on("in", note.group("audit").concurrency(1))
        .state(notes.clone());
    assert_eq!(serve(&client, worker, numbered(3)).await.handled, 6);
    let mut all = notes.all();
    all.sort();
    assert_eq!(all, ["audit", "audit", "audit", "g", "g", "g"]);
    let twice = Worker::new(&client, "g").on("in", note).on("in", note.group("g")).state(notes);
    assert_eq!(crate::support::refused(twice).await.kind(), ErrorKind::InvalidInput);
}

#[tokio::test(start_paused = true)]
async fn health_tells_how_the_run_is() {
    use mq_worker::Stage;
    async fn slow() {
        tokio::time::sleep(5 * SECOND).await;
    }
    let client = client();
    let worker = Worker::new(&client, "g").on("in", slow);
    let health = worker.health();
    assert_eq!((health.stage(), health.is_ready(), health.is_alive()), (Stage::Starting, false, true));
    let probe = health.clone();
    let publisher = client.publisher("in").await.unwrap();
    let run = worker.run_until(async {
        assert!(probe.is_ready());
        publisher.send(Message::new("")).await.unwrap();
        tokio::time::sleep(SECOND).await;
    });
    let watch = async {
        health.reached(Stage::Draining).await;
        let seen = (health.stage(), health.is_ready(), health.is_alive());
        health.reached(Stage::Over).await;
        (seen, health.is_alive())
    };
    let (report, seen) = tokio::join!(run, watch);
    assert_eq!(report.unwrap().handled, 1);
    assert_eq!(seen, ((Stage::Draining, false, true), false));
    // A run that is dropped is over.
    let worker = Worker::new(&client, "g").on("in", slow);
    let health = worker.health();
    assert!(tokio::time::timeout(SECOND, worker.run()).await.is_err());
    assert!(!health.is_alive());
}

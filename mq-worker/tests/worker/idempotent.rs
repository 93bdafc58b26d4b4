//! Each message once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use mq_core::Message;
use mq_worker::layers::{Claim, Idempotent, MemoryStore, Store, StoreError, Timeout};
use mq_worker::{Backoff, Failure, Handler, Publish, State, Text, Worker};

use crate::support::{HOUR, Notes, SECOND, client, epitaph, send_and_wait, serve};

async fn handle(Text(text): Text, State(notes): State<Notes>) {
    notes.add(&*text);
    tokio::time::sleep(5 * SECOND).await;
}

fn twice(count: usize) -> Vec<Message> {
    let message = |number| Message::new(format!("{number}")).id(format!("id-{number}"));
    (0..count).flat_map(|number| [message(number), message(number)]).collect()
}

#[tokio::test(start_paused = true)]
async fn what_is_sent_twice_is_handled_once_even_at_once_and_by_two_workers() {
    let (client, notes, store) = (client(), Notes::default(), MemoryStore::new());
    let worker = || {
        let route = handle
            .layer(Idempotent::new(store.clone()).lease(SECOND))
            .concurrency(8)
            .prefetch(8)
            .lease(SECOND);
        Worker::new(&client, "g").on("in", route).state(notes.clone())
    };
    let (other, one) = tokio::join!(
        worker().run_until(tokio::time::sleep(2 * HOUR)),
        worker().run_until(send_and_wait(&client, "in", twice(100))),
    );
    let (other, one) = (other.unwrap(), one.unwrap());
    assert_eq!((one.handled + other.handled, one.skipped + other.skipped), (100, 100));
    assert!(one.deferred + other.deferred > 0 && one.handled > 0 && other.handled > 0);
    let mut seen: Vec<u32> = notes.all().iter().map(|note| note.parse().unwrap()).collect();
    seen.sort_unstable();
    assert_eq!(seen, (0..100).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn by_a_key_for_a_window() {
    let (client, notes) = (client(), Notes::default());
    let layer = Idempotent::new(MemoryStore::new())
        .window(60 * SECOND)
        .key(|message| message.headers.get_str("payment").map(str::to_owned));
    let worker = Worker::new(&client, "g").on("in", handle.layer(layer)).state(notes.clone());
    let publisher = client.publisher("in").await.unwrap();
    let payment = || Message::new("paid").header("payment", "1");
    let report = worker.run_until(async {
        for message in [payment(), Message::new("free"), Message::new("free")] {
            publisher.send(message).await.unwrap();
        }
        for wait in [30, 40] {
            tokio::time::sleep(wait * SECOND).await;
            publisher.send(payment()).await.unwrap();
        }
        tokio::time::sleep(60 * SECOND).await;
    });
    let report = report.await.unwrap();
    assert_eq!((report.handled, report.skipped), (4, 1));
    let paid = notes.all().iter().filter(|note| *note == "paid").count();
    assert_eq!((paid, notes.seconds().last()), (2, Some(&70)));
}

#[tokio::test(start_paused = true)]
async fn marked_only_after_success_however_it_failed() {
    async fn fragile(State(notes): State<Notes>) -> Result<Publish, Failure> {
        let topic = match notes.add("") {
            1 => return Err("failed".into()),
            2 => panic!("panicked"),
            3 => std::future::pending().await,
            4 => "not published",
            _ => "out",
        };
        Ok(Publish::new(topic, Message::new("")))
    }
    let (client, notes) = (client(), Notes::default());
    let route = fragile.layer(Timeout::new(SECOND)).layer(Idempotent::new(MemoryStore::new()).lease(HOUR));
    let worker =
        Worker::new(&client, "g").on("in", route.retry(Backoff::constant(SECOND))).state(notes.clone());
    let report = serve(&client, worker, [Message::new("").id("a")]).await;
    assert_eq!((report.handled, report.retried, report.deferred), (1, 4, 0));
    assert_eq!(notes.all().len(), 5);
}

/// Fails as often as it is told to.
#[derive(Clone, Debug, Default)]
struct Down {
    store: MemoryStore,
    claims: Arc<AtomicU32>,
    completions: Arc<AtomicU32>,
}

fn fail(times: &AtomicU32) -> Result<(), StoreError> {
    let left = times.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
    if left.is_ok() { Err("connection refused".into()) } else { Ok(()) }
}

impl Store for Down {
    async fn claim(&self, key: &str, owner: u64, lease: Duration) -> Result<Claim, StoreError> {
        fail(&self.claims)?;
        self.store.claim(key, owner, lease).await
    }

    async fn complete(&self, key: &str, window: Option<Duration>) -> Result<(), StoreError> {
        fail(&self.completions)?;
        self.store.complete(key, window).await
    }

    async fn release(&self, key: &str, owner: u64) -> Result<(), StoreError> {
        self.store.release(key, owner).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_down_fails_the_message_before_its_handler() {
    let (client, notes, store) = (client(), Notes::default(), Down::default());
    store.claims.store(2, Ordering::Relaxed);
    let worker = Worker::new(&client, "g").on("in", handle.layer(Idempotent::new(store.clone())));
    let worker = worker.state(notes.clone()).retry(Backoff::constant(10 * SECOND).attempts(3));
    let report = serve(&client, worker, [Message::new("a")]).await;
    assert_eq!((report.retried, report.handled, notes.seconds()), (2, 1, vec![20]));

    store.claims.store(99, Ordering::Relaxed);
    let worker = Worker::new(&client, "g").on("in", handle.layer(Idempotent::new(store)));
    let worker = worker.state(notes.clone()).retry(Backoff::constant(10 * SECOND).attempts(3));
    assert_eq!(serve(&client, worker, [Message::new("b")]).await.dead, 1);
    let error = epitaph(&client).await.1.unwrap();
    assert!(error.contains("so nothing was handled; bring it back: connection refused"), "{error}");
    assert_eq!(notes.all(), ["a"]);
}

#[tokio::test(start_paused = true)]
async fn a_mark_that_fails_is_tried_again_and_does_not_repeat_the_effect() {
    for (failures, again) in [(2, 0), (9, 1)] {
        let (client, notes, store) = (client(), Notes::default(), Down::default());
        store.completions.store(failures, Ordering::Relaxed);
        let route = handle.layer(Idempotent::new(store.clone())).concurrency(1);
        let worker = Worker::new(&client, "g").on("in", route).state(notes.clone());
        let report = serve(&client, worker, twice(1)).await;
        assert_eq!((report.handled, report.retried, report.dead), (1 + again, 0, 0));
        assert_eq!(notes.all().len() as u64, 1 + again);
    }
}

/// Lets another owner take every claim.
struct Thief(MemoryStore);

impl Store for Thief {
    async fn claim(&self, key: &str, owner: u64, lease: Duration) -> Result<Claim, StoreError> {
        let claim = self.0.claim(key, owner, lease).await?;
        self.0.release(key, owner).await?;
        self.0.claim(key, !owner, 60 * SECOND).await?;
        Ok(claim)
    }

    async fn complete(&self, key: &str, window: Option<Duration>) -> Result<(), StoreError> {
        self.0.complete(key, window).await
    }

    async fn release(&self, key: &str, owner: u64) -> Result<(), StoreError> {
        self.0.release(key, owner).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_handler_whose_claim_is_lost_is_cancelled() {
    async fn hangs() {
        std::future::pending::<()>().await;
    }
    let client = client();
    let route = hangs.layer(Idempotent::new(Thief(MemoryStore::new()))).retry(Backoff::default().attempts(1));
    let report = serve(&client, Worker::new(&client, "g").on("in", route), [Message::new("")]).await;
    assert_eq!((report.dead, report.given_back), (1, 0));
    let error = epitaph(&client).await.1.unwrap();
    assert!(error.starts_with("the claim was lost while the work was done"), "{error}");
}

/// Answers nothing.
#[derive(Clone)]
struct Silent;

impl Store for Silent {
    async fn claim(&self, _: &str, _: u64, _: Duration) -> Result<Claim, StoreError> {
        std::future::pending().await
    }

    async fn complete(&self, _: &str, _: Option<Duration>) -> Result<(), StoreError> {
        std::future::pending().await
    }

    async fn release(&self, _: &str, _: u64) -> Result<(), StoreError> {
        std::future::pending().await
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_does_not_answer_is_down() {
    let (client, notes) = (client(), Notes::default());
    let route = handle.layer(Idempotent::new(Silent)).retry(Backoff::constant(SECOND).attempts(2));
    let worker = Worker::new(&client, "g").on("in", route).state(notes.clone());
    let report = serve(&client, worker, [Message::new("a")]).await;
    assert_eq!((report.retried, report.dead), (1, 1));
    assert!(epitaph(&client).await.1.unwrap().contains("no answer in 5s"));
    assert!(notes.all().is_empty());
}

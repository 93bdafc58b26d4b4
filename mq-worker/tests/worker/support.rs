//! A broker on virtual time, and what handlers saw.

use std::sync::Arc;
use std::time::Duration;

use mq_core::driver::{Context, Page};
use mq_core::{
    Client, ClientOptions, Clock, DeadLetter, Delivery, GroupName, Message, Result, Subscriber, TopicName,
};
use mq_memory::{Broker, MemoryBackend, MemoryConfig};
use mq_worker::{Report, Worker};
use parking_lot::Mutex;
use tokio::time::Instant;

pub(crate) const SECOND: Duration = Duration::from_secs(1);
pub(crate) const HOUR: Duration = Duration::from_secs(3600);

pub(crate) fn backend() -> MemoryBackend {
    let context = Context { clock: Clock::tokio(), ..Context::default() };
    Broker::new().backend(MemoryConfig::default(), context)
}

pub(crate) fn client() -> Client {
    Client::new(backend(), ClientOptions::default())
}

/// Runs a worker for an hour, in which these messages come on topic `in`.
pub(crate) async fn run(
    client: &Client,
    worker: Worker,
    messages: impl Into<Vec<Message>>,
) -> Result<Report> {
    worker.run_until(send_and_wait(client, "in", messages.into())).await
}

/// As `run`, for what must not fail.
pub(crate) async fn serve(client: &Client, worker: Worker, messages: impl Into<Vec<Message>>) -> Report {
    run(client, worker, messages).await.unwrap()
}

/// Returns the error of a worker that must not start.
pub(crate) async fn refused(worker: Worker) -> mq_core::Error {
    worker.run_until(tokio::time::sleep(HOUR)).await.expect_err("it must not start")
}

pub(crate) async fn send_and_wait(client: &Client, topic: &str, messages: Vec<Message>) {
    let publisher = client.publisher(topic).await.unwrap();
    for verdict in publisher.send_batch(messages).await {
        verdict.unwrap();
    }
    tokio::time::sleep(HOUR).await;
}

pub(crate) fn numbered(count: usize) -> Vec<Message> {
    (0..count).map(|number| Message::new(number.to_string())).collect()
}

pub(crate) async fn dead(client: &Client, topic: &str) -> Vec<DeadLetter> {
    let (topic, group) = (TopicName::new(topic).unwrap(), GroupName::new("g").unwrap());
    client.admin().dead_letters(&topic, &group, Page { offset: 0, limit: 100 }).await.unwrap()
}

/// The reason and the last error of the only dead letter.
pub(crate) async fn epitaph(client: &Client) -> (String, Option<String>) {
    let letters = dead(client, "in").await;
    assert_eq!(letters.len(), 1, "{letters:?}");
    let envelope = &letters[0].envelope;
    let reason = envelope.death.as_ref().unwrap().reason.to_string();
    (reason, envelope.error.as_ref().map(ToString::to_string))
}

/// Takes what comes, as text, until a second passes without any.
pub(crate) async fn texts(subscriber: &Subscriber) -> Vec<String> {
    let mut texts = Vec::new();
    loop {
        let deliveries = subscriber.receive_batch(100, SECOND).await.unwrap();
        if deliveries.is_empty() {
            return texts;
        }
        let text = |delivery: &Delivery| String::from_utf8_lossy(delivery.payload()).into_owned();
        texts.extend(deliveries.iter().map(text));
        mq_core::ack_all(deliveries).await.unwrap();
    }
}

/// Notes things down with the virtual seconds since it was made.
#[derive(Clone, Debug)]
pub(crate) struct Notes(Arc<Mutex<Vec<(u64, String)>>>, Instant);

impl Default for Notes {
    fn default() -> Self {
        Self(Arc::default(), Instant::now())
    }
}

impl Notes {
    pub(crate) fn add(&self, note: impl Into<String>) -> usize {
        let mut notes = self.0.lock();
        notes.push((self.1.elapsed().as_secs(), note.into()));
        notes.len()
    }

    /// Waits, in real time, until there are so many notes, 30 s at most.
    pub(crate) async fn reached(&self, count: usize) {
        for _ in 0..3000 {
            if self.0.lock().len() >= count {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("no {count} notes in 30 s");
    }

    pub(crate) fn all(&self) -> Vec<String> {
        self.0.lock().iter().map(|(_, note)| note.clone()).collect()
    }

    pub(crate) fn seconds(&self) -> Vec<u64> {
        self.0.lock().iter().map(|(second, _)| *second).collect()
    }
}

//! What the tests share.

use mq_core::driver::Context;
use mq_core::{Client, ClientOptions, Publisher};
use mq_memory::{Broker, MemoryConfig};
use mq_worker::{Report, Worker};
use tokio::sync::oneshot;

pub(crate) fn client() -> Client {
    Client::new(Broker::new().backend(MemoryConfig::default(), Context::default()), ClientOptions::default())
}

pub(crate) async fn publisher(client: &Client, topic: &str) -> Publisher {
    client.publisher(topic).await.unwrap()
}

/// Runs a worker until `done`, which begins once all topics are subscribed to.
pub(crate) async fn run(worker: Worker, done: impl Future<Output = ()>) -> Report {
    let (stop, stopped) = oneshot::channel::<()>();
    let (opened, open) = oneshot::channel::<()>();
    let until = async move {
        opened.send(()).unwrap();
        stopped.await.unwrap();
    };
    let running = tokio::spawn(worker.run_until(until));
    open.await.unwrap();
    done.await;
    stop.send(()).unwrap();
    running.await.unwrap().unwrap()
}

/// Waits until something holds, for ten seconds.
pub(crate) async fn until(holds: impl Fn() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(10), waiting).await.expect("it never came true");
}

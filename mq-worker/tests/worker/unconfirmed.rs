//! A broker that takes messages and does not confirm them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use mq_core::driver::{Admin, Backend, Consumer, ConsumerOptions, Context, Outgoing, Producer};
use mq_core::{Capabilities, Client, ClientOptions, Error, ErrorKind, Message, Receipt, Result};
use mq_memory::MemoryBackend;
use mq_worker::{Backoff, Publish, Worker};

use crate::support::{SECOND, backend, numbered, serve, texts};

/// Stores what goes to `out`, and says so many times that nobody knows whether it did.
#[derive(Debug)]
struct Unsure(MemoryBackend, Arc<AtomicU32>);

#[derive(Debug)]
struct UnsureProducer(Arc<dyn Producer>, Arc<AtomicU32>);

#[async_trait]
impl Producer for UnsureProducer {
    async fn send(&self, batch: Vec<Outgoing>) -> Vec<Result<Receipt>> {
        let out: Vec<bool> = batch.iter().map(|outgoing| outgoing.topic.as_str() == "out").collect();
        let verdicts = self.0.send(batch).await.into_iter().zip(out);
        let unsure = |(verdict, out): (_, bool)| {
            let left = self.1.load(Ordering::Relaxed);
            if !out || left == 0 {
                return verdict;
            }
            self.1.store(left - 1, Ordering::Relaxed);
            Err(Error::new(ErrorKind::UnknownOutcome, "the connection was cut"))
        };
        verdicts.map(unsure).collect()
    }

    async fn close(&self) {
        self.0.close().await;
    }
}

#[async_trait]
impl Backend for Unsure {
    fn capabilities(&self) -> &'static Capabilities {
        self.0.capabilities()
    }

    fn context(&self) -> &Context {
        self.0.context()
    }

    fn max_message_size(&self) -> usize {
        self.0.max_message_size()
    }

    async fn producer(&self) -> Result<Arc<dyn Producer>> {
        Ok(Arc::new(UnsureProducer(self.0.producer().await?, self.1.clone())))
    }

    async fn consumer(&self, options: ConsumerOptions) -> Result<Arc<dyn Consumer>> {
        self.0.consumer(options).await
    }

    async fn admin(&self) -> Result<Arc<dyn Admin>> {
        self.0.admin().await
    }

    async fn close(&self) {
        self.0.close().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_source_is_acked_only_after_what_it_made_is_confirmed() {
    async fn copy() -> Publish {
        Publish::new("out", Message::new("copy"))
    }
    let client = Client::new(Unsure(backend(), Arc::new(AtomicU32::new(2))), ClientOptions::default());
    let out = client.subscriber("out", "reader").open().await.unwrap();
    let worker = Worker::new(&client, "g").on("in", copy).retry(Backoff::constant(SECOND));
    let report = serve(&client, worker, numbered(1)).await;
    // No fault of the message: no attempt of it is counted.
    assert_eq!((report.retried, report.handled), (0, 1));
    // Twice nobody knew, and it was stored all the same: the same message, to be told by its id.
    assert_eq!(texts(&out).await, ["copy"; 3]);
}

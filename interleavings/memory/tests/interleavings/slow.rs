//! The memory backend behind calls that take a while, as those to a broker do.

use std::sync::Arc;

use async_trait::async_trait;
use mq_core::driver::{
    Admin, Backend, Consumer, ConsumerOptions, Context, Fetched, Outgoing, Producer, Settlement, Token,
};
use mq_core::{Budget, Capabilities, Client, ClientOptions, Receipt, Result};
use mq_memory_interleaved::{Broker, MemoryBackend, MemoryConfig};
use shuttle::future::yield_now;

/// Connects to a broker of its own.
pub(crate) fn client(options: ClientOptions) -> Client {
    Client::new(Slow(Broker::new().backend(MemoryConfig::default(), Context::default())), options)
}

#[derive(Debug)]
struct Slow<T>(T);

/// Others go on before the broker is asked, and before it is heard.
async fn slowly<T>(call: impl Future<Output = T>) -> T {
    yield_now().await;
    let answer = call.await;
    yield_now().await;
    answer
}

#[async_trait]
impl Backend for Slow<MemoryBackend> {
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
        Ok(Arc::new(Slow(self.0.producer().await?)))
    }

    async fn consumer(&self, options: ConsumerOptions) -> Result<Arc<dyn Consumer>> {
        Ok(Arc::new(Slow(self.0.consumer(options).await?)))
    }

    async fn admin(&self) -> Result<Arc<dyn Admin>> {
        self.0.admin().await
    }

    async fn close(&self) {
        self.0.close().await;
    }
}

#[async_trait]
impl Producer for Slow<Arc<dyn Producer>> {
    async fn send(&self, batch: Vec<Outgoing>) -> Vec<Result<Receipt>> {
        slowly(self.0.send(batch)).await
    }

    async fn close(&self) {
        self.0.close().await;
    }
}

#[async_trait]
impl Consumer for Slow<Arc<dyn Consumer>> {
    async fn fetch(&self, budget: Budget) -> Result<Fetched> {
        // Dropped when it ends, which must lose nothing: no step after the answer.
        yield_now().await;
        self.0.fetch(budget).await
    }

    async fn settle(&self, batch: Vec<Settlement>) -> Vec<Result<()>> {
        slowly(self.0.settle(batch)).await
    }

    async fn start(&self, token: Token) -> Result<()> {
        slowly(self.0.start(token)).await
    }

    async fn close(&self) -> Result<()> {
        slowly(self.0.close()).await
    }
}

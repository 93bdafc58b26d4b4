//! Sending.

use std::sync::Arc;

use async_trait::async_trait;
use mq_core::driver::{Context, Outgoing, Producer};
use mq_core::{Receipt, Result};

use crate::broker::{Shared, unexpected};
use crate::op::Op;
use crate::state::Reply;

#[derive(Debug)]
pub(crate) struct MemoryProducer {
    pub(crate) shared: Arc<Shared>,
    pub(crate) context: Context,
}

#[async_trait]
impl Producer for MemoryProducer {
    async fn send(&self, batch: Vec<Outgoing>) -> Vec<Result<Receipt>> {
        let size = batch.len();
        match self.shared.apply(Op::Publish(batch), &self.context) {
            Ok(Reply::Sent(verdicts)) => verdicts,
            Ok(other) => (0..size).map(|_| Err(unexpected(&other))).collect(),
            Err(error) => (0..size).map(|_| Err(error.duplicate())).collect(),
        }
    }

    async fn send_atomic(&self, batch: Vec<Outgoing>) -> Result<Vec<Receipt>> {
        match self.shared.apply(Op::PublishAll(batch), &self.context)? {
            Reply::Sent(verdicts) => verdicts.into_iter().collect(),
            other => Err(unexpected(&other)),
        }
    }

    async fn close(&self) {}
}

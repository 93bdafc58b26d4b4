//! Several messages sent as one.

use crate::capability::Capability;
use crate::client::Client;
use crate::driver::Outgoing;
use crate::error::{Error, ErrorKind, Result};
use crate::message::{Message, MessageId, Receipt};
use crate::outbox::unsent;
use crate::publisher::Publisher;

/// Messages to be sent as one: all are stored, or none is. Made by [`Client::transaction`].
#[derive(Debug)]
#[must_use = "nothing is sent before `commit`"]
pub struct Transaction {
    client: Client,
    batch: Vec<Outgoing>,
    bytes: usize,
}

impl Transaction {
    pub(crate) fn new(client: Client) -> Self {
        Self { client, batch: Vec::new(), bytes: 0 }
    }

    /// Adds a message to a publisher's topic, on that publisher's terms; returns the message's id.
    ///
    /// # Errors
    /// What can be refused without asking the broker; the transaction stays as it was.
    pub fn add(&mut self, publisher: &Publisher, message: Message) -> Result<MessageId> {
        let outgoing = publisher.check(message)?;
        if !publisher.belongs_to(&self.client) {
            let text = "the publisher is another client's; a transaction is of one client";
            return Err(Error::new(ErrorKind::InvalidInput, text).on_topic(publisher.topic()));
        }
        let id = outgoing.message.id.clone();
        self.bytes += outgoing.message.size();
        self.batch.push(outgoing);
        Ok(id)
    }

    /// Returns how many messages were added.
    #[must_use]
    pub fn len(&self) -> usize {
        self.batch.len()
    }

    /// Returns whether no message was added.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.batch.is_empty()
    }

    /// Sends them; returns their receipts in the order in which they were added.
    ///
    /// A group gets none of them before all are stored. Sends that were queued before go before.
    ///
    /// # Errors
    /// `UnknownOutcome`: all are stored, or none. Any other kind: none is. `Unsupported` where the
    /// broker has no transactions.
    ///
    /// # Cancel safety
    /// Until there is room in the in-flight window, dropping the future sends nothing; after that only the
    /// answer is lost.
    pub async fn commit(self) -> Result<Vec<Receipt>> {
        let inner = &self.client.inner;
        let context = |error: Error| error.during(inner.backend_name(), "commit");
        inner.backend.capabilities().require(Capability::Transactions).map_err(context)?;
        if self.batch.is_empty() {
            return Ok(Vec::new());
        }
        let outbox = self.client.outbox().await?;
        let first = inner.counters.topic(&self.batch[0].topic);
        let permit = outbox.permit(first, self.batch.len(), self.bytes).await?;
        let answer = outbox.push_atomic(self.batch, permit).await;
        answer.unwrap_or_else(|_| Err(unsent())).map_err(context)
    }
}

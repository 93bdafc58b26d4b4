//! What goes around a publisher.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use bytestring::ByteString;
use mq_core::{Error, ErrorKind, Message, Publisher, Receipt, Result};
use tokio::time::Instant;

use crate::gather::{Gather, Left, Limits};
use crate::layers::RateLimit;

type Step = Box<dyn Fn(Message) -> Result<Option<Message>> + Send + Sync>;

/// A publisher with steps that each message goes through: default headers, filters, changes, a rate limit, and
/// batches.
///
/// Steps run in the order in which they were added; then a message waits for its turn, and for its batch.
///
/// ```
/// use std::time::Duration;
/// use mq_core::Message;
/// use mq_worker::{Batching, Outlet, layers::RateLimit};
///
/// # async fn example(client: &mq_core::Client) -> mq_core::Result<()> {
/// let orders = Outlet::new(client.publisher("orders").await?)
///     .header("source", "shop")
///     .filter(|message| !message.payload.is_empty())
///     .rate_limit(RateLimit::new(1000, Duration::from_secs(1)).burst(100))
///     .batch(Batching::new(500, 1 << 20, Duration::from_millis(10)));
/// orders.send(Message::new("one book")).await?;
/// # Ok(())
/// # }
/// ```
pub struct Outlet {
    publisher: Publisher,
    steps: Vec<Step>,
    rate: Option<RateLimit>,
    batches: Option<(Limits, Gather<Message, Result<Receipt>>)>,
}

/// When a batch is sent: the first limit that is reached counts.
#[derive(Clone, Copy, Debug)]
pub struct Batching(Limits);

impl Batching {
    /// Sends after so many messages, so many bytes, or so long after the first message.
    #[must_use]
    pub fn new(messages: usize, bytes: usize, within: Duration) -> Self {
        Self(Limits { items: messages.max(1), bytes, within })
    }
}

impl fmt::Debug for Outlet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outlet").field("publisher", &self.publisher).finish_non_exhaustive()
    }
}

impl Outlet {
    /// Sends what it is given as it is.
    #[must_use]
    pub fn new(publisher: Publisher) -> Self {
        Self { publisher, steps: Vec::new(), rate: None, batches: None }
    }

    /// Adds a header to messages that have none of this name.
    #[must_use]
    pub fn header(self, name: impl Into<ByteString>, value: impl Into<Bytes>) -> Self {
        let (name, value) = (name.into(), value.into());
        self.step(move |mut message| {
            if message.headers.get(&name).is_none() {
                message.headers.push(name.clone(), value.clone());
            }
            Ok(Some(message))
        })
    }

    /// Sends only what `fits` says yes to.
    #[must_use]
    pub fn filter(self, fits: impl Fn(&Message) -> bool + Send + Sync + 'static) -> Self {
        self.step(move |message| Ok(fits(&message).then_some(message)))
    }

    /// Changes each message: encrypts it, compresses it, sets its key.
    #[must_use]
    pub fn map<E: Into<Box<dyn std::error::Error + Send + Sync>>>(
        self,
        change: impl Fn(Message) -> std::result::Result<Message, E> + Send + Sync + 'static,
    ) -> Self {
        self.step(move |message| match change(message) {
            Ok(message) => Ok(Some(message)),
            Err(error) => {
                let text = "a step before the send refused the message";
                Err(Error::new(ErrorKind::InvalidInput, text).with_source(error.into()))
            }
        })
    }

    /// Sends at a steady pace; who is early waits. An `Outlet`'s limit is its own.
    #[must_use]
    pub fn rate_limit(mut self, limit: RateLimit) -> Self {
        self.rate = Some(limit);
        self
    }

    /// Sends in batches. Without, concurrent sends are put together as they come, which is what most want: a batch
    /// that waits trades latency for fewer calls.
    #[must_use]
    pub fn batch(mut self, batching: Batching) -> Self {
        self.batches = Some((batching.0, Gather::default()));
        self
    }

    fn step(mut self, step: impl Fn(Message) -> Result<Option<Message>> + Send + Sync + 'static) -> Self {
        self.steps.push(Box::new(step));
        self
    }

    /// Sends a message; `Some` means that the broker confirmed it, `None` that a filter kept it back.
    ///
    /// # Errors
    /// As for [`Publisher::send`], and `InvalidInput` with the error of a step that refused the message.
    ///
    /// # Cancel safety
    /// Dropping the future while it waits for its turn sends nothing; in a batch the message may be sent, and only
    /// the answer is lost. What others put into the batch is sent all the same.
    pub async fn send(&self, message: Message) -> Result<Option<Receipt>> {
        let mut message = message;
        for step in &self.steps {
            match step(message)? {
                Some(changed) => message = changed,
                None => return Ok(None),
            }
        }
        if let Some(rate) = &self.rate {
            tokio::time::sleep_until(rate.turn(&message, Instant::now())).await;
        }
        match &self.batches {
            None => self.publisher.send(message).await.map(Some),
            Some((limits, gather)) => self.join(*limits, gather, message).await.map(Some),
        }
    }

    async fn join(
        &self,
        limits: Limits,
        gather: &Gather<Message, Result<Receipt>>,
        message: Message,
    ) -> Result<Receipt> {
        loop {
            let size = message.size();
            let sent = gather
                .join(limits, message.clone(), size, async |batch| self.publisher.send_batch(batch).await);
            match sent.await {
                Ok(receipt) => return receipt,
                // Who led was dropped: another one leads.
                Err(Left { begun: false }) => {}
                Err(Left { begun: true }) => {
                    let text = "the send of its batch was dropped by who led it";
                    return Err(Error::new(ErrorKind::UnknownOutcome, text));
                }
            }
        }
    }
}

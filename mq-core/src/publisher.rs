//! Sending.

use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::sync::oneshot;

use crate::capability::Capability;
use crate::client::{Client, Inner};
use crate::driver::Outgoing;
use crate::envelope::PREFIX;
use crate::error::{Error, ErrorKind, Result};
use crate::message::{Message, Receipt};
use crate::name::TopicName;
use crate::outbox::{Outbox, unsent};
use crate::table::Label;
use crate::terms::{Durability, SendRetry, Terms};
use crate::topology::{Policy, TopicSpec};

/// The longest key, in bytes.
pub const MAX_KEY: usize = 1024;
/// The longest subject, in bytes (RabbitMQ's routing keys).
pub const MAX_SUBJECT: usize = 255;

/// A publisher to be: awaiting it connects, and declares the topic as the policy says.
#[must_use = "await it"]
#[derive(Debug)]
pub struct PublisherBuilder {
    client: Client,
    topic: Result<TopicName>,
    spec: TopicSpec,
    policy: Policy,
    terms: Terms,
    retry: Option<SendRetry>,
}

impl PublisherBuilder {
    pub(crate) fn new(client: Client, topic: Result<TopicName>) -> Self {
        let policy = client.inner.policy;
        Self { client, topic, spec: TopicSpec::default(), policy, terms: Terms::default(), retry: None }
    }

    /// Sets what the topic is to be like.
    pub fn spec(mut self, spec: TopicSpec) -> Self {
        self.spec = spec;
        self
    }

    /// Sets what to do about a topic that is missing or differs.
    pub fn policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    /// Sets how well messages are stored when their sends return `Ok`. Default [`Durability::Replicated`].
    pub fn durability(mut self, durability: Durability) -> Self {
        self.terms.durability = durability;
        self
    }

    /// Refuses messages that no group would get, as [`ErrorKind::Unroutable`]; they are stored nowhere.
    /// They cannot be delayed: whether a group is there shows only when they are due.
    pub fn require_group(mut self) -> Self {
        self.terms.require_group = true;
        self
    }

    /// Sends again what fails and may succeed later, in [`send`](Publisher::send) and
    /// [`send_batch`](Publisher::send_batch). Default: each message is sent once.
    pub fn retry(mut self, retry: SendRetry) -> Self {
        self.retry = Some(retry);
        self
    }

    async fn open(self) -> Result<Publisher> {
        let topic = self.topic?;
        self.terms.check(self.client.capabilities())?;
        self.client.admin_with(self.policy).ensure_topic(&topic, &self.spec).await?;
        let outbox = self.client.outbox().await?;
        let counted = self.client.inner.counters.topic(&topic);
        Ok(Publisher {
            inner: self.client.inner,
            outbox,
            topic,
            counted,
            terms: self.terms,
            retry: self.retry,
        })
    }
}

impl IntoFuture for PublisherBuilder {
    type Output = Result<Publisher>;
    type IntoFuture = Pin<Box<dyn Future<Output = Result<Publisher>> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.open())
    }
}

/// Sends to one topic. Cheap to clone; concurrent sends of all a client's publishers go to the
/// broker in common batches, in the order in which they were queued.
#[derive(Clone, Debug)]
pub struct Publisher {
    inner: Arc<Inner>,
    outbox: Arc<Outbox>,
    topic: TopicName,
    counted: Label,
    terms: Terms,
    retry: Option<SendRetry>,
}

impl Publisher {
    /// Returns the topic.
    #[must_use]
    pub fn topic(&self) -> &TopicName {
        &self.topic
    }

    /// Sends a message; `Ok` means that the broker confirmed it.
    ///
    /// # Errors
    /// `Rejected`: stored nowhere, for certain. `UnknownOutcome`: may have been stored. Others as they say;
    /// all but `UnknownOutcome` mean that nothing was stored.
    ///
    /// # Cancel safety
    /// Until there is room in the in-flight window, dropping the future sends nothing. After that
    /// the message is on its way and only the answer is lost; [`enqueue`](Self::enqueue) tells the two apart.
    /// Room is given in the order of the calls: a future that waits for it and is not polled any more
    /// holds up the sends behind it until it is dropped.
    pub async fn send(&self, message: Message) -> Result<Receipt> {
        let outgoing = self.check(message)?;
        match self.retry {
            None => self.send_once(outgoing).await,
            Some(retry) => self.send_again(outgoing, retry).await,
        }
    }

    async fn send_again(&self, outgoing: Outgoing, retry: SendRetry) -> Result<Receipt> {
        let mut pauses = retry.pauses();
        loop {
            match self.send_once(outgoing.clone()).await {
                Err(error) if retry.applies(&error) && pauses.pass().await => {}
                verdict => return verdict,
            }
        }
    }

    async fn send_once(&self, outgoing: Outgoing) -> Result<Receipt> {
        let permit = self.outbox.permit(self.counted, 1, outgoing.message.size()).await?;
        self.outbox.send(outgoing, permit).await
    }

    /// Waits for room in the in-flight window and queues the message; the result resolves when the broker answered.
    ///
    /// # Errors
    /// What can be refused without asking the broker.
    ///
    /// # Cancel safety
    /// Dropping this future sends nothing; dropping the [`Sending`] loses only the answer.
    pub async fn enqueue(&self, message: Message) -> Result<Sending> {
        let outgoing = self.check(message)?;
        let permit = self.outbox.permit(self.counted, 1, outgoing.message.size()).await?;
        Ok(Sending(self.outbox.push(outgoing, permit)))
    }

    /// As [`enqueue`](Self::enqueue), without waiting.
    ///
    /// # Errors
    /// [`ErrorKind::Full`] if the window is full.
    pub fn try_enqueue(&self, message: Message) -> Result<Sending> {
        let outgoing = self.check(message)?;
        let permit = self.outbox.try_permit(self.counted, 1, outgoing.message.size())?;
        Ok(Sending(self.outbox.push(outgoing, permit)))
    }

    /// Sends a batch; returns one verdict per message, in order.
    ///
    /// Each message is confirmed or refused by itself; a batch is not a transaction.
    pub async fn send_batch(&self, messages: Vec<Message>) -> Vec<Result<Receipt>> {
        let mut verdicts: Vec<Option<Result<Receipt>>> = Vec::new();
        let size = messages.len();
        let mut outgoing = Vec::with_capacity(size);
        let mut bytes = 0;
        for (index, message) in messages.into_iter().enumerate() {
            match self.check(message) {
                Ok(checked) => {
                    bytes += checked.message.size();
                    outgoing.push(checked);
                }
                Err(error) => {
                    verdicts.resize_with(size, || None);
                    verdicts[index] = Some(Err(error));
                }
            }
        }
        let sent = match self.retry {
            None => self.send_checked(outgoing, bytes).await,
            Some(retry) => self.send_checked_again(outgoing, retry).await,
        };
        if verdicts.is_empty() {
            return sent;
        }
        let mut sent = sent.into_iter();
        verdicts.into_iter().filter_map(|refused| refused.or_else(|| sent.next())).collect()
    }

    async fn send_checked_again(&self, outgoing: Vec<Outgoing>, retry: SendRetry) -> Vec<Result<Receipt>> {
        let mut pauses = retry.pauses();
        let size = |some: &[Outgoing]| some.iter().map(|outgoing| outgoing.message.size()).sum();
        let mut verdicts = self.send_checked(outgoing.clone(), size(&outgoing)).await;
        loop {
            let failed = |place: &usize| matches!(&verdicts[*place], Err(error) if retry.applies(error));
            let places: Vec<usize> = (0..verdicts.len()).filter(failed).collect();
            if places.is_empty() || !pauses.pass().await {
                return verdicts;
            }
            let again: Vec<_> = places.iter().map(|place| outgoing[*place].clone()).collect();
            let bytes = size(&again);
            for (place, verdict) in places.into_iter().zip(self.send_checked(again, bytes).await) {
                verdicts[place] = verdict;
            }
        }
    }

    async fn send_checked(&self, outgoing: Vec<Outgoing>, bytes: usize) -> Vec<Result<Receipt>> {
        let many = outgoing.len();
        if many == 0 {
            return Vec::new();
        }
        let answer = match self.outbox.permit(self.counted, many, bytes).await {
            Ok(permit) => self.outbox.push_many(outgoing, permit).await.map_err(|_| unsent()),
            Err(error) => Err(error),
        };
        answer.unwrap_or_else(|error| (0..many).map(|_| Err(error.duplicate())).collect())
    }

    pub(crate) fn belongs_to(&self, client: &Client) -> bool {
        Arc::ptr_eq(&self.inner, &client.inner)
    }

    pub(crate) fn check(&self, mut message: Message) -> Result<Outgoing> {
        let refuse = |text: String| {
            Err(Error::new(ErrorKind::Rejected, text)
                .during(self.inner.backend_name(), "send")
                .on_topic(&self.topic))
        };
        let (size, limit) = (message.size(), self.inner.backend.max_message_size());
        if size > limit {
            return refuse(format!("message {} has {size} bytes; the limit is {limit}", message.id));
        }
        if let Some(key) = message.key.as_ref().filter(|key| key.len() > MAX_KEY) {
            return refuse(format!("the key has {} bytes; the limit is {MAX_KEY}", key.len()));
        }
        if let Some(subject) = &message.subject
            && let Some(problem) = wrong_subject(subject)
        {
            return refuse(format!("the subject {problem}"));
        }
        for (name, _) in message.headers.iter() {
            if name.is_empty() || name.len() > MAX_SUBJECT || name.starts_with(PREFIX) {
                return refuse(format!(
                    "header name {name:?} is empty, over {MAX_SUBJECT} bytes, or starts with the reserved {PREFIX:?}"
                ));
            }
        }
        let now = self.inner.backend.context().clock.now();
        if message.deliver_at.is_some() {
            self.inner.backend.capabilities().require(Capability::Delay)?;
            message.deliver_at = message.deliver_at.filter(|at| *at > now);
            if self.terms.require_group && message.deliver_at.is_some() {
                return refuse(
                    "a delayed message cannot require a group; send it without `require_group`".into(),
                );
            }
        }
        message.published_at = Some(now);
        Ok(Outgoing { topic: self.topic.clone(), message, terms: self.terms })
    }
}

fn wrong_subject(subject: &str) -> Option<String> {
    if subject.len() > MAX_SUBJECT {
        return Some(format!("has {} bytes; the limit is {MAX_SUBJECT}", subject.len()));
    }
    if subject.split('.').any(str::is_empty) {
        return Some("has an empty word; words are separated by single dots".into());
    }
    subject.contains(['*', '#']).then(|| "contains '*' or '#', which belong to patterns".into())
}

/// A message on its way; resolves when the broker answered. Dropping it loses only the answer.
#[derive(Debug)]
#[must_use = "await it to know whether the message was stored"]
pub struct Sending(oneshot::Receiver<Result<Receipt>>);

impl Future for Sending {
    type Output = Result<Receipt>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = ready!(Pin::new(&mut self.0).poll(cx));
        Poll::Ready(answer.unwrap_or_else(|_| Err(unsent())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects() {
        assert_eq!(wrong_subject("orders.created"), None);
        for bad in ["", "a..b", ".a", "a.*", "#"] {
            assert!(wrong_subject(bad).is_some(), "{bad}");
        }
    }
}

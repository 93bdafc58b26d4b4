//! A send with nothing else under way is driven by its caller: no task is woken on the way to
//! the broker or back. Whoever comes meanwhile, or the caller's going away, moves it to the
//! outbox's task, so that it never depends on being polled.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::coalesce::Call;
use crate::error::Result;
use crate::message::Receipt;
use crate::outbox::{Outbox, unsent};

/// The place of the one call that its caller drives.
#[derive(Default)]
pub(crate) struct Place(Mutex<Held>);

#[derive(Default)]
struct Held {
    /// Which call it is or was.
    serial: u64,
    /// `None` while it is polled, and after it is done or claimed.
    call: Option<Call>,
    /// The outbox's task came for it while it was polled.
    wanted: bool,
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Place").finish_non_exhaustive()
    }
}

impl Place {
    /// Puts a new call in; the last one is done.
    pub(crate) fn put(&self, call: Call) -> u64 {
        let mut held = self.0.lock();
        *held = Held { serial: held.serial + 1, call: Some(call), wanted: false };
        held.serial
    }

    /// Takes the call over for the outbox's task, now or when its caller has polled it.
    pub(crate) fn claim(&self) -> Option<Call> {
        let mut held = self.0.lock();
        let call = held.call.take();
        held.wanted = call.is_none();
        call
    }

    fn take(&self, serial: u64) -> Option<Call> {
        let mut held = self.0.lock();
        if held.serial == serial { held.call.take() } else { None }
    }

    /// Puts a call back that is not done; returns whether the outbox's task came for it.
    fn put_back(&self, call: Call) -> bool {
        let mut held = self.0.lock();
        held.call = Some(call);
        held.wanted
    }
}

/// A message that was sent or queued; resolves when the broker answered. Dropping it loses only the answer.
#[derive(Debug)]
pub(crate) struct Lone<'a> {
    outbox: &'a Arc<Outbox>,
    /// The call that this drives.
    driven: Option<u64>,
    answer: oneshot::Receiver<Result<Receipt>>,
}

impl<'a> Lone<'a> {
    pub(crate) fn new(
        outbox: &'a Arc<Outbox>,
        driven: Option<u64>,
        answer: oneshot::Receiver<Result<Receipt>>,
    ) -> Self {
        Self { outbox, driven, answer }
    }
}

impl Future for Lone<'_> {
    type Output = Result<Receipt>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(serial) = self.driven {
            match self.outbox.lone.take(serial) {
                None => self.driven = None,
                Some(mut call) => match call.as_mut().poll(cx) {
                    Poll::Ready(()) => self.driven = None,
                    Poll::Pending if self.outbox.lone.put_back(call) => self.outbox.nudge(),
                    Poll::Pending => {}
                },
            }
        }
        let answer = ready!(Pin::new(&mut self.answer).poll(cx));
        self.driven = None;
        Poll::Ready(answer.unwrap_or_else(|_| Err(unsent())))
    }
}

impl Drop for Lone<'_> {
    fn drop(&mut self) {
        if self.driven.is_some() {
            self.outbox.nudge();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use async_trait::async_trait;
    use tokio::sync::Notify;

    use super::*;
    use crate::driver::{Budget, Outgoing, Producer};
    use crate::message::Message;
    use crate::name::TopicName;
    use crate::table::Label;
    use crate::terms::Terms;

    /// Answers the calls in their order, each when it is told to; notes what it was given.
    #[derive(Debug, Default)]
    struct Slow {
        begun: Mutex<Vec<String>>,
        answer: Notify,
        ended: Mutex<usize>,
    }

    #[async_trait]
    impl Producer for Slow {
        async fn send(&self, batch: Vec<Outgoing>) -> Vec<Result<Receipt>> {
            self.begun.lock().extend(batch.iter().map(|outgoing| outgoing.message.id.to_string()));
            self.answer.notified().await;
            *self.ended.lock() += batch.len();
            batch.into_iter().map(|outgoing| Ok(Receipt::new(outgoing.message.id, None))).collect()
        }

        async fn close(&self) {}
    }

    fn outbox(messages: usize) -> (Arc<Outbox>, Arc<Slow>) {
        let producer = Arc::new(Slow::default());
        let window = Budget { messages, bytes: 1 << 20 };
        (Outbox::start(producer.clone(), window, Arc::default(), "test"), producer)
    }

    async fn send(outbox: &Arc<Outbox>, id: &str) -> Result<Receipt> {
        let permit = outbox.permit(Label::default(), 1, 1).await?;
        let topic = TopicName::new("t")?;
        outbox
            .send(Outgoing { topic, message: Message::with_id("", id), terms: Terms::default() }, permit)
            .await
    }

    /// Polls once; says whether it has to wait.
    async fn waits<F: Future + Unpin>(future: &mut F) -> bool {
        std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut *future).poll(cx).is_pending())).await
    }

    /// Waits until the producer was given so many messages.
    async fn begun(producer: &Slow, count: usize) {
        in_time(async {
            while producer.begun.lock().len() < count {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }

    async fn in_time<T>(future: impl Future<Output = T>) -> T {
        tokio::time::timeout(Duration::from_secs(10), future).await.expect("it hangs")
    }

    #[tokio::test]
    async fn the_caller_makes_the_call_and_reads_the_answer() {
        let (outbox, producer) = outbox(8);
        let mut sending = Box::pin(send(&outbox, "a"));
        assert!(waits(&mut sending).await);
        assert_eq!(*producer.begun.lock(), ["a"], "begun by the first poll");
        producer.answer.notify_one();
        assert_eq!(in_time(sending).await.unwrap().id.to_string(), "a");
        assert_eq!(outbox.pending(), 0);
    }

    #[tokio::test]
    async fn a_dropped_caller_loses_only_the_answer() {
        let (outbox, producer) = outbox(1);
        let mut sending = Box::pin(send(&outbox, "a"));
        assert!(waits(&mut sending).await);
        drop(sending);
        producer.answer.notify_one();
        // The window has room for one: the second begins when the first is answered.
        let mut second = Box::pin(send(&outbox, "b"));
        assert!(waits(&mut second).await);
        let (second, ()) = in_time(futures_util::future::join(second, async {
            begun(&producer, 2).await;
            producer.answer.notify_one();
        }))
        .await;
        assert_eq!(second.unwrap().id.to_string(), "b");
        assert_eq!(*producer.begun.lock(), ["a", "b"]);
        assert_eq!(outbox.pending(), 0);
    }

    #[tokio::test]
    async fn a_dropped_call_ends_by_itself() {
        let (outbox, producer) = outbox(8);
        // The outbox's task has looked and waits.
        tokio::task::yield_now().await;
        let mut sending = Box::pin(send(&outbox, "a"));
        assert!(waits(&mut sending).await);
        drop(sending);
        producer.answer.notify_one();
        in_time(async {
            while outbox.pending() > 0 {
                tokio::task::yield_now().await;
            }
        })
        .await;
        assert_eq!(*producer.ended.lock(), 1, "the call was driven to its end");
    }

    #[tokio::test]
    async fn a_caller_that_is_not_polled_holds_up_nobody() {
        let (outbox, producer) = outbox(1);
        let mut idle = Box::pin(send(&outbox, "a"));
        assert!(waits(&mut idle).await);
        producer.answer.notify_one();
        let outbox_too = outbox.clone();
        let second = tokio::spawn(async move { send(&outbox_too, "b").await });
        begun(&producer, 2).await;
        producer.answer.notify_one();
        assert_eq!(in_time(second).await.unwrap().unwrap().id.to_string(), "b");
        assert_eq!(in_time(idle).await.unwrap().id.to_string(), "a");
    }

    #[tokio::test]
    async fn later_sends_go_behind_it_in_order() {
        let (outbox, producer) = outbox(64);
        let sends: Vec<_> = (0..20).map(|n| n.to_string()).collect();
        let mut futures: Vec<_> = sends.iter().map(|id| Box::pin(send(&outbox, id))).collect();
        for future in &mut futures {
            assert!(waits(future).await);
        }
        begun(&producer, 20).await;
        assert_eq!(*producer.begun.lock(), sends);
        let mut answers = Vec::new();
        for future in futures {
            producer.answer.notify_one();
            producer.answer.notify_waiters();
            answers.push(in_time(future).await.unwrap().id.to_string());
        }
        assert_eq!(answers, sends, "each gets its own answer");
    }

    #[tokio::test]
    async fn closing_waits_for_it() {
        let (outbox, producer) = outbox(8);
        let mut sending = Box::pin(send(&outbox, "a"));
        assert!(waits(&mut sending).await);
        outbox.close();
        let mut closed = Box::pin(outbox.closed());
        for _ in 0..10 {
            assert!(waits(&mut closed).await, "a send is not answered");
            tokio::task::yield_now().await;
        }
        producer.answer.notify_one();
        in_time(closed).await;
        assert_eq!(in_time(sending).await.unwrap().id.to_string(), "a");
        assert!(send(&outbox, "b").await.is_err());
    }
}

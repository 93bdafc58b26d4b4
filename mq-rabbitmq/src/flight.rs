//! Publications on their way to their confirms.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};

use lapin::message::BasicReturnMessage;
use lapin::options::BasicPublishOptions;
use lapin::types::ShortString;
use lapin::{Channel, Confirmation, PublisherConfirm};
use mq_core::{Error, ErrorKind, Result};
use tokio::runtime::Handle;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep_until};

use crate::codec::Publication;
use crate::error::{from_native, is_missing, unknown};
use crate::publish::Verdicts;

type Publishing = Pin<Box<dyn Future<Output = lapin::Result<PublisherConfirm>> + Send>>;

/// One publication.
pub(crate) struct Slot {
    state: State,
    /// Where to, if a returned message must be found again.
    place: Option<(ShortString, ShortString)>,
}

enum State {
    Publishing(Publishing),
    Confirming(PublisherConfirm),
    Done(Outcome),
}

enum Outcome {
    Confirmed,
    Nacked,
    /// Never handed to the connection.
    Refused(Error),
    /// Handed over, and then the channel ended.
    Lost(lapin::Error),
}

impl Slot {
    /// Makes the slot of a publication that was not begun.
    pub(crate) fn refused(error: Error) -> Self {
        Self { state: State::Done(Outcome::Refused(error)), place: None }
    }

    /// Hands a publication to the connection.
    pub(crate) fn begin(channel: Arc<Channel>, item: Publication) -> Self {
        let Publication { exchange, routing_key, mandatory, properties, payload } = item;
        let place = mandatory.then(|| (exchange.clone(), routing_key.clone()));
        let options = BasicPublishOptions { mandatory, ..BasicPublishOptions::default() };
        let mut publishing: Publishing = Box::pin(async move {
            channel.basic_publish(exchange, routing_key, options, &payload, properties).await
        });
        // The first poll queues the frames; who waits for them polls again.
        let state = match publishing.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Pending => State::Publishing(publishing),
            Poll::Ready(Ok(confirm)) => State::Confirming(confirm),
            Poll::Ready(Err(error)) => State::Done(Outcome::Refused(from_native(error))),
        };
        Self { state, place }
    }

    fn poll(&mut self, returned: &mut Vec<BasicReturnMessage>, context: &mut Context<'_>) -> Poll<()> {
        loop {
            self.state = match &mut self.state {
                State::Publishing(publishing) => match std::task::ready!(publishing.as_mut().poll(context)) {
                    Ok(confirm) => State::Confirming(confirm),
                    Err(error) => State::Done(Outcome::Lost(error)),
                },
                State::Confirming(confirm) => match std::task::ready!(Pin::new(confirm).poll(context)) {
                    Ok(Confirmation::Ack(message)) => {
                        returned.extend(message);
                        State::Done(Outcome::Confirmed)
                    }
                    Ok(Confirmation::Nack(message)) => {
                        returned.extend(message);
                        State::Done(Outcome::Nacked)
                    }
                    Ok(Confirmation::NotRequested) => State::Done(Outcome::Nacked),
                    Err(error) => State::Done(Outcome::Lost(error)),
                },
                State::Done(_) => return Poll::Ready(()),
            };
        }
    }
}

/// The publications of a parcel. One that is dropped under way flies on by itself.
pub(crate) struct Flight {
    slots: Vec<Slot>,
    returned: Vec<BasicReturnMessage>,
    done: usize,
    /// Whether it is a single message and nothing else was unconfirmed on the channel.
    alone: bool,
    /// How many had been published on the channel with this parcel, and how many are by now.
    last: u64,
    published: Arc<AtomicU64>,
    deadline: Instant,
    /// Kept until everything was written, so that the window bounds memory while the broker takes
    /// nothing.
    permits: Option<OwnedSemaphorePermit>,
}

impl Flight {
    /// Takes the publications that were begun; a verdict comes at `deadline` at the latest.
    pub(crate) fn new(
        slots: Vec<Slot>,
        alone: bool,
        published: Arc<AtomicU64>,
        deadline: Instant,
        permits: OwnedSemaphorePermit,
    ) -> Self {
        let last = published.load(Ordering::Relaxed);
        let permits = Some(permits);
        Self { slots, returned: Vec::new(), done: 0, alone, last, published, deadline, permits }
    }

    /// Returns how many publications there are.
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Waits for the confirms until the deadline; returns whether all came.
    pub(crate) async fn landed(&mut self) -> bool {
        let mut late = pin!(sleep_until(self.deadline));
        let in_time = poll_fn(|context| match self.poll(context) {
            Poll::Ready(()) => Poll::Ready(true),
            Poll::Pending => late.as_mut().poll(context).map(|()| false),
        });
        in_time.await
    }

    /// Waits until everything was written.
    pub(crate) async fn written(&mut self) {
        poll_fn(|context| self.poll_written(context)).await;
        self.permits = None;
    }

    /// Waits for the confirms until the deadline and returns the verdicts.
    pub(crate) async fn land(mut self) -> Verdicts {
        self.landed().await;
        self.verdicts()
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        while let Some(slot) = self.slots.get_mut(self.done) {
            std::task::ready!(slot.poll(&mut self.returned, context));
            self.done += 1;
        }
        self.permits = None;
        Poll::Ready(())
    }

    fn poll_written(&mut self, context: &mut Context<'_>) -> Poll<()> {
        for slot in &mut self.slots[self.done..] {
            if slot.poll(&mut self.returned, context).is_pending()
                && matches!(slot.state, State::Publishing(_))
            {
                return Poll::Pending;
            }
        }
        Poll::Ready(())
    }

    /// Returns what is known by now, one verdict per publication.
    pub(crate) fn verdicts(&self) -> Verdicts {
        self.slots.iter().map(|slot| self.verdict(slot)).collect()
    }

    fn verdict(&self, slot: &Slot) -> Result<()> {
        let State::Done(outcome) = &slot.state else {
            return Err(unknown("the broker did not confirm in time; the message may be stored"));
        };
        match outcome {
            Outcome::Confirmed if self.was_returned(slot) => Err(Error::new(
                ErrorKind::NotFound,
                format!(
                    "there is no queue for {:?}",
                    slot.place.as_ref().map_or("", |place| place.1.as_str())
                ),
            )),
            Outcome::Confirmed => Ok(()),
            // One of the queues refused it; others may have it.
            Outcome::Nacked => Err(unknown("a queue refused the message; others may have stored it")),
            Outcome::Refused(error) => Err(error.duplicate()),
            Outcome::Lost(error) => Err(self.lost(error)),
        }
    }

    fn was_returned(&self, slot: &Slot) -> bool {
        let Some((exchange, routing_key)) = &slot.place else { return false };
        self.returned
            .iter()
            .any(|message| message.exchange == *exchange && message.routing_key == *routing_key)
    }

    /// If nothing else was on the channel, it was this message that the broker found no exchange for.
    fn lost(&self, error: &lapin::Error) -> Error {
        let only = self.alone && self.published.load(Ordering::Relaxed) == self.last;
        let native = from_native(error.clone());
        if only && is_missing(error) {
            return native;
        }
        unknown(format!("the channel ended before the confirmation: {}", native.message()))
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        // The permits are gone when all is confirmed or written.
        let Some(permits) = self.permits.take() else { return };
        let Ok(runtime) = Handle::try_current() else { return };
        let slots = self.slots.split_off(self.done);
        runtime.spawn(stray(slots, self.deadline, permits));
    }
}

/// Keeps the permits of publications that nobody waits for: until they are confirmed, or the
/// deadline is over and they are written.
async fn stray(mut slots: Vec<Slot>, deadline: Instant, permits: OwnedSemaphorePermit) {
    let mut returned = Vec::new();
    let mut late = pin!(sleep_until(deadline));
    for slot in &mut slots {
        poll_fn(|context| match slot.poll(&mut returned, context) {
            Poll::Pending if !matches!(slot.state, State::Publishing(_)) => late.as_mut().poll(context),
            polled => polled,
        })
        .await;
    }
    drop(permits);
}

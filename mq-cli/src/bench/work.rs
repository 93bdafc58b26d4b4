//! The load: sending and receiving through the public API, as fast as it goes or at a rate.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use futures_util::{FutureExt, StreamExt as _, TryStreamExt as _, stream};
use mq::{Message, Publisher, Sending, SettledAll, Subscriber, ack_all};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::figures::Measured;
use crate::progress::Progress;
use crate::publish::pace::Pace;

/// Messages received and acked at once.
const BATCH: usize = 512;
/// Nothing that was confirmed takes longer to come.
const PATIENCE: Duration = Duration::from_secs(30);
/// Sends that wait for their confirmation at once while latencies are measured at a rate.
const WAITING: usize = 4096;

/// What is to be done.
#[derive(Clone)]
pub(super) struct Work {
    pub(super) publisher: Publisher,
    pub(super) count: usize,
    pub(super) size: usize,
    pub(super) rate: Option<NonZeroU32>,
    pub(super) progress: Arc<Progress>,
}

impl Work {
    /// Times sending.
    pub(super) async fn publish(&self) -> anyhow::Result<Measured> {
        let start = Instant::now();
        self.send(Some(self.progress.as_ref())).await?;
        Ok(Measured { took: start.elapsed(), ..Measured::default() })
    }

    /// Sends what is to be consumed.
    pub(super) async fn fill(&self) -> anyhow::Result<()> {
        self.send(None).await
    }

    /// Times receiving what is there, from the moment the first comes: joining a group is another matter.
    pub(super) async fn consume(&self, subscriber: &Subscriber) -> anyhow::Result<Measured> {
        let mut start = None;
        let note = |_| {
            start.get_or_insert_with(Instant::now);
        };
        self.receive(subscriber, note).await?;
        Ok(Measured { took: start.map_or(Duration::ZERO, |start| start.elapsed()), ..Measured::default() })
    }

    /// Waits until the member has its share: a first message has come.
    pub(super) async fn warm_up(&self, subscriber: &Subscriber) -> anyhow::Result<()> {
        self.publisher.send(Message::new("")).await?;
        let received = tokio::time::timeout(PATIENCE, subscriber.receive()).await;
        Ok(received.with_context(|| missing(0, 1))??.ack().await?)
    }

    /// Times sending and receiving at once.
    pub(super) async fn end_to_end(&self, subscriber: &Subscriber) -> anyhow::Result<Measured> {
        let start = Instant::now();
        let mut sending = self.spawn(|work| async move { work.send(None).await });
        tokio::try_join!(self.receive(subscriber, |_| ()), ended(&mut sending))?;
        Ok(Measured { took: start.elapsed(), ..Measured::default() })
    }

    /// Times each message: from the moment it was to be sent.
    pub(super) async fn latency(&self, subscriber: &Subscriber) -> anyhow::Result<Measured> {
        match self.rate {
            Some(rate) => self.latency_at(rate, subscriber).await,
            None => self.latency_of_each(subscriber).await,
        }
    }

    /// One after the other.
    async fn latency_of_each(&self, subscriber: &Subscriber) -> anyhow::Result<Measured> {
        let start = Instant::now();
        let mut measured = Measured::default();
        for number in 0..self.count {
            let sent = Instant::now();
            self.publisher.send(self.message(number)).await?;
            measured.confirmed.push(sent.elapsed());
            let received = tokio::time::timeout(PATIENCE, subscriber.receive()).await;
            let delivery = received.with_context(|| missing(number, self.count))??;
            measured.received.push(sent.elapsed());
            ensure!(
                number_of(delivery.payload()) == Some(number),
                "message {number} did not come in its turn"
            );
            delivery.ack().await?;
            self.progress.add(1, 0);
        }
        measured.took = start.elapsed();
        Ok(measured)
    }

    /// At a steady rate, whatever the answers do: what has to wait for its turn counts as waiting.
    async fn latency_at(&self, rate: NonZeroU32, subscriber: &Subscriber) -> anyhow::Result<Measured> {
        let start = Instant::now();
        let due = move |number: usize| start + Duration::from_secs_f64(number as f64 / f64::from(rate.get()));
        let mut sending = self.spawn(move |work| async move {
            let turns = stream::iter(0..work.count).then(move |number| async move {
                sleep_until(due(number)).await;
                number
            });
            let sends = turns.map(|number| {
                let work = work.clone();
                async move {
                    work.publisher.send(work.message(number)).await?;
                    anyhow::Ok(due(number).elapsed())
                }
            });
            sends.buffer_unordered(WAITING).try_collect::<Vec<Duration>>().await
        });
        let mut received = Vec::with_capacity(self.count);
        let receiving = self.receive(subscriber, |number| received.push(due(number).elapsed()));
        let ((), confirmed) = tokio::try_join!(receiving, ended(&mut sending))?;
        Ok(Measured { took: start.elapsed(), confirmed, received })
    }

    /// Starts work beside this task, which ends with the returned set.
    fn spawn<T, F>(&self, work: impl FnOnce(Self) -> F) -> JoinSet<anyhow::Result<T>>
    where
        T: Send + 'static,
        F: Future<Output = anyhow::Result<T>> + Send + 'static,
    {
        let mut tasks = JoinSet::new();
        tasks.spawn(work(self.clone()));
        tasks
    }

    /// Sends all messages and waits until each is confirmed.
    async fn send(&self, progress: Option<&Progress>) -> anyhow::Result<()> {
        let mut pace = self.rate.map(Pace::new);
        let mut under_way: VecDeque<Sending> = VecDeque::new();
        for number in 0..self.count {
            if let Some(pace) = &mut pace {
                pace.turn().await;
            }
            under_way.push_back(self.publisher.enqueue(self.message(number)).await?);
            while let Some(verdict) = under_way.front_mut().and_then(FutureExt::now_or_never) {
                verdict?;
                under_way.pop_front();
                note(progress);
            }
        }
        for sending in under_way {
            sending.await?;
            note(progress);
        }
        Ok(())
    }

    /// Receives and acks each message; one that comes again is no other.
    async fn receive(&self, subscriber: &Subscriber, mut note: impl FnMut(usize)) -> anyhow::Result<()> {
        let mut seen = vec![false; self.count];
        let mut count = 0;
        let mut settling: VecDeque<SettledAll> = VecDeque::new();
        while count < self.count {
            let batch = subscriber.receive_batch(BATCH, PATIENCE).await?;
            if batch.is_empty() {
                bail!(missing(count, self.count));
            }
            let before = count;
            for delivery in &batch {
                let number = number_of(delivery.payload()).filter(|number| *number < self.count);
                let number = number.context("a message came that this bench did not send")?;
                if !std::mem::replace(&mut seen[number], true) {
                    note(number);
                    count += 1;
                }
            }
            self.progress.add((count - before) as u64, 0);
            settling.push_back(ack_all(batch));
            while let Some(settled) = settling.front_mut().and_then(FutureExt::now_or_never) {
                settled.map_err(first)?;
                settling.pop_front();
            }
        }
        for settled in settling {
            settled.await.map_err(first)?;
        }
        Ok(())
    }

    /// Makes a message that can be told from the others.
    fn message(&self, number: usize) -> Message {
        let mut body = vec![0; self.size];
        body[..8].copy_from_slice(&(number as u64).to_be_bytes());
        Message::new(body)
    }
}

fn note(progress: Option<&Progress>) {
    if let Some(progress) = progress {
        progress.add(1, 0);
    }
}

fn number_of(body: &[u8]) -> Option<usize> {
    usize::try_from(u64::from_be_bytes(*body.first_chunk()?)).ok()
}

fn missing(count: usize, of: usize) -> String {
    format!("{count} of {of} messages came, and then none for {PATIENCE:?}")
}

fn first(failures: Vec<(usize, mq::Error)>) -> anyhow::Error {
    let first = failures.into_iter().next();
    first.map_or_else(|| anyhow::anyhow!("a settlement failed"), |(_, error)| error.into())
}

async fn ended<T: 'static>(tasks: &mut JoinSet<anyhow::Result<T>>) -> anyhow::Result<T> {
    tasks.join_next().await.context("the sender is gone")??
}

//! Receiving.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use mq_core::driver::{
    Consumer, ConsumerOptions, Context, Fetched, Incoming, ReleaseGuard, Revocation, Settlement, Token,
};
use mq_core::{Budget, Error, ErrorKind, Event, Policy, Result, TopicSpec};
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use crate::broker::{Alive, Shared, unexpected, was_cut};
use crate::op::{Done, MemberId, Op};
use crate::state::{Batch, Reply, join_lane};

/// How long an orderly hand-over of a lane waits for what is in hand.
const HAND_OVER: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(crate) struct MemoryConsumer {
    shared: Arc<Shared>,
    context: Context,
    options: ConsumerOptions,
    member: MemberId,
    waker: Arc<Notify>,
    /// Held while it joins again: whose connection was cut must not join.
    alive: Arc<Mutex<Alive>>,
    /// Held while it leaves or joins again: who is closed must not join.
    closed: Mutex<bool>,
    /// Lanes that were held when the group was deleted.
    lost: Mutex<Vec<Revocation>>,
}

impl MemoryConsumer {
    pub(crate) fn join(
        shared: Arc<Shared>,
        context: Context,
        options: ConsumerOptions,
        alive: Arc<Mutex<Alive>>,
    ) -> Result<Self> {
        let (member, waker) = shared.new_member();
        let consumer = Self {
            shared,
            context,
            options,
            member,
            waker,
            alive,
            closed: Mutex::new(false),
            lost: Mutex::default(),
        };
        consumer.enter()?;
        Ok(consumer)
    }

    pub(crate) fn member(&self) -> MemberId {
        self.member
    }

    fn enter(&self) -> Result<()> {
        let topics =
            self.options.subscriptions.iter().map(|subscription| subscription.topic.clone()).collect();
        self.shared.apply(Op::Join(self.member, self.options.group.clone(), topics), &self.context).map(drop)
    }

    /// Makes again what was deleted under the consumer; what it held is lost.
    fn rebuild(&self) -> Result<()> {
        let closed = self.closed.lock();
        if *closed {
            return Err(Self::is_closed());
        }
        let alive = self.alive.lock();
        if alive.is_none() {
            return Err(was_cut());
        }
        self.shared.apply(Op::Leave(self.member), &self.context)?;
        for (index, subscription) in self.options.subscriptions.iter().enumerate() {
            let (topic, settings) = (subscription.topic.clone(), subscription.settings.clone());
            let lanes = self
                .shared
                .state
                .lock()
                .group(&topic, &self.options.group)
                .map_or(1024, |group| group.lanes.len());
            self.lost.lock().extend((0..lanes).map(|lane| Revocation {
                lane: join_lane(index, lane),
                epoch: 0,
                release: None,
            }));
            self.shared
                .apply(Op::EnsureTopic(topic.clone(), TopicSpec::default(), Policy::Create), &self.context)?;
            let group = self.options.group.clone();
            self.shared
                .apply(Op::EnsureGroup(topic.clone(), group, settings, Policy::Create), &self.context)?;
            self.context
                .events
                .emit(Event::Rebuilt { what: format!("{topic} of group {}", self.options.group) });
        }
        self.enter()
    }

    fn is_closed() -> Error {
        Error::new(ErrorKind::Closed, "the consumer was closed")
    }

    fn incoming(&self, batch: Batch) -> Fetched {
        let deliveries = batch.leased.into_iter().map(|(subscription, leased)| Incoming {
            token: Token {
                lane: join_lane(subscription, leased.lane),
                epoch: leased.epoch,
                high: leased.serial,
                low: 0,
            },
            subscription,
            suspect: leased.suspect(),
            redelivered: leased.item.redelivered,
            not_before: leased.item.not_before,
            position: leased.item.position,
            message: leased.item.message,
            envelope: leased.item.envelope,
        });
        let revoked = batch.revoked.into_iter().map(|(subscription, lane, epoch)| {
            let (done, released) = oneshot::channel();
            let lane = join_lane(subscription, lane);
            tokio::spawn(release(
                self.shared.clone(),
                self.context.clone(),
                self.member,
                lane,
                epoch,
                released,
            ));
            Revocation { lane, epoch, release: Some(ReleaseGuard { within: HAND_OVER, done }) }
        });
        Fetched { deliveries: deliveries.map(Arc::new).collect(), revoked: revoked.collect() }
    }

    fn done(settlement: Settlement) -> Done {
        Done {
            subscription: settlement.subscription,
            serial: settlement.token.high,
            epoch: settlement.token.epoch,
            outcome: settlement.outcome,
        }
    }
}

async fn release(
    shared: Arc<Shared>,
    context: Context,
    member: MemberId,
    lane: u32,
    epoch: u32,
    released: oneshot::Receiver<std::convert::Infallible>,
) {
    // Dropped by core, or the time is over: the lane moves.
    drop(tokio::time::timeout(HAND_OVER, released).await);
    // A member that left meanwhile has released everything.
    drop(shared.apply(Op::Release(member, lane as usize, epoch), &context));
}

#[async_trait]
impl Consumer for MemoryConsumer {
    async fn fetch(&self, budget: Budget) -> Result<Fetched> {
        loop {
            if *self.closed.lock() {
                return Err(Self::is_closed());
            }
            let lost = std::mem::take(&mut *self.lost.lock());
            if !lost.is_empty() {
                return Ok(Fetched { deliveries: Vec::new(), revoked: lost });
            }
            let batch = match self.shared.apply(Op::Fetch(self.member, budget), &self.context) {
                Ok(Reply::Fetched(batch)) => batch,
                Ok(other) => return Err(unexpected(&other)),
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    self.rebuild()?;
                    continue;
                }
                Err(error) => return Err(error),
            };
            if !batch.leased.is_empty() || !batch.revoked.is_empty() {
                return Ok(self.incoming(batch));
            }
            match batch.next_due {
                None => self.waker.notified().await,
                Some(at) => {
                    let wait = at.since(self.context.clock.now()).max(Duration::from_millis(1));
                    // Woken or due: look again either way.
                    drop(tokio::time::timeout(wait, self.waker.notified()).await);
                }
            }
        }
    }

    async fn settle(&self, batch: Vec<Settlement>) -> Vec<Result<()>> {
        let size = batch.len();
        let done = batch.into_iter().map(Self::done).collect();
        match self.shared.apply(Op::Settle(self.member, done), &self.context) {
            Ok(Reply::Settled(verdicts)) => verdicts,
            Ok(other) => (0..size).map(|_| Err(unexpected(&other))).collect(),
            Err(error) => (0..size).map(|_| Err(error.duplicate())).collect(),
        }
    }

    async fn start(&self, token: Token) -> Result<()> {
        let subscription = (token.lane >> 16) as usize;
        let settlement = Settlement { token, subscription, outcome: mq_core::driver::Outcome::Ack };
        self.shared.apply(Op::Start(self.member, Self::done(settlement)), &self.context).map(drop)
    }

    async fn close(&self) -> Result<()> {
        let mut closed = self.closed.lock();
        *closed = true;
        self.shared.forget(self.member);
        self.waker.notify_one();
        self.shared.apply(Op::Leave(self.member), &self.context).map(drop)
    }
}

impl Drop for MemoryConsumer {
    /// Not closed: it died.
    fn drop(&mut self) {
        if !*self.closed.get_mut() {
            self.shared.forget(self.member);
            // There is nobody left to tell, and a dead member's death cannot fail.
            drop(self.shared.apply(Op::Kill(self.member), &self.context));
        }
    }
}

#[cfg(test)]
mod tests {
    use mq_core::driver::{Backend, Spent, Subscription};
    use mq_core::{GroupName, GroupSettings, TopicName};

    use super::*;
    use crate::{Broker, MemoryConfig};

    fn options(topic: &TopicName, group: &GroupName) -> ConsumerOptions {
        ConsumerOptions {
            group: group.clone(),
            subscriptions: vec![Subscription { topic: topic.clone(), settings: GroupSettings::default() }],
            prefetch: Budget { messages: 1, bytes: 1 },
            spent: Spent::default(),
        }
    }

    /// A fetch that finds its member gone makes it again, unless it left by closing or its connection was cut.
    #[tokio::test]
    async fn who_is_closed_or_cut_does_not_join_again() -> Result<()> {
        let (topic, group) = (TopicName::new("t")?, GroupName::new("g")?);
        let backend = Broker::new().backend(MemoryConfig::default(), Context::default());
        let admin = backend.admin().await?;
        admin.ensure_topic(&topic, &TopicSpec::default(), Policy::Create).await?;
        admin.ensure_group(&topic, &group, &GroupSettings::default(), Policy::Create).await?;
        let consumer = backend.join(options(&topic, &group))?;
        consumer.close().await?;
        // As a fetch does that saw it open a moment ago, and its member gone now.
        assert_eq!(consumer.rebuild().unwrap_err().kind(), ErrorKind::Closed);
        let consumer = backend.join(options(&topic, &group))?;
        backend.kill();
        let one = Budget { messages: 1, bytes: 1 };
        assert_eq!(consumer.fetch(one).await.unwrap_err().kind(), ErrorKind::Unavailable);
        assert_eq!(backend.join(options(&topic, &group)).unwrap_err().kind(), ErrorKind::Unavailable);
        assert_eq!(admin.stats(&topic, &group).await?.consumers, Some(0));
        Ok(())
    }
}

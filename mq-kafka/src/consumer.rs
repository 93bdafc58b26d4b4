//! Consuming: a member of the group for ordered topics, and one for the others.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use mq_core::driver::{Admin, Budget, Consumer, ConsumerOptions, Fetched, Settlement, Subscription, Token};
use mq_core::{Error, ErrorKind, GroupName, Result, TopicName, derived};
use tokio::sync::Notify;

use crate::admin::KafkaAdmin;
use crate::codec::Name;
use crate::connection::Inner;
use crate::member::{Common, Member, Opening, Source};
use crate::settle;

/// The longest wait for what is in hand when a partition moves.
const PATIENCE: Duration = Duration::from_secs(10);
/// And how much longer than a lease: what runs out while a partition is handed over is still moved to the inbox
/// and done with. Cut off between the two, it would come from both.
const SETTLING: Duration = Duration::from_secs(2);

/// A topic of a consumer, with the names derived from it.
#[derive(Debug)]
pub(crate) struct Topic {
    pub(crate) name: TopicName,
    pub(crate) inbox: Name,
    pub(crate) dead: Name,
    pub(crate) subscription: Subscription,
    /// The index of the member that serves it.
    pub(crate) member: usize,
}

/// A consumer of one or more topics of a group.
#[derive(Debug)]
pub(crate) struct KafkaConsumer {
    pub(crate) inner: Arc<Inner>,
    pub(crate) group: GroupName,
    pub(crate) topics: Vec<Topic>,
    pub(crate) members: Vec<Member>,
    arrived: Arc<Notify>,
    /// Which member is asked first.
    turn: AtomicUsize,
}

/// Returns the id of the Kafka group. Ordered and other topics of a group need different
/// assignors, which members of one Kafka group can't mix.
pub(crate) fn group_id(group: &GroupName, ordered: bool) -> String {
    if ordered { format!("{group}..ordered") } else { group.to_string() }
}

impl KafkaConsumer {
    pub(crate) async fn open(inner: &Arc<Inner>, options: ConsumerOptions) -> Result<Self> {
        inner.forward().await?;
        let kinds: Vec<bool> = {
            let ordered = |wanted| options.subscriptions.iter().any(|sub| sub.settings.ordered == wanted);
            [false, true].into_iter().filter(|kind| ordered(*kind)).collect()
        };
        let topics: Vec<Topic> = options
            .subscriptions
            .into_iter()
            .map(|subscription| Topic {
                name: subscription.topic.clone(),
                inbox: derived::inbox(&subscription.topic, &options.group).into(),
                dead: derived::dead(&subscription.topic, &options.group).into(),
                member: kinds.iter().position(|kind| *kind == subscription.settings.ordered).unwrap_or(0),
                subscription,
            })
            .collect();
        let common = Common { arrived: Arc::new(Notify::new()), spent: options.spent };
        let mut members = Vec::with_capacity(kinds.len());
        for (index, ordered) in kinds.iter().enumerate() {
            let share = Budget {
                messages: (options.prefetch.messages / kinds.len()).max(1),
                bytes: (options.prefetch.bytes / kinds.len()).max(1),
            };
            let opening = opening(inner, &options.group, &topics, index, *ordered, share, &common).await?;
            members.push(Member::open(inner, opening)?);
        }
        Ok(Self {
            inner: inner.clone(),
            group: options.group,
            topics,
            members,
            arrived: common.arrived,
            turn: AtomicUsize::new(0),
        })
    }

    fn take(&self, budget: Budget) -> Result<Option<Fetched>> {
        let first = self.turn.fetch_add(1, Ordering::Relaxed);
        for place in 0..self.members.len() {
            let member = &self.members[(first + place) % self.members.len()];
            if let Some(fetched) = member.take(budget)? {
                return Ok(Some(fetched));
            }
        }
        Ok(None)
    }

    pub(crate) fn member(&self, token: &Token) -> Option<&Member> {
        let topic = self.topics.get(usize::try_from(token.lane >> 17).ok()?)?;
        self.members.get(topic.member)
    }
}

async fn opening(
    inner: &Arc<Inner>,
    group: &GroupName,
    topics: &[Topic],
    member: usize,
    ordered: bool,
    prefetch: Budget,
    common: &Common,
) -> Result<Opening> {
    let mut sources = Vec::new();
    let mut partitions = 0;
    let mut patience = PATIENCE;
    for (subscription, topic) in topics.iter().enumerate().filter(|(_, topic)| topic.member == member) {
        for (name, inbox) in [(Name::from(topic.name.as_str()), false), (topic.inbox.clone(), true)] {
            partitions += usize::try_from(inner.partitions_of(&name).await?).unwrap_or(0);
            sources.push(Source { topic: name, subscription, inbox, dead: topic.dead.clone() });
        }
        patience = patience.min(topic.subscription.settings.lease + SETTLING);
    }
    Ok(Opening {
        group: group_id(group, ordered),
        name: group.clone(),
        sources,
        ordered,
        prefetch,
        patience,
        partitions,
        common: common.clone(),
    })
}

#[async_trait]
impl Consumer for KafkaConsumer {
    async fn fetch(&self, budget: Budget) -> Result<Fetched> {
        loop {
            let arrived = self.arrived.notified();
            if let Some(fetched) = self.take(budget)? {
                return Ok(fetched);
            }
            arrived.await;
        }
    }

    async fn settle(&self, batch: Vec<Settlement>) -> Vec<Result<()>> {
        settle::settle(self, batch).await
    }

    async fn start(&self, token: Token) -> Result<()> {
        settle::start(self, token).await
    }

    async fn close(&self) -> Result<()> {
        let mut outcome = Ok(());
        for member in &self.members {
            if let Err(error) = member.close().await {
                outcome = Err(error);
            }
        }
        let admin = KafkaAdmin(self.inner.clone());
        for topic in self.topics.iter().filter(|topic| topic.subscription.settings.ephemeral) {
            match admin.delete_group(&topic.name, &self.group).await {
                Err(error) if error.kind() != ErrorKind::NotFound => outcome = Err(error),
                _ => {}
            }
        }
        outcome
    }
}

/// The error of a settlement whose delivery is another's by now.
pub(crate) fn stale() -> Error {
    Error::new(
        ErrorKind::StaleDelivery,
        "the partition was taken over; the delivery is no longer this consumer's",
    )
}

//! Sends to topics.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use mq_core::driver::{Outgoing, Producer};
use mq_core::envelope::Envelope;
use mq_core::{Error, ErrorKind, MessageId, Receipt, Result, TopicName};

use crate::backend::Shared;
use crate::codec::{self, Publication};
use crate::error::closed;
use crate::names::{self, Target};
use crate::publish::{Posted, Publisher};

pub(crate) struct RabbitProducer {
    shared: Arc<Shared>,
    /// Messages of a key stay on one channel, and so in order.
    shards: Vec<Publisher>,
    /// The channel of the next messages without a key.
    next: AtomicUsize,
    /// Delayed messages go to queues that must be there, and some to topics that must have a group.
    courier: Publisher,
}

impl fmt::Debug for RabbitProducer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RabbitProducer").field("channels", &self.shards.len()).finish_non_exhaustive()
    }
}

impl RabbitProducer {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        let shards = (0..shared.config.publish_channels).map(|_| shared.publisher()).collect();
        let courier = shared.courier(shared.config.publish_timeout);
        Self { shards, next: AtomicUsize::new(0), courier, shared }
    }

    /// Closes all channels.
    pub(crate) async fn close(&self) {
        for shard in &self.shards {
            shard.close().await;
        }
        self.courier.close().await;
    }

    /// Sends a message that goes now; on an idle channel without any detour.
    async fn send_one(&self, outgoing: Outgoing) -> Result<Receipt> {
        let id = outgoing.message.id.clone();
        let shard = self.shard(&outgoing, self.turn());
        let posted = self.shards[shard].post(vec![codec::to_topic(outgoing)?]);
        posted.verdicts().await.pop().unwrap_or_else(|| Err(closed())).map(|()| Receipt::new(id, None))
    }

    /// Returns the number of a call, which chooses the channel of messages without a key.
    fn turn(&self) -> usize {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    fn shard(&self, outgoing: &Outgoing, keyless: usize) -> usize {
        let shards = self.shards.len();
        let Outgoing { topic, message, .. } = outgoing;
        message.key.as_ref().map_or(keyless % shards, |key| names::shard(topic.as_str(), key, shards))
    }

    /// Hands what goes now to its channels, without waiting; what waits is kept for later.
    fn begin(&self, batch: Vec<Outgoing>) -> Sending {
        let mut sending = Sending::new(batch.len(), self.shards.len() + 1);
        let keyless = self.turn();
        for (place, outgoing) in batch.into_iter().enumerate() {
            sending.ids.push(outgoing.message.id.clone());
            if self.shared.delay.rung(outgoing.message.deliver_at).is_some() {
                sending.delayed.push((place, outgoing));
                continue;
            }
            let shard = self.shard(&outgoing, keyless);
            let required = outgoing.terms.require_group.then(|| outgoing.topic.clone());
            match codec::to_topic(outgoing) {
                Ok(mut item) => {
                    let mut channel = shard;
                    if let Some(topic) = required {
                        item.mandatory = true;
                        channel = self.shards.len();
                        sending.required.push((place, topic));
                    }
                    self.add(&mut sending, channel, place, item);
                }
                Err(error) => sending.verdicts[place] = Some(Err(error)),
            }
        }
        for channel in 0..=self.shards.len() {
            self.post(&mut sending, channel);
        }
        sending
    }

    /// Returns a channel by its number: the shards, then the one that learns what reaches no queue.
    fn channel(&self, number: usize) -> &Publisher {
        self.shards.get(number).unwrap_or(&self.courier)
    }

    fn add(&self, sending: &mut Sending, channel: usize, place: usize, item: Publication) {
        let parcel = &mut sending.parcels[channel];
        parcel.places.push(place);
        parcel.items.push(item);
        if parcel.items.len() >= self.channel(channel).parcel_limit() {
            self.post(sending, channel);
        }
    }

    fn post(&self, sending: &mut Sending, channel: usize) {
        let Parcel { places, items } = std::mem::take(&mut sending.parcels[channel]);
        if !items.is_empty() {
            sending.posted.push((places, self.channel(channel).post(items).apart()));
        }
    }

    /// Puts messages that wait on their lanes; a lane that is gone is made again.
    async fn delay(&self, delayed: Vec<(usize, Outgoing)>) -> Vec<(usize, Result<()>)> {
        let mut waiting = delayed;
        let mut verdicts = Vec::new();
        for last in [false, true] {
            let times = waiting.iter().map(|(_, outgoing)| outgoing.message.deliver_at);
            let rungs = self.shared.delay.rungs(times);
            let published = match self.shared.delay.ensure(&rungs).await {
                Ok(firm) => {
                    let item = |index: usize| self.on_its_way(&waiting[index].1, &rungs);
                    let verdicts = self.courier.publish_each(waiting.len(), item).await;
                    firm.wait().await;
                    verdicts
                }
                Err(error) => waiting.iter().map(|_| Err(error.duplicate())).collect(),
            };
            let mut missing = Vec::new();
            for (message, verdict) in waiting.into_iter().zip(published) {
                match verdict {
                    Err(error) if !last && error.kind() == ErrorKind::NotFound => missing.push(message),
                    verdict => verdicts.push((message.0, verdict)),
                }
            }
            if missing.is_empty() {
                break;
            }
            self.shared.delay.forget().await;
            waiting = missing;
        }
        verdicts
    }

    /// Makes the publication to the lane that fits by now.
    fn on_its_way(&self, outgoing: &Outgoing, rungs: &BTreeSet<usize>) -> Result<Publication> {
        let Outgoing { topic, message, .. } = outgoing;
        let Some(lane) = self.shared.delay.lane_of(message.deliver_at, rungs) else {
            return codec::to_topic(outgoing.clone());
        };
        let target = Some(Target::Topic(topic.as_str()).to_string().into());
        let envelope = Envelope { target, ..Envelope::default() };
        codec::to_queue(&lane, message.clone(), &envelope)
    }

    /// Tells a topic without a group from a topic that is not there: either way the message came back.
    async fn explain_returned(&self, sending: &mut Sending) {
        let required = std::mem::take(&mut sending.required);
        let returned = |verdict: &Option<Result<()>>| matches!(verdict, Some(Err(error)) if error.kind() == ErrorKind::NotFound);
        let mut exists = BTreeMap::new();
        for (_, topic) in required.iter().filter(|(place, _)| returned(&sending.verdicts[*place])) {
            if !exists.contains_key(topic) {
                exists.insert(topic, matches!(self.shared.topology.topic_exists(topic).await, Ok(true)));
            }
        }
        for (place, topic) in &required {
            let verdict = &mut sending.verdicts[*place];
            if returned(verdict) && exists.get(topic) == Some(&true) {
                *verdict = Some(Err(Error::unroutable()));
            }
        }
    }

    /// Fails for delayed messages to a topic that is not there; nobody would learn of it later.
    async fn check_topics(&self, sending: &mut Sending) {
        let topics: BTreeSet<_> =
            sending.delayed.iter().map(|(_, outgoing)| outgoing.topic.clone()).collect();
        for topic in topics {
            let error = match self.shared.topology.topic_exists(&topic).await {
                Ok(true) => continue,
                Ok(false) => {
                    Error::new(ErrorKind::NotFound, format!("there is no topic {:?}", topic.as_str()))
                }
                Err(error) => error,
            };
            let verdicts = &mut sending.verdicts;
            sending.delayed.retain(|(place, outgoing)| {
                let keep = outgoing.topic != topic;
                if !keep {
                    verdicts[*place] = Some(Err(error.duplicate()));
                }
                keep
            });
        }
    }
}

#[derive(Default)]
struct Parcel {
    places: Vec<usize>,
    items: Vec<Publication>,
}

/// A batch on its way.
#[derive(Default)]
struct Sending {
    ids: Vec<MessageId>,
    verdicts: Vec<Option<Result<()>>>,
    parcels: Vec<Parcel>,
    posted: Vec<(Vec<usize>, Posted)>,
    delayed: Vec<(usize, Outgoing)>,
    /// Which of those that went now must reach a queue.
    required: Vec<(usize, TopicName)>,
}

impl Sending {
    fn new(count: usize, shards: usize) -> Self {
        let mut parcels = Vec::new();
        parcels.resize_with(shards, Parcel::default);
        let mut verdicts = Vec::new();
        verdicts.resize_with(count, || None);
        Self { ids: Vec::with_capacity(count), verdicts, parcels, ..Self::default() }
    }

    fn receipts(self) -> Vec<Result<Receipt>> {
        let receipt = |(id, verdict): (MessageId, Option<Result<()>>)| {
            verdict.unwrap_or_else(|| Err(closed())).map(|()| Receipt::new(id, None))
        };
        self.ids.into_iter().zip(self.verdicts).map(receipt).collect()
    }
}

#[async_trait]
impl Producer for RabbitProducer {
    async fn send(&self, mut batch: Vec<Outgoing>) -> Vec<Result<Receipt>> {
        let now = |outgoing: &Outgoing| {
            !outgoing.terms.require_group && self.shared.delay.rung(outgoing.message.deliver_at).is_none()
        };
        if batch.len() == 1
            && let Some(outgoing) = batch.pop_if(|outgoing| now(outgoing))
        {
            return vec![self.send_one(outgoing).await];
        }
        let mut sending = self.begin(batch);
        if !sending.delayed.is_empty() {
            self.check_topics(&mut sending).await;
            let delayed = std::mem::take(&mut sending.delayed);
            for (place, verdict) in self.delay(delayed).await {
                sending.verdicts[place] = Some(verdict);
            }
        }
        for (places, posted) in std::mem::take(&mut sending.posted) {
            for (place, verdict) in places.into_iter().zip(posted.verdicts().await) {
                sending.verdicts[place] = Some(verdict);
            }
        }
        self.explain_returned(&mut sending).await;
        sending.receipts()
    }

    async fn close(&self) {
        RabbitProducer::close(self).await;
    }
}

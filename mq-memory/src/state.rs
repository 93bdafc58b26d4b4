//! The broker as a pure state machine: `apply` is its only way to change.

use std::collections::{BTreeMap, VecDeque};

use mq_core::driver::Outgoing;
use mq_core::{
    Budget, Error, ErrorKind, GroupName, GroupSettings, Message, Policy, Position, Receipt, Result, Start,
    Timestamp, TopicInfo, TopicName, TopicSpec,
};

use crate::group::{Group, Item, Leased};
use crate::op::{Done, MemberId, Op};
use crate::topic::Topic;

/// What an operation returned.
#[derive(Debug)]
pub(crate) enum Reply {
    Done,
    Count(u64),
    Sent(Vec<Result<Receipt>>),
    Fetched(Batch),
    Settled(Vec<Result<()>>),
}

/// What a fetch found.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// With the index of its topic.
    pub(crate) leased: Vec<(usize, Leased)>,
    /// Lanes to give up: topic, lane, epoch.
    pub(crate) revoked: Vec<(usize, usize, u32)>,
    /// When to look again, if nothing else happens.
    pub(crate) next_due: Option<Timestamp>,
}

#[derive(Clone, Debug, PartialEq)]
struct Member {
    group: GroupName,
    topics: Vec<TopicName>,
}

/// Every topic and group.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct State {
    topics: BTreeMap<TopicName, Topic>,
    members: BTreeMap<MemberId, Member>,
}

fn missing(what: &str) -> Error {
    Error::new(ErrorKind::NotFound, format!("the {what} is not there; create it, or use the policy `Create`"))
}

impl State {
    /// Applies an operation at a moment. The same operations at the same moments give the same state.
    pub(crate) fn apply(&mut self, op: Op, now: Timestamp) -> Result<Reply> {
        match op {
            Op::EnsureTopic(topic, spec, policy) => {
                self.ensure_topic(topic, spec, policy).map(|()| Reply::Done)
            }
            Op::EnsureGroup(topic, group, settings, policy) => {
                self.ensure_group(&topic, group, settings, policy, now).map(|()| Reply::Done)
            }
            Op::DeleteTopic(topic) => {
                self.topics.remove(&topic).map(|_| Reply::Done).ok_or_else(|| missing("topic"))
            }
            Op::DeleteGroup(topic, group) => self
                .topic_mut(&topic)?
                .groups
                .remove(&group)
                .map(|_| Reply::Done)
                .ok_or_else(|| missing("group")),
            Op::Publish(batch) => {
                Ok(Reply::Sent(batch.into_iter().map(|outgoing| self.publish(outgoing, now)).collect()))
            }
            Op::PublishAll(batch) => self.publish_all(batch, now).map(Reply::Sent),
            Op::Cancel(topic, id) => self.topic_mut(&topic)?.cancel(&id, now).map(Reply::Count),
            Op::Join(member, group, topics) => self.join(member, group, topics).map(|()| Reply::Done),
            Op::Fetch(member, budget) => self.fetch(member, budget, now).map(Reply::Fetched),
            Op::Settle(member, batch) => {
                Ok(Reply::Settled(batch.into_iter().map(|done| self.settle(member, done, now)).collect()))
            }
            Op::Start(member, done) => self.held(member, &done)?.start(member, &done).map(|()| Reply::Done),
            Op::Release(member, subscription, lane) => self.release(member, subscription, lane),
            Op::Leave(member) => self.remove(member, false),
            Op::Kill(member) => self.remove(member, true),
            Op::Redrive(topic, group, which) => {
                let group = self.group_mut(&topic, &group)?;
                Ok(Reply::Count(group.redrive(|message| which.contains(&message.id), now)))
            }
            Op::Purge(topic, group, which) => {
                let group = self.group_mut(&topic, &group)?;
                Ok(Reply::Count(group.purge(|message| which.contains(&message.id))))
            }
        }
    }

    fn topic_mut(&mut self, topic: &TopicName) -> Result<&mut Topic> {
        self.topics.get_mut(topic).ok_or_else(|| missing("topic"))
    }

    fn group_mut(&mut self, topic: &TopicName, group: &GroupName) -> Result<&mut Group> {
        self.topic_mut(topic)?.groups.get_mut(group).ok_or_else(|| missing("group"))
    }

    fn ensure_topic(&mut self, topic: TopicName, spec: TopicSpec, policy: Policy) -> Result<()> {
        if let Some(known) = self.topics.get(&topic) {
            return known.check_same(&spec);
        }
        if policy != Policy::Create {
            return Err(missing("topic"));
        }
        let topic_state = Topic {
            spec,
            log: VecDeque::new(),
            delayed: BTreeMap::new(),
            groups: BTreeMap::new(),
            offset: 0,
        };
        self.topics.insert(topic, topic_state);
        Ok(())
    }

    fn ensure_group(
        &mut self,
        topic: &TopicName,
        group: GroupName,
        settings: GroupSettings,
        policy: Policy,
        now: Timestamp,
    ) -> Result<()> {
        let topic = self.topic_mut(topic)?;
        if let Some(known) = topic.groups.get(&group) {
            return known.settings.check_same(&settings);
        }
        if policy != Policy::Create {
            return Err(missing("group"));
        }
        let past = topic.past(settings.start, now)?;
        let mut state = Group::new(settings, topic.partitions());
        for (position, message) in past {
            state.add(Item::first(message, position), now);
        }
        topic.groups.insert(group, state);
        Ok(())
    }

    fn publish_all(&mut self, batch: Vec<Outgoing>, now: Timestamp) -> Result<Vec<Result<Receipt>>> {
        for outgoing in &batch {
            self.accept(outgoing)?;
        }
        Ok(batch.into_iter().map(|outgoing| self.publish(outgoing, now)).collect())
    }

    /// Returns the topic of a message that can be stored.
    fn accept(&mut self, outgoing: &Outgoing) -> Result<&mut Topic> {
        let topic = self.topic_mut(&outgoing.topic)?;
        if outgoing.terms.require_group && topic.groups.is_empty() {
            return Err(Error::unroutable());
        }
        Ok(topic)
    }

    fn publish(&mut self, outgoing: Outgoing, now: Timestamp) -> Result<Receipt> {
        let topic = self.accept(&outgoing)?;
        let message = outgoing.message;
        let id = message.id.clone();
        match message.deliver_at {
            Some(at) if at > now => {
                topic.offset += 1;
                topic.delayed.insert((at, topic.offset), message);
                Ok(Receipt::new(id, None))
            }
            _ => Ok(Receipt::new(id, Some(topic.append(message, now)))),
        }
    }

    fn join(&mut self, member: MemberId, group: GroupName, topics: Vec<TopicName>) -> Result<()> {
        for topic in &topics {
            self.group_mut(topic, &group)?;
        }
        for topic in &topics {
            self.group_mut(topic, &group)?.join(member);
        }
        self.members.insert(member, Member { group, topics });
        Ok(())
    }

    fn fetch(&mut self, member: MemberId, mut budget: Budget, now: Timestamp) -> Result<Batch> {
        let Member { group, topics } = self.members.get(&member).cloned().ok_or_else(|| missing("member"))?;
        let mut batch = Batch::default();
        for (index, name) in topics.iter().enumerate() {
            let topic = self.topic_mut(name)?;
            topic.tick(now);
            let due = topic.delayed.first_key_value().map(|((at, _), _)| *at);
            let group = topic.groups.get_mut(&group).filter(|group| group.members.contains(&member));
            let group = group.ok_or_else(|| missing("group"))?;
            group.tick(now);
            batch.revoked.extend(group.revoked(member).into_iter().map(|(lane, epoch)| (index, lane, epoch)));
            let mut leased = Vec::new();
            group.fetch(member, &mut budget, now, &mut leased);
            batch.leased.extend(leased.into_iter().map(|leased| (index, leased)));
            batch.next_due = [batch.next_due, due, group.next_due()].into_iter().flatten().min();
        }
        Ok(batch)
    }

    fn held(&mut self, member: MemberId, done: &Done) -> Result<&mut Group> {
        let stale = || Error::new(ErrorKind::StaleDelivery, "the member left, or its group was deleted");
        let known = self.members.get(&member).cloned().ok_or_else(stale)?;
        let topic = known.topics.get(done.subscription).ok_or_else(stale)?;
        self.group_mut(topic, &known.group).map_err(|_| stale())
    }

    fn settle(&mut self, member: MemberId, done: Done, now: Timestamp) -> Result<()> {
        self.held(member, &done)?.settle(member, done, now)
    }

    fn release(&mut self, member: MemberId, lane: usize, epoch: u32) -> Result<Reply> {
        let known = self.members.get(&member).cloned().ok_or_else(|| missing("member"))?;
        let (subscription, lane) = split_lane(lane);
        if let Some(topic) = known.topics.get(subscription) {
            self.group_mut(topic, &known.group)?.release(member, lane, epoch);
        }
        Ok(Reply::Done)
    }

    fn remove(&mut self, member: MemberId, died: bool) -> Result<Reply> {
        let Some(known) = self.members.remove(&member) else { return Ok(Reply::Done) };
        for name in &known.topics {
            let Some(topic) = self.topics.get_mut(name) else { continue };
            if let Some(group) = topic.groups.get_mut(&known.group) {
                group.remove(member, died);
                if group.settings.ephemeral && group.members.is_empty() {
                    topic.groups.remove(&known.group);
                }
            }
        }
        Ok(Reply::Done)
    }

    pub(crate) fn group(&self, topic: &TopicName, group: &GroupName) -> Result<&Group> {
        let topic = self.topics.get(topic).ok_or_else(|| missing("topic"))?;
        topic.groups.get(group).ok_or_else(|| missing("group"))
    }

    pub(crate) fn topic_info(&self, name: &TopicName) -> Result<TopicInfo> {
        let topic = self.topics.get(name).ok_or_else(|| missing("topic"))?;
        let mut info = TopicInfo::new(name.as_str());
        info.partitions = Some(topic.partitions());
        info.retention_ms = topic.spec.retention.and_then(|kept| u64::try_from(kept.as_millis()).ok());
        info.groups = Some(topic.groups.keys().map(ToString::to_string).collect());
        Ok(info)
    }

    pub(crate) fn topic_names(&self) -> impl Iterator<Item = &TopicName> {
        self.topics.keys()
    }

    pub(crate) fn peek(
        &self,
        name: &TopicName,
        start: Start,
        limit: usize,
    ) -> Result<Vec<(Message, Option<Position>)>> {
        let topic = self.topics.get(name).ok_or_else(|| missing("topic"))?;
        let skip = match start {
            Start::At(at) => topic.log.partition_point(|(sent, ..)| *sent < at),
            Start::Earliest => 0,
            _ => topic.log.len().saturating_sub(limit),
        };
        let page = topic.log.iter().skip(skip).take(limit);
        Ok(page.map(|(_, position, message)| (message.clone(), Some(*position))).collect())
    }
}

/// Packs a topic's index and a lane into one number.
pub(crate) fn join_lane(subscription: usize, lane: usize) -> u32 {
    ((subscription as u32) << 16) | lane as u32
}

/// Undoes [`join_lane`].
pub(crate) fn split_lane(lane: usize) -> (usize, usize) {
    (lane >> 16, lane & 0xffff)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use mq_core::Terms;
    use mq_core::driver::Outcome;

    use super::*;

    fn name() -> (TopicName, GroupName) {
        (TopicName::new("t").unwrap(), GroupName::new("g").unwrap())
    }

    fn op(kind: u8, member: MemberId, serial: u64) -> Op {
        let (topic, group) = name();
        let message = Message::with_id("x", serial.to_string()).key([member as u8]);
        let done = Done { subscription: 0, serial, epoch: 0, outcome: Outcome::Ack };
        match kind {
            0 => Op::Publish(vec![Outgoing { topic, message, terms: Terms::default() }]),
            1 => Op::Publish(vec![Outgoing {
                topic,
                message: message.deliver_at(Timestamp::from_millis(serial * 7)),
                terms: Terms::default(),
            }]),
            2 => Op::Join(member, group, vec![topic]),
            3 => Op::Fetch(member, Budget { messages: 3, bytes: 100 }),
            4 => Op::Settle(member, vec![done]),
            5 => Op::Leave(member),
            _ => Op::Kill(member),
        }
    }

    proptest! {
        /// A journal of operations and times is the state; and nothing is lost on the way.
        #[test]
        fn replay_gives_the_same_state(ops in proptest::collection::vec((0u8..7, 0u64..4, 0u64..40, 0u64..20), 1..200)) {
            let (topic, group) = name();
            let declare = [
                Op::EnsureTopic(topic.clone(), TopicSpec::default(), Policy::Create),
                Op::EnsureGroup(topic.clone(), group.clone(), GroupSettings::default(), Policy::Create),
            ];
            let mut now = 0;
            let journal: Vec<(Op, Timestamp)> = declare.into_iter().chain(ops.into_iter().map(|(kind, member, serial, _)| op(kind, member, serial)))
                .map(|op| { now += 3; (op, Timestamp::from_millis(now)) }).collect();
            let (mut first, mut again) = (State::default(), State::default());
            let (mut sent, mut acked) = (0, 0);
            for (op, at) in &journal {
                match first.apply(op.clone(), *at) {
                    Ok(Reply::Sent(verdicts)) => sent += verdicts.iter().filter(|verdict| verdict.is_ok()).count(),
                    Ok(Reply::Settled(verdicts)) => acked += verdicts.iter().filter(|verdict| verdict.is_ok()).count(),
                    _ => {}
                }
            }
            for (op, at) in journal {
                drop(again.apply(op, at));
            }
            prop_assert_eq!(&first, &again);
            let later = Timestamp::from_millis(now).plus(Duration::from_secs(1));
            first.apply(Op::Join(99, group.clone(), vec![topic.clone()]), later).unwrap();
            first.apply(Op::Fetch(99, Budget { messages: 1000, bytes: 1 << 20 }), later).unwrap();
            let stats = first.group(&topic, &group).unwrap().stats();
            prop_assert_eq!(stats.in_flight, Some((sent - acked) as u64));
        }
    }
}

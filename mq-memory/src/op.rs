//! What can be asked of the state, as data: the state is a function of its operations and their
//! times, so a journal of them is a durable broker.

use mq_core::driver::{Outcome, Outgoing, Selection};
use mq_core::{Budget, GroupName, GroupSettings, MessageId, Policy, TopicName, TopicSpec};

/// Names a member of a group, for the life of the broker.
pub(crate) type MemberId = u64;

/// A change of the state.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    /// Declare a topic.
    EnsureTopic(TopicName, TopicSpec, Policy),
    /// Declare a group on a topic.
    EnsureGroup(TopicName, GroupName, GroupSettings, Policy),
    /// Delete a topic with its groups.
    DeleteTopic(TopicName),
    /// Delete a group.
    DeleteGroup(TopicName, GroupName),
    /// Store messages.
    Publish(Vec<Outgoing>),
    /// Store all messages or none.
    PublishAll(Vec<Outgoing>),
    /// Take back a delayed message of a topic.
    Cancel(TopicName, MessageId),
    /// Join a group on these topics.
    Join(MemberId, GroupName, Vec<TopicName>),
    /// Lease messages to a member.
    Fetch(MemberId, Budget),
    /// Settle a member's messages.
    Settle(MemberId, Vec<Done>),
    /// Record that a suspect is about to run alone.
    Start(MemberId, Done),
    /// Give up a lane in an orderly way: what is still held of it goes back uncounted.
    Release(MemberId, usize, u32),
    /// Leave: what is held goes back uncounted.
    Leave(MemberId),
    /// Die: what is held goes back as suspect, its attempt counted.
    Kill(MemberId),
    /// Give dead letters back to their group.
    Redrive(TopicName, GroupName, Selection),
    /// Remove dead letters.
    Purge(TopicName, GroupName, Selection),
}

/// A message that a member holds, and what becomes of it.
#[derive(Clone, Debug)]
pub(crate) struct Done {
    /// The index of the topic in the member's list.
    pub(crate) subscription: usize,
    /// The message's number in its group.
    pub(crate) serial: u64,
    /// The ownership of the lane.
    pub(crate) epoch: u32,
    /// What becomes of it.
    pub(crate) outcome: Outcome,
}

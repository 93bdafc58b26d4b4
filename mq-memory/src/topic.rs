//! A topic: what was sent to it, what waits to be, and its groups.

use std::collections::{BTreeMap, VecDeque};

use mq_core::envelope::Envelope;
use mq_core::{
    Error, ErrorKind, GroupName, Message, MessageId, Position, Result, Start, Timestamp, TopicSpec,
};

use crate::group::{Group, Item};

/// How many messages a topic without retention keeps for `peek`.
const PEEK: usize = 1000;

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Topic {
    pub(crate) spec: TopicSpec,
    pub(crate) log: VecDeque<(Timestamp, Position, Message)>,
    pub(crate) delayed: BTreeMap<(Timestamp, u64), Message>,
    pub(crate) groups: BTreeMap<GroupName, Group>,
    pub(crate) offset: u64,
}

impl Item {
    pub(crate) fn first(message: Message, position: Position) -> Self {
        let envelope = Envelope::default();
        Self {
            message,
            envelope,
            position: Some(position),
            redelivered: false,
            suspect: None,
            not_before: None,
        }
    }
}

impl Topic {
    pub(crate) fn partitions(&self) -> u32 {
        self.spec.partitions.unwrap_or(1)
    }

    pub(crate) fn check_same(&self, wanted: &TopicSpec) -> Result<()> {
        let differs = |what: &str, have: String, want: String| {
            Err(Error::new(ErrorKind::Mismatch, format!("the topic has {what} {have}, not {want}")))
        };
        match wanted {
            TopicSpec { partitions: Some(want), .. } if *want != self.partitions() => {
                differs("partitions", self.partitions().to_string(), want.to_string())
            }
            TopicSpec { retention: Some(want), .. } if Some(*want) != self.spec.retention => {
                differs("retention", format!("{:?}", self.spec.retention), format!("{want:?}"))
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn past(&self, start: Start, now: Timestamp) -> Result<Vec<(Position, Message)>> {
        let from = match start {
            Start::Earliest => Timestamp::default(),
            Start::At(at) => at,
            _ => return Ok(Vec::new()),
        };
        let Some(retention) = self.spec.retention else {
            let text = "the topic keeps no past; declare it with `retention` to start before now";
            return Err(Error::new(ErrorKind::Unsupported, text));
        };
        let kept = self.log.iter().filter(|(sent, ..)| *sent >= from && now.since(*sent) <= retention);
        Ok(kept.map(|(_, position, message)| (*position, message.clone())).collect())
    }

    pub(crate) fn append(&mut self, message: Message, now: Timestamp) -> Position {
        let position = Position { partition: 0, offset: self.offset, sub: None };
        self.offset += 1;
        for group in self.groups.values_mut() {
            group.add(Item::first(message.clone(), position), now);
        }
        self.log.push_back((now, position, message));
        while let Some((sent, ..)) = self.log.front() {
            let keep = match self.spec.retention {
                Some(retention) => now.since(*sent) <= retention,
                None => self.log.len() <= PEEK,
            };
            if keep {
                break;
            }
            self.log.pop_front();
        }
        position
    }

    /// Takes back a delayed message that is not due; returns how many there were.
    pub(crate) fn cancel(&mut self, id: &MessageId, now: Timestamp) -> Result<u64> {
        self.tick(now);
        let found: Vec<_> =
            self.delayed.iter().filter(|(_, message)| message.id == *id).map(|(key, _)| *key).collect();
        for key in &found {
            self.delayed.remove(key);
        }
        Ok(found.len() as u64)
    }

    pub(crate) fn tick(&mut self, now: Timestamp) {
        while let Some(entry) = self.delayed.first_entry().filter(|entry| entry.key().0 <= now) {
            let message = entry.remove();
            self.append(message, now);
        }
    }
}

//! One group's share of a topic.

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};

use mq_core::driver::{DeadLetter, Destination, Hold, Outcome, Page, Pending, Relocation, Suspect};
use mq_core::envelope::Envelope;
use mq_core::{Budget, Error, ErrorKind, GroupSettings, Message, Position, Result, Timestamp, policy};

use crate::op::{Done, MemberId};

/// A message in a group.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Item {
    pub(crate) message: Message,
    pub(crate) envelope: Envelope,
    pub(crate) position: Option<Position>,
    pub(crate) redelivered: bool,
    pub(crate) suspect: Option<bool>,
    /// Its last holder kept it until then.
    pub(crate) not_before: Option<Timestamp>,
}

/// A queue with at most one owner in an ordered group, with none in another.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Lane {
    ready: BTreeMap<u64, Item>,
    owner: Option<MemberId>,
    pub(crate) epoch: u32,
    moving: Moving,
}

/// Whether a lane is to go to another member.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Moving {
    #[default]
    No,
    /// Its owner is to be told.
    Due,
    /// Its owner was told and fetches no more of it.
    Told,
}

/// A leased message.
#[derive(Clone, Debug, PartialEq)]
struct Held {
    item: Item,
    lane: usize,
    member: MemberId,
    epoch: u32,
    /// When it was fetched.
    since: Timestamp,
    /// Whether this holder was about to run it alone.
    started: bool,
}

impl Held {
    fn keep(&mut self, Hold { envelope, until }: Hold) {
        self.started = false;
        self.item.envelope = envelope;
        self.item.not_before = until;
        self.item.redelivered = true;
        self.item.suspect = None;
    }
}

/// A message handed to a member.
#[derive(Debug)]
pub(crate) struct Leased {
    pub(crate) serial: u64,
    pub(crate) lane: usize,
    pub(crate) epoch: u32,
    pub(crate) item: Item,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Group {
    pub(crate) settings: GroupSettings,
    pub(crate) lanes: Vec<Lane>,
    held: HashMap<u64, Held>,
    delayed: BTreeMap<(Timestamp, u64), Item>,
    dead: Vec<(Message, Envelope)>,
    pub(crate) members: Vec<MemberId>,
    serial: u64,
}

impl Group {
    pub(crate) fn new(settings: GroupSettings, partitions: u32) -> Self {
        let lanes = if settings.ordered { partitions as usize } else { 1 };
        Self {
            settings,
            lanes: vec![Lane::default(); lanes],
            held: HashMap::new(),
            delayed: BTreeMap::new(),
            dead: Vec::new(),
            members: Vec::new(),
            serial: 0,
        }
    }

    /// Adds a message behind the others; a delayed one waits for its time.
    pub(crate) fn add(&mut self, item: Item, now: Timestamp) {
        self.serial += 1;
        match item.message.deliver_at {
            Some(at) if at > now => drop(self.delayed.insert((at, self.serial), item)),
            _ => {
                let lane = self.lane_of(&item.message);
                self.lanes[lane].ready.insert(self.serial, item);
            }
        }
    }

    fn lane_of(&self, message: &Message) -> usize {
        let mut hasher = DefaultHasher::new();
        match &message.key {
            Some(key) => key.hash(&mut hasher),
            None => self.serial.hash(&mut hasher),
        }
        (hasher.finish() % self.lanes.len() as u64) as usize
    }

    /// Makes ready what is due.
    pub(crate) fn tick(&mut self, now: Timestamp) {
        while let Some(entry) = self.delayed.first_entry().filter(|entry| entry.key().0 <= now) {
            let item = entry.remove();
            self.add(item, now);
        }
    }

    /// Returns when the next delayed message is due.
    pub(crate) fn next_due(&self) -> Option<Timestamp> {
        self.delayed.first_key_value().map(|((at, _), _)| *at)
    }

    pub(crate) fn join(&mut self, member: MemberId) {
        self.members.push(member);
        self.balance();
    }

    /// Gives free lanes to their members of choice, and marks those that are to move.
    fn balance(&mut self) {
        if !self.settings.ordered {
            return;
        }
        for (index, lane) in self.lanes.iter_mut().enumerate() {
            let choice = self.members.iter().copied().max_by_key(|member| {
                let mut hasher = DefaultHasher::new();
                (member, index).hash(&mut hasher);
                hasher.finish()
            });
            if lane.owner.is_none() {
                lane.owner = choice;
                lane.epoch += 1;
                lane.moving = Moving::No;
            } else if lane.owner != choice && lane.moving == Moving::No {
                lane.moving = Moving::Due;
            }
        }
    }

    /// Returns the lanes that `member` is to give up, each once.
    pub(crate) fn revoked(&mut self, member: MemberId) -> Vec<(usize, u32)> {
        let mine = |lane: &Lane| lane.owner == Some(member) && lane.moving == Moving::Due;
        let lanes = self.lanes.iter_mut().enumerate().filter(|(_, lane)| mine(lane));
        lanes
            .map(|(index, lane)| {
                lane.moving = Moving::Told;
                (index, lane.epoch)
            })
            .collect()
    }

    /// Takes a lane from its owner; what is still held of it goes back uncounted.
    pub(crate) fn release(&mut self, member: MemberId, index: usize, epoch: u32) {
        let lane = &mut self.lanes[index];
        if lane.owner == Some(member) && lane.epoch == epoch {
            lane.owner = None;
            self.give_back(|held| held.member == member && held.lane == index, false);
            self.balance();
        }
    }

    /// Removes a member; what it holds goes back, as suspect if it `died`.
    pub(crate) fn remove(&mut self, member: MemberId, died: bool) {
        self.members.retain(|known| *known != member);
        for lane in &mut self.lanes {
            if lane.owner == Some(member) {
                lane.owner = None;
            }
        }
        self.give_back(|held| held.member == member, died);
        self.balance();
    }

    fn give_back(&mut self, which: impl Fn(&Held) -> bool, died: bool) {
        let back: Vec<(u64, Held)> = self.held.extract_if(|_, held| which(held)).collect();
        for (serial, Held { mut item, lane, started, .. }) in back {
            if died {
                item.envelope.attempt += 1;
                item.redelivered = true;
                // Who leaves in order has started nothing; what it found stays.
                item.suspect = Some(started || item.suspect == Some(true));
            }
            self.lanes[lane].ready.insert(serial, item);
        }
    }

    /// Leases messages to a member, in order.
    pub(crate) fn fetch(
        &mut self,
        member: MemberId,
        budget: &mut Budget,
        now: Timestamp,
        into: &mut Vec<Leased>,
    ) {
        for index in 0..self.lanes.len() {
            let lane = &mut self.lanes[index];
            if self.settings.ordered && (lane.owner != Some(member) || lane.moving != Moving::No) {
                continue;
            }
            while budget.messages > 0
                && budget.bytes > 0
                && let Some((serial, item)) = lane.ready.pop_first()
            {
                budget.messages -= 1;
                budget.bytes = budget.bytes.saturating_sub(item.message.size());
                let held = Held {
                    item: item.clone(),
                    lane: index,
                    member,
                    epoch: lane.epoch,
                    since: now,
                    started: false,
                };
                self.held.insert(serial, held);
                into.push(Leased { serial, lane: index, epoch: lane.epoch, item });
            }
        }
    }

    fn held_by(&self, member: MemberId, done: &Done) -> Result<()> {
        match self.held.get(&done.serial) {
            Some(held) if held.member == member && held.epoch == done.epoch => Ok(()),
            _ => Err(Error::new(ErrorKind::StaleDelivery, "the message is not held by this member any more")),
        }
    }

    pub(crate) fn settle(&mut self, member: MemberId, done: Done, now: Timestamp) -> Result<()> {
        self.held_by(member, &done)?;
        match done.outcome {
            Outcome::Ack => drop(self.held.remove(&done.serial)),
            Outcome::Relocate(relocation) => {
                self.held.remove(&done.serial);
                let Relocation { to, message, envelope } = *relocation;
                match to {
                    Destination::Inbox => self.return_to_inbox(message, envelope, now),
                    Destination::Dead => self.dead.push((message, envelope)),
                }
            }
            Outcome::Hold(hold) => {
                if let Some(held) = self.held.get_mut(&done.serial) {
                    held.keep(*hold);
                }
            }
        }
        Ok(())
    }

    fn return_to_inbox(&mut self, message: Message, envelope: Envelope, now: Timestamp) {
        let item =
            Item { message, envelope, position: None, redelivered: true, suspect: None, not_before: None };
        self.add(item, now);
    }

    pub(crate) fn start(&mut self, member: MemberId, done: &Done) -> Result<()> {
        self.held_by(member, done)?;
        if let Some(held) = self.held.get_mut(&done.serial) {
            held.started = true;
        }
        Ok(())
    }

    pub(crate) fn redrive(&mut self, which: impl Fn(&Message) -> bool, now: Timestamp) -> u64 {
        let back: Vec<_> = self.dead.extract_if(.., |(message, _)| which(message)).collect();
        let many = back.len() as u64;
        for (message, envelope) in back {
            let (message, envelope) = policy::redriven(message, &envelope);
            self.return_to_inbox(message, envelope, now);
        }
        many
    }

    pub(crate) fn purge(&mut self, which: impl Fn(&Message) -> bool) -> u64 {
        self.dead.extract_if(.., |(message, _)| which(message)).count() as u64
    }

    pub(crate) fn dead_letters(&self, offset: usize, limit: usize) -> Vec<DeadLetter> {
        let page = self.dead.iter().skip(offset).take(limit);
        page.map(|(message, envelope)| DeadLetter::new(message.clone(), envelope.clone(), None)).collect()
    }

    pub(crate) fn pending(&self, page: Page, now: Timestamp) -> Vec<Pending> {
        let mut held: Vec<_> = self.held.iter().collect();
        held.sort_by_key(|(serial, _)| **serial);
        let page = held.into_iter().skip(page.offset).take(page.limit);
        page.map(|(_, held)| {
            let item = &held.item;
            Pending::new(item.message.id.clone(), format!("member-{}", held.member), item.envelope.attempt)
                .at(item.position)
                .idle(now.since(held.since))
        })
        .collect()
    }

    pub(crate) fn stats(&self) -> mq_core::Stats {
        let ready = self.lanes.iter().map(|lane| lane.ready.len() as u64).sum();
        let oldest = self
            .lanes
            .iter()
            .flat_map(|lane| lane.ready.values())
            .filter_map(|item| item.message.published_at);
        let mut stats = mq_core::Stats::default();
        stats.ready = Some(ready);
        stats.in_flight = Some(self.held.len() as u64);
        stats.delayed = Some(self.delayed.len() as u64);
        stats.dead = Some(self.dead.len() as u64);
        stats.oldest_ready_at = oldest.min();
        stats.consumers = Some(self.members.len() as u64);
        stats
    }
}

impl Leased {
    pub(crate) fn suspect(&self) -> Option<Suspect> {
        self.item.suspect.map(|started| Suspect { started })
    }
}

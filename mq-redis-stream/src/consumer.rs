//! A member of a group: fetching.

use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use async_trait::async_trait;
use mq_core::driver::{Budget, Consumer, Fetched, Incoming, Lane, Settlement, Token};
use mq_core::{Error, ErrorKind, Result};
use redis::Value;

use crate::codec;
use crate::connection::permanent;
use crate::entry::{self, Entry};
use crate::gauge::Gauge;
use crate::intake::Taken;
use crate::member::{Member, Phase, closed, going};
use crate::reader::{Brought, is_gone};
use crate::source::{Outstanding, SMALL, Source};
use crate::{settle, takeover, upkeep};

/// The pause after a read that failed.
const PAUSE: Duration = Duration::from_millis(200);
/// How long `close` waits for a blocked read to end.
const FAREWELL: Duration = Duration::from_secs(3);
/// A member of a group on one or more topics.
pub(crate) struct StreamConsumer {
    member: Arc<Member>,
    fetching: tokio::sync::Mutex<Fetching>,
    upkeep: parking_lot::Mutex<Option<tokio::task::JoinHandle<()>>>,
}

impl fmt::Debug for StreamConsumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamConsumer").field("group", &self.member.group).finish_non_exhaustive()
    }
}

struct Fetching {
    sources: Vec<Source>,
    gauge: Gauge,
    /// Taken over and not returned yet.
    ready: Vec<Arc<Incoming>>,
}

/// Has the member look for what it lost, if a call that takes entries does not end.
struct Doubt<'a>(Option<&'a Member>);

impl Drop for Doubt<'_> {
    fn drop(&mut self) {
        if let Some(member) = self.0 {
            member.recover();
        }
    }
}

enum Woken {
    Read(usize, Result<Brought>, Outstanding),
    Changed,
}

impl StreamConsumer {
    /// Joins the groups and starts the upkeep.
    pub(crate) async fn open(member: Arc<Member>) -> Result<Self> {
        member.control.connect().await?;
        upkeep::join(&member).await?;
        let mut sources = Vec::new();
        for fenced in [false, true] {
            if member.lanes.iter().any(|lane| lane.ordered == fenced) {
                sources.push(Source::open(&member.connector, fenced).await?);
            }
        }
        let upkeep = tokio::spawn(upkeep::run(member.clone()));
        Ok(Self {
            member,
            fetching: tokio::sync::Mutex::new(Fetching {
                sources,
                gauge: Gauge::default(),
                ready: Vec::new(),
            }),
            upkeep: parking_lot::Mutex::new(Some(upkeep)),
        })
    }

    /// Does what has to be done before new entries are read.
    async fn step(&self, fetching: &mut Fetching, budget: Budget) -> Result<Option<Fetched>> {
        let member = &self.member;
        let name = {
            let mut state = member.state.lock();
            going(&state.phase)?;
            if !state.revoked.is_empty() {
                let revoked = std::mem::take(&mut state.revoked);
                return Ok(Some(Fetched { deliveries: Vec::new(), revoked }));
            }
            if matches!(state.phase, Phase::Lost) {
                return Ok(None);
            }
            state.name.clone()
        };
        for source in &mut fetching.sources {
            if source.outstanding.as_ref().is_some_and(|read| read.name != name) {
                // What it still brings belongs to a session that is over.
                source.reset();
            }
        }
        if takeover::wanted(member) {
            if let Some(fetched) = self.quiet(fetching, budget).await {
                return Ok(Some(fetched));
            }
            let mut doubt = Doubt(Some(member));
            let Fetching { gauge, ready, .. } = fetching;
            let taken = takeover::run(member, &name, gauge.count(budget), ready).await;
            doubt.0 = None;
            if let Err(error) = taken {
                self.setback(&name, "take over", error).await?;
            }
        }
        if !fetching.ready.is_empty() {
            let mut deliveries = std::mem::take(&mut fetching.ready);
            {
                let state = member.state.lock();
                deliveries.retain(|incoming| state.lanes.check(incoming.token).is_some());
            }
            if !deliveries.is_empty() {
                return Ok(Some(fetching.brought(deliveries)));
            }
        }
        let rest = fetching.rest(budget);
        let count = fetching.gauge.count(rest);
        let ahead = fetching.ahead(rest, count);
        for source in &mut fetching.sources {
            source.read(member, &name, count, ahead);
        }
        Ok(None)
    }

    /// Ends the blocked reads; returns what they brought.
    async fn quiet(&self, fetching: &mut Fetching, budget: Budget) -> Option<Fetched> {
        for place in 0..fetching.sources.len() {
            fetching.sources[place].hold_back();
            while let Some(brought) = fetching.sources[place].end(&self.member).await {
                let Some(read) = fetching.sources[place].outstanding.take() else { break };
                match self.take_in(fetching, place, brought, read, budget, false).await {
                    Ok(Some(fetched)) => return Some(fetched),
                    Ok(None) => {}
                    Err(error) => self.member.fail(error),
                }
            }
        }
        None
    }

    async fn take_in(
        &self,
        fetching: &mut Fetching,
        place: usize,
        brought: Result<Brought>,
        read: Outstanding,
        budget: Budget,
        ahead: bool,
    ) -> Result<Option<Fetched>> {
        let found = match brought {
            Ok(Brought::Taken(taken)) => return Ok(self.take(fetching, place, taken, &read, budget)),
            Ok(Brought::Entries(found)) => found,
            Ok(Brought::Woken(woken)) => {
                let mut state = self.member.state.lock();
                for (lane, id) in woken {
                    state.lanes.wake(lane, id);
                }
                return Ok(None);
            }
            Err(error) => {
                self.setback(&read.name, "read", error).await?;
                return Ok(None);
            }
        };
        let entries: usize = found.iter().map(|(_, entries)| entries.len()).sum();
        if entries == 0 {
            return Ok(None);
        }
        fetching.sources[place].busy = found.len();
        let left = Budget { messages: budget.messages.saturating_sub(entries), ..budget };
        if ahead && entries >= read.count && left.messages >= SMALL {
            // The next read is under way while this one is parsed. Its bytes are guessed by the last.
            let left = fetching.rest(left);
            let used = fetching.gauge.bytes(entries);
            let left = Budget { bytes: left.bytes.saturating_sub(used), ..left };
            if left.bytes > used {
                let count = fetching.gauge.count(left);
                fetching.sources[place].read(&self.member, &read.name, count, 0);
                fetching.sources[place].begin();
            }
        }
        let deliveries = self.parse(found, &read);
        Ok((!deliveries.is_empty()).then(|| fetching.brought(deliveries)))
    }

    /// Takes in what was decoded as it arrived, and goes on with the read that was sent meanwhile.
    fn take(
        &self,
        fetching: &mut Fetching,
        place: usize,
        taken: Taken,
        read: &Outstanding,
        budget: Budget,
    ) -> Option<Fetched> {
        let entries: usize = taken.found.iter().map(|(.., entries)| entries.len()).sum();
        if let Some(sent) = taken.ahead {
            let ahead = fetching.ahead(fetching.rest(budget), entries + sent.count);
            fetching.sources[place].follow(&self.member, read, sent, ahead);
        }
        if entries == 0 {
            return None;
        }
        fetching.sources[place].busy = taken.found.len();
        let mut deliveries = Vec::with_capacity(entries);
        for (lane, epoch, incoming) in taken.found {
            self.member.admit(lane, epoch, incoming, &mut deliveries);
        }
        (!deliveries.is_empty()).then(|| fetching.brought(deliveries))
    }

    fn parse(&self, found: Vec<(Lane, Vec<Value>)>, read: &Outstanding) -> Vec<Arc<Incoming>> {
        let member = &self.member;
        let mut deliveries = Vec::with_capacity(found.iter().map(|(_, entries)| entries.len()).sum());
        for (lane, entries) in found {
            let Some((_, epoch)) = read.epochs.iter().find(|(known, _)| *known == lane) else { continue };
            let entries = entries.into_iter().filter_map(entry::entry);
            let first = |entry: Entry| member.first(lane, *epoch, entry.id, codec::decode_entry(&entry));
            let incoming = entries.map(first).collect();
            member.admit(lane, *epoch, incoming, &mut deliveries);
        }
        deliveries
    }

    /// Handles a read that failed; returns what ends the consumer.
    async fn setback(&self, name: &str, what: &'static str, error: Error) -> Result<()> {
        if permanent(&error) {
            return Err(error);
        }
        self.member.context.events.failed(what, &error);
        if is_gone(&error) {
            self.member.lost(name);
        } else {
            self.member.recover();
        }
        tokio::time::sleep(PAUSE.mul_f64(0.75 + fastrand::f64() / 2.0)).await;
        Ok(())
    }
}

impl Fetching {
    /// What is left of a budget beside the reads under way.
    fn rest(&self, budget: Budget) -> Budget {
        let outstanding = self.sources.iter().filter_map(|source| source.outstanding.as_ref());
        let asked: usize = outstanding.map(|read| read.count + read.ahead).sum();
        Budget {
            messages: budget.messages.saturating_sub(asked).max(1),
            bytes: budget.bytes.saturating_sub(self.gauge.bytes(asked)).max(1),
        }
    }

    /// How many entries a read may ask for that is sent while others are under way which bring `before`.
    fn ahead(&self, budget: Budget, before: usize) -> usize {
        let used = self.gauge.bytes(before);
        let messages = budget.messages.saturating_sub(before);
        let bytes = budget.bytes.saturating_sub(used);
        if messages < SMALL || bytes <= used { 0 } else { self.gauge.count(Budget { messages, bytes }) }
    }

    fn brought(&mut self, deliveries: Vec<Arc<Incoming>>) -> Fetched {
        let bytes = deliveries.iter().map(|incoming| incoming.message.size()).sum();
        self.gauge.learn(deliveries.len(), bytes);
        Fetched { deliveries, revoked: Vec::new() }
    }

    /// Waits for one of the reads under way, or for a change.
    async fn wait(&mut self, member: &Member) -> Woken {
        let changed = member.changed.notified();
        tokio::pin!(changed);
        poll_fn(|context| {
            for (place, source) in self.sources.iter_mut().enumerate() {
                let Some(read) = &mut source.outstanding else { continue };
                read.begun = true;
                if let Poll::Ready(brought) = read.reading.as_mut().poll(context)
                    && let Some(read) = source.outstanding.take()
                {
                    return Poll::Ready(Woken::Read(place, brought, read));
                }
            }
            changed.as_mut().poll(context).map(|()| Woken::Changed)
        })
        .await
    }
}

#[async_trait]
impl Consumer for StreamConsumer {
    async fn fetch(&self, budget: Budget) -> Result<Fetched> {
        let mut fetching = self.fetching.lock().await;
        loop {
            if let Some(fetched) = self.step(&mut fetching, budget).await? {
                return Ok(fetched);
            }
            if let Woken::Read(place, brought, read) = fetching.wait(&self.member).await
                && let Some(fetched) = self.take_in(&mut fetching, place, brought, read, budget, true).await?
            {
                return Ok(fetched);
            }
        }
    }

    async fn settle(&self, batch: Vec<Settlement>) -> Vec<Result<()>> {
        settle::run(&self.member, batch).await
    }

    async fn start(&self, token: Token) -> Result<()> {
        settle::start(&self.member, token).await
    }

    async fn close(&self) -> Result<()> {
        let member = &self.member;
        {
            let mut state = member.state.lock();
            if matches!(state.phase, Phase::Closed) {
                return Ok(());
            }
            state.phase = Phase::Closed;
            state.revoked.clear();
            state.lanes.lose_all();
        }
        member.changed.notify_one();
        member.duty.notify_one();
        let upkeep = self.upkeep.lock().take();
        if let Some(upkeep) = upkeep
            && tokio::time::timeout(FAREWELL, upkeep).await.is_err()
        {
            member.context.events.failed("close", &closed().with_kind(ErrorKind::Timeout));
        }
        self.end_reads().await;
        let left = upkeep::leave(member).await;
        let removed = upkeep::remove_ephemeral(member).await;
        member.control.close();
        left.and(removed)
    }
}

impl StreamConsumer {
    /// Ends the reads, so that nothing comes to this member after it left.
    async fn end_reads(&self) {
        let mut fetching = self.fetching.lock().await;
        for source in &mut fetching.sources {
            // What it brings is given back with the rest.
            if tokio::time::timeout(FAREWELL, source.end_all(&self.member)).await.is_err() {
                self.member.context.events.failed("end a read", &closed().with_kind(ErrorKind::Timeout));
            }
            source.close();
        }
    }
}

impl Drop for StreamConsumer {
    fn drop(&mut self) {
        if let Some(upkeep) = self.upkeep.lock().take() {
            upkeep.abort();
        }
        self.member.takeover_ends();
    }
}

impl Member {
    /// Lets tasks that hold the member end.
    fn takeover_ends(&self) {
        let mut state = self.state.lock();
        if !matches!(state.phase, Phase::Closed) {
            state.phase = Phase::Closed;
        }
        drop(state);
        for subscribed in &self.subscribed {
            subscribed.takeover.store(false, Ordering::Relaxed);
        }
        self.duty.notify_one();
    }
}

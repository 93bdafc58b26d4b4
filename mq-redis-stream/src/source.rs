//! The two ways to read, each with at most one read under way.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use mq_core::Result;
use mq_core::driver::Lane;

use crate::connection::{Connector, Link};
use crate::entry::EntryId;
use crate::intake::{Ahead, Intake, Request};
use crate::lanes::{Lanes, Stage};
use crate::member::Member;
use crate::reader::{Brought, Reader, Reading};

/// A read this small counts against the budget lane by lane.
pub(crate) const SMALL: usize = 64;
/// How long a read that was woken has until it is woken again.
const AGAIN: Duration = Duration::from_millis(20);

/// A read under way, and whose.
pub(crate) struct Outstanding {
    pub(crate) reading: Reading,
    /// Whether it was polled: else it has sent nothing.
    pub(crate) begun: bool,
    pub(crate) count: usize,
    /// How much the read behind it asks for, if it is sent before this one is decoded.
    pub(crate) ahead: usize,
    pub(crate) name: Arc<str>,
    pub(crate) epochs: Arc<[(Lane, u32)]>,
}

#[derive(Clone)]
enum Way {
    Open(Arc<Intake>),
    Fenced(Arc<Reader>),
}

impl Way {
    async fn wake(&self, control: &Link) -> Result<()> {
        match self {
            Self::Open(intake) => intake.wake(control).await,
            Self::Fenced(reader) => reader.wake(control).await,
        }
    }
}

/// One of the two ways to read.
pub(crate) struct Source {
    way: Way,
    pub(crate) outstanding: Option<Outstanding>,
    /// How many lanes the last read that brought something brought it from.
    pub(crate) busy: usize,
    /// Where the next read of lanes begins, so that each has its turn.
    turn: usize,
}

impl Source {
    /// Connects; `fenced` is for lanes that have owners.
    pub(crate) async fn open(connector: &Arc<Connector>, fenced: bool) -> Result<Self> {
        let way = if fenced {
            let reader = Reader::new(connector, "ordered reader");
            reader.connect().await?;
            Way::Fenced(reader)
        } else {
            let intake = Intake::new(connector, "reader");
            intake.connect().await?;
            Way::Open(intake)
        };
        Ok(Self { way, outstanding: None, busy: 1, turn: 0 })
    }

    /// Gives up the read under way and its connection.
    pub(crate) fn reset(&mut self) {
        self.outstanding = None;
        match &self.way {
            Way::Open(intake) => intake.reset(),
            Way::Fenced(reader) => reader.reset(),
        }
    }

    /// Closes the connection for good; what it was reading is pending for this member.
    pub(crate) fn close(&mut self) {
        self.outstanding = None;
        match &self.way {
            Way::Open(intake) => intake.close(),
            Way::Fenced(reader) => reader.close(),
        }
    }

    /// From now on no read is sent ahead, until another is started.
    pub(crate) fn hold_back(&self) {
        if let Way::Open(intake) = &self.way {
            intake.allow_ahead(false);
        }
    }

    /// Ends all reads under way and forgets what they brought.
    pub(crate) async fn end_all(&mut self, member: &Arc<Member>) {
        self.hold_back();
        while let Some(brought) = self.end(member).await {
            let Some(read) = self.outstanding.take() else { return };
            if let Ok(Brought::Taken(taken)) = brought
                && let Some(sent) = taken.ahead
            {
                self.follow(member, &read, sent, 0);
            }
        }
    }

    /// Ends the read under way and returns what it brought; it stays under way if this is dropped.
    pub(crate) async fn end(&mut self, member: &Member) -> Option<Result<Brought>> {
        let read = self.outstanding.as_mut()?;
        if !read.begun {
            return Some(Ok(Brought::Woken(Vec::new())));
        }
        Some(tokio::select! {
            brought = read.reading.as_mut() => brought,
            never = keep_waking(&self.way, member) => match never {},
        })
    }

    /// Goes on with the read that was sent ahead of the end of `last`.
    pub(crate) fn follow(&mut self, member: &Arc<Member>, last: &Outstanding, sent: Ahead, ahead: usize) {
        let Way::Open(intake) = &self.way else { return };
        let (name, epochs, Ahead { busy, count }) = (last.name.clone(), last.epochs.clone(), sent);
        let request = Request { name: name.clone(), lanes: epochs.clone(), busy, count, ahead, sent: true };
        let reading = intake.read(member, request);
        self.outstanding = Some(Outstanding { reading, begun: true, count, ahead, name, epochs });
    }

    /// Sends the read under way, if that needs no waiting.
    pub(crate) fn begin(&mut self) {
        let Some(read) = &mut self.outstanding else { return };
        read.begun = true;
        if let Poll::Ready(brought) = read.reading.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            read.reading = Box::pin(std::future::ready(brought));
        }
    }

    /// Starts a read, if none is under way and there are lanes to read. The one behind it may ask for
    /// `ahead` entries.
    pub(crate) fn read(&mut self, member: &Arc<Member>, name: &Arc<str>, count: usize, ahead: usize) {
        if self.outstanding.is_some() || count == 0 {
            return;
        }
        let fenced = matches!(self.way, Way::Fenced(_));
        let state = member.state.lock();
        let lanes: Arc<[(Lane, u32)]> = (0..)
            .zip(&member.lanes)
            .filter(|(lane, info)| info.ordered == fenced && state.lanes.stage(*lane) == Stage::Reading)
            .filter_map(|(lane, _)| state.lanes.epoch(lane).map(|epoch| (lane, epoch)))
            .collect();
        if lanes.is_empty() {
            return;
        }
        let (reading, ahead) = match &self.way {
            Way::Fenced(reader) => {
                let mut pairs = pairs(&lanes, &state.lanes);
                drop(state);
                if pairs.is_empty() {
                    return;
                }
                self.turn = (self.turn + 1) % pairs.len();
                pairs.rotate_left(self.turn);
                let busy = expected(self.busy, count, 2 * pairs.len());
                (reader.fenced_read(member, name, pairs, (count / busy).max(1)), 0)
            }
            Way::Open(intake) => {
                drop(state);
                intake.allow_ahead(true);
                let busy = expected(self.busy, count, lanes.len());
                let (name, lanes) = (name.clone(), lanes.clone());
                let request = Request { name, lanes, busy, count, ahead, sent: false };
                (intake.read(member, request), ahead)
            }
        };
        let (name, epochs) = (name.clone(), lanes);
        self.outstanding = Some(Outstanding { reading, begun: false, count, ahead, name, epochs });
    }
}

/// How many lanes are expected to bring something: COUNT holds for each.
fn expected(busy: usize, count: usize, lanes: usize) -> usize {
    if count < SMALL { lanes } else { busy.clamp(1, lanes) }
}

/// The lanes of partitions of which both are read, with where to wait from.
fn pairs(lanes: &[(Lane, u32)], state: &Lanes) -> Vec<[(Lane, EntryId); 2]> {
    lanes
        .windows(2)
        .filter(|pair| pair[0].0 % 2 == 0 && pair[1].0 == pair[0].0 + 1)
        .map(|pair| [pair[0].0, pair[1].0].map(|lane| (lane, state.woken(lane))))
        .collect()
}

/// Wakes a read again and again: the first call may arrive before the read does.
async fn keep_waking(way: &Way, member: &Member) -> Infallible {
    loop {
        if let Err(error) = way.wake(&member.control).await {
            member.context.events.failed("wake a read", &error);
        }
        tokio::time::sleep(AGAIN).await;
    }
}

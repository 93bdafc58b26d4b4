//! The two ways to read, each with at most one read under way.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use mq_core::Result;
use mq_core::driver::Lane;

use crate::entry::EntryId;
use crate::lanes::Stage;
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
    pub(crate) name: Arc<str>,
    pub(crate) epochs: Vec<(Lane, u32)>,
}

/// One of the two ways to read.
pub(crate) struct Source {
    pub(crate) reader: Arc<Reader>,
    pub(crate) fenced: bool,
    pub(crate) outstanding: Option<Outstanding>,
    /// How many lanes the last read that brought something brought it from.
    pub(crate) busy: usize,
    /// Where the next read of lanes begins, so that each has its turn.
    turn: usize,
}

impl Source {
    pub(crate) fn new(reader: Arc<Reader>, fenced: bool) -> Self {
        Self { reader, fenced, outstanding: None, busy: 1, turn: 0 }
    }

    /// Ends the read under way and returns what it brought; it stays under way if this is dropped.
    pub(crate) async fn end(&mut self, member: &Member) -> Option<Result<Brought>> {
        let read = self.outstanding.as_mut()?;
        if !read.begun {
            return Some(Ok(Brought::Woken(Vec::new())));
        }
        Some(tokio::select! {
            brought = read.reading.as_mut() => brought,
            never = keep_waking(&self.reader, member) => match never {},
        })
    }

    /// Starts a read, if none is under way and there are lanes to read.
    pub(crate) fn read(&mut self, member: &Arc<Member>, name: &Arc<str>, count: usize) {
        if self.outstanding.is_some() || count == 0 {
            return;
        }
        let state = member.state.lock();
        let lanes: Vec<(Lane, u32)> = (0..)
            .zip(&member.lanes)
            .filter(|(lane, info)| info.ordered == self.fenced && state.lanes.stage(*lane) == Stage::Reading)
            .filter_map(|(lane, _)| state.lanes.epoch(lane).map(|epoch| (lane, epoch)))
            .collect();
        if lanes.is_empty() {
            return;
        }
        let reading = if self.fenced {
            let mut pairs: Vec<[(Lane, EntryId); 2]> = lanes
                .windows(2)
                .filter(|pair| pair[0].0 % 2 == 0 && pair[1].0 == pair[0].0 + 1)
                .map(|pair| [pair[0].0, pair[1].0].map(|lane| (lane, state.lanes.woken(lane))))
                .collect();
            drop(state);
            if pairs.is_empty() {
                return;
            }
            self.turn = (self.turn + 1) % pairs.len();
            pairs.rotate_left(self.turn);
            let busy = if count < SMALL { 2 * pairs.len() } else { self.busy.clamp(1, 2 * pairs.len()) };
            self.reader.fenced_read(member, name, pairs, (count / busy).max(1))
        } else {
            drop(state);
            // COUNT holds for each stream.
            let busy = if count < SMALL { lanes.len() } else { self.busy.clamp(1, lanes.len()) };
            let streams: Vec<Lane> = lanes.iter().map(|(lane, _)| *lane).collect();
            self.reader.group_read(member, name, &streams, (count / busy).max(1))
        };
        self.outstanding =
            Some(Outstanding { reading, begun: false, count, name: name.clone(), epochs: lanes });
    }
}

/// Wakes a read again and again: the first call may arrive before the read does.
async fn keep_waking(reader: &Reader, member: &Member) -> Infallible {
    loop {
        if let Err(error) = reader.wake(&member.control).await {
            member.context.events.failed("wake a read", &error);
        }
        tokio::time::sleep(AGAIN).await;
    }
}

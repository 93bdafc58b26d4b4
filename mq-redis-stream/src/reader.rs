//! Reading new entries of ordered groups, on a connection of its own where a read may block.

use std::collections::HashSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use mq_core::driver::Lane;
use mq_core::{ErrorKind, Result};
use parking_lot::Mutex;
use redis::{Cmd, Pipeline, Value};

use crate::connection::{Connector, Link, Live, checked};
use crate::entry::{self, EntryId, array, integer, text};
use crate::intake::Taken;
use crate::member::{Member, Subscribed};

/// How long a read waits on the server.
const BLOCK: Duration = Duration::from_secs(2);
/// The pause before lanes that others own are looked at again.
const RECONSIDER: Duration = Duration::from_millis(50);

/// How long the server may be silent on a connection for reads.
pub(crate) const PATIENCE: Duration = BLOCK.saturating_add(Duration::from_secs(8));

/// What a read brought.
#[derive(Debug)]
pub(crate) enum Brought {
    /// New entries, parsed.
    Taken(Taken),
    /// New entries by lane, not parsed yet.
    Entries(Found),
    /// Nothing, or only that lanes have entries up to these.
    Woken(Vec<(Lane, EntryId)>),
}

/// A read under way.
pub(crate) type Reading = Pin<Box<dyn Future<Output = Result<Brought>> + Send>>;

/// A connection for blocking reads.
#[derive(Debug)]
pub(crate) struct Reader {
    link: Link,
    /// The connection's number on the server, for waking it, and which connection that was.
    number: AtomicI64,
    numbered: AtomicU64,
    /// For the next read of lanes with owners.
    owned: Mutex<Option<Owned>>,
}

impl Reader {
    pub(crate) fn new(connector: &Arc<Connector>, what: &'static str) -> Arc<Self> {
        let link = Link::with_timeout(connector, what, PATIENCE);
        Arc::new(Self {
            link,
            number: AtomicI64::new(0),
            numbered: AtomicU64::new(0),
            owned: Mutex::new(None),
        })
    }

    pub(crate) async fn connect(&self) -> Result<()> {
        self.link.connect().await
    }

    /// Closes the connection; what it was reading is pending for this member.
    pub(crate) fn close(&self) {
        self.link.close();
    }

    /// Drops the connection and what it was reading.
    pub(crate) fn reset(&self) {
        self.link.reset();
    }

    /// Ends a blocked read at once, with what it has.
    pub(crate) async fn wake(&self, control: &Link) -> Result<()> {
        let number = self.number.load(Ordering::Acquire);
        if number != 0 {
            control.query(redis::cmd("CLIENT").arg("UNBLOCK").arg(number)).await?;
        }
        Ok(())
    }

    /// Waits for the connection, and learns its number on the server.
    async fn live(&self) -> Result<Live> {
        let mut live = self.link.live().await?;
        if self.numbered.load(Ordering::Acquire) != live.generation() {
            let ask = live.connection.send_packed_command(redis::cmd("CLIENT").arg("ID")).await;
            // Without the number a read ends by itself.
            let number = ask.ok().as_ref().and_then(integer).unwrap_or(0);
            self.number.store(number, Ordering::Release);
            self.numbered.store(live.generation(), Ordering::Release);
        }
        Ok(live)
    }

    /// Reads from the lanes of ordered groups that are this member's; waits if there is nothing,
    /// without taking anything while it waits.
    ///
    /// The owners are watched, so a read takes nothing if they changed since they were looked at.
    pub(crate) fn fenced_read(
        self: &Arc<Self>,
        member: &Arc<Member>,
        name: &Arc<str>,
        pairs: Vec<[(Lane, EntryId); 2]>,
        count: usize,
    ) -> Reading {
        let (reader, member, name) = (self.clone(), member.clone(), name.clone());
        Box::pin(async move {
            let fence = Fence { member: &member, name: &name, pairs: &pairs, count };
            let owned = reader.owned.lock().take();
            let live = reader.live().await?;
            let owned = match owned.filter(|owned| owned.generation == live.generation()) {
                Some(owned) => owned,
                None => fence.look(&reader.link, &live).await?,
            };
            let (found, owned) = fence.read(&reader.link, &live, owned).await?;
            let any = fence.mine(&owned).next().is_some();
            *reader.owned.lock() = Some(owned);
            let Some(found) = found else { return Ok(Brought::Woken(Vec::new())) };
            if !found.is_empty() {
                return Ok(Brought::Entries(found));
            }
            if !any {
                // The upkeep finds out whose they are.
                member.duty.notify_one();
                tokio::time::sleep(RECONSIDER).await;
                return Ok(Brought::Woken(Vec::new()));
            }
            let streams = array(checked(reader.link.query_on(live, &fence.wait()).await?)?).into_iter();
            Ok(Brought::Woken(streams.filter_map(|stream| last_entry(&member, stream)).collect()))
        })
    }
}

/// The lanes that were this member's when they began to be watched.
#[derive(Debug)]
struct Owned {
    generation: u64,
    lanes: HashSet<Lane>,
}

/// A read of lanes that have owners.
struct Fence<'a> {
    member: &'a Member,
    name: &'a str,
    pairs: &'a [[(Lane, EntryId); 2]],
    count: usize,
}

impl Fence<'_> {
    fn topics(&self) -> impl Iterator<Item = &Subscribed> {
        self.member.subscribed.iter().filter(|subscribed| subscribed.settings.ordered)
    }

    fn mine(&self, owned: &Owned) -> impl Iterator<Item = Lane> {
        self.pairs.iter().flatten().map(|(lane, _)| *lane).filter(|lane| owned.lanes.contains(lane))
    }

    /// Adds the commands that watch the owners and name them.
    fn watch(&self, pipeline: &mut Pipeline) {
        let watch = pipeline.cmd("WATCH");
        for subscribed in self.topics() {
            watch.arg(&subscribed.keys.lanes);
        }
        for subscribed in self.topics() {
            pipeline.cmd("HGETALL").arg(&subscribed.keys.lanes);
        }
    }

    fn owned(&self, generation: u64, mut replies: impl Iterator<Item = Value>) -> Result<Owned> {
        let mut lanes = HashSet::new();
        checked(replies.next().unwrap_or_default())?;
        for subscribed in self.topics() {
            let owners = array(checked(replies.next().unwrap_or_default())?);
            for owner in owners.chunks_exact(2) {
                if let (Some(partition), Value::BulkString(name)) = (integer(&owner[0]), &owner[1])
                    && name == self.name.as_bytes()
                    && let Ok(partition) = u32::try_from(partition)
                    && partition < subscribed.partitions()
                {
                    lanes.extend(subscribed.pair(partition));
                }
            }
        }
        Ok(Owned { generation, lanes })
    }

    async fn look(&self, link: &Link, live: &Live) -> Result<Owned> {
        let mut pipeline = Pipeline::new();
        self.watch(&mut pipeline);
        let replies = link.pipeline_on(live.clone(), &pipeline).await?;
        self.owned(live.generation(), replies.into_iter())
    }

    /// Reads what is there, unless owners changed, then `None`; watches again for the next read.
    async fn read(&self, link: &Link, live: &Live, owned: Owned) -> Result<(Option<Found>, Owned)> {
        let lanes: Vec<Lane> = self.mine(&owned).collect();
        let mut pipeline = Pipeline::new();
        let reading = !lanes.is_empty();
        if reading {
            pipeline.cmd("MULTI");
            pipeline.add_command(group_command(
                self.member,
                self.name,
                lanes.iter().copied(),
                self.count,
                false,
            ));
            pipeline.cmd("EXEC");
        }
        self.watch(&mut pipeline);
        let mut replies = link.pipeline_on(live.clone(), &pipeline).await?.into_iter();
        let mut found = Some(Vec::new());
        if reading {
            checked(replies.next().unwrap_or_default())?;
            checked(replies.next().unwrap_or_default())?;
            found = match checked(replies.next().unwrap_or_default())? {
                Value::Array(read) => {
                    let streams = checked(read.into_iter().next().unwrap_or_default())?;
                    Some(found_in(self.member, streams))
                }
                _ => None,
            };
        }
        Ok((found, self.owned(live.generation(), replies)?))
    }

    fn wait(&self) -> Cmd {
        let mut wait = redis::cmd("XREAD");
        wait.arg("COUNT").arg(1).arg("BLOCK").arg(BLOCK.as_millis().to_string()).arg("STREAMS");
        for (lane, _) in self.pairs.iter().flatten() {
            wait.arg(&self.member.lane(*lane).stream);
        }
        for (_, woken) in self.pairs.iter().flatten() {
            woken.with_text(|id| {
                wait.arg(id);
            });
        }
        wait
    }
}

/// Entries by lane.
type Found = Vec<(Lane, Vec<Value>)>;

/// The command that reads new entries.
pub(crate) fn group_command(
    member: &Member,
    name: &str,
    lanes: impl ExactSizeIterator<Item = Lane> + Clone,
    count: usize,
    block: bool,
) -> Cmd {
    let mut cmd = Cmd::with_capacity(9 + 2 * lanes.len(), 200 + 64 * lanes.len());
    cmd.arg("XREADGROUP").arg("GROUP").arg(member.group.as_str()).arg(name).arg("COUNT").arg(count);
    if block {
        cmd.arg("BLOCK").arg(BLOCK.as_millis().to_string());
    }
    cmd.arg("STREAMS");
    for lane in lanes.clone() {
        cmd.arg(&member.lane(lane).stream);
    }
    for _ in lanes {
        cmd.arg(">");
    }
    cmd
}

fn found_in(member: &Member, streams: Value) -> Found {
    let lane = |stream: Value| {
        let mut parts = array(stream).into_iter();
        let lane = *member.streams.get(&text(parts.next()?)?)?;
        Some((lane, array(parts.next()?)))
    };
    array(streams).into_iter().filter_map(lane).filter(|(_, entries)| !entries.is_empty()).collect()
}

fn last_entry(member: &Member, stream: Value) -> Option<(Lane, EntryId)> {
    let mut parts = array(stream).into_iter();
    let lane = *member.streams.get(&text(parts.next()?)?)?;
    let last = array(parts.next()?).into_iter().filter_map(entry::entry).next_back()?;
    Some((lane, last.id))
}

/// Whether a group or stream is not there any more.
pub(crate) fn is_gone(error: &mq_core::Error) -> bool {
    error.kind() == ErrorKind::NotFound
}

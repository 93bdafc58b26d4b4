//! Reading new entries of unordered groups: the next read is sent as soon as the reply to the last
//! shows that there is more, and the server works on it while that reply is decoded.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use bytes::Bytes;
use mq_core::driver::{Incoming, Lane};
use mq_core::{Error, ErrorKind, Event, Result};
use parking_lot::Mutex;

use crate::codec;
use crate::connection::{Connector, Dial, Link, permanent};
use crate::member::Member;
use crate::reader::{Brought, PATIENCE, Reading, group_command};
use crate::resp::{Part, ReadReply};
use crate::wire::Wire;

/// A connection for such reads.
#[derive(Debug)]
pub(crate) struct Intake {
    connector: Arc<Connector>,
    what: &'static str,
    /// Not there while a read is under way, nor after one that failed or was given up.
    resting: Mutex<Resting>,
    /// The connection's number on the server, for waking it.
    number: AtomicI64,
    /// Whether reads may be sent ahead.
    ahead: AtomicBool,
    dial: tokio::sync::Mutex<Dial>,
}

#[derive(Debug, Default)]
struct Resting {
    wire: Option<Wire>,
    closed: bool,
    /// Counts what made a read under way not the one to go on with.
    resets: u64,
}

/// What to read.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) name: Arc<str>,
    pub(crate) lanes: Arc<[(Lane, u32)]>,
    /// How many lanes are expected to bring something.
    pub(crate) busy: usize,
    /// How many entries in all.
    pub(crate) count: usize,
    /// How many entries the next read may ask for, if it may be sent before this one is decoded.
    pub(crate) ahead: usize,
    /// Whether it was sent ahead.
    pub(crate) sent: bool,
}

impl Request {
    /// How many entries to ask of each stream.
    fn each(&self) -> usize {
        (self.count / self.busy).max(1)
    }
}

/// A read that was sent ahead.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ahead {
    pub(crate) busy: usize,
    pub(crate) count: usize,
}

/// What a reply brought.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    pub(crate) found: Vec<(Lane, u32, Vec<Arc<Incoming>>)>,
    /// The read that was sent behind this one.
    pub(crate) ahead: Option<Ahead>,
}

impl Intake {
    pub(crate) fn new(connector: &Arc<Connector>, what: &'static str) -> Arc<Self> {
        Arc::new(Self {
            connector: connector.clone(),
            what,
            resting: Mutex::default(),
            number: AtomicI64::new(0),
            ahead: AtomicBool::new(true),
            dial: tokio::sync::Mutex::new(Dial::new()),
        })
    }

    /// Connects once, for whoever wants to know at once what is wrong.
    pub(crate) async fn connect(&self) -> Result<()> {
        let wire = self.dial(&mut *self.dial.lock().await).await?;
        self.resting.lock().wire = Some(wire);
        Ok(())
    }

    /// Closes the connection for good; what it was reading is pending for this member.
    pub(crate) fn close(&self) {
        let mut resting = self.resting.lock();
        (resting.closed, resting.wire) = (true, None);
    }

    /// Drops the connection.
    pub(crate) fn reset(&self) {
        let mut resting = self.resting.lock();
        resting.resets += 1;
        resting.wire = None;
    }

    /// Says whether reads may be sent ahead.
    pub(crate) fn allow_ahead(&self, allowed: bool) {
        self.ahead.store(allowed, Ordering::Relaxed);
    }

    /// Ends a blocked read at once, with what it has.
    pub(crate) async fn wake(&self, control: &Link) -> Result<()> {
        let number = self.number.load(Ordering::Acquire);
        if number != 0 {
            control.query(redis::cmd("CLIENT").arg("UNBLOCK").arg(number)).await?;
        }
        Ok(())
    }

    async fn dial(&self, dial: &mut Dial) -> Result<Wire> {
        match self.connector.wire(PATIENCE).await {
            Ok(wire) => {
                dial.made();
                self.number.store(wire.number(), Ordering::Release);
                self.connector.events.emit(Event::Connected { what: self.what });
                Ok(wire)
            }
            Err(error) => {
                dial.failed();
                Err(error)
            }
        }
    }

    /// Takes the connection, or makes one, however long it takes.
    async fn live(&self) -> Result<Wire> {
        loop {
            {
                let mut resting = self.resting.lock();
                if resting.closed {
                    return Err(Error::new(ErrorKind::Closed, "the connection was closed"));
                }
                if let Some(wire) = resting.wire.take() {
                    return Ok(wire);
                }
            }
            let mut dial = self.dial.lock().await;
            dial.wait().await;
            match self.dial(&mut dial).await {
                Ok(wire) => return Ok(wire),
                Err(error) if permanent(&error) => return Err(error),
                Err(error) => self.connector.events.failed("connect", &error),
            }
        }
    }

    fn sent_ahead(&self) -> Result<Wire> {
        self.resting.lock().wire.take().ok_or_else(|| {
            Error::new(ErrorKind::Unavailable, "the connection went away before the reply was read")
        })
    }

    /// Reads from lanes, waiting if there is nothing.
    pub(crate) fn read(self: &Arc<Self>, member: &Arc<Member>, request: Request) -> Reading {
        let (intake, member) = (self.clone(), member.clone());
        Box::pin(async move { intake.take(&member, request).await })
    }

    async fn take(&self, member: &Member, request: Request) -> Result<Brought> {
        let resets = self.resting.lock().resets;
        let mut wire = if request.sent { self.sent_ahead()? } else { self.live().await? };
        let taken = self.take_on(&mut wire, member, &request).await;
        if let Err(Failure::Broken(error)) = &taken {
            let reason = error.message().to_owned();
            self.connector.events.emit(Event::Disconnected { what: self.what, reason });
        } else {
            let mut resting = self.resting.lock();
            if resting.resets == resets && !resting.closed {
                resting.wire = Some(wire);
            }
        }
        taken.map(Brought::Taken).map_err(|(Failure::Broken(error) | Failure::Refused(error))| error)
    }

    async fn take_on(
        &self,
        wire: &mut Wire,
        member: &Member,
        request: &Request,
    ) -> std::result::Result<Taken, Failure> {
        if !request.sent {
            send(wire, member, request, request.each()).await?;
        }
        let (mut taken, mut reply, mut streams) = (Taken::default(), ReadReply::default(), 0);
        let mut into = None;
        loop {
            let Some((part, used)) = reply.next(wire.input())? else {
                wire.fill().await?;
                continue;
            };
            match part {
                Part::Error(length) => return Err(Failure::Refused(wire.refusal(length))),
                Part::Streams(count) => streams = count,
                Part::Stream(name, count) => {
                    let known = std::str::from_utf8(&wire.input()[name]).ok();
                    let lane = known.and_then(|name| member.streams.get(name)).copied();
                    into = lane.and_then(|lane| request.lanes.iter().find(|(known, _)| *known == lane));
                    if let Some((lane, epoch)) = into {
                        taken.found.push((*lane, *epoch, Vec::with_capacity(count)));
                    }
                    if count >= request.each() && streams <= request.busy {
                        self.send_ahead(wire, member, request, streams, &mut taken).await?;
                    }
                }
                Part::Entry(id, block) => {
                    if let (Some((lane, epoch)), Some((.., entries))) = (into, taken.found.last_mut()) {
                        let block = Bytes::copy_from_slice(&wire.input()[block]);
                        let decoded = codec::decode(id, &block, reply.fields());
                        entries.push(member.first(*lane, *epoch, id, decoded));
                    }
                }
                Part::Deleted => {}
                Part::End => return Ok(taken),
            }
            wire.consume(used);
        }
    }

    /// There is more than this read takes: the server may look for it now.
    async fn send_ahead(
        &self,
        wire: &mut Wire,
        member: &Member,
        request: &Request,
        busy: usize,
        taken: &mut Taken,
    ) -> Result<()> {
        if request.ahead > 0 && taken.ahead.is_none() && self.ahead.load(Ordering::Relaxed) {
            send(wire, member, request, (request.ahead / busy).max(1)).await?;
            taken.ahead = Some(Ahead { busy, count: request.ahead });
        }
        Ok(())
    }
}

async fn send(wire: &mut Wire, member: &Member, request: &Request, each: usize) -> Result<()> {
    let lanes = request.lanes.iter().map(|(lane, _)| *lane);
    wire.push(&group_command(member, &request.name, lanes, each, true));
    wire.flush().await
}

/// Why a read failed.
enum Failure {
    /// The connection is of no use any more.
    Broken(Error),
    /// The server answered with an error.
    Refused(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Broken(error)
    }
}

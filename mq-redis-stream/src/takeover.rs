//! Taking what is pending: of members that are gone, of a lane's former owner, of a lost reply.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use mq_core::driver::{Incoming, Lane};
use mq_core::{Event, Result};
use redis::{Pipeline, Value};

use crate::connection::checked;
use crate::entry::{self, EntryId, Pending, array, id, integer, pending, status, text};
use crate::lanes::Stage;
use crate::member::{Member, Subscribed};
use crate::scripts::Script;

/// The most entries that one run of a script takes over.
const CLAIM: usize = 100;
/// The most pending entries looked at in one reply.
const LOOK: usize = 1000;

/// Returns whether something may be pending that nobody works on.
pub(crate) fn wanted(member: &Member) -> bool {
    let claim = |of: &Subscribed| !of.settings.ordered && of.takeover.load(Ordering::Acquire);
    if member.subscribed.iter().any(claim) {
        return true;
    }
    let state = member.state.lock();
    state.recover || !scanning(member, &state.lanes).is_empty()
}

fn scanning(member: &Member, lanes: &crate::lanes::Lanes) -> Vec<(Lane, u32, Option<EntryId>)> {
    (0..)
        .zip(&member.lanes)
        .filter(|(_, info)| info.ordered)
        .filter_map(|(lane, _)| match lanes.stage(lane) {
            Stage::Scanning(from) => Some((lane, lanes.epoch(lane)?, from)),
            _ => None,
        })
        .collect()
}

/// Takes what it finds, about `room` of it. No read may be under way.
pub(crate) async fn run(
    member: &Arc<Member>,
    name: &str,
    room: usize,
    out: &mut Vec<Arc<Incoming>>,
) -> Result<()> {
    recover(member, name, room, out).await?;
    scan(member, name, room, out).await?;
    for subscribed in &member.subscribed {
        if !subscribed.settings.ordered
            && out.len() < room
            && subscribed.takeover.swap(false, Ordering::AcqRel)
        {
            let taken = claim(member, subscribed, name, room - out.len(), out).await;
            // There may be more where this came from, or it may be there still.
            if !matches!(taken, Ok(0)) {
                subscribed.takeover.store(true, Ordering::Release);
            }
            if taken? == 0 {
                bury(member, subscribed).await?;
            }
        }
    }
    Ok(())
}

fn lost(member: &Member, count: Option<i64>, lane: Lane) {
    if let Some(count @ 1..) = count {
        let stream = &member.lane(lane).stream;
        let what = format!("{count} entries of {stream} were deleted while they were pending");
        member.context.events.emit(Event::Lost { what });
    }
}

/// Takes over from members that are gone; returns how many entries there were.
async fn claim(
    member: &Arc<Member>,
    subscribed: &Subscribed,
    name: &str,
    room: usize,
    out: &mut Vec<Arc<Incoming>>,
) -> Result<usize> {
    let keys = &subscribed.keys;
    let limit = (room / subscribed.lanes().len()).clamp(1, CLAIM);
    let mut pipeline = Pipeline::new();
    for lane in subscribed.lanes() {
        let info = member.lane(lane);
        let mut cmd = Script::Claim.call(&[&keys.members, &keys.started, &info.stream]);
        cmd.arg(keys.group.as_str()).arg(name).arg(limit).arg(&info.mark);
        pipeline.add_command(cmd);
    }
    let mut seen = 0;
    let replies = member.control.pipeline(&pipeline).await?;
    for (lane, reply) in subscribed.lanes().zip(replies) {
        let (session, mut rest) = status(checked(reply)?, "claim")?;
        if session < 0 {
            member.lost(name);
            return Ok(seen);
        }
        let gone = rest.next().as_ref().and_then(integer);
        lost(member, gone, lane);
        seen += gone.and_then(|gone| usize::try_from(gone).ok()).unwrap_or(0);
        let taken = array(rest.next().unwrap_or_default());
        seen += taken.len();
        admit(member, lane, None, taken.into_iter().filter_map(pending), out);
    }
    Ok(seen)
}

fn admit(
    member: &Member,
    lane: Lane,
    epoch: Option<u32>,
    found: impl Iterator<Item = Pending>,
    out: &mut Vec<Arc<Incoming>>,
) {
    let epoch = epoch.or_else(|| member.state.lock().lanes.epoch(lane));
    if let Some(epoch) = epoch {
        let incoming = found.map(|pending| member.again(lane, epoch, pending)).collect();
        member.admit(lane, epoch, incoming, out);
    }
}

/// Removes members that are gone and hold nothing.
pub(crate) async fn bury(member: &Member, subscribed: &Subscribed) -> Result<()> {
    let keys = &subscribed.keys;
    let mut cmd = Script::Bury.call(&[&keys.members]);
    cmd.arg(keys.group.as_str()).arg(subscribed.partitions()).arg(&keys.topic.base).arg(&keys.inbox);
    member.control.query(&cmd).await.map(drop)
}

/// Takes what is pending on lanes of ordered groups that are new to this member, in order.
async fn scan(member: &Arc<Member>, name: &str, room: usize, out: &mut Vec<Arc<Incoming>>) -> Result<()> {
    let lanes = scanning(member, &member.state.lock().lanes);
    for (lane, epoch, from) in lanes {
        if out.len() >= room {
            break;
        }
        let (info, keys) = (member.lane(lane), &member.of_lane(lane).keys);
        let mut cmd = Script::Scan.call(&[&keys.members, &keys.started, &info.stream, &keys.lanes]);
        cmd.arg(keys.group.as_str()).arg(name).arg(&info.fence).arg(behind(from));
        cmd.arg((room - out.len()).min(CLAIM)).arg(&info.mark);
        cmd.arg(u8::from(member.of_lane(lane).settings.hold_key));
        let (session, mut rest) = status(member.control.query(&cmd).await?, "scan")?;
        if session == -1 {
            member.lost(name);
            return Ok(());
        }
        if session < 0 {
            // The upkeep finds out whose it is.
            member.state.lock().lanes.lose(lane);
            continue;
        }
        lost(member, rest.next().as_ref().and_then(integer), lane);
        let taken = array(rest.next().unwrap_or_default()).into_iter().filter_map(pending);
        admit(member, lane, Some(epoch), taken, out);
        let more = rest.next().as_ref().and_then(id);
        let delivered = rest.next().as_ref().and_then(id).unwrap_or_default();
        let mut state = member.state.lock();
        if state.lanes.epoch(lane) == Some(epoch) && matches!(state.lanes.stage(lane), Stage::Scanning(_)) {
            match more {
                Some(last) => state.lanes.set_stage(lane, Stage::Scanning(Some(last))),
                None => {
                    state.lanes.note(lane, delivered);
                    state.lanes.set_stage(lane, Stage::Reading);
                }
            }
        }
    }
    Ok(())
}

fn behind(from: Option<EntryId>) -> String {
    from.map_or_else(|| "-".into(), |id| format!("({id}"))
}

/// Finds entries that are pending for this member and never reached it: their reply was lost.
async fn recover(member: &Arc<Member>, name: &str, room: usize, out: &mut Vec<Arc<Incoming>>) -> Result<()> {
    if !member.state.lock().recover {
        return Ok(());
    }
    for (lane, info) in (0..).zip(&member.lanes) {
        if info.ordered {
            continue;
        }
        let orphans = orphans(member, name, lane, room.saturating_sub(out.len())).await?;
        let found = bodies(member, &info.stream, orphans).await?;
        admit(member, lane, None, found.into_iter(), out);
        if out.len() >= room {
            // What is left is found the next time.
            return Ok(());
        }
    }
    member.state.lock().recover = false;
    Ok(())
}

async fn orphans(member: &Member, name: &str, lane: Lane, room: usize) -> Result<Vec<(EntryId, u32)>> {
    let (mut from, mut orphans) = (None, Vec::new());
    while orphans.len() < room {
        let mut cmd = redis::cmd("XPENDING");
        cmd.arg(&member.lane(lane).stream).arg(member.group.as_str()).arg(behind(from)).arg("+");
        cmd.arg(LOOK).arg(name);
        let rows = array(member.control.query(&cmd).await?);
        let all = rows.len() < LOOK;
        let state = member.state.lock();
        for row in rows {
            let row = array(row);
            let Some(id) = row.first().and_then(id) else { continue };
            from = Some(id);
            if !state.lanes.holds(lane, id) {
                let count = row.get(3).and_then(integer).and_then(|count| u32::try_from(count).ok());
                orphans.push((id, count.unwrap_or(1)));
            }
        }
        drop(state);
        if all {
            break;
        }
    }
    orphans.truncate(room);
    Ok(orphans)
}

async fn bodies(member: &Member, stream: &str, ids: Vec<(EntryId, u32)>) -> Result<Vec<Pending>> {
    let mut pipeline = Pipeline::with_capacity(ids.len());
    for (id, _) in &ids {
        let id = id.to_string();
        pipeline.cmd("XRANGE").arg(stream).arg(&id).arg(&id);
    }
    let replies = member.control.pipeline(&pipeline).await?;
    let body = |((_, count), reply): ((EntryId, u32), Value)| {
        let entry = array(reply).into_iter().next().and_then(entry::entry)?;
        Some(Pending { entry, count, started: false, kept: None })
    };
    Ok(ids.into_iter().zip(replies).filter_map(body).collect())
}

/// Declares dead whoever holds something without being a member, if idle for long.
pub(crate) async fn strays(member: &Member, subscribed: &Subscribed) -> Result<()> {
    let keys = &subscribed.keys;
    let mut pipeline = Pipeline::new();
    for lane in subscribed.lanes() {
        let mut cmd = Script::Strays.call(&[&keys.members, &member.lane(lane).stream]);
        cmd.arg(keys.group.as_str()).arg(member.session.as_millis().to_string());
        cmd.arg(member.session.max(subscribed.settings.lease).as_millis().to_string());
        cmd.arg(crate::names::MEMBER);
        pipeline.add_command(cmd);
    }
    for reply in member.control.pipeline(&pipeline).await? {
        checked(reply)?;
    }
    Ok(())
}

/// Reads a listing of names.
pub(crate) fn names(value: Value) -> Vec<String> {
    array(value).into_iter().filter_map(text).collect()
}

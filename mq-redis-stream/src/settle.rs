//! Settling: one script per stream acknowledges, one per copy relocates, one per message keeps it.

use std::sync::Arc;

use mq_core::driver::{Destination, Hold, Lane, Outcome, Relocation, Settlement, Token};
use mq_core::{Error, ErrorKind, Result};
use redis::{Cmd, Pipeline, Value};

use crate::codec::{self, MAX_HEADERS};
use crate::connection::checked;
use crate::entry::{integer, unexpected};
use crate::kept;
use crate::lanes::id_of;
use crate::member::Member;
use crate::names::Side;
use crate::order::Order;
use crate::scripts::Script;

/// The most ids in one call: they pass through the script's stack.
const IDS: usize = 1000;

/// A command and the settlements it answers.
struct Call {
    places: Vec<usize>,
    kind: Kind,
}

/// What a command does to its messages.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Ack,
    Relocate,
    /// They stay this member's.
    Hold,
}

fn stale() -> Error {
    Error::new(ErrorKind::StaleDelivery, "the delivery is no longer this consumer's")
}

/// Settles a batch.
pub(crate) async fn run(member: &Arc<Member>, batch: Vec<Settlement>) -> Vec<Result<()>> {
    let mut verdicts: Vec<Result<()>> = batch.iter().map(|_| Ok(())).collect();
    let name = member.name();
    let (pipeline, calls) = prepare(member, &name, &batch, &mut verdicts);
    if calls.is_empty() {
        return verdicts;
    }
    match member.control.pipeline(&pipeline).await {
        Ok(replies) => {
            for (call, reply) in calls.iter().zip(replies) {
                answer(member, &name, call, reply, &batch, &mut verdicts);
            }
        }
        Err(error) => {
            let mut state = member.state.lock();
            for (place, kind) in
                calls.iter().flat_map(|call| call.places.iter().map(|place| (place, call.kind)))
            {
                if kind != Kind::Hold {
                    state.lanes.doubt(batch[*place].token);
                }
                verdicts[*place] = Err(error.duplicate());
            }
        }
    }
    verdicts
}

fn prepare(
    member: &Member,
    name: &str,
    batch: &[Settlement],
    verdicts: &mut [Result<()>],
) -> (Pipeline, Vec<Call>) {
    let (mut acks, mut relocations, mut holds) = (Vec::with_capacity(batch.len()), Vec::new(), Vec::new());
    {
        let mut state = member.state.lock();
        for (place, settlement) in batch.iter().enumerate() {
            let suspect = state.lanes.check(settlement.token);
            match (&settlement.outcome, suspect) {
                (_, None) => verdicts[place] = Err(stale()),
                (Outcome::Ack, Some(suspect)) => acks.push((settlement.token.lane, suspect, place)),
                (Outcome::Relocate(relocation), Some(_)) => relocations.push((place, relocation)),
                (Outcome::Hold(hold), Some(_)) => {
                    let token = settlement.token;
                    state.lanes.hold(token.lane, id_of(token), true);
                    holds.push((place, hold));
                }
            }
        }
    }
    acks.sort_unstable();
    let mut pipeline = Pipeline::new();
    let mut calls = Vec::new();
    for part in acks.chunk_by(|a, b| (a.0, a.1) == (b.0, b.1)).flat_map(|part| part.chunks(IDS)) {
        let (lane, suspect, _) = part[0];
        let places: Vec<usize> = part.iter().map(|(.., place)| *place).collect();
        pipeline.add_command(ack(
            member,
            name,
            lane,
            suspect,
            places.iter().map(|place| batch[*place].token),
        ));
        calls.push(Call { places, kind: Kind::Ack });
    }
    let mut order = Order::default();
    for (place, relocation) in relocations {
        let token = batch[place].token;
        if relocation.message.headers.len() > 3 * MAX_HEADERS {
            verdicts[place] =
                Err(Error::new(ErrorKind::Rejected, "the message has too many headers to be moved"));
            continue;
        }
        pipeline.add_command(relocate(member, name, token, relocation, &mut order));
        calls.push(Call { places: vec![place], kind: Kind::Relocate });
    }
    for (place, held) in holds {
        pipeline.add_command(hold(member, name, batch[place].token, held));
        calls.push(Call { places: vec![place], kind: Kind::Hold });
    }
    (pipeline, calls)
}

fn ack(
    member: &Member,
    name: &str,
    lane: Lane,
    suspect: bool,
    tokens: impl ExactSizeIterator<Item = Token>,
) -> Cmd {
    let (info, of) = (member.lane(lane), member.of_lane(lane));
    let names = [&of.keys.members, &of.keys.lanes, &info.stream, &of.keys.started];
    let mut cmd = Script::Ack.call_sized(&names, 5 + tokens.len(), 128 + 24 * tokens.len());
    cmd.arg(member.group.as_str()).arg(name).arg(&info.fence).arg(u8::from(info.side == Side::Inbox));
    cmd.arg(if suspect { info.mark.as_str() } else { "" });
    for token in tokens {
        id_of(token).with_text(|id| {
            cmd.arg(id);
        });
    }
    of.note_settled();
    cmd
}

fn relocate(member: &Member, name: &str, token: Token, relocation: &Relocation, order: &mut Order) -> Cmd {
    let (info, of) = (member.lane(token.lane), member.of_lane(token.lane));
    let (message, envelope, id) = (&relocation.message, &relocation.envelope, id_of(token));
    let inbox = of.keys.stream(info.partition, Side::Inbox);
    let target = match relocation.to {
        Destination::Inbox => &inbox,
        Destination::Dead => &of.keys.dead,
    };
    let names = [&of.keys.members, &of.keys.lanes, &info.stream, &of.keys.started, target, &of.keys.delayed];
    let (arguments, size) = codec::room(message);
    let mut cmd = Script::Relocate.call_sized(&names, 7 + arguments, 256 + size);
    cmd.arg(member.group.as_str()).arg(name).arg(&info.fence).arg(u8::from(info.side == Side::Inbox));
    cmd.arg(format!("{}{id}", info.mark)).arg(id.to_string());
    let now = member.context.clock.now();
    match message.deliver_at {
        // By the server's clock, so the delay is sent and not the moment.
        Some(at) if at > now && relocation.to == Destination::Inbox => {
            let delay = at.as_millis().saturating_sub(now.as_millis()).min(1 << 50);
            cmd.arg(delay).arg(codec::delayed(order.next(now), info.partition, message, envelope));
        }
        _ => {
            cmd.arg("");
            codec::append(&mut cmd, message, envelope);
        }
    }
    of.note_settled();
    cmd
}

fn hold(member: &Member, name: &str, token: Token, hold: &Hold) -> Cmd {
    let (info, of, id) = (member.lane(token.lane), member.of_lane(token.lane), id_of(token));
    let mut cmd = Script::Hold.call(&[&of.keys.members, &of.keys.lanes, &info.stream, &of.keys.started]);
    cmd.arg(member.group.as_str()).arg(name).arg(&info.fence);
    cmd.arg(format!("{}{id}", info.mark)).arg(id.to_string());
    // By the server's clock, so the delay is sent and not the moment.
    let now = member.context.clock.now().as_millis();
    let delay = hold.until.map_or(0, |at| at.as_millis().saturating_sub(now).min(1 << 50));
    cmd.arg(delay).arg(kept::write(&hold.envelope));
    cmd
}

fn answer(
    member: &Member,
    name: &str,
    call: &Call,
    reply: Value,
    batch: &[Settlement],
    verdicts: &mut [Result<()>],
) {
    let outcome = match reply {
        Value::ServerError(error) => Err(crate::error::from_reply(error)),
        reply => integer(&reply).ok_or_else(|| unexpected("settle")),
    };
    let mut doubted = false;
    {
        let mut state = member.state.lock();
        for place in &call.places {
            let token = batch[*place].token;
            doubted |= state.lanes.doubted(token);
            match &outcome {
                Ok(1) if call.kind == Kind::Hold => {}
                Ok(_) => state.lanes.settled(token),
                Err(error) if crate::reader::is_gone(error) => state.lanes.settled(token),
                Err(_) => {}
            }
        }
    }
    let expected =
        if call.kind != Kind::Ack { 1 } else { i64::try_from(call.places.len()).unwrap_or(i64::MAX) };
    match outcome {
        Ok(-1) => {
            member.lost(name);
            fail(call, verdicts, stale);
        }
        Ok(done) if done == expected || (done >= 0 && doubted) => {}
        Ok(-2) => {
            member.duty.notify_one();
            fail(call, verdicts, stale);
        }
        Ok(_) => fail(call, verdicts, stale),
        Err(error) if crate::reader::is_gone(&error) => {
            member.lost(name);
            fail(call, verdicts, stale);
        }
        Err(error) => fail(call, verdicts, || error.duplicate()),
    }
}

fn fail(call: &Call, verdicts: &mut [Result<()>], error: impl Fn() -> Error) {
    for place in &call.places {
        verdicts[*place] = Err(error());
    }
}

/// Records that a suspect is about to run alone.
pub(crate) async fn start(member: &Member, token: Token) -> Result<()> {
    if member.state.lock().lanes.check(token).is_none() {
        return Err(stale());
    }
    let name = member.name();
    let (info, of, id) = (member.lane(token.lane), member.of_lane(token.lane), id_of(token));
    let mut cmd = Script::Start.call(&[&of.keys.members, &of.keys.lanes, &info.stream, &of.keys.started]);
    cmd.arg(member.group.as_str()).arg(&*name).arg(&info.fence);
    cmd.arg(format!("{}{id}", info.mark)).arg(id.to_string());
    match integer(&checked(member.control.query(&cmd).await?)?) {
        Some(1) => Ok(()),
        Some(-1) => {
            member.lost(&name);
            Err(stale())
        }
        _ => Err(stale()),
    }
}

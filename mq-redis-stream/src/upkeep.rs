//! What a member does beside reading: heartbeats, moving what is due, sharing lanes, trimming.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use mq_core::Result;
use redis::{Pipeline, Value};
use tokio::time::Instant;

use crate::connection::{checked, permanent};
use crate::entry::{array, integer, status};
use crate::lanes::Stage;
use crate::member::{Member, Phase, Subscribed, fresh_name};
use crate::scripts::Script;
use crate::topology::{self, Missing};
use crate::{reader, takeover};

/// The longest time between two looks at what is due.
const TICK: Duration = Duration::from_millis(80);
/// The shortest.
const LEAST: Duration = Duration::from_millis(2);
/// How many delayed messages one script moves.
const MOVE: i64 = 200;
/// How often settled entries are removed.
const TRIM_EVERY: Duration = Duration::from_secs(1);
/// How often leftovers of others are looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(60);
/// How long an ephemeral group may be without a member.
const EPHEMERAL_MS: u64 = 60_000;
/// The pauses between attempts to join again.
const REJOIN: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(3));
/// The bounds of an orderly hand-over.
const RELEASE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// When what was done last.
struct Rounds {
    beat: Instant,
    trim: Instant,
    sweep: Instant,
    bury: Instant,
    generations: Vec<i64>,
}

/// Joins the groups under the member's name and takes lanes.
pub(crate) async fn join(member: &Arc<Member>) -> Result<()> {
    let name = member.name();
    let mut pipeline = Pipeline::new();
    for subscribed in &member.subscribed {
        let mut cmd = Script::Join.call(&[&subscribed.keys.members, &subscribed.keys.lanes]);
        cmd.arg(&*name).arg(member.session.as_millis().to_string());
        cmd.arg(u8::from(subscribed.settings.ordered));
        pipeline.add_command(cmd);
    }
    for (subscribed, reply) in member.subscribed.iter().zip(member.control.pipeline(&pipeline).await?) {
        let gone = integer(&checked(reply)?).unwrap_or(0);
        subscribed.takeover.store(gone > 0, Ordering::Release);
        // Before it reads: what comes next would hide the gap.
        topology::tell_trimmed(&member.control, &member.context.events, &subscribed.keys).await?;
    }
    {
        let mut state = member.state.lock();
        for (lane, info) in (0..).zip(&member.lanes) {
            if !info.ordered {
                state.lanes.acquire(lane, Stage::Reading);
            }
        }
    }
    for subscribed in member.subscribed.iter().filter(|subscribed| subscribed.settings.ordered) {
        assign(member, subscribed, &name).await?;
    }
    topology_sweep(member).await
}

async fn topology_sweep(member: &Member) -> Result<()> {
    for subscribed in &member.subscribed {
        topology::sweep(&member.control, &subscribed.keys.topic, EPHEMERAL_MS).await?;
    }
    Ok(())
}

/// Runs until the member ends.
pub(crate) async fn run(member: Arc<Member>) {
    let now = Instant::now();
    let generations = vec![-1; member.subscribed.len()];
    let mut rounds = Rounds { beat: now, trim: now, sweep: now, bury: now, generations };
    let mut failures = 0u32;
    loop {
        let lost = match &member.state.lock().phase {
            Phase::Live => false,
            Phase::Lost => true,
            Phase::Closed | Phase::Failed(_) => return,
        };
        let done = if lost { rejoin(&member).await.map(|()| LEAST) } else { rounds.tick(&member).await };
        let pause = match done {
            Ok(pause) => {
                failures = 0;
                pause
            }
            Err(error) if permanent(&error) => return member.fail(error),
            Err(error) => {
                member.context.events.failed(if lost { "join again" } else { "heartbeat" }, &error);
                if reader::is_gone(&error)
                    && let Some(name) = member.live_name()
                {
                    member.lost(&name);
                }
                failures += 1;
                let pause = REJOIN.0.saturating_mul(1 << failures.min(5)).min(REJOIN.1);
                pause.mul_f64(0.5 + fastrand::f64() / 2.0)
            }
        };
        if failures == 0 {
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = member.duty.notified() => {}
            }
        } else {
            tokio::time::sleep(pause).await;
        }
    }
}

impl Rounds {
    async fn tick(&mut self, member: &Arc<Member>) -> Result<Duration> {
        let Some(name) = member.live_name() else { return Ok(LEAST) };
        let beat = self.beat.elapsed() >= member.session / 3;
        let asked = Instant::now();
        let replies = member.control.pipeline(&ticks(member, &name, beat)).await?;
        if beat {
            self.beat = asked;
        }
        let mut pause = TICK;
        for (place, reply) in replies.into_iter().enumerate() {
            let (session, rest) = status(checked(reply)?, "tick")?;
            if session < 0 {
                member.lost(&name);
                return Ok(LEAST);
            }
            let told: Vec<i64> = rest.as_slice().iter().filter_map(integer).collect();
            let &[moved, due, gone, generation] = told.as_slice() else {
                return Err(crate::entry::unexpected("tick"));
            };
            pause = pause.min(next_look(moved, due));
            self.react(member, place, gone, generation, &name).await?;
        }
        if beat {
            for subscribed in &member.subscribed {
                takeover::strays(member, subscribed).await?;
                topology::tell_trimmed(&member.control, &member.context.events, &subscribed.keys).await?;
            }
        }
        self.tidy(member).await?;
        Ok(pause)
    }

    async fn react(
        &mut self,
        member: &Arc<Member>,
        place: usize,
        gone: i64,
        generation: i64,
        name: &str,
    ) -> Result<()> {
        let subscribed = &member.subscribed[place];
        if gone > 0 && !subscribed.settings.ordered && !subscribed.takeover.swap(true, Ordering::AcqRel) {
            member.changed.notify_one();
        }
        if gone > 0 && subscribed.settings.ordered && self.bury.elapsed() >= TRIM_EVERY {
            self.bury = Instant::now();
            takeover::bury(member, subscribed).await?;
        }
        if subscribed.settings.ordered && self.generations[place] != generation {
            self.generations[place] = assign(member, subscribed, name).await?;
        }
        Ok(())
    }

    /// Trims and sweeps now and then; each member at its own time.
    async fn tidy(&mut self, member: &Member) -> Result<()> {
        if self.trim.elapsed() >= TRIM_EVERY {
            self.trim = Instant::now();
            for subscribed in &member.subscribed {
                if subscribed.settled.swap(false, Ordering::Relaxed) {
                    topology::trim(&member.control, &subscribed.keys.topic).await?;
                }
            }
        }
        if self.sweep.elapsed() >= SWEEP_EVERY {
            self.sweep = Instant::now();
            topology_sweep(member).await?;
        }
        Ok(())
    }
}

fn next_look(moved: i64, due: i64) -> Duration {
    if moved >= MOVE {
        return Duration::ZERO;
    }
    match u64::try_from(due) {
        Ok(due) => Duration::from_millis(due).clamp(LEAST, TICK),
        Err(_) => TICK,
    }
}

fn ticks(member: &Member, name: &str, beat: bool) -> Pipeline {
    let mut pipeline = Pipeline::with_capacity(member.subscribed.len());
    for subscribed in &member.subscribed {
        let keys = &subscribed.keys;
        let names = [&keys.members, &keys.lanes, &keys.topic.delayed, &keys.delayed];
        let mut cmd = Script::Tick.call(&names);
        cmd.arg(name);
        if beat {
            cmd.arg(member.session.as_millis().to_string());
        } else {
            cmd.arg("");
        }
        cmd.arg(MOVE).arg(subscribed.partitions()).arg(&keys.topic.base).arg(&keys.inbox);
        cmd.arg(u8::from(subscribed.settings.ordered));
        pipeline.add_command(cmd);
    }
    pipeline
}

/// Takes free lanes and starts to release what is more than this member's share.
async fn assign(member: &Arc<Member>, subscribed: &Subscribed, name: &str) -> Result<i64> {
    let keys = &subscribed.keys;
    let mut cmd = Script::Assign.call(&[&keys.members, &keys.lanes]);
    cmd.arg(name).arg(subscribed.partitions());
    let (session, mut rest) = status(member.control.query(&cmd).await?, "assign")?;
    if session < 0 {
        member.lost(name);
        return Ok(-1);
    }
    let share = rest.next().as_ref().and_then(integer).unwrap_or(0);
    let generation = rest.next().as_ref().and_then(integer).unwrap_or(0);
    let mine: Vec<u32> = array(rest.next().unwrap_or_default())
        .iter()
        .filter_map(|lane| u32::try_from(integer(lane)?).ok())
        .collect();
    let release = take(member, subscribed, name, &mine, usize::try_from(share).unwrap_or(0));
    for partition in release {
        hand_over(member, subscribed, name, partition);
    }
    Ok(generation)
}

/// Notes what is this member's now; returns what it shall release.
fn take(member: &Member, subscribed: &Subscribed, name: &str, mine: &[u32], share: usize) -> Vec<u32> {
    let mut state = member.state.lock();
    if *state.name != *name {
        return Vec::new();
    }
    let (mut kept, mut releasing) = (Vec::new(), 0);
    for partition in mine {
        let pair = subscribed.pair(*partition);
        for lane in pair {
            if state.lanes.epoch(lane).is_none() {
                state.lanes.acquire(lane, Stage::Scanning(None));
            }
        }
        if pair.iter().any(|lane| state.lanes.stage(*lane) == Stage::Releasing) {
            releasing += 1;
        } else {
            kept.push(*partition);
        }
    }
    drop(state);
    member.changed.notify_one();
    let excess = mine.len().saturating_sub(share).saturating_sub(releasing).min(kept.len());
    kept.split_off(kept.len() - excess)
}

/// Releases a partition once core holds nothing of it, or the time is over.
fn hand_over(member: &Arc<Member>, subscribed: &Subscribed, name: &str, partition: u32) {
    let within = subscribed.settings.lease.clamp(RELEASE.0, RELEASE.1);
    let waits = member.revoke(subscribed, partition, within);
    let mut cmd = Script::Release.call(&[&subscribed.keys.lanes]);
    cmd.arg(name).arg(partition);
    let (member, name, pair) = (member.clone(), name.to_owned(), subscribed.pair(partition));
    tokio::spawn(async move {
        let done = futures_util::future::join_all(waits);
        // Either way it goes; what is late from now on is stale.
        drop(tokio::time::timeout(within, done).await);
        {
            let mut state = member.state.lock();
            if *state.name != *name {
                return;
            }
            for lane in pair {
                state.lanes.lose(lane);
            }
        }
        while member.live_name().is_some_and(|live| *live == *name) {
            match member.control.query(&cmd).await {
                Ok(_) => return,
                Err(error) => member.context.events.failed("release a lane", &error),
            }
            tokio::time::sleep(REJOIN.0).await;
        }
    });
}

/// Joins again under a new name, after a session was lost; all lanes are lost with it.
async fn rejoin(member: &Arc<Member>) -> Result<()> {
    for subscribed in &member.subscribed {
        let (registry, events) = (&member.registry, &member.context.events);
        if !topology::restore(&member.control, registry, events, &subscribed.topic).await? {
            let (topic, group) = (&subscribed.topic, &subscribed.keys.group);
            let missing = Missing::Fail;
            topology::ensure_group(&member.control, registry, topic, group, &subscribed.settings, missing)
                .await?;
        }
    }
    // Where the old session is still alive, what it held is given back.
    let old = leave(member).await;
    {
        let mut state = member.state.lock();
        if !matches!(state.phase, Phase::Lost) {
            return Ok(());
        }
        state.name = fresh_name(member.context.clock.now());
        state.recover = false;
        let lost = state.lanes.lose_all();
        state.revoked.retain(|revocation| !lost.iter().any(|(lane, _)| *lane == revocation.lane));
        state.revoked.extend(lost.into_iter().map(|(lane, epoch)| mq_core::driver::Revocation {
            lane,
            epoch,
            release: None,
        }));
    }
    member.changed.notify_one();
    old?;
    join(member).await?;
    let mut state = member.state.lock();
    if matches!(state.phase, Phase::Lost) {
        state.phase = Phase::Live;
    }
    drop(state);
    member.changed.notify_one();
    Ok(())
}

/// Leaves the groups; what is held goes to others, uncounted.
pub(crate) async fn leave(member: &Member) -> Result<()> {
    let name = member.name();
    let mut pipeline = Pipeline::new();
    for subscribed in &member.subscribed {
        let keys = &subscribed.keys;
        let mut cmd = Script::Leave.call(&[&keys.members, &keys.lanes]);
        cmd.arg(&*name).arg(keys.group.as_str()).arg(subscribed.partitions());
        cmd.arg(&keys.topic.base).arg(&keys.inbox);
        pipeline.add_command(cmd);
    }
    let replies = member.control.pipeline(&pipeline).await?;
    let left: Result<Vec<Value>> = replies.into_iter().map(checked).collect();
    left.map(drop)
}

/// Removes the ephemeral groups of a member that left.
pub(crate) async fn remove_ephemeral(member: &Member) -> Result<()> {
    for subscribed in member.subscribed.iter().filter(|subscribed| subscribed.settings.ephemeral) {
        member.registry.forget_group(&subscribed.topic, &subscribed.keys.group);
        topology::delete_group(&member.control, &subscribed.keys).await?;
    }
    Ok(())
}

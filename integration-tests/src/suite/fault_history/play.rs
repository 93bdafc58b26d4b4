//! Plays a history.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use mq::{ErrorKind, Message, Page, Publisher, Selection, TopicName};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::check::{Findings, check, unfinished};
use super::member::{Member, Place, Process, body};
use super::plan::{Fault, Plan};
use super::records::{Letter, Log, Window};
use crate::suite::cases::faults::so_far;
use crate::suite::context::Context;
use crate::suite::faulty::Faulty;
use crate::suite::planted;

/// Tasks that send; each has keys of its own, so that the order of sends of a key is known.
const SENDERS: usize = 2;
/// Between the sends of a task.
const PACE: Duration = Duration::from_millis(8);
/// How long an answer to a send, or the next of the messages that are still to come, may take in the end.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a process that is to be killed may wait for its share.
const PROCESS_LIMIT: Duration = Duration::from_secs(6);

/// A history being played.
pub(super) struct Play {
    context: Context,
    faulty: Faulty,
    plan: Plan,
    topic: TopicName,
    place: Place,
    log: Arc<Log>,
    members: Vec<Member>,
    joined: usize,
}

impl Play {
    pub(super) fn new(context: Context, faulty: Faulty, plan: Plan) -> Self {
        let (topic, group) = (context.topic(), context.group("g"));
        let place = Place {
            url: faulty.url(plan.impatient),
            topic: topic.to_string(),
            group: group.to_string(),
            settings: plan.settings(),
            spec: plan.spec(),
        };
        let log = Arc::new(Log::new(plan.ordered, context.harness.ack_lag()));
        Self { context, faulty, plan, topic, place, log, members: Vec::new(), joined: 0 }
    }

    pub(super) fn log(&self) -> Arc<Log> {
        self.log.clone()
    }

    /// Plays it to its end and judges it.
    pub(super) async fn run(mut self) -> Result<Findings> {
        for _ in 0..self.plan.members {
            self.join().await?;
        }
        let client = planted::connect(&self.place.url).await?;
        let publisher = client.publisher(&self.topic).spec(self.plan.spec()).await?;
        let (stop, stopped) = watch::channel(false);
        let senders = (0..SENDERS).map(|sender| {
            let (log, seed, keys) = (self.log.clone(), self.plan.seed, self.plan.keys);
            tokio::spawn(send(publisher.clone(), log, seed, sender, keys, stopped.clone()))
        });
        let senders: Vec<_> = senders.collect();
        for (quiet, fault) in self.plan.faults.clone() {
            tokio::time::sleep(quiet).await;
            self.suffer(fault).await.with_context(|| format!("{fault:?}"))?;
        }
        tokio::time::sleep(self.plan.tail).await;
        stop.send(true)?;
        for sender in senders {
            sender.await?;
        }
        self.come_to_rest().await?;
        client.close(Duration::from_secs(10)).await?;
        let findings = check(&self.log.records.lock());
        for member in std::mem::take(&mut self.members) {
            self.part_with(member).await?;
        }
        self.context.admin().delete_topic(&self.topic).await?;
        Ok(findings)
    }

    async fn join(&mut self) -> Result<()> {
        let client = planted::connect(&self.place.url).await?;
        let member = Member::join(&self.place, client, &self.log, self.plan.seed, self.joined).await?;
        self.joined += 1;
        self.members.push(member);
        Ok(())
    }

    /// Lets a member leave. Beside a fault it may say that the broker did not hear of it.
    async fn part_with(&self, member: Member) -> Result<()> {
        let begun = self.log.now();
        let events = member.events();
        let left = member.leave().await;
        if self.context.harness.leave_may_count() {
            self.log.records.lock().counted_leaves.push((begun, self.log.now()));
        }
        let Err(error) = left else { return Ok(()) };
        let told = matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Timeout);
        let explained = self.log.records.lock().fault_between(begun, self.log.now());
        ensure!(told && explained, "a member could not leave: {error}; events {:?}", so_far(events));
        Ok(())
    }

    async fn suffer(&mut self, fault: Fault) -> Result<()> {
        // The time counts from before it happens, should it fail half-way, too.
        let begun = self.log.now();
        let (proxy, broker) = (self.faulty.proxy(), self.faulty.broker());
        let mut window = None;
        match fault {
            Fault::Cut => proxy.cut(),
            Fault::Unreachable(time) => {
                proxy.refuse().await;
                proxy.cut();
                tokio::time::sleep(time).await;
                proxy.heal().await?;
            }
            Fault::Stall(time) => {
                proxy.stall();
                tokio::time::sleep(time).await;
                proxy.heal().await?;
            }
            Fault::Slow(time) => {
                proxy.delay(time / 5);
                tokio::time::sleep(time).await;
                proxy.heal().await?;
            }
            Fault::Pause(time) => {
                broker.pause().await?;
                tokio::time::sleep(time).await;
                broker.unpause().await?;
            }
            Fault::Restart => broker.restart().await?,
            Fault::Kill => {
                broker.kill().await?;
                broker.start().await?;
            }
            Fault::KillMember(count) => {
                let process = Process::start(&self.place, &self.log, self.joined)?;
                self.joined += 1;
                window = Some(process.work_and_die(count, PROCESS_LIMIT).await?);
            }
            Fault::Turnover => {
                let leaving = self.members.remove(0);
                self.part_with(leaving).await?;
                self.join().await?;
            }
        }
        if fault.hurts() {
            let (begun, ended) = window.unwrap_or_else(|| (begun, self.log.now()));
            let over = ended + fault.grace(self.faulty.session_bound());
            self.log.records.lock().faults.push(Window { what: fault, begun, ended, over });
        }
        Ok(())
    }

    /// Waits until everything confirmed came to its end and nothing is left; then reads the dead letters and
    /// removes them. What never comes is judged later.
    async fn come_to_rest(&self) -> Result<()> {
        let mut seen = 0;
        let mut since = Instant::now();
        loop {
            self.note_letters().await?;
            let (open, now) = {
                let records = self.log.records.lock();
                (unfinished(&records).len(), records.came.len() + records.letters.len())
            };
            if open == 0 {
                break;
            }
            if now > seen {
                (seen, since) = (now, Instant::now());
            }
            if since.elapsed() > PATIENCE {
                self.log.wrong(format!("{open} messages did not come to an end in {PATIENCE:?}"));
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        if let Err(error) = self.context.until_empty(&self.topic, "g").await {
            self.log.wrong(format!("the counts are not back to zero: {error:#}"));
        }
        let letters = self.note_letters().await? as u64;
        self.dead_are(letters).await?;
        let (admin, group) = (self.context.admin(), self.context.group("g"));
        let purged = admin.purge(&self.topic, &group, &Selection::All).await?;
        ensure!(purged == letters, "{purged} purged of {letters}");
        self.dead_are(0).await
    }

    /// Lists the dead letters, as soon as the broker answers; returns how many there are.
    async fn note_letters(&self) -> Result<usize> {
        let (admin, group) = (self.context.admin(), self.context.group("g"));
        let list = || async {
            Ok(admin.dead_letters(&self.topic, &group, Page { offset: 0, limit: 100_000 }).await?)
        };
        // A fault may have taken the connection.
        let letters = self.context.until(list).await?;
        let letters: Vec<Letter> = letters.iter().map(letter).collect::<Result<_>>()?;
        let count = letters.len();
        self.log.records.lock().letters = letters;
        Ok(count)
    }

    async fn dead_are(&self, count: u64) -> Result<()> {
        let dead = self.context.stats(&self.topic, "g").await?.dead;
        ensure!(dead.is_none_or(|dead| dead == count), "{dead:?} are dead by the count, {count} are listed");
        Ok(())
    }
}

fn letter(letter: &mq::DeadLetter) -> Result<Letter> {
    let text = std::str::from_utf8(&letter.message.payload)?;
    let number = text.split(' ').next().unwrap_or_default().parse().with_context(|| text.to_owned())?;
    ensure!(text == body(number), "the body of the dead letter {number} is {text:?}");
    let reason = letter.envelope.death.as_ref().map(|death| death.reason.to_string()).unwrap_or_default();
    Ok(Letter { number, reason })
}

/// Sends, until told to stop, without waiting for answers; then waits for those.
async fn send(
    publisher: Publisher,
    log: Arc<Log>,
    seed: u64,
    sender: usize,
    keys: usize,
    mut stopped: watch::Receiver<bool>,
) {
    let mut rng = fastrand::Rng::with_seed(seed ^ sender as u64);
    let mut answers = FuturesUnordered::new();
    let mut pace = tokio::time::interval(PACE);
    loop {
        tokio::select! {
            _ = stopped.changed() => break,
            Some(()) = answers.next() => continue,
            _ = pace.tick() => {}
        }
        let key = rng.usize(0..keys) / SENDERS * SENDERS + sender;
        let number = log.sending(key);
        let message = Message::new(body(number)).key(key.to_string()).header("number", number.to_string());
        match publisher.enqueue(message).await {
            Ok(sending) => {
                let log = log.clone();
                answers.push(sending.map(move |result| log.answered(number, result)));
            }
            Err(error) => log.answered::<()>(number, Err(error)),
        }
    }
    // Those that are never answered are found by the check.
    drop(timeout(PATIENCE, answers.collect::<()>()).await);
}

//! Seeded random histories, compared with the memory model.
//!
//! A seed decides what becomes of each message at each attempt, so its fate (acked, or dead with so
//! many attempts and such a reason) does not depend on timing, and must be the same on every backend.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use mq::{
    Client, Delivery, ErrorKind, GroupName, GroupSettings, Message, Page, Selection, Subscriber, TopicName,
    TopicSpec,
};
use parking_lot::Mutex;

use super::context::Context;
use super::harness::{Harness, MemoryHarness};
use super::manifest::Verdict;

const MESSAGES: usize = 120;
const KEYS: usize = 7;
const MAX_ATTEMPTS: u32 = 3;
const LEASE: Duration = Duration::from_secs(4);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Act {
    Ack,
    Retry(u64),
    Defer(u64),
    Drop,
    Expire,
    Dead,
}

/// What the history does with a message at an attempt; `turn` counts deferrals within it.
fn act(seed: u64, number: usize, attempt: u32, turn: u32) -> Act {
    let mut rng = fastrand::Rng::with_seed(
        seed ^ ((number as u64) << 20) ^ (u64::from(attempt) << 8) ^ u64::from(turn),
    );
    match rng.u8(0..100) {
        0..55 => Act::Ack,
        55..70 => Act::Retry(rng.u64(0..300)),
        70..80 if turn < 2 => Act::Defer(rng.u64(0..200)),
        80..90 => Act::Drop,
        90..93 => Act::Expire,
        93..98 => Act::Dead,
        _ => Act::Ack,
    }
}

/// How each message ended: acked, or dead for a reason; and after how many attempts.
type Fates = BTreeMap<usize, (String, u32)>;

#[derive(Debug, Default)]
struct Observed {
    acked: BTreeMap<usize, u32>,
    turns: HashMap<(usize, u32), u32>,
    busy: HashMap<usize, usize>,
    last: HashMap<usize, usize>,
    begun: HashMap<usize, ()>,
    /// What came of each message.
    stories: HashMap<usize, String>,
    wrong: Vec<String>,
}

struct Run {
    seed: u64,
    ordered: bool,
    begun: std::time::Instant,
    observed: Mutex<Observed>,
}

impl Run {
    /// Notes a delivery; returns what to do with it.
    fn begin(&self, delivery: &Delivery) -> Result<(usize, Act)> {
        let number: usize = std::str::from_utf8(delivery.payload())?.parse()?;
        let attempt = delivery.attempt();
        let mut observed = self.observed.lock();
        if let Some(attempts) = observed.acked.get(&number).copied() {
            let story = observed.stories.get(&number).cloned().unwrap_or_default();
            let again = format!("came at attempt {attempt}, {:?}", delivery.position());
            observed.wrong.push(format!("{number} {again} after its ack at attempt {attempts}: {story}"));
        }
        if self.ordered {
            let key = number % KEYS;
            if let Some(other) = observed.busy.insert(key, number) {
                observed.wrong.push(format!("{number} and {other} of key {key} were in hand together"));
            }
            if observed.begun.insert(number, ()).is_none()
                && let Some(last) = observed.last.insert(key, number).filter(|last| *last > number)
            {
                observed.wrong.push(format!("{number} came after {last} of the same key"));
            }
        }
        let turn = observed.turns.entry((number, attempt)).or_default();
        let act = act(self.seed, number, attempt, *turn);
        *turn += 1;
        let (at, position) = (self.begun.elapsed(), delivery.position());
        let story = observed.stories.entry(number).or_default();
        write!(story, "at {at:?} attempt {attempt}, {position:?}: {act:?}; ")?;
        Ok((number, act))
    }

    fn end(&self, number: usize) {
        self.observed.lock().busy.remove(&(number % KEYS));
    }

    async fn handle(self: Arc<Self>, delivery: Delivery) -> Result<()> {
        let attempt = delivery.attempt();
        let (number, act) = self.begin(&delivery)?;
        if act != Act::Expire {
            self.end(number);
        }
        match act {
            Act::Ack => {
                delivery.ack().await?;
                self.observed.lock().acked.insert(number, attempt);
            }
            Act::Retry(after) => delivery.retry(Duration::from_millis(after)).await?,
            Act::Defer(after) => delivery.defer(Duration::from_millis(after)).await?,
            Act::Drop => drop(delivery),
            Act::Dead => delivery.dead_letter("by the history").await?,
            Act::Expire => {
                // Not in hand any more well before the lease ends; surely over well after it did.
                tokio::time::sleep(LEASE - Duration::from_millis(1500)).await;
                self.end(number);
                tokio::time::sleep(Duration::from_millis(2500)).await;
                match delivery.ack().await {
                    Err(error) if error.kind() == ErrorKind::StaleDelivery => {}
                    other => bail!("{number}: an ack after the lease gave {other:?}"),
                }
            }
        }
        Ok(())
    }

    async fn work(self: Arc<Self>, subscriber: Subscriber) {
        while let Ok(delivery) = subscriber.receive().await {
            let run = self.clone();
            tokio::spawn(async move {
                if let Err(error) = run.clone().handle(delivery).await {
                    run.observed.lock().wrong.push(format!("{error:#}"));
                }
            });
        }
    }
}

struct Setup<'a> {
    client: &'a Client,
    topic: &'a TopicName,
    group: &'a GroupName,
    ordered: bool,
}

impl Setup<'_> {
    async fn open(&self) -> Result<Subscriber> {
        let mut settings = GroupSettings::default().lease(LEASE).max_attempts(MAX_ATTEMPTS);
        settings.ordered = self.ordered;
        let spec = TopicSpec::default().partitions(4);
        Ok(self
            .client
            .subscriber(self.topic, self.group)
            .settings(settings)
            .spec(spec)
            .prefetch(30)
            .open()
            .await?)
    }
}

/// Plays a history; returns each message's fate.
async fn play(
    client: &Client,
    topic: &TopicName,
    group: &GroupName,
    seed: u64,
    ordered: bool,
    members: bool,
) -> Result<Fates> {
    let setup = Setup { client, topic, group, ordered };
    let run = Arc::new(Run { seed, ordered, begun: std::time::Instant::now(), observed: Mutex::default() });
    let first = setup.open().await?;
    let publisher = client.publisher(topic).await?;
    for chunk in 0..MESSAGES / 20 {
        let numbers = chunk * 20..(chunk + 1) * 20;
        let messages =
            numbers.map(|number| Message::new(number.to_string()).key((number % KEYS).to_string()));
        for verdict in publisher.send_batch(messages.collect()).await {
            verdict?;
        }
    }
    tokio::spawn(run.clone().work(first.clone()));
    tokio::spawn(run.clone().work(setup.open().await?));
    if members {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut leaving = first;
        for _ in 0..3 {
            tokio::time::sleep(Duration::from_millis(rng.u64(50..400))).await;
            // Long enough for every hand to be settled: a clean leave counts nothing.
            let report = leaving.close(Duration::from_secs(30)).await?;
            ensure!(report.given_back == 0, "{report:?}");
            leaving = setup.open().await?;
            tokio::spawn(run.clone().work(leaving.clone()));
        }
    }
    fates(client, topic, group, &run).await
}

async fn fates(client: &Client, topic: &TopicName, group: &GroupName, run: &Run) -> Result<Fates> {
    let end = tokio::time::Instant::now() + Duration::from_secs(100);
    loop {
        let acked = {
            let observed = run.observed.lock();
            ensure!(observed.wrong.is_empty(), "{:?}", observed.wrong);
            observed.acked.clone()
        };
        let letters = client.admin().dead_letters(topic, group, Page { offset: 0, limit: 10_000 }).await?;
        if acked.len() + letters.len() >= MESSAGES {
            let mut fates: Fates =
                acked.into_iter().map(|(number, attempt)| (number, ("acked".into(), attempt))).collect();
            for letter in letters {
                let number = std::str::from_utf8(&letter.message.payload)?.parse()?;
                let reason = letter.envelope.death.map(|death| death.reason.to_string()).unwrap_or_default();
                let other = fates.insert(number, (reason, letter.envelope.attempt));
                ensure!(other.is_none(), "{number} is dead and also {other:?}");
            }
            ensure!(
                client.admin().purge(topic, group, &Selection::All).await? > 0,
                "no dead letter in a history"
            );
            return Ok(fates);
        }
        if tokio::time::Instant::now() > end {
            let stats = client.admin().stats(topic, group).await?;
            bail!("{} acked and {} dead of {MESSAGES}; {stats:?}", acked.len(), letters.len());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn compare(context: Context, ordered: bool, members: bool) -> Result<Verdict> {
    let seed = context.seed;
    let (topic, group) = (context.topic(), context.group("g"));
    let got = play(&context.client, &topic, &group, seed, ordered, members).await?;
    context.until_empty(&topic, "g").await?;
    let model = MemoryHarness::default().client().await?;
    let expected = play(&model, &topic, &group, seed, ordered, false).await?;
    for (number, fate) in &expected {
        ensure!(
            got.get(number) == Some(fate),
            "message {number}: {:?}, in the model {fate:?}",
            got.get(number)
        );
    }
    Ok(Verdict::Pass)
}

pub(super) async fn settlements(context: Context) -> Result<Verdict> {
    compare(context, false, false).await
}

pub(super) async fn ordered(context: Context) -> Result<Verdict> {
    compare(context, true, false).await
}

pub(super) async fn members(context: Context) -> Result<Verdict> {
    compare(context, true, true).await
}

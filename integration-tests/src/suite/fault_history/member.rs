//! Members of a history's group: in this process, and in one that is killed.

use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, ensure};
use mq::{Client, Delivery, ErrorKind, Event, GroupName, GroupSettings, Subscriber, TopicName, TopicSpec};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::broadcast;

use super::check::REASON;
use super::plan::{Act, act};
use super::records::{Came, Log};
use crate::suite::planted;

/// The environment variable that makes this program a member.
pub(in crate::suite) const MEMBER: &str = "MQ_HISTORY_MEMBER";
/// Bytes after a message's number, for both sides to know.
const PADDING: usize = 40;

/// Where a member takes part.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Place {
    pub(super) url: String,
    pub(super) topic: String,
    pub(super) group: String,
    pub(super) settings: GroupSettings,
    pub(super) spec: TopicSpec,
}

impl Place {
    pub(super) async fn open(&self, client: &Client) -> Result<Subscriber> {
        let (topic, group) = (TopicName::new(self.topic.clone())?, GroupName::new(self.group.clone())?);
        let builder = client.subscriber(&topic, &group).settings(self.settings.clone());
        Ok(builder.spec(self.spec.clone()).prefetch(40).open().await?)
    }
}

/// A message's body: its number and bytes that follow from it.
pub(super) fn body(number: usize) -> String {
    let letter = char::from(b'a' + u8::try_from(number % 26).unwrap_or_default());
    format!("{number} {}", letter.to_string().repeat(PADDING))
}

/// Reads a message's number; its body, key and header must be as they were sent.
fn number(delivery: &Delivery, key_of: impl FnOnce(usize) -> Option<usize>) -> Result<usize> {
    let text = std::str::from_utf8(delivery.payload())?;
    let number: usize =
        text.split(' ').next().unwrap_or_default().parse().with_context(|| text.to_owned())?;
    ensure!(text == body(number), "the body of {number} is {text:?}");
    let header = delivery.message().headers.get_str("number");
    ensure!(header == Some(&*number.to_string()), "the header of {number} is {header:?}");
    if let Some(key) = key_of(number) {
        let got = delivery.message().key.as_deref();
        ensure!(got == Some(key.to_string().as_bytes()), "the key of {number} is {got:?}, not {key}");
    }
    Ok(number)
}

/// A member in this process, with a connection of its own.
pub(super) struct Member {
    client: Client,
    subscriber: Subscriber,
}

impl Member {
    pub(super) async fn join(
        place: &Place,
        client: Client,
        log: &Arc<Log>,
        seed: u64,
        id: usize,
    ) -> Result<Self> {
        let subscriber = place.open(&client).await?;
        tokio::spawn(work(subscriber.clone(), log.clone(), seed, id));
        Ok(Self { client, subscriber })
    }

    pub(super) fn events(&self) -> broadcast::Receiver<Event> {
        self.client.events()
    }

    /// Leaves when all that is in hand is settled, or after 20 s.
    pub(super) async fn leave(self) -> mq::Result<()> {
        self.subscriber.close(Duration::from_secs(20)).await?;
        self.client.close(Duration::from_secs(5)).await.map(drop)
    }
}

async fn work(subscriber: Subscriber, log: Arc<Log>, seed: u64, member: usize) {
    loop {
        match subscriber.receive().await {
            Ok(delivery) => drop(tokio::spawn(handle(delivery, log.clone(), seed, member))),
            Err(error) if error.kind() == ErrorKind::Closed => return,
            Err(error) => return log.wrong(format!("a member's consumer ended: {error}")),
        }
    }
}

async fn handle(delivery: Delivery, log: Arc<Log>, seed: u64, member: usize) {
    let at = log.now();
    let key_of = |number: usize| log.records.lock().sent.get(number).map(|sent| sent.key);
    let number = match number(&delivery, key_of) {
        Ok(number) => number,
        Err(error) => return log.wrong(format!("{error:#}")),
    };
    let attempt = delivery.attempt();
    let (place, turn) = log.came(Came { number, attempt, member, at, act: None, answer: None });
    let (after, act) = act(seed, number, turn);
    tokio::time::sleep(after).await;
    log.settling(place, log.now(), act);
    let answer = match act {
        Act::Ack => delivery.ack(),
        Act::Retry(after) => delivery.retry(Duration::from_millis(after)),
        Act::Defer(after) => delivery.defer(Duration::from_millis(after)),
        Act::Dead => delivery.dead_letter(REASON),
        Act::Drop => {
            drop(delivery);
            return log.settled(place, log.now(), None);
        }
    };
    let error = answer.await.err().map(|error| error.to_string());
    log.settled(place, log.now(), error);
}

/// What a member in another process tells, a line each, with the system's time in microseconds.
#[derive(Debug, Serialize, Deserialize)]
enum Told {
    Came { at: u64, number: usize, attempt: u32, delivery: usize },
    Acking { at: u64, delivery: usize },
    Acked { at: u64, delivery: usize, error: Option<String> },
    Wrong { what: String },
}

/// A member in a process of its own.
pub(super) struct Process {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    log: Arc<Log>,
    member: usize,
    places: Vec<usize>,
}

impl Process {
    pub(super) fn start(place: &Place, log: &Arc<Log>, member: usize) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.env(MEMBER, serde_json::to_string(place)?);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true).spawn()?;
        let stdout = child.stdout.take().context("the child has no standard output")?;
        let lines = BufReader::new(stdout).lines();
        Ok(Self { child, lines, log: log.clone(), member, places: Vec::new() })
    }

    /// Lets it work until `count` messages came to it, or for `limit`; kills it, and takes note of all that
    /// it told before. Returns when it was killed and when it was gone.
    pub(super) async fn work_and_die(
        mut self,
        count: usize,
        limit: Duration,
    ) -> Result<(Duration, Duration)> {
        // Over when it had its share, when time is over, or if it ended by itself, which it tells.
        let enough = async {
            while self.places.len() < count && self.take_note().await? {}
            anyhow::Ok(())
        };
        if let Ok(told) = tokio::time::timeout(limit, enough).await {
            told?;
        }
        let killed = self.log.now();
        self.child.kill().await?;
        let gone = self.log.now();
        while self.take_note().await? {}
        Ok((killed, gone))
    }

    /// Reads a line; `false` at the end. Cancelled, it loses nothing.
    async fn take_note(&mut self) -> Result<bool> {
        let Some(line) = self.lines.next_line().await? else { return Ok(false) };
        let Ok(told) = serde_json::from_str::<Told>(&line) else { return Ok(true) };
        let begun = self.log.begun;
        let since = |at: u64| {
            let at = SystemTime::UNIX_EPOCH + Duration::from_micros(at);
            at.duration_since(begun).unwrap_or_default()
        };
        match told {
            Told::Came { at, number, attempt, delivery } => {
                ensure!(delivery == self.places.len(), "delivery {delivery} of a process is not the next");
                let (member, at) = (self.member, since(at));
                let (place, _) = self.log.came(Came { number, attempt, member, at, act: None, answer: None });
                self.places.push(place);
            }
            Told::Acking { at, delivery } => self.log.settling(self.places[delivery], since(at), Act::Ack),
            Told::Acked { at, delivery, error } => {
                self.log.settled(self.places[delivery], since(at), error);
            }
            Told::Wrong { what } => self.log.wrong(format!("in a process: {what}")),
        }
        Ok(true)
    }
}

fn tell(told: &Told) {
    // A line is written at once, so a kill takes none that was told; who listens is gone with the row.
    if let Ok(line) = serde_json::to_string(told) {
        println!("{line}");
    }
}

fn micros() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_micros()).unwrap_or(u64::MAX)
}

/// If this process was started as a member, becomes it and never returns.
pub(in crate::suite) async fn become_member() -> Result<()> {
    let Ok(place) = std::env::var(MEMBER) else { return Ok(()) };
    let place: Place = serde_json::from_str(&place)?;
    let subscriber = place.open(&planted::connect(&place.url).await?).await?;
    for delivery in 0.. {
        match subscriber.receive().await {
            Ok(received) => {
                let at = micros();
                match number(&received, |_| None) {
                    Ok(number) => tell(&Told::Came { at, number, attempt: received.attempt(), delivery }),
                    Err(error) => tell(&Told::Wrong { what: format!("{error:#}") }),
                }
                tokio::spawn(ack(received, delivery));
            }
            Err(error) => {
                tell(&Told::Wrong { what: format!("the consumer ended: {error}") });
                break;
            }
        }
    }
    std::future::pending().await
}

async fn ack(received: Delivery, delivery: usize) {
    tokio::time::sleep(Duration::from_millis(fastrand::u64(0..60))).await;
    tell(&Told::Acking { at: micros(), delivery });
    let error = received.ack().await.err().map(|error| error.to_string());
    tell(&Told::Acked { at: micros(), delivery, error });
}

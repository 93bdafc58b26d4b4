//! A consumer that is killed: in a child process (this program, started again), or in this one.

use std::future::pending;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result};
use futures_util::future::join_all;
use mq::{Client, Delivery, GroupSettings};
use serde::{Deserialize, Serialize};

use super::fault_history::{MEMBER, become_member};
use super::once::OncePlan;
use super::planted;

/// The environment variable with the broker's URL.
pub(super) const URL: &str = "MQ_VICTIM_URL";
/// The environment variable with the plan.
pub(super) const PLAN: &str = "MQ_VICTIM_PLAN";
/// The line that says that the plan is carried out so far.
pub(super) const READY: &str = "ready to be killed";

/// What a consumer does before it is killed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// The topic.
    pub topic: String,
    /// The group.
    pub group: String,
    /// The group's settings.
    pub settings: GroupSettings,
    /// The prefetch.
    pub prefetch: usize,
    /// How many messages it receives before it is ready.
    pub receive: usize,
    /// Which of them it acks, by their place.
    pub ack: Vec<usize>,
    /// It is ready at once, acks what it receives, and kills itself when it receives this body.
    pub dies_of: Option<String>,
    /// It retries the first message it receives: at once, and again not before this moment, in
    /// milliseconds since 1970. The message is the first in what it receives all along.
    pub retry_until: Option<u64>,
    /// When it has hung it makes all that it holds dead letters, and kills itself.
    pub settles_late: bool,
    /// It is a worker that does each message once.
    pub once: Option<OncePlan>,
}

impl Plan {
    /// Makes the plan to receive and hold `receive` messages.
    #[must_use]
    pub fn hold(
        topic: &mq::TopicName,
        group: &mq::GroupName,
        settings: GroupSettings,
        receive: usize,
    ) -> Self {
        Self {
            topic: topic.to_string(),
            group: group.to_string(),
            settings,
            prefetch: receive.max(1),
            receive,
            ack: Vec::new(),
            dies_of: None,
            retry_until: None,
            settles_late: false,
            once: None,
        }
    }
}

/// Carries out a plan and then waits for its death.
pub(super) async fn work(
    client: &Client,
    plan: &Plan,
    ready: impl FnOnce(),
    die: impl FnOnce(),
) -> Result<()> {
    if let Some(once) = &plan.once {
        return once.work(client, plan, ready, die).await;
    }
    let subscriber =
        client.subscriber(plan.topic.as_str(), plan.group.as_str()).settings(plan.settings.clone());
    let subscriber = subscriber.prefetch(plan.prefetch).open().await?;
    if let Some(killer) = &plan.dies_of {
        ready();
        loop {
            let delivery = subscriber.receive().await?;
            if delivery.payload().as_ref() == killer.as_bytes() {
                die();
                return Ok(());
            }
            delivery.ack().await?;
        }
    }
    if let Some(until) = plan.retry_until {
        subscriber.receive().await?.retry_because(Duration::ZERO, "the victim's first").await?;
        let again = subscriber.receive().await?;
        anyhow::ensure!(again.attempt() == 2, "{again:?}");
        let until = SystemTime::UNIX_EPOCH + Duration::from_millis(until);
        let after = until.duration_since(SystemTime::now()).context("the victim was too slow")?;
        again.retry_because(after, "the victim's second").await?;
    }
    let mut held: Vec<Option<Delivery>> = Vec::new();
    while held.len() < plan.receive {
        held.push(Some(subscriber.receive().await?));
    }
    let mut acks = Vec::new();
    for place in &plan.ack {
        let delivery = held[*place].take().context("the plan acks one delivery twice")?;
        acks.push(delivery.ack());
    }
    for ack in acks {
        ack.await?;
    }
    ready();
    if !plan.settles_late {
        return pending().await;
    }
    hung().await;
    let late = held.into_iter().flatten().map(|delivery| delivery.dead_letter("too late"));
    let settled = join_all(late).await.into_iter().filter(Result::is_ok).count();
    // Then it ends without killing itself, which the row notices.
    anyhow::ensure!(settled == 0, "{settled} late settlements were taken");
    die();
    Ok(())
}

/// Waits until this process did nothing for so long that it was stopped, not kept waiting; sessions are longer.
async fn hung() {
    let short = Duration::from_millis(50);
    loop {
        let begun = Instant::now();
        tokio::time::sleep(short).await;
        if begun.elapsed() > short + Duration::from_millis(1500) {
            return;
        }
    }
}

/// Returns whether this process was started to be killed.
#[must_use]
pub fn is_victim() -> bool {
    std::env::var_os(PLAN).or_else(|| std::env::var_os(MEMBER)).is_some()
}

/// If this process was started as a victim, becomes it and never returns.
pub(super) async fn become_one() -> Result<()> {
    become_member().await?;
    let (Ok(url), Ok(plan)) = (std::env::var(URL), std::env::var(PLAN)) else { return Ok(()) };
    let plan: Plan = serde_json::from_str(&plan)?;
    let die = || {
        // `kill -9`: nothing of this process gets to run any more.
        drop(std::process::Command::new("kill").args(["-9", &std::process::id().to_string()]).status());
    };
    let worked = async {
        let client = planted::connect(url).await?;
        work(&client, &plan, || println!("{READY}"), die).await
    };
    if let Err(error) = worked.await {
        // To the row that waits for it.
        println!("{error:#}");
        return Err(error);
    }
    tokio::time::sleep(Duration::MAX).await;
    Ok(())
}

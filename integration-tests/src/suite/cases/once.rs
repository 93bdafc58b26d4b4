//! Each message once, whoever sent it twice and whoever died over it.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Result, ensure};
use mq::{GroupSettings, Message, SendRetry, TopicSpec};

use crate::brokers;
use crate::suite::context::Context;
use crate::suite::manifest::Verdict;
use crate::suite::once::{Effects, OncePlan, StoreUrl};
use crate::suite::victim::Plan;

/// Messages, each of which is sent twice.
const MESSAGES: usize = 10_000;
/// How long all of it may take, a dead process's session included.
const PATIENCE: Duration = Duration::from_secs(240);
/// How long a broker may take to confirm some.
const SENT: Duration = Duration::from_secs(60);
/// Messages of one `send_batch`.
const BATCH: usize = 500;

pub(crate) async fn redis(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    let url = brokers::shared_redis().await?.url();
    check(&context, topic.clone(), StoreUrl::Redis(url.to_owned(), topic.to_string())).await
}

pub(crate) async fn sql(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    let path = std::env::temp_dir().join(format!("{topic}.db"));
    let checked = check(&context, topic, StoreUrl::Sql(format!("sqlite:{}?mode=rwc", path.display()))).await;
    for extension in ["db", "db-wal", "db-shm"] {
        // Not all are there.
        let _ = std::fs::remove_file(path.with_extension(extension));
    }
    checked
}

/// Two processes handle all that is sent twice, one is killed half-way: each effect is made once.
async fn check(context: &Context, topic: mq::TopicName, store: StoreUrl) -> Result<Verdict> {
    let group = context.group("g");
    let effects = Effects::open(&store).await?;
    // Where partitions are shared out, both processes get some.
    context.admin().ensure_topic(&topic, &TopicSpec::default().partitions(4)).await?;
    // Duplicates wait for whoever is at it, and what a dead process held waits for its claim: neither counts.
    let settings = GroupSettings::default();
    let plan = |dies_after| {
        let mut plan = Plan::hold(&topic, &group, settings.clone(), 0);
        plan.prefetch = 200;
        plan.once = Some(OncePlan { store: store.clone(), dies_after });
        plan
    };
    let dies = context.harness.victim(plan(Some(MESSAGES / 4))).await?;
    let lives = context.harness.victim(plan(None)).await?;
    // What may be stored is sent once more under its id: that is what there is a store for.
    let publisher = context.client.publisher(topic.clone()).retry(SendRetry::any(SENT)).await?;
    for first in (0..MESSAGES).step_by(BATCH) {
        let message = |n: usize| Message::new("").id(format!("m{n}")).key(n.to_string());
        let batch = (first..first + BATCH).flat_map(|n| [message(n), message(n)]).collect();
        for verdict in publisher.send_batch(batch).await {
            verdict?;
        }
    }
    if let Err(error) = dies.wait().await {
        let (made, stats) = (effects.count().await?, context.stats(&topic, "g").await?);
        return Err(error.context(format!("{made} effects so far, {stats:?}")));
    }
    // What is given back for a while is seen by its effect alone: not every broker can count it.
    let end = tokio::time::Instant::now() + PATIENCE;
    while effects.count().await? < MESSAGES {
        ensure!(tokio::time::Instant::now() < end, "{} effects in {PATIENCE:?}", effects.count().await?);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    context.until_empty(&topic, "g").await?;
    // Time for copies that wait to be seen a second time.
    tokio::time::sleep(Duration::from_secs(2)).await;
    context.until_empty(&topic, "g").await?;
    lives.kill().await?;
    let made = effects.all().await?;
    let distinct: BTreeSet<&String> = made.iter().collect();
    ensure!(
        (made.len(), distinct.len()) == (MESSAGES, MESSAGES),
        "{} effects, {} of them different, for {MESSAGES} messages",
        made.len(),
        distinct.len()
    );
    let dead = context.stats(&topic, "g").await?.dead;
    ensure!(dead == Some(0), "{dead:?} dead letters");
    Ok(Verdict::Pass)
}

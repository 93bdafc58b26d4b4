use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use mq::{ErrorKind, GroupSettings, Subscriber, TopicName};

use crate::suite::context::{Context, body, expect_kind, one, quiet, send, take};
use crate::suite::harness::Victim;
use crate::suite::manifest::Verdict;
use crate::suite::victim::Plan;

fn short() -> GroupSettings {
    GroupSettings::default().lease(Duration::from_millis(800))
}

pub(crate) async fn not_twice_while_leased(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    let first = context.subscribe(&topic, "g").await?;
    let second = context.subscribe(&topic, "g").await?;
    send(&context.publisher(&topic).await?, "m", 1).await?;
    let held = tokio::select! {
        held = one(&first) => held?,
        held = one(&second) => held?,
    };
    quiet(&first).await?;
    quiet(&second).await?;
    held.ack().await?;
    Ok(Verdict::Pass)
}

pub(crate) async fn expires_while_the_holder_lives(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    let subscriber = context.subscribe_as(&topic, "g", short()).await?;
    send(&context.publisher(&topic).await?, "m", 1).await?;
    let held = one(&subscriber).await?;
    let begun = Instant::now();
    let again = one(&subscriber).await?;
    ensure!(
        begun.elapsed() >= Duration::from_millis(700),
        "the lease of 800 ms lasted {:?}",
        begun.elapsed()
    );
    ensure!(again.attempt() == 2, "{again:?}");
    expect_kind(held.ack().await, ErrorKind::StaleDelivery)?;
    quiet(&subscriber).await?;
    again.ack().await?;
    Ok(Verdict::Pass)
}

pub(crate) async fn late_settlement_disturbs_nobody(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    let subscriber = context.subscribe_as(&topic, "g", short()).await?;
    send(&context.publisher(&topic).await?, "m", 1).await?;
    let held = one(&subscriber).await?;
    let again = one(&subscriber).await?;
    expect_kind(held.dead_letter("too late").await, ErrorKind::StaleDelivery)?;
    again.ack().await?;
    let stats = context.stats(&topic, "g").await?;
    ensure!(stats.dead.unwrap_or(0) == 0, "{stats:?}");
    quiet(&subscriber).await?;
    Ok(Verdict::Pass)
}

pub(crate) async fn extend_keeps_it(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    let subscriber = context.subscribe_as(&topic, "g", short()).await?;
    send(&context.publisher(&topic).await?, "m", 1).await?;
    let held = one(&subscriber).await?;
    for _ in 0..8 {
        tokio::time::sleep(Duration::from_millis(400)).await;
        held.extend()?;
    }
    held.ack().await?;
    quiet(&subscriber).await?;
    Ok(Verdict::Pass)
}

pub(crate) async fn expiry_ends_in_dead_letters(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    let subscriber = context.subscribe_as(&topic, "g", short().max_attempts(2)).await?;
    send(&context.publisher(&topic).await?, "m", 1).await?;
    let _first = one(&subscriber).await?;
    let _second = one(&subscriber).await?;
    context
        .until(|| async {
            let stats = context.stats(&topic, "g").await?;
            ensure!(stats.dead == Some(1), "{stats:?}");
            Ok(())
        })
        .await?;
    quiet(&subscriber).await?;
    Ok(Verdict::Pass)
}

/// Sends what the plan's process is to hold, and returns it, the process, and a member that gets nothing yet.
async fn held_elsewhere(
    context: &Context,
    topic: &TopicName,
    plan: Plan,
) -> Result<(Vec<String>, Box<dyn Victim>, Subscriber)> {
    context.subscribe(topic, "g").await?.close(Duration::from_secs(10)).await?;
    let sent = send(&context.publisher(topic).await?, "m", plan.receive).await?;
    let victim = context.harness.victim(plan).await?;
    let subscriber = context.subscribe(topic, "g").await?;
    quiet(&subscriber).await?;
    Ok((sent, victim, subscriber))
}

pub(crate) async fn a_dead_process_gives_back(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    let plan = Plan::hold(&topic, &context.group("g"), GroupSettings::default(), 100);
    let (sent, victim, subscriber) = held_elsewhere(&context, &topic, plan).await?;
    victim.kill().await?;
    let begun = Instant::now();
    let mut back: Vec<String> = Vec::new();
    for delivery in take(&subscriber, 100).await? {
        ensure!(delivery.attempt() == 2 && delivery.redelivered(), "{delivery:?}");
        back.push(body(&delivery));
        delivery.ack().await?;
    }
    back.sort();
    ensure!(back == sent, "what came back is not what was held");
    let bound = context.harness.session_bound() + Duration::from_secs(2);
    ensure!(begun.elapsed() <= bound, "it took {:?}; the bound is {bound:?}", begun.elapsed());
    quiet(&subscriber).await?;
    Ok(Verdict::Pass)
}

pub(crate) async fn a_hung_process_gives_back(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    let mut plan = Plan::hold(&topic, &context.group("g"), GroupSettings::default(), 100);
    plan.settles_late = true;
    let (sent, victim, subscriber) = held_elsewhere(&context, &topic, plan).await?;
    if !victim.hang().await? {
        return Ok(Verdict::Unsupported);
    }
    late_settlements_change_nothing(&context, &topic, &sent, victim, &subscriber).await
}

pub(crate) async fn hung_and_cut_off(context: Context) -> Result<Verdict> {
    let Some(faulty) = context.harness.faulty().await? else { return Ok(Verdict::Unsupported) };
    faulty.recover().await?;
    let mut context = Context::new(faulty.harness(), "lease.hung_and_cut_off", context.seed).await?;
    let topic = context.topic();
    let mut plan = Plan::hold(&topic, &context.group("g"), GroupSettings::default(), 100);
    plan.settles_late = true;
    let (sent, victim, subscriber) = held_elsewhere(&context, &topic, plan).await?;
    subscriber.close(Duration::from_secs(10)).await?;
    ensure!(victim.hang().await?, "a process can be stopped");
    faulty.proxy().freeze();
    context.reconnect().await?;
    let subscriber = context.subscribe(&topic, "g").await?;
    let checked = late_settlements_change_nothing(&context, &topic, &sent, victim, &subscriber).await;
    faulty.proxy().heal().await?;
    checked
}

/// What a process that hangs holds comes to `subscriber`; then it goes on, and settles in vain.
async fn late_settlements_change_nothing(
    context: &Context,
    topic: &TopicName,
    sent: &[String],
    victim: Box<dyn Victim>,
    subscriber: &Subscriber,
) -> Result<Verdict> {
    let bound = context.harness.hang_bound() + Duration::from_secs(2);
    let begun = Instant::now();
    let mut held = Vec::new();
    while held.len() < sent.len() {
        let next = tokio::time::timeout(bound.saturating_sub(begun.elapsed()), subscriber.receive()).await;
        held.push(next.with_context(|| format!("{} of {} came in {bound:?}", held.len(), sent.len()))??);
    }
    ensure!(held.iter().all(|delivery| delivery.attempt() == 2), "{held:?}");
    let mut back: Vec<String> = held.iter().map(body).collect();
    back.sort();
    ensure!(back == sent, "what came back is not what was held");
    victim.go_on().await?;
    victim.wait().await?;
    let dead = context.stats(topic, "g").await?.dead;
    ensure!(dead == Some(0), "the late settlements made {dead:?} dead letters");
    mq::ack_all(held).await.map_err(|failures| anyhow::anyhow!("{failures:?}"))?;
    quiet(subscriber).await?;
    context.until_empty(topic, "g").await?;
    Ok(Verdict::Pass)
}

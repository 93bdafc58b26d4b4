//! Futures dropped at every place: nothing is lost, nothing leaks.

mod admin;
mod publish;

pub(crate) use admin::{administration, declaring};
pub(crate) use publish::publishing;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures_util::future::try_join3;
use mq::{
    Client, Delivery, GroupSettings, Message, Page, Publisher, Subscriber, SubscriberBuilder, TopicName,
    ack_all,
};

use crate::suite::context::{Context, PATIENCE, body, one, quiet, send, take};
use crate::suite::cut::Cuts;
use crate::suite::manifest::Verdict;

/// The in-flight window and the prefetch: a permit that is not given back shows at once.
const WINDOW: usize = 4;
const DEADLINE: Duration = Duration::from_secs(10);
/// Longer than joining a group takes, shorter than a session of Kafka's lasts.
const SOON: Duration = Duration::from_secs(5);

/// A member of a group whose leases outlast the row: what is not given back is missed.
fn member(context: &Context, topic: &TopicName) -> SubscriberBuilder {
    member_of(context, &context.client, topic)
}

fn member_of(context: &Context, client: &Client, topic: &TopicName) -> SubscriberBuilder {
    let settings = GroupSettings::default().lease(Duration::from_secs(3600));
    client.subscriber(topic, context.group("g")).settings(settings).prefetch(WINDOW)
}

pub(crate) async fn receiving(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    member(&context, &topic).open().await?.close(DEADLINE).await?;
    let publisher = context.publisher(&topic).await?;
    let sent = send(&publisher, "before", 2 * WINDOW).await?;
    let mut cuts = Cuts::of(&context, "opening a subscriber");
    while cuts.next() {
        if let Some(opened) = cuts.cut(member(&context, &topic).open()).await? {
            opened?.close(DEADLINE).await?;
        }
    }
    let begun = Instant::now();
    let subscriber = member(&context, &topic).open().await?;
    all_at_once(&subscriber, &sent, &[], begun).await.context("after opening")?;
    context
        .until(|| async {
            let members = context.stats(&topic, "g").await?.consumers;
            ensure!(members.is_none_or(|members| members == 1), "{members:?} members are left");
            Ok(())
        })
        .await?;

    receives(&context, &subscriber, &publisher).await?;
    send(&publisher, "window", WINDOW).await?;
    for delivery in take(&subscriber, WINDOW).await.context("the window is not whole")? {
        delivery.ack().await?;
    }
    context.until_empty(&topic, "g").await?;
    quiet(&subscriber).await?;
    subscriber.close(DEADLINE).await?;
    closes(&context, &topic, &publisher).await?;
    Ok(Verdict::Pass)
}

/// Two receive; the first is cut. The message goes to the other, as a first attempt.
async fn receives(context: &Context, subscriber: &Subscriber, publisher: &Publisher) -> Result<()> {
    for what in ["receive", "receive_batch"] {
        let mut cuts = Cuts::of(context, what);
        while cuts.next() {
            let first = async {
                let received = if what == "receive" {
                    cuts.cut(subscriber.receive()).await?.transpose()?
                } else {
                    let batch = cuts.cut(subscriber.receive_batch(WINDOW, PATIENCE)).await?.transpose()?;
                    batch.into_iter().flatten().next()
                };
                // The other waits for one of its own.
                if let Some(delivery) = received {
                    settle_first(delivery).await?;
                    publisher.send(Message::new("second")).await?;
                }
                anyhow::Ok(())
            };
            let other = async { settle_first(one(subscriber).await?).await };
            let sending = async { Ok(publisher.send(Message::new("first")).await?) };
            try_join3(first, other, sending).await.context(what)?;
        }
    }
    Ok(())
}

async fn settle_first(delivery: Delivery) -> Result<()> {
    ensure!(delivery.attempt() == 1, "{} is at attempt {}", body(&delivery), delivery.attempt());
    Ok(delivery.ack().await?)
}

/// Whatever became of a member's close, the next one gets what it held.
async fn closes(context: &Context, topic: &TopicName, publisher: &Publisher) -> Result<()> {
    let mut cuts = Cuts::of(context, "closing a subscriber");
    while cuts.next() {
        let client = context.harness.client().await?;
        let closing = member_of(context, &client, topic).open().await?;
        let sent = send(publisher, "held", 2 * WINDOW).await?;
        let held = take(&closing, 2).await?;
        let counted: Vec<String> = held.iter().map(body).collect();
        cuts.cut(closing.close(Duration::from_millis(50))).await?.transpose()?;
        drop((held, closing));
        let begun = Instant::now();
        let next = member(context, topic).open().await?;
        all_at_once(&next, &sent, &counted, begun).await.context("after closing")?;
        quiet(&next).await?;
        next.close(DEADLINE).await?;
        client.close(DEADLINE).await?;
    }
    Ok(())
}

/// Acks all that was sent: each came once, without waiting for a session to end, and nobody died with it, so that
/// all but those that were `dropped` in hand are first attempts.
async fn all_at_once(
    subscriber: &Subscriber,
    sent: &[String],
    dropped: &[String],
    begun: Instant,
) -> Result<()> {
    let mut bodies = Vec::new();
    while bodies.len() < sent.len() {
        let delivery = one(subscriber).await.with_context(|| format!("after {bodies:?}"))?;
        let body = body(&delivery);
        ensure!(
            delivery.attempt() == 1 || dropped.contains(&body),
            "{body} at attempt {}",
            delivery.attempt()
        );
        bodies.push(body);
        delivery.ack().await?;
    }
    bodies.sort();
    ensure!(bodies == sent, "lost or doubled: {bodies:?}");
    ensure!(begun.elapsed() < SOON, "it took {:?}", begun.elapsed());
    Ok(())
}

pub(crate) async fn settling(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    let subscriber = member(&context, &topic).open().await?;
    let publisher = context.publisher(&topic).await?;
    let mut dead = 0;
    for what in ["ack", "retry", "defer", "dead_letter"] {
        let mut cuts = Cuts::of(&context, what);
        while cuts.next() {
            publisher.send(Message::new(what)).await?;
            let delivery = one(&subscriber).await?;
            ensure!(body(&delivery) == what && delivery.attempt() == 1, "{delivery:?} for {what}");
            let settled = match what {
                "ack" => delivery.ack(),
                "retry" => delivery.retry(Duration::ZERO),
                "defer" => delivery.defer(Duration::ZERO),
                _ => delivery.dead_letter("cut"),
            };
            cuts.cut(settled).await?.transpose()?;
            match what {
                "retry" | "defer" => {
                    let again = one(&subscriber).await.context(what)?;
                    let attempt = if what == "retry" { 2 } else { 1 };
                    ensure!(body(&again) == what && again.attempt() == attempt, "{again:?} after {what}");
                    again.ack().await?;
                }
                "dead_letter" => dead += 1,
                _ => {}
            }
        }
    }
    let mut cuts = Cuts::of(&context, "ack_all");
    while cuts.next() {
        send(&publisher, "many", WINDOW).await?;
        let many = take(&subscriber, WINDOW).await.context("the window is not whole")?;
        let settled = cuts.cut(ack_all(many)).await?;
        ensure!(settled.is_none_or(|settled| settled.is_ok()), "a settlement failed");
    }
    context.until_empty(&topic, "g").await?;
    quiet(&subscriber).await?;
    subscriber.close(DEADLINE).await?;
    quiet(&member(&context, &topic).open().await?).await?;
    let page = Page { offset: 0, limit: 1000 };
    let letters = context.admin().dead_letters(&topic, &context.group("g"), page).await?;
    ensure!(letters.len() == dead, "{} dead letters, {dead} were made", letters.len());
    Ok(Verdict::Pass)
}

use std::collections::btree_map::{BTreeMap, Entry};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mq::{GroupSettings, Message, Page, Publisher, Selection, Subscriber, TopicName, TopicSpec};

use super::{DEADLINE, WINDOW};
use crate::suite::context::{Context, QUIET, body, one, quiet, send, take};
use crate::suite::cut::Cuts;
use crate::suite::manifest::Verdict;

pub(crate) async fn administration(context: Context) -> Result<Verdict> {
    let (topic, group) = (context.topic(), context.group("g"));
    let settings = GroupSettings::default().lease(Duration::from_secs(3600));
    let subscriber = context.subscribe_as(&topic, "g", settings).await?;
    let publisher = context.publisher(&topic).await?;
    let admin = context.admin();
    let letters = Letters { context: &context, topic: &topic, subscriber: &subscriber };
    letters.make(&publisher).await?;

    let mut cuts = Cuts::of(&context, "stats");
    while cuts.next() {
        cuts.cut(admin.stats(&topic, &group)).await?.transpose()?;
    }
    let mut cuts = Cuts::of(&context, "dead_letters");
    while cuts.next() {
        let page = Page { offset: 0, limit: 100 };
        let listed = cuts.cut(admin.dead_letters(&topic, &group, page)).await?.transpose()?;
        ensure!(listed.is_none_or(|listed| listed.len() == WINDOW), "not all letters are listed");
        letters.are(WINDOW).await?;
    }
    let mut cuts = Cuts::of(&context, "redrive");
    while cuts.next() {
        let cut = cuts.cut(admin.redrive(&topic, &group, &Selection::All)).await?.transpose()?;
        admin.redrive(&topic, &group, &Selection::All).await?;
        letters.die_again(cut.is_some()).await?;
        letters.are(WINDOW).await?;
    }
    let mut cuts = Cuts::of(&context, "purge");
    while cuts.next() {
        cuts.cut(admin.purge(&topic, &group, &Selection::All)).await?.transpose()?;
        admin.purge(&topic, &group, &Selection::All).await?;
        letters.are(0).await?;
        letters.make(&publisher).await?;
    }
    quiet(&subscriber).await?;
    context.until_empty(&topic, "g").await?;
    letters.are(WINDOW).await?;
    Ok(Verdict::Pass)
}

/// The dead letters of a group.
struct Letters<'a> {
    context: &'a Context,
    topic: &'a TopicName,
    subscriber: &'a Subscriber,
}

impl Letters<'_> {
    /// Makes as many as the window has messages.
    async fn make(&self, publisher: &Publisher) -> Result<()> {
        send(publisher, "letter", WINDOW).await?;
        for delivery in take(self.subscriber, WINDOW).await? {
            delivery.dead_letter("made").await?;
        }
        Ok(())
    }

    /// Waits until so many are listed and counted.
    async fn are(&self, count: usize) -> Result<()> {
        let (group, page) = (self.context.group("g"), Page { offset: 0, limit: 100 });
        self.context
            .until(|| async {
                let listed = self.context.admin().dead_letters(self.topic, &group, page).await?.len();
                let counted = self.context.stats(self.topic, "g").await?.dead;
                ensure!(listed == count, "{listed} dead letters are listed for {count}");
                ensure!(counted.is_none_or(|dead| dead == count as u64), "{counted:?} for {count}");
                Ok(())
            })
            .await
    }

    /// Receives all of them, redriven, and dead-letters each again. A call that was dropped half-way may have
    /// left copies that a second one copies again: at least once, and `exactly` once otherwise.
    async fn die_again(&self, exactly: bool) -> Result<()> {
        let mut held = BTreeMap::new();
        loop {
            let delivery = if held.len() < WINDOW {
                one(self.subscriber).await.with_context(|| format!("{} came back", held.len()))?
            } else {
                match tokio::time::timeout(QUIET, self.subscriber.receive()).await {
                    Ok(delivery) => delivery?,
                    Err(_) => break,
                }
            };
            ensure!(delivery.attempt() == 1, "a redriven message is at attempt {}", delivery.attempt());
            match held.entry(body(&delivery)) {
                Entry::Vacant(place) => {
                    place.insert(delivery);
                }
                Entry::Occupied(_) => {
                    ensure!(!exactly, "{} came twice", body(&delivery));
                    delivery.ack().await?;
                }
            }
        }
        for delivery in held.into_values() {
            delivery.dead_letter("again").await?;
        }
        Ok(())
    }
}

/// What was declared by halves can be declared again, and serves.
pub(crate) async fn declaring(context: Context) -> Result<Verdict> {
    let mut cuts = Cuts::of(&context, "connecting");
    while cuts.next() {
        if let Some(client) = cuts.cut(context.harness.client()).await? {
            client?.close(DEADLINE).await?;
        }
    }
    let admin = context.admin();
    for what in ["ensure_topic", "ensure_group"] {
        let mut cuts = Cuts::of(&context, what);
        while cuts.next() {
            let (topic, spec) = (context.topic(), TopicSpec::default());
            let (group, settings) = (context.group("g"), GroupSettings::default());
            if what == "ensure_topic" {
                cuts.cut(admin.ensure_topic(&topic, &spec)).await?.transpose()?;
            } else {
                admin.ensure_topic(&topic, &spec).await?;
                cuts.cut(admin.ensure_group(&topic, &group, &settings)).await?.transpose()?;
            }
            let serves = async {
                let subscriber = context.subscribe(&topic, "g").await?;
                context.publisher(&topic).await?.send(Message::new("m")).await?;
                one(&subscriber).await?.ack().await?;
                anyhow::Ok(subscriber.close(DEADLINE).await?)
            };
            serves.await.with_context(|| format!("after {what} was dropped"))?;
            admin.delete_topic(&topic).await?;
        }
    }
    Ok(Verdict::Pass)
}

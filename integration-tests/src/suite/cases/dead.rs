use std::time::Duration;

use anyhow::{Result, ensure};
use mq::{Message, Page, Selection, TopicName};

use crate::suite::context::{Context, drain, one, quiet, send, take};
use crate::suite::manifest::Verdict;

const ALL: Page = Page { offset: 0, limit: 1000 };

/// Sends `count` messages and dead-letters each with the reason `broken`.
async fn kill_some(context: &Context, topic: &TopicName, count: usize) -> Result<Vec<String>> {
    let subscriber = context.subscribe(topic, "g").await?;
    let sent = send(&context.publisher(topic).await?, "m", count).await?;
    for delivery in take(&subscriber, count).await? {
        delivery.dead_letter("broken").await?;
    }
    subscriber.close(Duration::from_secs(10)).await?;
    Ok(sent)
}

pub(crate) async fn envelope_is_whole(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    let subscriber = context.subscribe(&topic, "g").await?;
    let sent = Message::new(vec![0u8, 159, 146, 150]).key("k").subject("a.b").header("h", vec![1u8, 255]);
    let sent = sent.content_type("application/x-test");
    context.publisher(&topic).await?.send(sent.clone()).await?;
    one(&subscriber).await?.retry_because(Duration::ZERO, "first failure").await?;
    one(&subscriber).await?.dead_letter("hopeless").await?;
    let letters = context.admin().dead_letters(&topic, &context.group("g"), ALL).await?;
    ensure!(letters.len() == 1, "{letters:?}");
    let (message, envelope) = (&letters[0].message, &letters[0].envelope);
    ensure!(
        message.payload == sent.payload && message.id == sent.id && message.key == sent.key,
        "{message:?}"
    );
    ensure!(message.headers == sent.headers && message.subject == sent.subject, "{message:?}");
    ensure!(message.content_type == sent.content_type && message.published_at.is_some(), "{message:?}");
    ensure!(envelope.attempt == 2 && envelope.first_seen.is_some(), "{envelope:?}");
    ensure!(envelope.error.as_deref() == Some("first failure"), "{envelope:?}");
    let death = envelope.death.as_ref();
    ensure!(
        death.is_some_and(|death| death.reason == "hopeless" && death.at.as_millis() > 0),
        "{envelope:?}"
    );
    quiet(&subscriber).await?;
    Ok(Verdict::Pass)
}

pub(crate) async fn looking_changes_nothing(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    kill_some(&context, &topic, 10).await?;
    let first = context.admin().dead_letters(&topic, &context.group("g"), ALL).await?;
    for _ in 0..100 {
        let again = context.admin().dead_letters(&topic, &context.group("g"), ALL).await?;
        let same = first.iter().zip(&again).all(|(a, b)| a.message == b.message && a.envelope == b.envelope);
        ensure!(same && first.len() == again.len(), "{first:?}\nbecame {again:?}");
    }
    Ok(Verdict::Pass)
}

pub(crate) async fn paging(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    let mut sent = kill_some(&context, &topic, 25).await?;
    let mut listed = Vec::new();
    for offset in [0, 10, 20, 30] {
        let page =
            context.admin().dead_letters(&topic, &context.group("g"), Page { offset, limit: 10 }).await?;
        ensure!(page.len() == 25usize.saturating_sub(offset).min(10), "{} at {offset}", page.len());
        listed
            .extend(page.iter().map(|letter| String::from_utf8_lossy(&letter.message.payload).into_owned()));
    }
    listed.sort();
    sent.sort();
    ensure!(listed == sent, "{listed:?}");
    Ok(Verdict::Pass)
}

pub(crate) async fn redrive_one(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    kill_some(&context, &topic, 5).await?;
    let letters = context.admin().dead_letters(&topic, &context.group("g"), ALL).await?;
    let chosen = letters[2].message.clone();
    let which = Selection::Ids(vec![chosen.id.clone()]);
    ensure!(context.admin().redrive(&topic, &context.group("g"), &which).await? == 1, "not one");
    ensure!(context.admin().redrive(&topic, &context.group("g"), &which).await? == 0, "redriven twice");
    let subscriber = context.subscribe(&topic, "g").await?;
    let back = one(&subscriber).await?;
    ensure!(back.message().id == chosen.id && back.payload() == &chosen.payload, "{back:?}");
    ensure!(back.attempt() == 1, "attempts do not start again: {back:?}");
    back.ack().await?;
    quiet(&subscriber).await?;
    let left = context.admin().dead_letters(&topic, &context.group("g"), ALL).await?;
    ensure!(left.len() == 4 && left.iter().all(|letter| letter.message.id != chosen.id), "{left:?}");
    Ok(Verdict::Pass)
}

pub(crate) async fn redrive_all_to_that_group_alone(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    let other = context.subscribe(&topic, "other").await?;
    let sent = kill_some(&context, &topic, 30).await?;
    ensure!(drain(&other, 30).await? == sent, "the other group missed something");
    ensure!(context.admin().redrive(&topic, &context.group("g"), &Selection::All).await? == 30, "not all");
    let subscriber = context.subscribe(&topic, "g").await?;
    ensure!(drain(&subscriber, 30).await? == sent, "not all came back");
    quiet(&other).await?;
    ensure!(
        context.admin().dead_letters(&topic, &context.group("g"), ALL).await?.is_empty(),
        "letters are left"
    );
    Ok(Verdict::Pass)
}

pub(crate) async fn redriven_and_dead_again(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    kill_some(&context, &topic, 3).await?;
    for round in 0..3 {
        ensure!(
            context.admin().redrive(&topic, &context.group("g"), &Selection::All).await? == 3,
            "round {round}"
        );
        let subscriber = context.subscribe(&topic, "g").await?;
        for delivery in take(&subscriber, 3).await? {
            delivery.dead_letter("again").await?;
        }
        subscriber.close(Duration::from_secs(10)).await?;
    }
    let letters = context.admin().dead_letters(&topic, &context.group("g"), ALL).await?;
    ensure!(letters.len() == 3, "{letters:?}");
    Ok(Verdict::Pass)
}

pub(crate) async fn purge(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    kill_some(&context, &topic, 6).await?;
    let letters = context.admin().dead_letters(&topic, &context.group("g"), ALL).await?;
    let two = Selection::Ids(letters[..2].iter().map(|letter| letter.message.id.clone()).collect());
    ensure!(context.admin().purge(&topic, &context.group("g"), &two).await? == 2, "not two");
    ensure!(
        context.admin().dead_letters(&topic, &context.group("g"), ALL).await?.len() == 4,
        "not four left"
    );
    ensure!(context.admin().purge(&topic, &context.group("g"), &Selection::All).await? == 4, "not four");
    ensure!(
        context.admin().dead_letters(&topic, &context.group("g"), ALL).await?.is_empty(),
        "letters are left"
    );
    quiet(&context.subscribe(&topic, "g").await?).await?;
    Ok(Verdict::Pass)
}

pub(crate) async fn isolated(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    let other = context.subscribe(&topic, "other").await?;
    kill_some(&context, &topic, 4).await?;
    drain(&other, 4).await?;
    let name = context.group("other");
    ensure!(context.admin().dead_letters(&topic, &name, ALL).await?.is_empty(), "another group's letters");
    ensure!(context.stats(&topic, "other").await?.dead == Some(0), "another group's count");
    Ok(Verdict::Pass)
}

pub(crate) async fn nothing_selected(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    let group = context.group("g");
    let subscriber = context.subscribe(&topic, "g").await?;
    send(&context.publisher(&topic).await?, "m", 3).await?;
    for delivery in take(&subscriber, 3).await? {
        delivery.dead_letter("hopeless").await?;
    }
    let admin = context.admin();
    let nobody = Selection::Ids(vec!["no-such-id".into()]);
    ensure!(admin.redrive(&topic, &group, &nobody).await? == 0, "an unknown id was redriven");
    ensure!(admin.purge(&topic, &group, &nobody).await? == 0, "an unknown id was purged");
    ensure!(
        admin.dead_letters(&topic, &group, Page { offset: 3, limit: 5 }).await?.is_empty(),
        "a page too many"
    );
    ensure!(
        admin.dead_letters(&topic, &group, Page { offset: 0, limit: 5 }).await?.len() == 3,
        "letters lost"
    );
    quiet(&subscriber).await?;
    Ok(Verdict::Pass)
}

pub(crate) async fn redrive_all_of_many(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    let group = context.group("g");
    let subscriber = context.subscribe(&topic, "g").await?;
    let sent = send(&context.publisher(&topic).await?, "m", 500).await?;
    let mut settled = Vec::new();
    for delivery in take(&subscriber, 500).await? {
        settled.push(delivery.dead_letter("all of them"));
    }
    for settled in settled {
        settled.await?;
    }
    let moved = context.admin().redrive(&topic, &group, &Selection::All).await?;
    ensure!(moved == 500, "{moved} redriven");
    ensure!(drain(&subscriber, 500).await? == sent, "not all came back");
    context.until_empty(&topic, "g").await?;
    ensure!(context.stats(&topic, "g").await?.dead == Some(0), "letters left behind");
    Ok(Verdict::Pass)
}

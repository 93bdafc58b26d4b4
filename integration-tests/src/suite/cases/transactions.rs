use anyhow::{Result, ensure};
use mq::{Capability, ErrorKind, GroupSettings, Message, Policy};
use std::time::{Duration, SystemTime};

use crate::suite::context::{Context, body, drain, expect_kind, one, quiet};
use crate::suite::manifest::Verdict;

/// Asks for a transaction where there is none; returns whether there is one.
async fn supported(context: &Context) -> Result<bool> {
    if context.has(Capability::Transactions) {
        return Ok(true);
    }
    let publisher = context.publisher(&context.topic()).await?;
    let mut transaction = context.client.transaction();
    transaction.add(&publisher, Message::new("x"))?;
    expect_kind(transaction.commit().await, ErrorKind::Unsupported)?;
    Ok(false)
}

pub(crate) async fn all_are_stored(context: Context) -> Result<Verdict> {
    if !supported(&context).await? {
        return Ok(Verdict::Unsupported);
    }
    let (orders, audit) = (context.topic(), context.topic());
    let (first, second) = (context.subscribe(&orders, "g").await?, context.subscribe(&audit, "a").await?);
    let (to_orders, to_audit) = (context.publisher(&orders).await?, context.publisher(&audit).await?);
    let mut transaction = context.client.transaction();
    let mut ids = Vec::new();
    for number in 0..300 {
        ids.push(transaction.add(&to_orders, Message::new(format!("order{number:03}")))?);
        ids.push(transaction.add(&to_audit, Message::new(format!("audit{number:03}")).header("h", "v"))?);
    }
    let late = Message::new("z-late").deliver_at(SystemTime::now() + Duration::from_millis(400));
    ids.push(transaction.add(&to_audit, late)?);
    ensure!(transaction.len() == 601 && !transaction.is_empty(), "{}", transaction.len());
    let receipts = transaction.commit().await?;
    ensure!(receipts.iter().map(|receipt| &receipt.id).eq(ids.iter()), "receipts are not in order");
    let came = drain(&first, 300).await?;
    ensure!(came == (0..300).map(|n| format!("order{n:03}")).collect::<Vec<_>>(), "{came:?}");
    let came = drain(&second, 301).await?;
    ensure!(came.len() == 301 && came.last().is_some_and(|last| last == "z-late"), "{:?}", came.last());
    quiet(&first).await?;
    ensure!(context.client.transaction().commit().await?.is_empty(), "an empty one stores nothing");
    context.until_empty(&orders, "g").await?;
    context.until_empty(&audit, "a").await?;
    Ok(Verdict::Pass)
}

pub(crate) async fn none_is_stored(context: Context) -> Result<Verdict> {
    if !supported(&context).await? {
        return Ok(Verdict::Unsupported);
    }
    let (topic, missing, lonely) = (context.topic(), context.topic(), context.topic());
    let subscriber = context.subscribe(&topic, "g").await?;
    let publisher = context.publisher(&topic).await?;
    let to_missing = context.client.publisher(&missing).policy(Policy::Assume).await?;
    let to_lonely = context.client.publisher(&lonely).require_group().await?;
    for (other, kind) in [(&to_missing, ErrorKind::NotFound), (&to_lonely, ErrorKind::Unroutable)] {
        for first in [true, false] {
            let mut transaction = context.client.transaction();
            if first {
                transaction.add(other, Message::new("refused"))?;
            }
            transaction.add(&publisher, Message::new("must not be stored"))?;
            if !first {
                transaction.add(other, Message::new("refused"))?;
            }
            expect_kind(transaction.commit().await, kind)?;
        }
    }
    let mut transaction = context.client.transaction();
    transaction.add(&publisher, Message::new("must not be stored"))?;
    expect_kind(
        transaction.add(&publisher, Message::new("bad").header("mq-id", "forged")),
        ErrorKind::Rejected,
    )?;
    drop(transaction);
    quiet(&subscriber).await?;
    publisher.send(Message::new("the only one")).await?;
    let delivery = one(&subscriber).await?;
    ensure!(body(&delivery) == "the only one", "{}", body(&delivery));
    delivery.ack().await?;
    context.until_empty(&topic, "g").await?;
    Ok(Verdict::Pass)
}

pub(crate) async fn in_order_with_sends(context: Context) -> Result<Verdict> {
    if !supported(&context).await? {
        return Ok(Verdict::Unsupported);
    }
    let topic = context.topic();
    let settings = GroupSettings::default().ordered();
    let subscriber = context.subscribe_as(&topic, "g", settings).await?;
    let publisher = context.publisher(&topic).await?;
    let message = |number: usize| Message::new(number.to_string()).key("k");
    let mut sending = Vec::new();
    let mut number = 0;
    for _ in 0..20 {
        for _ in 0..10 {
            sending.push(publisher.enqueue(message(number)).await?);
            number += 1;
        }
        let mut transaction = context.client.transaction();
        for _ in 0..5 {
            transaction.add(&publisher, message(number))?;
            number += 1;
        }
        transaction.commit().await?;
    }
    for sent in sending {
        sent.await?;
    }
    for expected in 0..number {
        let delivery = one(&subscriber).await?;
        ensure!(body(&delivery) == expected.to_string(), "{} instead of {expected}", body(&delivery));
        delivery.ack().await?;
    }
    Ok(Verdict::Pass)
}

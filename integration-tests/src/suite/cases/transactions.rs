use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Result, ensure};
use mq::{Capability, ErrorKind, GroupSettings, Message, Policy};
use parking_lot::Mutex;

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
    // So much is still on its way when the transaction begins.
    let client = context.harness.lingering().await?;
    let publisher = client.publisher(&topic).await?;
    let rest = "x".repeat(16 << 10);
    let message = |number: usize| Message::new(format!("{number} {rest}")).key("k");
    let mut sending = Vec::new();
    let mut number = 0;
    for _ in 0..4 {
        for _ in 0..300 {
            sending.push(publisher.enqueue(message(number)).await?);
            number += 1;
        }
        let mut transaction = client.transaction();
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
        let body = body(&delivery);
        let found = body.split(' ').next().unwrap_or_default();
        ensure!(found == expected.to_string(), "{found} instead of {expected}");
        delivery.ack().await?;
    }
    client.close(Duration::from_secs(5)).await?;
    Ok(Verdict::Pass)
}

/// How many messages a transaction under faults has.
const EACH: usize = 4;
/// How often [`whole_under_cuts`] cuts.
const CUTS: usize = 12;

/// What became of a transaction, as its sender knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Stored,
    Refused,
    Unknown,
}

/// Commits until `stop` says so or is gone; returns what was told of each.
async fn keep_committing(
    client: mq::Client,
    topics: [mq::Publisher; 2],
    stop: tokio::sync::watch::Receiver<bool>,
) -> Result<Vec<Told>> {
    let mut told = Vec::new();
    while !stop.has_changed().unwrap_or(true) {
        let mut transaction = client.transaction();
        for part in 0..EACH {
            transaction.add(&topics[part % 2], Message::new(format!("{}/{part}", told.len())))?;
        }
        told.push(match transaction.commit().await {
            Ok(_) => Told::Stored,
            Err(error) if error.is_unknown_outcome() => Told::Unknown,
            Err(_) => Told::Refused,
        });
    }
    Ok(told)
}

/// Acks all that comes, and notes which parts of which transaction; each comes at least once.
async fn keep_noting(subscriber: mq::Subscriber, came: Arc<Mutex<BTreeSet<(usize, usize)>>>) -> Result<()> {
    loop {
        match subscriber.receive().await {
            Ok(delivery) => {
                let text = body(&delivery);
                if let Some((transaction, part)) = text.split_once('/') {
                    came.lock().insert((transaction.parse()?, part.parse()?));
                }
                // Stale if the broker took it back; then it comes again.
                drop(delivery.ack().await);
            }
            Err(error) if error.kind() == ErrorKind::Closed => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

pub(crate) async fn whole_under_cuts(context: Context) -> Result<Verdict> {
    if !supported(&context).await? {
        return Ok(Verdict::Unsupported);
    }
    let Some(faulty) = context.harness.faulty().await? else { return Ok(Verdict::Unsupported) };
    faulty.recover().await?;
    let context = Context::new(faulty.harness(), "transactions.whole_under_cuts", context.seed).await?;
    let names = [context.topic(), context.topic()];
    let came = Arc::new(Mutex::new(BTreeSet::new()));
    let mut noting = Vec::new();
    let mut subscribers = Vec::new();
    for topic in &names {
        let subscriber = context.subscribe(topic, "g").await?;
        noting.push(tokio::spawn(keep_noting(subscriber.clone(), came.clone())));
        subscribers.push(subscriber);
    }
    let publishers = [context.publisher(&names[0]).await?, context.publisher(&names[1]).await?];
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let committing = tokio::spawn(keep_committing(context.client.clone(), publishers, stopped));
    for _ in 0..CUTS {
        let before = came.lock().len();
        let on = context.until(|| async {
            ensure!(came.lock().len() >= before + 3 * EACH, "nothing comes any more");
            Ok(())
        });
        on.await?;
        faulty.proxy().cut();
    }
    stop.send(true)?;
    let told = committing.await??;
    let all = context.until(|| async { judge(&told, &came.lock()) });
    all.await?;
    for topic in [&names[0], &names[1]] {
        context.until_empty(topic, "g").await?;
    }
    judge(&told, &came.lock())?;
    for (subscriber, noting) in subscribers.into_iter().zip(noting) {
        subscriber.close(Duration::from_secs(10)).await?;
        noting.await??;
    }
    Ok(Verdict::Pass)
}

/// What was stored came whole, what was refused not at all, and what is unknown either way.
fn judge(told: &[Told], came: &BTreeSet<(usize, usize)>) -> Result<()> {
    for (number, told) in told.iter().enumerate() {
        let parts = came.range((number, 0)..(number + 1, 0)).count();
        let right = match told {
            Told::Stored => parts == EACH,
            Told::Refused => parts == 0,
            Told::Unknown => parts == 0 || parts == EACH,
        };
        ensure!(right, "{parts} of {EACH} messages of transaction {number} came, which was {told:?}");
    }
    ensure!(told.contains(&Told::Stored), "no transaction was stored");
    Ok(())
}

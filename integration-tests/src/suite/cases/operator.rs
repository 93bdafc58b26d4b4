//! What is done to the broker from outside: never silence, and everybody goes on.

pub(crate) mod limits;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use mq::{ErrorKind, Event, GroupSettings, Message, Publisher, SendRetry, Subscriber};
use tokio::sync::broadcast::{Receiver, error::RecvError};

use crate::brokers::BrokerKind;
use crate::suite::context::{Context, PATIENCE, body, drain, expect_kind, one, quiet, send, take};
use crate::suite::harm::{Operator, PASSWORD, USER};
use crate::suite::manifest::Verdict;

/// How long both sides may take to go on: 10 s, for Kafka also its session and a rebalance.
fn bound(context: &Context) -> Duration {
    Duration::from_secs(15) + context.harness.session_bound()
}

async fn until_event(events: &mut Receiver<Event>, wanted: impl Fn(&Event) -> bool) -> Result<Event> {
    let wait = async {
        loop {
            match events.recv().await {
                Ok(event) if wanted(&event) => return Ok(event),
                Ok(_) | Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return Err(anyhow!("the client is gone")),
            }
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.map_err(|_| anyhow!("no event told of it in {PATIENCE:?}"))?
}

/// What the client's events have told by now.
fn told(events: &mut Receiver<Event>) -> String {
    let told: Vec<Event> = std::iter::from_fn(|| events.try_recv().ok()).collect();
    format!("the events: {told:?}")
}

/// Sends new messages until one of them comes.
async fn go_on(context: &Context, publisher: &Publisher, subscriber: &Subscriber) -> Result<()> {
    let within = bound(context);
    let sending = async {
        for number in 0.. {
            // Refused while the broker is being put right.
            drop(publisher.send(Message::new(format!("after{number}"))).await);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let receiving = async {
        loop {
            let delivery = subscriber.receive().await?;
            let came = body(&delivery);
            // Stale if it was the broker's before.
            drop(delivery.ack().await);
            if came.starts_with("after") {
                return anyhow::Ok(());
            }
        }
    };
    tokio::select! {
        () = sending => Err(anyhow!("unreachable")),
        received = tokio::time::timeout(within, receiving) => {
            received.map_err(|_| anyhow!("it does not go on within {within:?}"))?
        }
    }
}

/// Uses both sides, lets `hurt` happen, and expects an event of a rebuilding and that both go on.
async fn rebuilt_after(
    context: &Context,
    settings: GroupSettings,
    hurt: impl AsyncFnOnce(Operator<'_>, &mq::TopicName) -> Result<bool>,
) -> Result<Verdict> {
    let Some(broker) = context.harness.broker() else { return Ok(Verdict::Unsupported) };
    let topic = context.topic();
    let subscriber = context.subscribe_as(&topic, "g", settings).await?;
    let mut events = context.client.events();
    let publisher = context.publisher(&topic).await?;
    send(&publisher, "before", 20).await?;
    for delivery in take(&subscriber, 20).await? {
        delivery.ack().await.with_context(|| told(&mut events))?;
    }
    if !hurt(Operator(broker), &topic).await? {
        return Ok(Verdict::Unsupported);
    }
    until_event(&mut events, |event| matches!(event, Event::Rebuilt { .. })).await?;
    go_on(context, &publisher, &subscriber).await?;
    subscriber.close(Duration::from_secs(10)).await?;
    Ok(Verdict::Pass)
}

pub(crate) async fn group_deleted(context: Context) -> Result<Verdict> {
    let group = context.group("g");
    rebuilt_after(&context, GroupSettings::default(), async |operator, topic| {
        operator.delete_group(topic, &group).await
    })
    .await
}

pub(crate) async fn everything_deleted(context: Context) -> Result<Verdict> {
    rebuilt_after(&context, GroupSettings::default(), async |operator, _| operator.delete_all().await).await
}

pub(crate) async fn everything_deleted_ordered(context: Context) -> Result<Verdict> {
    let settings = GroupSettings::default().ordered();
    rebuilt_after(&context, settings, async |operator, _| operator.delete_all().await).await
}

pub(crate) async fn route_removed(context: Context) -> Result<Verdict> {
    let Some(broker) = context.harness.broker() else { return Ok(Verdict::Unsupported) };
    let (topic, group) = (context.topic(), context.group("g"));
    // Who sends and knows the route would restore it by itself.
    let mut sender = context.clone();
    sender.reconnect().await?;
    let publisher = sender.publisher(&topic).await?;
    let subscriber = context.subscribe(&topic, "g").await?;
    if !Operator(broker).remove_route(&topic, &group).await? {
        return Ok(Verdict::Unsupported);
    }
    let begun = Instant::now();
    go_on(&context, &publisher, &subscriber).await?;
    // What is looked for now and then only has its turn 7.5 s after the opening, or later.
    ensure!(begun.elapsed() < Duration::from_secs(4), "it took {:?}", begun.elapsed());
    subscriber.close(Duration::from_secs(10)).await?;
    Ok(Verdict::Pass)
}

/// A route that was lost with all connections, while somebody sends.
pub(crate) async fn route_removed_and_sent(context: Context) -> Result<Verdict> {
    let Some(broker) = context.harness.broker() else { return Ok(Verdict::Unsupported) };
    let (topic, group) = (context.topic(), context.group("g"));
    let subscriber = context.subscribe(&topic, "g").await?;
    let retry = SendRetry::any(Duration::from_secs(30));
    let publisher = context.client.publisher(&topic).retry(retry).await?;
    send(&publisher, "before", 10).await?;
    drain(&subscriber, 10).await?;
    // Nobody is left that would declare the route again when the connections are back.
    subscriber.close(Duration::from_secs(10)).await?;
    if !Operator(broker).remove_route(&topic, &group).await? {
        return Ok(Verdict::Unsupported);
    }
    let mut missing: BTreeSet<String> = send(&publisher, "after", 50).await?.into_iter().collect();
    let subscriber = context.subscribe(&topic, "g").await?;
    while !missing.is_empty() {
        let delivery = one(&subscriber).await.with_context(|| format!("confirmed and gone: {missing:?}"))?;
        missing.remove(&body(&delivery));
        delivery.ack().await?;
    }
    Ok(Verdict::Pass)
}

pub(crate) async fn trimmed_before_read(context: Context) -> Result<Verdict> {
    let Some(broker) = context.harness.broker() else { return Ok(Verdict::Unsupported) };
    let topic = context.topic();
    let group = context.group("g");
    let admin = context.admin();
    let spec = mq::TopicSpec::default().partitions(1);
    admin.ensure_topic(&topic, &spec).await?;
    admin.ensure_group(&topic, &group, &GroupSettings::default()).await?;
    let publisher = context.publisher(&topic).await?;
    send(&publisher, "gone", 50).await?;
    if !Operator(broker).trim(&topic).await? {
        return Ok(Verdict::Unsupported);
    }
    let mut events = context.client.events();
    let subscriber = context.subscribe(&topic, "g").await?;
    send(&publisher, "kept", 5).await?;
    let event = until_event(&mut events, |event| matches!(event, Event::Lost { .. })).await?;
    ensure!(format!("{event:?}").contains(topic.as_str()), "{event:?} does not name {topic}");
    for delivery in take(&subscriber, 5).await? {
        ensure!(body(&delivery).starts_with("kept"), "{delivery:?}");
        delivery.ack().await?;
    }
    quiet(&subscriber).await?;
    Ok(Verdict::Pass)
}

pub(crate) async fn trimmed_while_read(context: Context) -> Result<Verdict> {
    let Some(broker) = context.harness.broker() else { return Ok(Verdict::Unsupported) };
    let topic = context.topic();
    let spec = mq::TopicSpec::default().partitions(1);
    let subscriber = context.subscriber(&topic, "g").spec(spec).prefetch(1).open().await?;
    let mut events = context.client.events();
    let publisher = context.publisher(&topic).await?;
    send(&publisher, "m", 50).await?;
    let held = one(&subscriber).await?;
    if !Operator(broker).trim(&topic).await? {
        return Ok(Verdict::Unsupported);
    }
    // Either the broker still held them for this consumer, or they are gone and an event says so.
    let came = async {
        drop(held.ack().await);
        for _ in 1..50 {
            one(&subscriber).await?.ack().await?;
        }
        anyhow::Ok(())
    };
    tokio::select! {
        told = until_event(&mut events, |event| matches!(event, Event::Lost { .. })) => drop(told?),
        came = came => came?,
    }
    go_on(&context, &publisher, &subscriber).await?;
    context.until_empty(&topic, "g").await?;
    Ok(Verdict::Pass)
}

pub(crate) async fn trimmed_elsewhere(context: Context) -> Result<Verdict> {
    let Some(broker) = context.harness.broker() else { return Ok(Verdict::Unsupported) };
    if broker.kind() != BrokerKind::Kafka {
        // Elsewhere an unordered topic has one part, of which all is trimmed or nothing.
        return Ok(Verdict::Unsupported);
    }
    let topic = context.topic();
    let spec = mq::TopicSpec::default().partitions(2);
    let subscriber = context.subscriber(&topic, "g").spec(spec).prefetch(100).open().await?;
    let publisher = context.publisher(&topic).await?;
    // The first key whose messages are in the partition that is not trimmed.
    let mut held = None;
    for key in 0..64 {
        let sent = publisher.send(Message::new("held").key(key.to_string())).await?;
        let delivery = one(&subscriber).await?;
        if sent.position.is_some_and(|position| position.partition == 1) {
            held = Some(delivery);
            break;
        }
        delivery.ack().await?;
    }
    let held = held.context("64 keys are in one partition")?;
    // More than a client reads ahead: some are removed before it asks for them.
    let mut passing = 0;
    while passing < 60_000 {
        let message = |key| Message::new("passing").key(format!("k{key}"));
        for verdict in publisher.send_batch((0..1000).map(message).collect()).await {
            passing += usize::from(verdict?.position.is_some_and(|position| position.partition == 0));
        }
    }
    let mut events = context.client.events();
    ensure!(Operator(broker).trim(&topic).await?);
    let lost = until_event(&mut events, |event| matches!(event, Event::Lost { .. }));
    let mut lost = std::pin::pin!(lost);
    loop {
        tokio::select! {
            told = &mut lost => break drop(told?),
            delivery = subscriber.receive() => drop(delivery?.ack()),
        }
    }
    // Either it is still this consumer's, or it comes again as the first attempt.
    if held.ack().await.is_ok() {
        return Ok(Verdict::Pass);
    }
    loop {
        let delivery = one(&subscriber).await?;
        if body(&delivery) == "held" {
            ensure!(delivery.attempt() == 1, "nobody died: {delivery:?}");
            delivery.ack().await?;
            return Ok(Verdict::Pass);
        }
        delivery.ack().await?;
    }
}

/// The broker takes back what is not acked in its time: an event says so, who held it learns that it is no longer
/// theirs, and it comes again.
pub(crate) async fn ack_timeout(context: Context) -> Result<Verdict> {
    let Some(broker) = context.harness.broker() else { return Ok(Verdict::Unsupported) };
    let (topic, group) = (context.topic(), context.group("g"));
    if !Operator(broker).time_acks_out(&topic, &group, true).await? {
        return Ok(Verdict::Unsupported);
    }
    let timed_out = timed_out(&context, &topic).await;
    Operator(broker).time_acks_out(&topic, &group, false).await?;
    timed_out.map(|()| Verdict::Pass)
}

async fn timed_out(context: &Context, topic: &mq::TopicName) -> Result<()> {
    let mut events = context.client.events();
    let subscriber = context.subscribe(topic, "g").await?;
    let publisher = context.publisher(topic).await?;
    publisher.send(Message::new("held")).await?;
    let held = one(&subscriber).await?;
    until_event(&mut events, |event| matches!(event, Event::Disconnected { what: "consumer", .. })).await?;
    expect_kind(held.ack().await, ErrorKind::StaleDelivery)?;
    let again = one(&subscriber).await?;
    ensure!(body(&again) == "held" && again.redelivered(), "{again:?}");
    again.ack().await?;
    go_on(context, &publisher, &subscriber).await?;
    context.until_empty(topic, "g").await
}

/// The broker gives up on the queues of a new group: an event says so, and with a disk that writes again the group is
/// there.
pub(crate) async fn queue_not_started(context: Context) -> Result<Verdict> {
    let Some(broker) = context.harness.broker() else { return Ok(Verdict::Unsupported) };
    let topic = context.topic();
    let publisher = context.publisher(&topic).await?;
    let mut events = context.client.events();
    if !Operator(broker).stall_new_queues(true).await? {
        return Ok(Verdict::Unsupported);
    }
    let told = async {
        let declare = |event: &Event| matches!(event, Event::Failed { what: "declare", .. });
        let told = until_event(&mut events, declare).await;
        Operator(broker).stall_new_queues(false).await?;
        told
    };
    // Both to their end: the broker must not stay as it is.
    let (subscriber, told) = tokio::join!(context.subscribe(&topic, "g"), told);
    let subscriber = subscriber?;
    told?;
    send(&publisher, "m", 10).await?;
    ensure!(drain(&subscriber, 10).await?.len() == 10);
    context.until_empty(&topic, "g").await?;
    Ok(Verdict::Pass)
}

/// Connects with credentials that are wrong.
async fn connect_in_vain(url: &str) -> Result<mq::Error> {
    let connected = tokio::time::timeout(Duration::from_secs(5), mq::connect(url)).await;
    let connected = connected.map_err(|_| anyhow!("a login that is refused is not told within 5 s"))?;
    expect_kind(connected.map(drop), ErrorKind::Unauthorized)
}

pub(crate) async fn credentials_revoked(context: Context) -> Result<Verdict> {
    let Some(broker) = context.harness.broker() else { return Ok(Verdict::Unsupported) };
    let operator = Operator(broker);
    operator.make_user().await?;
    let url = broker.url_of(USER, PASSWORD)?;
    let wrong = connect_in_vain(&broker.url_of(USER, "wrong")?).await?;
    let client = mq::connect(&url).await?;
    let topic = context.topic();
    let subscriber = client.subscriber(&topic, context.group("g")).open().await?;
    let publisher = client.publisher(&topic).await?;
    publisher.send(Message::new("before")).await?;
    one(&subscriber).await?.ack().await?;
    operator.remove_user().await?;
    let ended = tokio::time::timeout(Duration::from_secs(10), subscriber.receive()).await;
    let ended = ended.map_err(|_| anyhow!("a consumer without rights goes on in silence"))?;
    let told = expect_kind(ended.map(|delivery| body(&delivery)), ErrorKind::Unauthorized)?;
    // What was on its way when the connection ended may be unknown; then it is refused.
    let refused = context.until(|| async {
        let sent = tokio::time::timeout(Duration::from_secs(5), publisher.send(Message::new("after"))).await;
        let sent = sent.map_err(|_| anyhow!("a send without rights hangs"))?;
        expect_kind(sent, ErrorKind::Unauthorized)
    });
    let refused = refused.await?;
    let gone = connect_in_vain(&url).await?;
    for error in [told, refused, wrong, gone] {
        ensure!(!format!("{error} {error:?}").contains(PASSWORD), "a password shows");
    }
    operator.make_user().await?;
    let sent = context.until(|| async {
        let sent = tokio::time::timeout(Duration::from_secs(5), publisher.send(Message::new("again"))).await;
        Ok(sent.map_err(|_| anyhow!("a send hangs though the login is good again"))??)
    });
    sent.await?;
    let closed = tokio::time::timeout(Duration::from_secs(15), client.close(Duration::from_secs(5))).await;
    drop(closed.map_err(|_| anyhow!("close hangs"))?);
    operator.remove_user().await?;
    Ok(Verdict::Pass)
}

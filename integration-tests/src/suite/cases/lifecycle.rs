use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use mq::{ErrorKind, Message, Settled, TopicSpec};

use crate::suite::context::{Context, body, drain, expect_kind, one, quiet, send, take};
use crate::suite::manifest::Verdict;

pub(crate) async fn receive_after_close(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    let subscriber = context.subscribe(&topic, "g").await?;
    let waiting = tokio::spawn({
        let subscriber = subscriber.clone();
        async move { subscriber.receive().await.map(|delivery| body(&delivery)) }
    });
    tokio::task::yield_now().await;
    subscriber.close(Duration::from_secs(10)).await?;
    expect_kind(waiting.await?, ErrorKind::Closed)?;
    expect_kind(subscriber.receive().await.map(|delivery| body(&delivery)), ErrorKind::Closed)?;
    Ok(Verdict::Pass)
}

pub(crate) async fn close_many_times(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    let subscriber = context.subscribe(&topic, "g").await?;
    send(&context.publisher(&topic).await?, "m", 20).await?;
    let held = take(&subscriber, 5).await?;
    let closes = (0..10).map(|_| subscriber.close(Duration::from_millis(200)));
    for closed in futures_util::future::join_all(closes).await {
        closed?;
    }
    drop(held);
    let again = context.subscribe(&topic, "g").await?;
    drain(&again, 20).await?;
    Ok(Verdict::Pass)
}

pub(crate) async fn close_drains(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    let subscriber = context.subscribe(&topic, "g").await?;
    send(&context.publisher(&topic).await?, "m", 100).await?;
    let held = take(&subscriber, 100).await?;
    let worker = tokio::spawn(async move {
        for delivery in held {
            tokio::time::sleep(Duration::from_millis(2)).await;
            delivery.ack().await?;
        }
        Ok::<(), mq::Error>(())
    });
    let begun = Instant::now();
    let report = subscriber.close(Duration::from_secs(30)).await?;
    ensure!(report.given_back == 0, "{report:?}");
    ensure!(begun.elapsed() < Duration::from_secs(15), "it took {:?}", begun.elapsed());
    worker.await??;
    context.until_empty(&topic, "g").await?;
    Ok(Verdict::Pass)
}

pub(crate) async fn close_gives_back_the_rest(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    let subscriber = context.subscriber(&topic, "g").prefetch(20).open().await?;
    let sent = send(&context.publisher(&topic).await?, "m", 60).await?;
    let held = take(&subscriber, 10).await?;
    let report = subscriber.close(Duration::from_millis(100)).await?;
    ensure!(report.given_back == 10, "{report:?}");
    let again = context.subscribe(&topic, "g").await?;
    let begun = Instant::now();
    ensure!(drain(&again, 60).await? == sent, "lost or doubled");
    ensure!(begun.elapsed() < Duration::from_secs(8), "not at once: {:?}", begun.elapsed());
    drop(held);
    Ok(Verdict::Pass)
}

/// Settlements are under way when the time of a close is over: each message comes once, settled or given back.
pub(crate) async fn close_amid_settlements(context: Context) -> Result<Verdict> {
    const MANY: usize = 100;
    let topic = context.topic();
    let mut subscriber = context.subscriber(&topic, "g").prefetch(MANY).open().await?;
    let publisher = context.publisher(&topic).await?;
    for age in [0, 1, 2, 5, 10, 20] {
        let sent = send(&publisher, "m", MANY).await?;
        let held = take(&subscriber, MANY).await?;
        let bodies: Vec<String> = held.iter().map(body).collect();
        let settling: Vec<Settled> = held.into_iter().map(|held| held.retry(Duration::ZERO)).collect();
        subscriber.close(Duration::from_millis(age)).await?;
        let settled = futures_util::future::join_all(settling).await;
        subscriber = context.subscriber(&topic, "g").prefetch(MANY).open().await?;
        let again = take(&subscriber, MANY).await?;
        let mut came: Vec<String> = again.iter().map(body).collect();
        came.sort();
        ensure!(came == sent, "lost or doubled: {came:?}");
        for delivery in &again {
            let place = bodies.iter().position(|before| *before == body(delivery));
            let retried = place.is_some_and(|place| settled[place].is_ok());
            let attempt = delivery.attempt();
            ensure!(attempt == 2 || attempt == 1 && !retried, "retried: {retried}, {delivery:?}");
        }
        ensure!(mq::ack_all(again).await.is_ok(), "an ack failed");
        quiet(&subscriber).await?;
    }
    context.until_empty(&topic, "g").await?;
    Ok(Verdict::Pass)
}

pub(crate) async fn close_makes_room_at_once(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    let publisher = context.publisher(&topic).await?;
    // From the middle of joining to well after it.
    for age in [0, 2, 5, 10, 20, 50, 100, 400] {
        let first = context.subscribe(&topic, "g").await?;
        tokio::time::sleep(Duration::from_millis(age)).await;
        first.close(Duration::from_secs(10)).await?;
        let begun = Instant::now();
        let next = context.subscribe(&topic, "g").await?;
        let opened = begun.elapsed();
        publisher.send(Message::new("m")).await?;
        let sent = begun.elapsed();
        one(&next).await?.ack().await?;
        let took = begun.elapsed();
        ensure!(
            took < Duration::from_secs(3),
            "after a close at the age of {age} ms it took {took:?}: opened after {opened:?}, sent after {sent:?}"
        );
        next.close(Duration::from_secs(10)).await?;
    }
    Ok(Verdict::Pass)
}

pub(crate) async fn idle_members_leave(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    // Where partitions are shared out, there are fewer than members.
    context.admin().ensure_topic(&topic, &TopicSpec::default().partitions(1)).await?;
    let publisher = context.publisher(&topic).await?;
    let busy = context.subscribe(&topic, "g").await?;
    publisher.send(Message::new("m")).await?;
    one(&busy).await?.ack().await?;
    let mut idle = Vec::new();
    for count in 2..=5 {
        idle.push(context.subscribe(&topic, "g").await?);
        context
            .until(|| async {
                let consumers = context.stats(&topic, "g").await?.consumers;
                ensure!(
                    consumers.is_none_or(|consumers| consumers == count),
                    "{consumers:?} of {count} members"
                );
                Ok(())
            })
            .await?;
    }
    let begun = Instant::now();
    for member in idle {
        member.close(Duration::from_secs(10)).await?;
    }
    let closed = begun.elapsed();
    let next = context.subscribe(&topic, "g").await?;
    publisher.send(Message::new("m")).await?;
    tokio::select! {
        received = one(&busy) => received?.ack().await?,
        received = one(&next) => received?.ack().await?,
    }
    let took = begun.elapsed();
    ensure!(took < Duration::from_secs(5), "it took {took:?}, the closes {closed:?} of it");
    Ok(Verdict::Pass)
}

pub(crate) async fn topic_deleted_under_a_consumer(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    let subscriber = context.subscribe(&topic, "g").await?;
    let mut events = context.client.events();
    let publisher = context.publisher(&topic).await?;
    publisher.send(Message::new("before")).await?;
    one(&subscriber).await?.ack().await?;
    let other = context.harness.client().await?;
    other.admin().delete_topic(&topic).await?;
    // The consumer makes it again and says so, or ends with a typed error; never silence.
    let told = tokio::time::timeout(Duration::from_secs(40), async {
        loop {
            tokio::select! {
                event = events.recv() => match event {
                    Ok(mq::Event::Rebuilt { .. }) => return Ok(()),
                    Ok(_) | Err(tokio::sync::broadcast::error::RecvError::Lagged(_)) => {}
                    Err(closed) => return Err(anyhow::anyhow!(closed)),
                },
                ended = subscriber.receive() => {
                    let error = expect_kind(ended.map(|delivery| body(&delivery)), ErrorKind::NotFound)?;
                    return Err(anyhow::anyhow!("it ended: {error}"));
                }
            }
        }
    });
    told.await.map_err(|_| anyhow::anyhow!("the consumer said nothing in 40 s"))??;
    context
        .until(|| async {
            publisher.send(Message::new("after")).await?;
            Ok(())
        })
        .await?;
    let delivery = one(&subscriber).await?;
    ensure!(body(&delivery) == "after", "{delivery:?}");
    delivery.ack().await?;
    Ok(Verdict::Pass)
}

pub(crate) async fn reopen_many_times(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    drop(context.subscribe(&topic, "g").await?);
    let sent = send(&context.publisher(&topic).await?, "m", 30).await?;
    let mut seen = Vec::new();
    for _ in 0..10 {
        let subscriber = context.subscriber(&topic, "g").prefetch(7).open().await?;
        for delivery in take(&subscriber, 3).await? {
            seen.push(body(&delivery));
            delivery.ack().await?;
        }
        subscriber.close(Duration::from_secs(10)).await?;
    }
    seen.sort();
    ensure!(seen == sent, "lost or doubled: {seen:?}");
    Ok(Verdict::Pass)
}

pub(crate) async fn cannot_connect(context: Context) -> Result<Verdict> {
    for (what, url, kind) in context.harness.broken_urls() {
        let begun = Instant::now();
        let error =
            expect_kind(mq::connect(&url).await.map(drop), kind).map_err(|error| error.context(what))?;
        ensure!(begun.elapsed() < Duration::from_secs(5), "{what}: {error} came after {:?}", begun.elapsed());
        let told = format!("{error} {error:?}");
        ensure!(!told.contains("canary-password"), "{what}: the password is shown: {told}");
    }
    Ok(Verdict::Pass)
}

pub(crate) async fn secrets_are_not_shown(context: Context) -> Result<Verdict> {
    const CANARY: &str = "canary-password";
    let hidden = |what: &str, text: String| {
        ensure!(!text.contains(CANARY), "{what} shows the password: {text}");
        Ok(())
    };
    for (wrong, url, _) in context.harness.broken_urls() {
        let Some((scheme, rest)) = url.split_once("://") else { continue };
        let rest = rest.rsplit('@').next().unwrap_or(rest);
        let url = format!("{scheme}://user:{CANARY}@{rest}");
        match mq::connect(&url).await {
            Err(error) => {
                hidden(wrong, format!("{error} {error:?}"))?;
                let mut source = std::error::Error::source(&error);
                while let Some(cause) = source {
                    hidden(wrong, format!("{cause} {cause:?}"))?;
                    source = cause.source();
                }
            }
            Ok(client) => {
                hidden(wrong, format!("{client:?}"))?;
                if let Err(error) = client.publisher("t").await {
                    hidden(wrong, format!("{error} {error:?}"))?;
                }
            }
        }
    }
    Ok(Verdict::Pass)
}

pub(crate) async fn dropped_subscriber_gives_back(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    let subscriber = context.subscriber(&topic, "g").prefetch(10).open().await?;
    let publisher = context.publisher(&topic).await?;
    let sent = send(&publisher, "m", 60).await?;
    let mut bodies = drain(&subscriber, 5).await?;
    // In hand when the subscriber goes: still to be settled, and settled.
    let held = one(&subscriber).await?;
    bodies.push(body(&held));
    drop(subscriber);
    held.ack().await?;
    let next = context.subscribe(&topic, "g").await?;
    bodies.extend(drain(&next, 54).await?);
    bodies.sort();
    ensure!(bodies == sent, "{} messages for {} sent", bodies.len(), sent.len());
    quiet(&next).await?;
    Ok(Verdict::Pass)
}

pub(crate) async fn client_close_drains_all(context: Context) -> Result<Verdict> {
    let (a, b) = (context.topic(), context.topic());
    let client = context.harness.client().await?;
    let group = context.group("g");
    let first = client.subscriber(&a, &group).open().await?;
    let second = client.subscriber(&b, &group).open().await?;
    let publisher = client.publisher(&a).await?;
    send(&publisher, "m", 20).await?;
    send(&client.publisher(&b).await?, "m", 20).await?;
    let (held, left) = (take(&first, 20).await?, take(&second, 20).await?);
    let closing = tokio::spawn({
        let client = client.clone();
        async move { client.close(Duration::from_secs(3)).await }
    });
    for delivery in held {
        delivery.ack().await?;
    }
    let report = closing.await??;
    ensure!(report.given_back == left.len() && report.unanswered == 0, "{report:?}");
    expect_kind(publisher.send(mq::Message::new("m")).await, ErrorKind::Closed)?;
    drop(left);
    ensure!(drain(&context.subscribe(&b, "g").await?, 20).await?.len() == 20, "not given back");
    context.until_empty(&a, "g").await?;
    Ok(Verdict::Pass)
}

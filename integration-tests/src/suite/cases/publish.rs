use std::time::Duration;

use anyhow::{Result, anyhow, bail, ensure};
use mq::{Bytes, ClientOptions, ErrorKind, GroupSettings, Headers, Message, Policy};

use crate::suite::context::{Context, body, drain, expect_kind, one, quiet, send};
use crate::suite::manifest::Verdict;

async fn round_trip(context: &Context, message: Message) -> Result<()> {
    let topic = context.topic();
    let subscriber = context.subscribe(&topic, "g").await?;
    let receipt = context.publisher(&topic).await?.send(message.clone()).await?;
    ensure!(receipt.id == message.id, "the receipt names {}", receipt.id);
    let delivery = one(&subscriber).await?;
    let mut got = delivery.message().clone();
    ensure!(got.published_at.is_some(), "no published_at");
    got.published_at = None;
    ensure!(got == message, "sent {message:?}\n got {got:?}");
    ensure!(delivery.attempt() == 1 && !delivery.redelivered(), "{delivery:?}");
    delivery.ack().await?;
    Ok(())
}

pub(crate) async fn everything_survives(context: Context) -> Result<Verdict> {
    let mut message = Message::new("body").key("key").subject("orders.created").content_type("text/plain");
    message.headers = [("plain", Bytes::from("value")), ("empty", Bytes::new())].into_iter().collect();
    round_trip(&context, message).await?;
    Ok(Verdict::Pass)
}

pub(crate) async fn given_id_survives(context: Context) -> Result<Verdict> {
    round_trip(&context, Message::with_id("body", "order 17 / ä")).await?;
    Ok(Verdict::Pass)
}

pub(crate) async fn odd_payloads(context: Context) -> Result<Verdict> {
    let binary: Vec<u8> = (0..=255).collect();
    let large: Vec<u8> = (0..1 << 19).map(|byte| (byte * 7 % 251) as u8).collect();
    for payload in [Bytes::new(), Bytes::from("x"), Bytes::from(binary), Bytes::from(large)] {
        round_trip(&context, Message::new(payload)).await?;
    }
    Ok(Verdict::Pass)
}

pub(crate) async fn odd_headers(context: Context) -> Result<Verdict> {
    let mut message = Message::new("body");
    message.headers = Headers::default();
    for (name, value) in [
        ("twice", &b"1"[..]),
        ("twice", b"2"),
        ("binary", &[0, 255, 128]),
        ("body", b"a header of that name"),
        ("Ünï", "cödé \u{1F980}".as_bytes()),
        ("line", b"two\r\nlines"),
    ] {
        message.headers.push(name, Bytes::from_static(value));
    }
    round_trip(&context, message).await?;
    Ok(Verdict::Pass)
}

pub(crate) async fn odd_keys(context: Context) -> Result<Verdict> {
    for key in [&b"k"[..], b"sixteen bytes...", &[0, 255, 10], &[7; 1024]] {
        round_trip(&context, Message::new("body").key(key)).await?;
    }
    Ok(Verdict::Pass)
}

pub(crate) async fn json_survives(context: Context) -> Result<Verdict> {
    let value = serde_json::json!({"amount": 11.77, "items": [1, 2], "note": "ä\n"});
    let topic = context.topic();
    let subscriber = context.subscribe(&topic, "g").await?;
    context.publisher(&topic).await?.send(Message::json(&value)?).await?;
    let delivery = one(&subscriber).await?;
    ensure!(delivery.json::<serde_json::Value>()? == value, "{:?}", delivery.payload());
    ensure!(
        delivery.message().content_type.as_deref() == Some(mq::JSON),
        "{:?}",
        delivery.message().content_type
    );
    delivery.ack().await?;
    Ok(Verdict::Pass)
}

pub(crate) async fn batch_is_confirmed(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    let subscriber = context.subscribe(&topic, "g").await?;
    let sent = send(&context.publisher(&topic).await?, "m", 2500).await?;
    ensure!(drain(&subscriber, 2500).await? == sent, "what came is not what was sent");
    Ok(Verdict::Pass)
}

pub(crate) async fn batch_verdicts(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    let subscriber = context.subscribe(&topic, "g").await?;
    let publisher = context.publisher(&topic).await?;
    let good = |number: u32| Message::new(format!("good{number}"));
    let bad = || Message::new("bad").header("mq-id", "forged");
    let verdicts = publisher.send_batch(vec![good(0), bad(), good(1), good(2), bad()]).await;
    let kinds: Vec<_> = verdicts.iter().map(|verdict| verdict.as_ref().err().map(mq::Error::kind)).collect();
    let refused = Some(ErrorKind::Rejected);
    ensure!(kinds == [None, refused, None, None, refused], "{kinds:?}");
    ensure!(drain(&subscriber, 3).await? == ["good0", "good1", "good2"], "other messages came");
    Ok(Verdict::Pass)
}

pub(crate) async fn concurrent_sends(context: Context) -> Result<Verdict> {
    const TASKS: usize = 50;
    const EACH: usize = 200;
    let topic = context.topic();
    let subscriber = context.subscribe(&topic, "g").await?;
    let publisher = context.publisher(&topic).await?;
    let tasks = (0..TASKS).map(|task| {
        let publisher = publisher.clone();
        tokio::spawn(async move {
            let bodies = (0..EACH).map(|number| format!("{:05}", task * EACH + number));
            let sends = bodies.map(|body| publisher.send(Message::with_id(body.clone(), body)));
            let receipts = futures_util::future::try_join_all(sends).await?;
            for (number, receipt) in receipts.iter().enumerate() {
                let id = receipt.id.to_string();
                ensure!(id == format!("{:05}", task * EACH + number), "the receipt of another: {id}");
            }
            anyhow::Ok(())
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await??;
    }
    let expected: Vec<String> = (0..TASKS * EACH).map(|number| format!("{number:05}")).collect();
    ensure!(drain(&subscriber, TASKS * EACH).await? == expected, "lost, doubled or foreign messages");
    Ok(Verdict::Pass)
}

pub(crate) async fn oversized_is_refused(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    let subscriber = context.subscribe(&topic, "g").await?;
    let publisher = context.publisher(&topic).await?;
    let error = expect_kind(publisher.send(Message::new(vec![0; 65 << 20])).await, ErrorKind::Rejected)?;
    ensure!(error.to_string().contains("the limit is"), "{error}");
    publisher.send(Message::new("after")).await?;
    ensure!(drain(&subscriber, 1).await? == ["after"], "the connection does not go on");
    Ok(Verdict::Pass)
}

pub(crate) async fn reserved_headers_are_refused(context: Context) -> Result<Verdict> {
    let publisher = context.publisher(&context.topic()).await?;
    let error =
        expect_kind(publisher.send(Message::new("x").header("mq-attempt", "9")).await, ErrorKind::Rejected)?;
    ensure!(error.to_string().contains("reserved"), "{error}");
    expect_kind(publisher.send(Message::new("x").subject("a..b")).await, ErrorKind::Rejected)?;
    Ok(Verdict::Pass)
}

pub(crate) async fn send_after_close(context: Context) -> Result<Verdict> {
    let client = context.harness.client().await?;
    let publisher = client.publisher(context.topic()).await?;
    publisher.send(Message::new("before")).await?;
    client.close(Duration::from_secs(10)).await?;
    expect_kind(publisher.send(Message::new("after")).await, ErrorKind::Closed)?;
    let verdicts = publisher.send_batch(vec![Message::new("after")]).await;
    ensure!(verdicts.len() == 1 && verdicts[0].is_err(), "{verdicts:?}");
    Ok(Verdict::Pass)
}

pub(crate) async fn close_answers_every_send(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    let subscriber = context.subscribe(&topic, "g").await?;
    let client = context.harness.client().await?;
    let publisher = client.publisher(&topic).await?;
    let mut sends = Vec::new();
    for number in 0..3000 {
        sends.push(publisher.enqueue(Message::new(format!("{number:05}"))).await?);
    }
    let report = client.close(Duration::from_secs(30)).await?;
    ensure!(report.unanswered == 0, "{report:?}");
    for send in sends {
        send.await?;
    }
    ensure!(drain(&subscriber, 3000).await?.len() == 3000, "fewer messages came");
    Ok(Verdict::Pass)
}

pub(crate) async fn dropped_publisher_still_sends(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    let subscriber = context.subscribe(&topic, "g").await?;
    let client = context.harness.client().await?;
    let publisher = client.publisher(&topic).await?;
    let mut sends = Vec::new();
    for number in 0..2000 {
        sends.push(publisher.enqueue(Message::new(format!("{number:05}"))).await?);
    }
    drop((client, publisher));
    for send in sends {
        send.await?;
    }
    ensure!(drain(&subscriber, 2000).await?.len() == 2000, "fewer messages came");
    Ok(Verdict::Pass)
}

pub(crate) async fn dropped_send_loses_only_the_answer(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    let subscriber = context.subscribe(&topic, "g").await?;
    let publisher = context.publisher(&topic).await?;
    for number in 0..500 {
        drop(publisher.enqueue(Message::new(format!("{number:05}"))).await?);
    }
    ensure!(drain(&subscriber, 500).await?.len() == 500, "fewer messages came");
    Ok(Verdict::Pass)
}

pub(crate) async fn one_task_keeps_order(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    let subscriber = context.subscriber(&topic, "g").ordered().open().await?;
    let publisher = context.publisher(&topic).await?;
    let mut sends = Vec::new();
    for number in 0..1000 {
        sends.push(publisher.enqueue(Message::new(format!("{number:05}")).key("one")).await?);
    }
    for send in sends {
        send.await?;
    }
    for number in 0..1000 {
        let delivery = one(&subscriber).await?;
        ensure!(delivery.payload().as_ref() == format!("{number:05}").as_bytes(), "{number}: {delivery:?}");
        delivery.ack().await?;
    }
    Ok(Verdict::Pass)
}

pub(crate) async fn missing_topic_by_policy(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    expect_kind(
        context.client.publisher(&topic).policy(Policy::Verify).await.map(drop),
        ErrorKind::NotFound,
    )?;
    let publisher = context.client.publisher(&topic).policy(Policy::Assume).await?;
    let error = publisher.send(Message::new("x")).await.map(drop);
    ensure!(error.is_err(), "a send to a topic that is not there was confirmed");
    context.client.publisher(&topic).policy(Policy::Create).await?.send(Message::new("x")).await?;
    context.client.publisher(&topic).policy(Policy::Verify).await?;
    Ok(Verdict::Pass)
}

pub(crate) async fn full_window_waits(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    let subscriber = context.subscribe(&topic, "g").await?;
    let client = context.harness.client_with(ClientOptions::default().in_flight(20, 1 << 20)).await?;
    let publisher = client.publisher(&topic).await?;
    let mut sends = Vec::new();
    // Sooner or later the window is full: nothing here waits for an answer.
    let full =
        (0..200_000).find_map(|number| match publisher.try_enqueue(Message::new(format!("{number:06}"))) {
            Ok(send) => {
                sends.push(send);
                None
            }
            Err(error) => Some(error),
        });
    let full = full.ok_or_else(|| anyhow!("the window of 20 took 200,000 messages"))?;
    ensure!(full.kind() == ErrorKind::Full && full.is_retryable(), "{full}");
    sends.push(publisher.enqueue(Message::new("after")).await?);
    let count = sends.len();
    for send in sends {
        send.await?;
    }
    ensure!(drain(&subscriber, count).await?.contains(&"after".to_owned()), "the send that waited is lost");
    Ok(Verdict::Pass)
}

pub(crate) async fn verdicts_of_many_tasks(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    let subscriber = context.subscribe(&topic, "g").await?;
    let publisher = context.publisher(&topic).await?;
    // The longest key that is taken, and one byte more.
    let (good, bad) = (vec![b'k'; mq::MAX_KEY], vec![b'k'; mq::MAX_KEY + 1]);
    let mut tasks = Vec::new();
    for task in 0..8 {
        let (publisher, good, bad) = (publisher.clone(), good.clone(), bad.clone());
        tasks.push(tokio::spawn(async move {
            for number in 0..100 {
                let message = Message::new(format!("{task}-{number:03}"));
                let refused = number % 2 == 1;
                let sent = publisher.send(message.key(if refused { &bad } else { &good })).await;
                match sent {
                    Ok(_) if !refused => {}
                    Err(error) if refused && error.kind() == ErrorKind::Rejected => {}
                    other => bail!("{task}-{number:03}: {other:?}"),
                }
            }
            Ok(())
        }));
    }
    for task in tasks {
        task.await??;
    }
    let came = drain(&subscriber, 400).await?;
    ensure!(came.iter().all(|body| body.as_bytes()[body.len() - 1] % 2 == 0), "a refused message came");
    quiet(&subscriber).await?;
    Ok(Verdict::Pass)
}

pub(crate) async fn limits_are_exact(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    let subscriber = context.subscribe(&topic, "g").await?;
    let publisher = context.publisher(&topic).await?;
    let subject = |length: usize| "s".repeat(length);
    let longest = Message::new("at the limit").key(vec![0; mq::MAX_KEY]).subject(subject(mq::MAX_SUBJECT));
    publisher.send(longest).await?;
    let over = [
        Message::new("m").key(vec![0; mq::MAX_KEY + 1]),
        Message::new("m").subject(subject(mq::MAX_SUBJECT + 1)),
        Message::new("m").header("h".repeat(mq::MAX_SUBJECT + 1), "v"),
    ];
    for message in over {
        let error = expect_kind(publisher.send(message).await, ErrorKind::Rejected)?;
        ensure!(error.to_string().contains("limit") || error.to_string().contains("over"), "{error}");
    }
    ensure!(drain(&subscriber, 1).await? == ["at the limit"], "another message came");
    quiet(&subscriber).await?;
    Ok(Verdict::Pass)
}

pub(crate) async fn one_at_a_time_in_order(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    let settings = GroupSettings::default().ordered();
    let subscriber = context.subscribe_as(&topic, "g", settings).await?;
    let publisher = context.publisher(&topic).await?;
    for number in 0..300 {
        let message = Message::new(format!("{number:05}")).key("k");
        // Awaited, queued and dropped sends in turn: all take the same way.
        match number % 3 {
            0 => drop(publisher.send(message).await?),
            1 => drop(publisher.enqueue(message).await?),
            _ => {
                let mut sending = Box::pin(publisher.send(message));
                let polled = std::future::poll_fn(|cx| std::task::Poll::Ready(sending.as_mut().poll(cx)));
                if let std::task::Poll::Ready(sent) = polled.await {
                    sent?;
                }
            }
        }
    }
    for number in 0..300 {
        let delivery = one(&subscriber).await?;
        ensure!(body(&delivery) == format!("{number:05}"), "{} came for {number:05}", body(&delivery));
        delivery.ack().await?;
    }
    Ok(Verdict::Pass)
}

//! What an operator sees: counts, gauges and traces, after runs whose outcome is known.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mq::observe::{Observer, Snapshot, Trace, TraceContext, Value};
use mq::worker::{Attempt, Failure, Handler as _, Publish, State, Text, Worker};
use mq::{Capability, Client, GroupSettings, Message, Page, Selection, Stats, TopicName};

use super::worker::run;
use crate::suite::context::{Context, drain, one, send, take};
use crate::suite::manifest::Verdict;

const OUTCOMES: [&str; 5] = ["acked", "retried", "deferred", "dead", "stale"];

/// An observer that asks the broker only when it is told to.
fn observe(client: &Client) -> Result<Observer> {
    Ok(Observer::builder(client).every(Duration::from_secs(3600)).start()?)
}

/// A row's metrics of one of its groups.
struct Seen<'a> {
    snapshot: Snapshot,
    labels: [(&'a str, &'a str); 2],
}

impl<'a> Seen<'a> {
    fn of(observer: &Observer, topic: &'a TopicName, group: &'a mq::GroupName) -> Self {
        let labels = [("topic", topic.as_str()), ("group", group.as_str())];
        Self { snapshot: observer.snapshot(), labels }
    }

    fn number(&self, name: &str) -> Option<f64> {
        self.snapshot.number(name, &self.labels)
    }

    /// Checks the counts of settlements, in the order of [`OUTCOMES`].
    fn settled(&self, expected: [u64; 5]) -> Result<()> {
        for (outcome, expected) in OUTCOMES.iter().zip(expected) {
            let labels = [self.labels[0], self.labels[1], ("outcome", outcome)];
            let count = self.snapshot.number("mq_settled_total", &labels);
            ensure!(count == Some(expected as f64), "{outcome}: {count:?}, not {expected}");
        }
        Ok(())
    }

    fn count(&self, name: &str, expected: u64) -> Result<()> {
        let count = self.number(name);
        ensure!(count == Some(expected as f64), "{name}: {count:?}, not {expected}");
        Ok(())
    }
}

fn published(snapshot: &Snapshot, topic: &TopicName, outcome: &str) -> Option<f64> {
    snapshot.number("mq_published_total", &[("topic", topic.as_str()), ("outcome", outcome)])
}

pub(crate) async fn sends(context: Context) -> Result<Verdict> {
    let observer = observe(&context.client)?;
    let (one, other) = (context.topic(), context.topic());
    let (to_one, to_other) = (context.publisher(&one).await?, context.publisher(&other).await?);
    send(&to_one, "m", 120).await?;
    // Sends of both go to the broker in common calls.
    let mut sendings = Vec::new();
    for number in 0..90 {
        let publisher = if number % 3 == 0 { &to_other } else { &to_one };
        sendings.push(publisher.enqueue(Message::new(number.to_string())).await?);
    }
    for sending in sendings {
        sending.await?;
    }
    let (mut at_one, mut at_other) = (180.0, 30.0);
    if context.has(Capability::Transactions) {
        let mut transaction = context.client.transaction();
        for number in 0..7 {
            let publisher = if number < 5 { &to_one } else { &to_other };
            transaction.add(publisher, Message::new("in one"))?;
        }
        transaction.commit().await?;
        at_one += 5.0;
        at_other += 2.0;
    }
    let seen = observer.snapshot();
    for (topic, expected) in [(&one, at_one), (&other, at_other)] {
        let confirmed = published(&seen, topic, "confirmed");
        ensure!(confirmed == Some(expected), "{topic}: {confirmed:?}, not {expected}");
        ensure!(
            published(&seen, topic, "rejected") == Some(0.0)
                && published(&seen, topic, "unknown") == Some(0.0)
        );
    }
    ensure!(seen.number("mq_sends_in_flight", &[]) == Some(0.0), "a send is under way for ever");
    Ok(Verdict::Pass)
}

pub(crate) async fn settlements(context: Context) -> Result<Verdict> {
    let observer = observe(&context.client)?;
    let (topic, group) = (context.topic(), context.group("g"));
    let subscriber = context.subscribe(&topic, "g").await?;
    send(&context.publisher(&topic).await?, "m", 100).await?;
    let held = take(&subscriber, 100).await?;
    Seen::of(&observer, &topic, &group).count("mq_deliveries_in_hand", 100)?;
    let mut settled = Vec::new();
    for (number, delivery) in held.into_iter().enumerate() {
        settled.push(match number % 10 {
            0 => delivery.dead_letter("on purpose"),
            1 | 2 => delivery.retry(Duration::ZERO),
            3 => delivery.defer(Duration::ZERO),
            _ => delivery.ack(),
        });
    }
    for settled in settled {
        settled.await?;
    }
    let seen = Seen::of(&observer, &topic, &group);
    seen.settled([60, 20, 10, 10, 0])?;
    seen.count("mq_deliveries_in_hand", 0)?;
    drain(&subscriber, 30).await?;
    let seen = Seen::of(&observer, &topic, &group);
    seen.settled([90, 20, 10, 10, 0])?;
    seen.count("mq_received_total", 130)?;
    seen.count("mq_deliveries_in_hand", 0)?;
    Ok(Verdict::Pass)
}

pub(crate) async fn last_attempts(context: Context) -> Result<Verdict> {
    let observer = observe(&context.client)?;
    let (topic, group) = (context.topic(), context.group("g"));
    let settings = GroupSettings::default().max_attempts(3);
    let subscriber = context.subscribe_as(&topic, "g", settings).await?;
    send(&context.publisher(&topic).await?, "m", 10).await?;
    for _ in 0..30 {
        one(&subscriber).await?.retry(Duration::ZERO).await?;
    }
    Seen::of(&observer, &topic, &group).settled([0, 20, 0, 10, 0])?;
    let stats = context.stats(&topic, "g").await?;
    ensure!(stats.dead == Some(10), "{stats:?}");
    Ok(Verdict::Pass)
}

pub(crate) async fn leases(context: Context) -> Result<Verdict> {
    let observer = observe(&context.client)?;
    let (topic, group) = (context.topic(), context.group("g"));
    let settings = GroupSettings::default().lease(Duration::from_secs(1));
    let subscriber = context.subscribe_as(&topic, "g", settings).await?;
    send(&context.publisher(&topic).await?, "m", 1).await?;
    let held = one(&subscriber).await?;
    for _ in 0..3 {
        held.extend()?;
    }
    // Its lease runs out while it is held: it comes again.
    let again = one(&subscriber).await?;
    ensure!(again.attempt() == 2 && held.extend().is_err(), "the lease did not run out");
    again.ack().await?;
    drop(held);
    let seen = Seen::of(&observer, &topic, &group);
    seen.count("mq_leases_renewed_total", 3)?;
    seen.count("mq_leases_expired_total", 1)?;
    seen.settled([1, 1, 0, 0, 0])?;
    Ok(Verdict::Pass)
}

pub(crate) async fn many_topics(context: Context) -> Result<Verdict> {
    let observer = observe(&context.client)?;
    let (one, other, group) = (context.topic(), context.topic(), context.group("g"));
    let subscriber = context.subscriber(&one, "g").and_topic(&other).open().await?;
    send(&context.publisher(&one).await?, "a", 20).await?;
    send(&context.publisher(&other).await?, "b", 30).await?;
    drain(&subscriber, 50).await?;
    for (topic, count) in [(&one, 20), (&other, 30)] {
        let seen = Seen::of(&observer, topic, &group);
        seen.settled([count, 0, 0, 0, 0])?;
        seen.count("mq_received_total", count)?;
    }
    Ok(Verdict::Pass)
}

/// Checks that gauges are what the broker said, and absent where it said nothing.
fn as_counted(seen: &Seen<'_>, stats: &Stats) -> Result<()> {
    for (name, counted) in [
        ("mq_group_ready_messages", stats.ready),
        ("mq_group_in_flight_messages", stats.in_flight),
        ("mq_group_delayed_messages", stats.delayed),
        ("mq_group_dead_messages", stats.dead),
        ("mq_group_members", stats.consumers),
    ] {
        let (shown, counted) = (seen.number(name), counted.map(|count| count as f64));
        ensure!(shown == counted, "{name}: {shown:?}, not {counted:?}");
    }
    let age = seen.number("mq_group_oldest_ready_age_seconds");
    ensure!(age.is_some() == stats.oldest_ready_at.is_some(), "oldest: {age:?} of {stats:?}");
    Ok(())
}

pub(crate) async fn gauges(context: Context) -> Result<Verdict> {
    let (topic, group) = (context.topic(), context.group("g"));
    context.admin().ensure_topic(&topic, &mq::TopicSpec::default()).await?;
    context.admin().ensure_group(&topic, &group, &GroupSettings::default()).await?;
    // The group of another process: this client is no member of it.
    let builder = Observer::builder(&context.client).group(&topic, &group);
    let observer = builder.every(Duration::from_secs(3600)).start()?;
    send(&context.publisher(&topic).await?, "m", 40).await?;
    context
        .until(|| async {
            observer.sample().await;
            let seen = Seen::of(&observer, &topic, &group);
            ensure!(seen.number("mq_group_ready_messages") == Some(40.0), "the backlog is not 40");
            as_counted(&seen, &context.stats(&topic, "g").await?)
        })
        .await?;
    let subscriber = context.subscribe(&topic, "g").await?;
    for delivery in take(&subscriber, 10).await? {
        delivery.dead_letter("on purpose").await?;
    }
    drain(&subscriber, 30).await?;
    context
        .until(|| async {
            observer.sample().await;
            let seen = Seen::of(&observer, &topic, &group);
            ensure!(seen.number("mq_group_dead_messages") == Some(10.0), "dead letters are not 10");
            ensure!(seen.number("mq_group_ready_messages") == Some(0.0), "a backlog is left");
            as_counted(&seen, &context.stats(&topic, "g").await?)
        })
        .await?;
    ensure!(observer.broker_answers() == Some(true), "the broker did not answer");
    Ok(Verdict::Pass)
}

/// Fails a third of the first attempts.
async fn mostly_works(Text(body): Text, Attempt(attempt): Attempt) -> Result<(), Failure> {
    let number: u32 = body[1..].parse()?;
    if attempt == 1 && number.is_multiple_of(3) { Err(Failure::retry(Duration::ZERO)) } else { Ok(()) }
}

pub(crate) async fn latencies(context: Context) -> Result<Verdict> {
    let observer = observe(&context.client)?;
    let (topic, group) = (context.topic(), context.group("g"));
    let worker = Worker::new(&context.client, group.clone())
        .on(topic.clone(), mostly_works.concurrency(8))
        .layer(observer.latency());
    let publisher = context.publisher(&topic).await?;
    run(worker, async || {
        send(&publisher, "m", 90).await?;
        let handled = context.until(|| async {
            let acked = context.client.counts().acked;
            ensure!(acked == 90, "{acked} of 90 were acked");
            Ok(())
        });
        handled.await
    })
    .await?;
    let seen = observer.snapshot();
    let labels = [("topic", topic.as_str()), ("group", group.as_str())];
    let count = |name: &str, labels: &[(&str, &str)]| match seen.value(name, labels) {
        Some(Value::Distribution(distribution)) => Some(distribution.count),
        _ => None,
    };
    let end_to_end = count("mq_end_to_end_duration_seconds", &labels);
    ensure!(end_to_end == Some(90), "{end_to_end:?} of 90 are in the end-to-end histogram");
    for (outcome, expected) in [("handled", 90), ("failed", 30)] {
        let labels = [labels[0], labels[1], ("outcome", outcome)];
        let count = count("mq_handler_duration_seconds", &labels);
        ensure!(count == Some(expected), "{outcome}: {count:?}, not {expected}");
    }
    let bad = seen.number("mq_settled_total", &[labels[0], labels[1], ("outcome", "retried")]);
    ensure!(bad == Some(30.0), "{bad:?} retries");
    Ok(Verdict::Pass)
}

pub(crate) async fn traceparent_survives(context: Context) -> Result<Verdict> {
    let (topic, group) = (context.topic(), context.group("g"));
    let subscriber = context.subscribe(&topic, "g").await?;
    let trace = TraceContext::root();
    let message = trace.inject(Message::new("m")).header("tracestate", "vendor=1");
    context.publisher(&topic).await?.send(message).await?;
    let same = |message: &Message| -> Result<()> {
        ensure!(TraceContext::of(message) == Some(trace), "{:?}", message.headers);
        ensure!(message.headers.get_str("tracestate") == Some("vendor=1"), "{:?}", message.headers);
        Ok(())
    };
    let first = one(&subscriber).await?;
    same(first.message())?;
    first.retry(Duration::ZERO).await?;
    let again = one(&subscriber).await?;
    same(again.message())?;
    again.dead_letter("on purpose").await?;
    let page = Page { offset: 0, limit: 10 };
    let letters = context.admin().dead_letters(&topic, &group, page).await?;
    same(&letters.first().context("no dead letter")?.message)?;
    context.admin().redrive(&topic, &group, &Selection::All).await?;
    let redriven = one(&subscriber).await?;
    same(redriven.message())?;
    redriven.ack().await?;
    Ok(Verdict::Pass)
}

/// Passes a message on.
async fn pass_on(Text(body): Text, State(results): State<String>) -> Publish {
    Publish::new(results, Message::new(body.into_bytes()))
}

pub(crate) async fn trace_goes_on(context: Context) -> Result<Verdict> {
    let (topic, results) = (context.topic(), context.topic());
    let output = context.subscribe(&results, "out").await?;
    let trace = Trace::new(&context.client);
    let worker = Worker::new(&context.client, context.group("g"))
        .on(topic.clone(), pass_on)
        .layer(trace)
        .state(results.to_string());
    let publisher = context.publisher(&topic).await?;
    let source = context.subscribe(&topic, "beside").await?;
    run(worker, async || {
        trace.send(&publisher, Message::new("m")).await?;
        let (sent, result) = (one(&source).await?, one(&output).await?);
        let sent_in = TraceContext::of(sent.message()).context("the message has no traceparent")?;
        let result_in = TraceContext::of(result.message()).context("its result has no traceparent")?;
        ensure!(sent_in.trace_id == result_in.trace_id, "{sent_in} became {result_in}");
        ensure!(sent_in.span_id != result_in.span_id, "the attempt has no span of its own");
        sent.ack().await?;
        result.ack().await?;
        Ok(())
    })
    .await?;
    Ok(Verdict::Pass)
}

/// Sums a metric's values over its labels.
fn sum(snapshot: &Snapshot, name: &str) -> f64 {
    let family = snapshot.families.iter().find(|family| family.metric.name == name);
    let values = family.into_iter().flat_map(|family| &family.samples).map(|sample| match sample.value {
        Value::Number(value) => value,
        _ => 0.0,
    });
    values.sum()
}

pub(crate) async fn cuts(context: Context) -> Result<Verdict> {
    let Some(faulty) = context.harness.faulty().await? else { return Ok(Verdict::Unsupported) };
    faulty.recover().await?;
    let context = Context::new(faulty.harness(), "observe.cuts", context.seed).await?;
    let observer = observe(&context.client)?;
    let topic = context.topic();
    let subscriber = context.subscribe(&topic, "g").await?;
    let publisher = context.publisher(&topic).await?;
    publisher.send(Message::new("before")).await?;
    one(&subscriber).await?.ack().await?;
    observer.sample().await;
    ensure!(observer.broker_answers() == Some(true), "the broker did not answer");
    faulty.proxy().refuse().await;
    faulty.proxy().cut();
    context
        .until(|| async {
            observer.sample().await;
            ensure!(observer.broker_answers() == Some(false), "a broker that is away answers");
            let seen = observer.snapshot();
            ensure!(
                seen.number("mq_broker_up", &[]) == Some(0.0)
                    && sum(&seen, "mq_connections_lost_total") > 0.0
            );
            Ok(())
        })
        .await?;
    let away = observer.snapshot();
    let stale = away.value("mq_group_ready_messages", &[]);
    ensure!(stale.is_none(), "a broker that is away tells {stale:?}");
    faulty.proxy().heal().await?;
    context.until(|| async { Ok(publisher.send(Message::new("after")).await?) }).await?;
    context
        .until(|| async {
            observer.sample().await;
            let seen = observer.snapshot();
            ensure!(seen.number("mq_broker_up", &[]) == Some(1.0), "the broker is back and does not answer");
            ensure!(sum(&seen, "mq_reconnects_total") > 0.0, "no reconnect is counted");
            Ok(())
        })
        .await?;
    one(&subscriber).await?.ack().await?;
    context.client.close(Duration::from_secs(10)).await?;
    Ok(Verdict::Pass)
}

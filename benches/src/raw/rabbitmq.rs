//! RabbitMQ.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures_util::StreamExt as _;
use futures_util::future::{join_all, try_join_all};
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, Consumer, PublisherConfirm,
};

use super::{now_millis, with_id};
use crate::load::{HEADERS, Handled, Load};
use crate::meter::{Latencies, Meter, Report};
use crate::spec::{PACE, Spec};
use crate::stamp;

/// Publishing tasks, each with a channel of its own.
const CHANNELS: usize = 4;
/// Unconfirmed messages on a channel.
const WINDOW: usize = 512;
/// Publish futures joined: one at a time they take three times as long.
const JOINED: usize = 128;
/// Messages the broker may send ahead of their acks.
const PREFETCH: u16 = 1000;
/// Messages that one ack takes.
const ACK: usize = 100;
/// How long nothing may come.
const SILENCE: Duration = Duration::from_secs(30);

async fn connect(spec: &Spec) -> Result<Connection> {
    Ok(Connection::connect(&spec.url, ConnectionProperties::default()).await?)
}

fn properties(key: &[u8]) -> BasicProperties {
    let now = now_millis();
    let mut table = BTreeMap::new();
    table.insert(ShortString::from("mq-key"), AMQPValue::LongString(key.into()));
    table.insert(ShortString::from("mq-published-at"), AMQPValue::LongString(now.to_string().into()));
    for (name, value) in HEADERS {
        table.insert(ShortString::from(name), AMQPValue::LongString(value.into()));
    }
    BasicProperties::default()
        .with_delivery_mode(2)
        .with_message_id(with_id(|id| ShortString::from(id)))
        .with_timestamp(now / 1000)
        .with_headers(FieldTable::from(table))
}

/// A channel with confirms.
struct Sender {
    channel: Channel,
    exchange: ShortString,
}

impl Sender {
    async fn open(connection: &Connection, spec: &Spec) -> Result<Self> {
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        Ok(Self { channel, exchange: spec.topic.as_str().into() })
    }

    async fn begin(&self, key: &[u8], payload: &[u8]) -> lapin::Result<PublisherConfirm> {
        let (exchange, routing_key) = (self.exchange.clone(), ShortString::default());
        self.channel
            .basic_publish(exchange, routing_key, BasicPublishOptions::default(), payload, properties(key))
            .await
    }

    async fn send(&self, key: &[u8], payload: &[u8]) -> Result<()> {
        confirmed(self.begin(key, payload).await?).await
    }

    /// Sends messages, `WINDOW` at most unconfirmed.
    async fn send_all(&self, load: &Load, range: std::ops::Range<usize>) -> Result<()> {
        let mut flying: VecDeque<PublisherConfirm> = VecDeque::with_capacity(WINDOW + JOINED);
        for first in range.clone().step_by(JOINED) {
            let joined = first..range.end.min(first + JOINED);
            while flying.len() + joined.len() > WINDOW
                && let Some(oldest) = flying.pop_front()
            {
                confirmed(oldest).await?;
            }
            for begun in join_all(joined.map(|n| self.begin(load.key(n), load.payload(n)))).await {
                flying.push_back(begun?);
            }
        }
        for sent in flying {
            confirmed(sent).await?;
        }
        Ok(())
    }
}

async fn confirmed(sent: PublisherConfirm) -> Result<()> {
    ensure!(matches!(sent.await?, Confirmation::Ack(None)), "a message was not confirmed");
    Ok(())
}

async fn send_all(senders: &[Arc<Sender>], load: &Arc<Load>, count: usize) -> Result<()> {
    let share = count.div_ceil(senders.len());
    let tasks = senders.iter().enumerate().map(|(n, sender)| {
        let (sender, load) = (sender.clone(), load.clone());
        let range = (n * share).min(count)..((n + 1) * share).min(count);
        tokio::spawn(async move { sender.send_all(&load, range).await })
    });
    for sent in try_join_all(tasks).await? {
        sent?;
    }
    Ok(())
}

/// Confirmed messages a second.
pub(super) async fn publish(spec: &Spec, load: Load) -> Result<Report> {
    let connection = connect(spec).await?;
    let load = Arc::new(load);
    let mut senders = Vec::new();
    for _ in 0..CHANNELS {
        senders.push(Arc::new(Sender::open(&connection, spec).await?));
    }
    send_all(&senders, &load, spec.warm_up).await?;
    let meter = Meter::start();
    send_all(&senders, &load, spec.count).await?;
    Ok(meter.stop(spec.count))
}

/// One at a time.
pub(super) async fn latency(spec: &Spec, load: &Load) -> Result<Report> {
    let connection = connect(spec).await?;
    let sender = Sender::open(&connection, spec).await?;
    for n in 0..spec.warm_up {
        sender.send(load.key(n), load.payload(n)).await?;
    }
    let mut latencies = Latencies::start()?;
    let mut n = 0;
    while latencies.elapsed() < spec.within {
        n += 1;
        let start = Instant::now();
        sender.send(load.key(n), load.payload(n)).await?;
        latencies.add(start.elapsed());
    }
    Ok(latencies.stop())
}

/// A consumer; its deliveries are owned values as they come.
struct Receiver {
    channel: Channel,
    consumer: Consumer,
}

impl Receiver {
    async fn open(connection: &Connection, spec: &Spec) -> Result<Self> {
        let channel = connection.create_channel().await?;
        channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
        let queue = format!("{}..{}", spec.topic, spec.group);
        let options = BasicConsumeOptions::default();
        let consumer =
            channel.basic_consume(queue.into(), "raw".into(), options, FieldTable::default()).await?;
        Ok(Self { channel, consumer })
    }

    async fn receive(&mut self) -> Result<Delivery> {
        let next = tokio::time::timeout(SILENCE, self.consumer.next()).await?;
        Ok(next.context("the consumer ended")??)
    }

    /// Waits until the broker took the acks: a channel is served in order.
    async fn flush(&self) -> Result<()> {
        Ok(self.channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?)
    }
}

fn handle(delivery: &Delivery, handled: &mut Handled) {
    let properties = &delivery.properties;
    let (mut key, mut headers) = (&b""[..], 0);
    for (name, value) in properties.headers().iter().flatten() {
        match (name.as_str(), value) {
            ("mq-key", AMQPValue::LongString(value)) => key = value.as_bytes(),
            ("mq-published-at" | "x-delivery-count", _) => {}
            _ => headers += 1,
        }
    }
    handled.take(properties.message_id().is_some(), key, &delivery.data, headers);
}

/// Messages a second, acked.
pub(super) async fn consume(spec: &Spec) -> Result<Report> {
    let connection = connect(spec).await?;
    let mut receiver = Receiver::open(&connection, spec).await?;
    let total = spec.warm_up + spec.count;
    let mut handled = Handled::default();
    let mut meter = None;
    while handled.count < total {
        let delivery = receiver.receive().await?;
        if handled.count == spec.warm_up {
            meter = Some(Meter::start());
        }
        handle(&delivery, &mut handled);
        if handled.count.is_multiple_of(ACK) || handled.count == total {
            delivery.ack(BasicAckOptions { multiple: true }).await?;
        }
    }
    receiver.flush().await?;
    let report = meter.context("nothing to measure")?.stop(spec.count);
    handled.check(spec.bytes)?;
    Ok(report)
}

/// From a send to the handler.
pub(super) async fn delivery(spec: &Spec, load: Load) -> Result<Report> {
    let messages = spec.within.as_millis() as usize * PACE as usize / 1000;
    let total = spec.warm_up + messages;
    let (publishing, consuming) = (connect(spec).await?, connect(spec).await?);
    let mut receiver = Receiver::open(&consuming, spec).await?;
    let sender = Sender::open(&publishing, spec).await?;
    let sending = tokio::spawn(async move {
        let mut pace = tokio::time::interval(Duration::from_secs(1) / PACE);
        for n in 0..total {
            pace.tick().await;
            sender.send(load.key(n), &stamp::write(load.payload(n))).await?;
        }
        anyhow::Ok(())
    });
    let mut latencies = Latencies::start()?;
    for n in 0..total {
        let delivery = receiver.receive().await?;
        if n == spec.warm_up {
            latencies = Latencies::start()?;
        }
        latencies.add(stamp::age(&delivery.data));
        delivery.ack(BasicAckOptions::default()).await?;
    }
    receiver.flush().await?;
    let report = latencies.stop();
    sending.await??;
    Ok(report)
}

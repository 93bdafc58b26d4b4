//! Redis Streams.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Cmd, IntoConnectionInfo as _, Pipeline, Value};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::{now_millis, with_id};
use crate::load::{HEADERS, Handled, Load};
use crate::meter::{Latencies, Meter, Report};
use crate::spec::{PACE, Spec};
use crate::stamp;

/// XADDs of one pipeline, and pipelines in flight.
const PIPELINE: (usize, usize) = (500, 4);
/// Entries of one read.
const COUNT: usize = 500;
/// Reads in flight: the server works on the next while one is parsed.
const READS: usize = 2;
/// Batches that were read and not handled.
const AHEAD: usize = 2;
/// XACKs that are not answered.
const ACKS: usize = 8;

async fn connect(spec: &Spec) -> Result<MultiplexedConnection> {
    let tcp = redis::io::tcp::TcpSettings::default().set_nodelay(true);
    let info = spec.url.as_str().into_connection_info()?.set_tcp_settings(tcp);
    let config = AsyncConnectionConfig::new().set_response_timeout(Some(Duration::from_secs(30)));
    Ok(Client::open(info)?.get_multiplexed_async_connection_with_config(&config).await?)
}

fn add(topic: &str, key: &[u8], payload: &[u8]) -> Cmd {
    let mut cmd = Cmd::with_capacity(15, topic.len() + payload.len() + key.len() + 180);
    cmd.arg("XADD").arg(topic).arg("*").arg("body").arg(payload);
    with_id(|id| {
        cmd.arg("mq-id").arg(id);
    });
    cmd.arg("mq-key").arg(key).arg("mq-published-at").arg(now_millis());
    for (name, value) in HEADERS {
        cmd.arg(name).arg(value);
    }
    cmd
}

async fn send_all(connection: &MultiplexedConnection, topic: &str, load: &Load, count: usize) -> Result<()> {
    let mut flying: VecDeque<JoinHandle<Result<()>>> = VecDeque::new();
    for first in (0..count).step_by(PIPELINE.0) {
        let last = count.min(first + PIPELINE.0);
        let mut pipeline = Pipeline::with_capacity(last - first);
        for n in first..last {
            pipeline.add_command(add(topic, load.key(n), load.payload(n)));
        }
        let mut connection = connection.clone();
        flying.push_back(tokio::spawn(async move {
            let ids = connection.send_packed_commands(&pipeline, 0, pipeline.len()).await?;
            ensure!(ids.iter().all(|id| matches!(id, Value::BulkString(_))), "a message was refused");
            Ok(())
        }));
        if flying.len() >= PIPELINE.1
            && let Some(oldest) = flying.pop_front()
        {
            oldest.await??;
        }
    }
    for sent in flying {
        sent.await??;
    }
    Ok(())
}

/// Confirmed messages a second.
pub(super) async fn publish(spec: &Spec, load: &Load) -> Result<Report> {
    let connection = connect(spec).await?;
    send_all(&connection, &spec.topic, load, spec.warm_up).await?;
    let meter = Meter::start();
    send_all(&connection, &spec.topic, load, spec.count).await?;
    Ok(meter.stop(spec.count))
}

/// One at a time.
pub(super) async fn latency(spec: &Spec, load: &Load) -> Result<Report> {
    let mut connection = connect(spec).await?;
    for n in 0..spec.warm_up {
        connection.send_packed_command(&add(&spec.topic, load.key(n), load.payload(n))).await?;
    }
    let mut latencies = Latencies::start()?;
    let mut n = 0;
    while latencies.elapsed() < spec.within {
        n += 1;
        let start = Instant::now();
        connection.send_packed_command(&add(&spec.topic, load.key(n), load.payload(n))).await?;
        latencies.add(start.elapsed());
    }
    Ok(latencies.stop())
}

/// A message as a handler could keep it: what the parser made is moved, not copied.
struct Owned {
    entry: Vec<u8>,
    id: Option<Uuid>,
    key: Vec<u8>,
    payload: Vec<u8>,
    headers: Vec<(Vec<u8>, Vec<u8>)>,
}

fn array(value: Value) -> Vec<Value> {
    if let Value::Array(values) = value { values } else { Vec::new() }
}

fn bytes(value: Option<Value>) -> Vec<u8> {
    if let Some(Value::BulkString(bytes)) = value { bytes } else { Vec::new() }
}

impl Owned {
    /// Reads an entry; `StreamReadReply` of the client, a map for each entry, takes twice the time.
    fn read(entry: Value) -> Self {
        let mut parts = array(entry).into_iter();
        let entry = bytes(parts.next());
        let mut fields = parts.next().map(array).unwrap_or_default().into_iter();
        let headers = Vec::with_capacity(fields.len() / 2);
        let mut owned = Self { entry, id: None, key: Vec::new(), payload: Vec::new(), headers };
        while let Some(name) = fields.next() {
            let (name, value) = (bytes(Some(name)), bytes(fields.next()));
            match name.as_slice() {
                b"body" => owned.payload = value,
                b"mq-id" => owned.id = Uuid::try_parse_ascii(&value).ok(),
                b"mq-key" => owned.key = value,
                b"mq-published-at" => {}
                _ => owned.headers.push((name, value)),
            }
        }
        owned
    }
}

/// Reads on, on a connection of its own, while what was read is handled.
async fn read(spec: &Spec, count: usize, out: mpsc::Sender<Value>) -> Result<()> {
    let connection = connect(spec).await?;
    let mut cmd = redis::cmd("XREADGROUP");
    cmd.arg("GROUP").arg(&spec.group).arg("raw").arg("COUNT").arg(count).arg("BLOCK").arg(2000);
    cmd.arg("STREAMS").arg(&spec.topic).arg(">");
    let mut flying = VecDeque::new();
    loop {
        while flying.len() < READS {
            let (mut connection, cmd) = (connection.clone(), cmd.clone());
            flying.push_back(tokio::spawn(async move { connection.send_packed_command(&cmd).await }));
        }
        let Some(read) = flying.pop_front() else { return Ok(()) };
        let reply = read.await??;
        if let Value::ServerError(error) = reply {
            bail!("{error:?}");
        }
        if out.send(reply).await.is_err() {
            return Ok(());
        }
    }
}

/// Entries of a reply to a read of one stream.
fn entries(reply: Value) -> Vec<Value> {
    match reply {
        Value::Array(mut streams) => {
            streams.pop().map(array).and_then(|mut stream| stream.pop()).map_or_else(Vec::new, array)
        }
        Value::Map(mut streams) => streams.pop().map_or_else(Vec::new, |(_, entries)| array(entries)),
        _ => Vec::new(),
    }
}

/// Acks on a connection of its own.
struct Acks<'a> {
    connection: MultiplexedConnection,
    spec: &'a Spec,
    flying: VecDeque<JoinHandle<redis::RedisResult<Value>>>,
}

impl Acks<'_> {
    async fn ack(&mut self, ids: impl ExactSizeIterator<Item = &[u8]>, room: usize) -> Result<()> {
        let mut cmd = Cmd::with_capacity(3 + ids.len(), 64 + 24 * ids.len());
        cmd.arg("XACK").arg(&self.spec.topic).arg(&self.spec.group);
        for id in ids {
            cmd.arg(id);
        }
        let mut connection = self.connection.clone();
        self.flying.push_back(tokio::spawn(async move { connection.send_packed_command(&cmd).await }));
        self.wait(room).await
    }

    async fn wait(&mut self, room: usize) -> Result<()> {
        while self.flying.len() > room
            && let Some(oldest) = self.flying.pop_front()
        {
            ensure!(matches!(oldest.await??, Value::Int(_)), "an ack was refused");
        }
        Ok(())
    }
}

/// Messages a second, acked.
pub(super) async fn consume(spec: &Spec) -> Result<Report> {
    let total = spec.warm_up + spec.count;
    let (out, mut replies) = mpsc::channel(AHEAD);
    let reading = spec.clone();
    let reader = tokio::spawn(async move { read(&reading, COUNT, out).await });
    let mut acks = Acks { connection: connect(spec).await?, spec, flying: VecDeque::new() };
    let mut handled = Handled::default();
    let mut started = None;
    while handled.count < total {
        let Some(reply) = replies.recv().await else {
            reader.await??;
            bail!("the reader ended");
        };
        if started.is_none() && handled.count >= spec.warm_up {
            started = Some((Meter::start(), handled.count));
        }
        let batch: Vec<Owned> = entries(reply).into_iter().map(Owned::read).collect();
        for message in &batch {
            handled.take(message.id.is_some(), &message.key, &message.payload, message.headers.len());
        }
        if !batch.is_empty() {
            acks.ack(batch.iter().map(|message| message.entry.as_slice()), ACKS).await?;
        }
    }
    acks.wait(0).await?;
    let (meter, before) = started.context("the warm-up took all")?;
    let report = meter.stop(handled.count - before);
    handled.check(spec.bytes)?;
    Ok(report)
}

/// From a send to the handler.
pub(super) async fn delivery(spec: &Spec, load: Load) -> Result<Report> {
    let messages = spec.within.as_millis() as usize * PACE as usize / 1000;
    let total = spec.warm_up + messages;
    let (out, mut replies) = mpsc::channel(AHEAD);
    let reading = spec.clone();
    let reader = tokio::spawn(async move { read(&reading, COUNT, out).await });
    let (mut sender, topic) = (connect(spec).await?, spec.topic.clone());
    tokio::spawn(async move {
        let mut pace = tokio::time::interval(Duration::from_secs(1) / PACE);
        for n in 0..total {
            pace.tick().await;
            let cmd = add(&topic, load.key(n), &stamp::write(load.payload(n)));
            sender.send_packed_command(&cmd).await?;
        }
        Ok::<_, redis::RedisError>(())
    });
    let mut acks = Acks { connection: connect(spec).await?, spec, flying: VecDeque::new() };
    let mut latencies = Latencies::start()?;
    let mut handled = 0;
    while handled < total {
        let Some(reply) = replies.recv().await else {
            reader.await??;
            bail!("the reader ended");
        };
        let batch: Vec<Owned> = entries(reply).into_iter().map(Owned::read).collect();
        for message in &batch {
            if handled == spec.warm_up {
                latencies = Latencies::start()?;
            }
            handled += 1;
            latencies.add(stamp::age(&message.payload));
        }
        if !batch.is_empty() {
            acks.ack(batch.iter().map(|message| message.entry.as_slice()), usize::MAX).await?;
        }
    }
    acks.wait(0).await?;
    Ok(latencies.stop())
}

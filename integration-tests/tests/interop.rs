//! Foreign clients take part: `kcat`, `pika` and `redis-cli` each send to `mq` and read from it.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mq::{Client, Delivery, Message, Subscriber, TopicName};
use mq_integration_tests::brokers;

/// Runs a program to its end and returns what it printed.
fn run(program: &str, args: &[&str], input: &str) -> Result<String> {
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("{program} is missing; `cargo xtask test` installs it"))?;
    child.stdin.take().context("no standard input")?.write_all(input.as_bytes())?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "{program} {args:?}: {}", output.status);
    Ok(String::from_utf8(output.stdout)?)
}

struct Setup {
    client: Client,
    topic: TopicName,
    subscriber: Subscriber,
    address: String,
}

impl Setup {
    async fn new(name: &str, url: &str) -> Result<Self> {
        let client = mq::connect(url).await?;
        let topic = TopicName::new(format!("interop-{name}-{:x}", fastrand::u32(..)))?;
        let subscriber = client.subscriber(&topic, "g").open().await?;
        let rest = url.split_once("://").context("no URL")?.1;
        let address = rest.rsplit('@').next().unwrap_or(rest).split(['/', '?']).next().unwrap_or(rest);
        Ok(Self { client, subscriber, topic, address: address.to_owned() })
    }

    async fn receive(&self) -> Result<Delivery> {
        let received = tokio::time::timeout(Duration::from_secs(30), self.subscriber.receive()).await;
        Ok(received.context("the foreign message did not come")??)
    }

    async fn send_ours(&self) -> Result<()> {
        let message = Message::with_id("from mq", "id-1").key("key-1").subject("a.b").header("h", "v");
        self.client.publisher(&self.topic).await?.send(message).await?;
        Ok(())
    }

    /// A message without what only this library adds is delivered with what it has, and settles as any other.
    async fn expect_foreign(&self, key: Option<&[u8]>, payload: &[u8]) -> Result<()> {
        let delivery = self.receive().await?;
        let message = delivery.message();
        ensure!(message.payload == payload && message.key.as_deref() == key, "{message:?}");
        ensure!(message.headers.get_str("h") == Some("foreign"), "{message:?}");
        let id = message.id.clone();
        delivery.retry(Duration::ZERO).await?;
        let again = self.receive().await?;
        ensure!(again.message().id == id && again.message().payload == payload, "{again:?}");
        ensure!(again.attempt() == 2, "{again:?}");
        again.ack().await?;
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kcat_and_mq_exchange_messages() -> Result<()> {
    let setup = Setup::new("kcat", brokers::shared_kafka().await?.url()).await?;
    let topic = setup.topic.as_str();
    let produce = ["-P", "-b", &setup.address, "-t", topic, "-k", "key-2", "-H", "h=foreign"];
    run("kcat", &produce, "from kcat")?;
    setup.expect_foreign(Some(b"key-2"), b"from kcat").await?;

    setup.send_ours().await?;
    let consume = ["-C", "-b", &setup.address, "-t", topic, "-e", "-q", "-f", "%k|%s|%h\n"];
    let read = run("kcat", &consume, "")?;
    let ours = read.lines().find(|line| line.starts_with("key-1|from mq|")).context(read.clone())?;
    for header in ["mq-id=id-1", "mq-subject=a.b", "h=v"] {
        ensure!(ours.contains(header), "{header} is not in {ours}");
    }
    Ok(())
}

const PIKA: &str = r##"
import pika, sys
host, port, topic = sys.argv[1].split(":")[0], int(sys.argv[1].split(":")[1]), sys.argv[2]
channel = pika.BlockingConnection(pika.ConnectionParameters(host, port)).channel()
if sys.argv[3] == "send":
    properties = pika.BasicProperties(headers={"h": "foreign", "mq-key": "key-2"}, delivery_mode=2)
    channel.basic_publish(topic, "x.y", b"from pika", properties)
elif sys.argv[3] == "bind":
    channel.queue_declare(topic + "-pika", durable=True)
    channel.queue_bind(topic + "-pika", topic, "#")
else:
    method, properties, body = channel.basic_get(topic + "-pika", auto_ack=True)
    headers = properties.headers
    print(body.decode(), method.routing_key, properties.message_id, headers["mq-key"], headers["h"], sep="|")
    channel.queue_delete(topic + "-pika")
channel.connection.close()
"##;

#[tokio::test(flavor = "multi_thread")]
async fn pika_and_mq_exchange_messages() -> Result<()> {
    let setup = Setup::new("pika", brokers::shared_rabbitmq().await?.url()).await?;
    let pika = |what: &str| run("/usr/bin/python3", &["-", &setup.address, setup.topic.as_str(), what], PIKA);
    pika("send")?;
    setup.expect_foreign(Some(b"key-2"), b"from pika").await?;

    pika("bind")?;
    setup.send_ours().await?;
    let read = pika("read")?;
    ensure!(read.trim() == "from mq|a.b|id-1|key-1|v", "{read}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_cli_and_mq_exchange_messages() -> Result<()> {
    let setup = Setup::new("redis-cli", brokers::shared_redis().await?.url()).await?;
    let (host, port) = setup.address.split_once(':').context("no port")?;
    let cli = |args: &[&str]| run("redis-cli", &[&["-h", host, "-p", port], args].concat(), "");
    let topic = setup.topic.as_str();
    cli(&["XADD", topic, "*", "body", "from redis-cli", "h", "foreign"])?;
    setup.expect_foreign(None, b"from redis-cli").await?;

    cli(&["XGROUP", "CREATE", topic, "foreign", "$"])?;
    setup.send_ours().await?;
    let read = cli(&["XREADGROUP", "GROUP", "foreign", "me", "COUNT", "10", "STREAMS", topic, ">"])?;
    for part in ["from mq", "mq-id", "id-1", "mq-key", "key-1", "mq-subject", "a.b"] {
        ensure!(read.contains(part), "{part} is not in {read}");
    }
    Ok(())
}

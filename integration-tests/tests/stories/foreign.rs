//! What the brokers' own clients see of a topic.

use std::io::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use mq_integration_tests::brokers::BrokerKind;

use crate::shell::Scene;

/// A client of the broker's own that sees what every group of a topic would see from now on.
pub(crate) struct Onlooker<'a>(&'a Scene);

const PIKA: &str = r##"
import pika, sys
host, port = sys.argv[1].split(":")
channel = pika.BlockingConnection(pika.ConnectionParameters(host, int(port))).channel()
queue = sys.argv[2] + "-onlooker"
if sys.argv[3] == "bind":
    channel.queue_declare(queue, durable=True)
    channel.queue_bind(queue, sys.argv[2], "#")
else:
    print(channel.queue_declare(queue, durable=True, passive=True).method.message_count)
channel.connection.close()
"##;

impl<'a> Onlooker<'a> {
    /// Begins to look; nothing was sent to the topic yet.
    pub(crate) fn new(scene: &'a Scene) -> Result<Self> {
        let onlooker = Self(scene);
        if scene.kind == BrokerKind::RabbitMq {
            onlooker.pika("bind")?;
        }
        ensure!(onlooker.stored()? == 0, "something is there already");
        Ok(onlooker)
    }

    /// How many messages were stored in the topic, for everybody to see.
    pub(crate) fn stored(&self) -> Result<usize> {
        let Scene { kind, address, topic, .. } = self.0;
        match kind {
            BrokerKind::Kafka => {
                let read = run("kcat", &["-C", "-b", address, "-t", topic, "-e", "-q", "-f", "%o\n"], "")?;
                Ok(read.lines().count())
            }
            BrokerKind::RabbitMq => Ok(self.pika("count")?.trim().parse()?),
            BrokerKind::Redis => {
                let (host, port) = address.split_once(':').context("no port")?;
                let read = run("redis-cli", &["-h", host, "-p", port, "XINFO", "STREAM", topic], "")?;
                let mut lines = read.lines().skip_while(|line| *line != "entries-added");
                Ok(lines.nth(1).with_context(|| format!("no entries-added: {read}"))?.parse()?)
            }
        }
    }

    fn pika(&self, what: &str) -> Result<String> {
        run("/usr/bin/python3", &["-", &self.0.address, &self.0.topic, what], PIKA)
    }
}

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

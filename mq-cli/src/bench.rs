//! `mq bench`.

mod figures;
mod work;

use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::Arc;

use clap::ValueEnum;
use mq::{Client, ClientOptions, ErrorKind, GroupName, GroupSettings, MessageId, TopicName, TopicSpec};
use serde::Serialize;

use crate::bench::figures::Figures;
use crate::bench::work::Work;
use crate::end::{End, Usage};
use crate::progress::Progress;
use crate::session::{self, CLOSE, Session};
use crate::values;

const EXAMPLES: &str = "\
Examples:
  mq bench --url redis://localhost:6379
  mq bench --mode end-to-end --size 1024 --count 500000 --json
  mq bench --mode latency --rate 500/s

It makes a topic and a group of its own and removes them at the end. Figures are of the library on
this machine and this broker; `cargo xtask bench` sets them beside the raw clients.";

/// Measure throughput or latency on the broker
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Bytes of each message's body
    #[arg(long, value_name = "BYTES", default_value_t = 256, value_parser = clap::value_parser!(u32).range(8..))]
    size: u32,
    /// Messages [default: 100000; with --mode latency 1000]
    #[arg(long, value_name = "N")]
    count: Option<NonZeroUsize>,
    /// What to measure
    #[arg(long, value_enum, default_value_t = Mode::Publish)]
    mode: Mode,
    /// Send so many a second; without it as fast as it goes, and with --mode latency one after the other
    #[arg(long, value_name = "N/s", value_parser = values::rate)]
    rate: Option<NonZeroU32>,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Mode {
    /// From the first send to the last confirmation
    Publish,
    /// From the first message's coming to the last ack, of messages that are there already
    Consume,
    /// From the first send to the last ack, sending and receiving at once
    EndToEnd,
    /// From each send to its confirmation, and to its receipt
    Latency,
}

pub(crate) async fn run(session: &Session, args: Args) -> anyhow::Result<End> {
    if args.rate.is_some() && args.mode == Mode::Consume {
        return Err(Usage("--rate is for sending; --mode consume receives as fast as it goes".into()).into());
    }
    let client = match session.stop.or(session.connect_with(ClientOptions::default())).await {
        Some(client) => client?,
        None => return Ok(End::Stopped),
    };
    session::watch(&client);
    let place = Place::new()?;
    let measured = session.stop.or(measure(session, &client, &place, &args)).await;
    let removed = place.remove(&client).await;
    session::close(&client, CLOSE).await?;
    let Some(measured) = measured else { return Ok(End::Stopped) };
    show(session, &measured?)?;
    removed?;
    Ok(End::Done)
}

async fn measure(session: &Session, client: &Client, place: &Place, args: &Args) -> anyhow::Result<Figures> {
    client.admin().ensure_topic(&place.topic, &TopicSpec::default()).await?;
    let settings = GroupSettings::default();
    let publisher = client.publisher(&place.topic).await?;
    // Only who is to receive has a group that keeps what is sent.
    if args.mode != Mode::Publish {
        client.admin().ensure_group(&place.topic, &place.group, &settings).await?;
    }
    let count = match args.mode {
        Mode::Latency => 1000,
        _ => 100_000,
    };
    let count = args.count.map_or(count, NonZeroUsize::get);
    let progress = Arc::new(Progress::of_messages(&session.output, count as u64));
    let work = Work { publisher, count, size: args.size as usize, rate: args.rate, progress };
    let subscriber = client.subscriber(&place.topic, &place.group).settings(settings);
    let measured = match args.mode {
        Mode::Publish => work.publish().await,
        Mode::Consume => {
            work.fill().await?;
            work.consume(&subscriber.open().await?).await
        }
        Mode::EndToEnd | Mode::Latency => {
            let subscriber = subscriber.open().await?;
            work.warm_up(&subscriber).await?;
            match args.mode {
                Mode::Latency => work.latency(&subscriber).await,
                _ => work.end_to_end(&subscriber).await,
            }
        }
    };
    work.progress.end();
    let backend = client.capabilities().backend;
    Ok(Figures::new(args.mode, backend, args.size, count, measured?))
}

fn show(session: &Session, figures: &Figures) -> anyhow::Result<()> {
    if session.output.json {
        session.output.json(figures)?;
    } else {
        session.output.table(["", figures.backend], &figures.rows())?;
    }
    session.output.flush()
}

/// The topic and the group of one run.
struct Place {
    topic: TopicName,
    group: GroupName,
}

impl Place {
    fn new() -> anyhow::Result<Self> {
        let name = format!("mq-bench-{}", MessageId::generate());
        Ok(Self { topic: TopicName::new(name.clone())?, group: GroupName::new(name)? })
    }

    /// Removes what is there of it.
    async fn remove(&self, client: &Client) -> anyhow::Result<()> {
        let admin = client.admin();
        let gone = |done: mq::Result<()>| match done {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
        gone(admin.delete_group(&self.topic, &self.group).await)?;
        Ok(gone(admin.delete_topic(&self.topic).await)?)
    }
}

//! `mq publish`.

mod jsonl;
mod lines;
pub(crate) mod pace;
mod receipt;

use std::ffi::OsString;
use std::io::IsTerminal as _;
use std::num::NonZeroU32;
use std::os::unix::ffi::OsStringExt as _;
use std::time::Duration;

use anyhow::Context as _;
use mq::{ClientOptions, Message, MessageId, Timestamp, TopicName};
use tokio::io::AsyncReadExt as _;

use crate::end::End;
use crate::line::Draft;
use crate::publish::receipt::ReceiptLine;
use crate::session::{self, CLOSE, Session};
use crate::values;

const EXAMPLES: &str = "\
Examples:
  mq publish orders '{\"total\":12}' --key customer-1 --content-type application/json
  mq publish reminders 'water the plants' --delay 36h
  mq publish orders --jsonl orders.jsonl --json > receipts.jsonl

A line of --jsonl is an object like the ones that `consume --json` prints:
  {\"key\":\"customer-1\",\"headers\":[[\"source\",\"web\"]],\"body\":{\"total\":12}}
It has a body (JSON, or text) or body_base64, and may have id, key, subject, headers,
content_type, and delay or deliver_at.";

/// Send one message, or one message per line of a file
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The topic; made if it is not there
    topic: TopicName,
    /// The body; without it, stdin to its end
    body: Option<OsString>,
    #[command(flatten)]
    fields: Fields,
    /// Send one message per line of FILE, or of stdin
    #[arg(
        long,
        value_name = "FILE|-",
        num_args = 0..=1,
        default_missing_value = "-",
        conflicts_with_all = ["body", "Fields"]
    )]
    jsonl: Option<OsString>,
    /// Send at most this many messages a second
    #[arg(long, value_name = "N/s", value_parser = values::rate, requires = "jsonl", conflicts_with_all = ["body", "Fields"])]
    rate: Option<NonZeroU32>,
    /// Have at most this many messages sent and not answered [default: 16384]
    #[arg(long, value_name = "N", requires = "jsonl", value_parser = clap::value_parser!(u32).range(1..=1_000_000),
        conflicts_with_all = ["body", "Fields"])]
    in_flight: Option<u32>,
}

#[derive(Debug, clap::Args)]
#[group(multiple = true)]
struct Fields {
    /// What orders and partitions
    #[arg(long, value_name = "K")]
    key: Option<String>,
    /// What routes: words separated by dots
    #[arg(long, value_name = "S")]
    subject: Option<String>,
    /// A header; may be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = values::header)]
    header: Vec<(String, String)>,
    /// The id [default: a new UUIDv7]
    #[arg(long)]
    id: Option<String>,
    /// Deliver it not before this much time has passed
    #[arg(long, value_name = "D", value_parser = values::duration, conflicts_with = "at")]
    delay: Option<Duration>,
    /// Deliver it not before this moment
    #[arg(long, value_name = "TIME", value_parser = values::time)]
    at: Option<Timestamp>,
    /// The media type of the body
    #[arg(long, value_name = "T")]
    content_type: Option<String>,
}

impl Fields {
    fn draft(self, body: Vec<u8>) -> Draft {
        let id = self.id.map_or_else(MessageId::generate, MessageId::from);
        let mut message = Message::with_id(body, id);
        message.key = self.key.map(Into::into);
        message.subject = self.subject.map(Into::into);
        message.headers = self.header.into_iter().collect();
        message.content_type = self.content_type.map(Into::into);
        message.deliver_at = self.at;
        Draft { message, delay: self.delay }
    }
}

pub(crate) async fn run(session: &Session, args: Args) -> anyhow::Result<End> {
    match args.jsonl {
        Some(file) => {
            let job = jsonl::Job { topic: args.topic, file, rate: args.rate, in_flight: args.in_flight };
            jsonl::run(session, job).await
        }
        None => session.brief(single(session, args)).await,
    }
}

async fn single(session: &Session, args: Args) -> anyhow::Result<End> {
    let body = match args.body {
        Some(body) => body.into_vec(),
        None => stdin().await?,
    };
    let draft = args.fields.draft(body);
    let client = session.connect_with(ClientOptions::default()).await?;
    let publisher = client.publisher(&args.topic).await?;
    let id = draft.message.id.to_string();
    let verdict = publisher.send(draft.now()).await;
    let receipt = ReceiptLine::new(None, Some(id), verdict);
    let end = if receipt.is_ok() { End::Done } else { End::Failed };
    if session.output.json {
        session.output.json(&receipt)?;
        session.output.flush()?;
    }
    eprintln!("{receipt}");
    session::close(&client, CLOSE).await?;
    Ok(end)
}

async fn stdin() -> anyhow::Result<Vec<u8>> {
    if std::io::stdin().is_terminal() {
        eprintln!("reading the body from the terminal; end it with Ctrl-D");
    }
    let mut body = Vec::new();
    tokio::io::stdin().read_to_end(&mut body).await.context("cannot read stdin")?;
    Ok(body)
}

//! `mq peek`.

use mq::{Message, Position, Start, TopicName};

use crate::end::End;
use crate::line::PeekedLine;
use crate::output::{figure, readable};
use crate::session::{CLOSE, Session};
use crate::values;

/// Look at a topic's messages without a group, and without disturbing one
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  mq peek orders --start earliest --limit 3 --json")]
pub(crate) struct Args {
    /// The topic
    topic: TopicName,
    /// Show at most this many
    #[arg(long, value_name = "N", default_value_t = 10)]
    limit: usize,
    /// Where to begin; `latest` shows the last ones
    #[arg(long, value_name = "earliest|latest|TIME", value_parser = values::start, default_value = "latest")]
    start: Start,
}

pub(crate) async fn run(session: &Session, args: Args) -> anyhow::Result<End> {
    let client = session.connect().await?;
    for (message, position) in client.admin().peek(&args.topic, args.start, args.limit).await? {
        if session.output.json {
            session.output.json(&PeekedLine::new(args.topic.as_str(), &message, position))?;
        } else {
            session.output.text(&words(&message, position))?;
        }
    }
    session.output.flush()?;
    client.close(CLOSE).await?;
    Ok(End::Done)
}

fn words(message: &Message, position: Option<Position>) -> String {
    let key = message.key.as_deref().map(readable).map(|key| format!(" key={key}")).unwrap_or_default();
    format!("{} at {}{key}: {}", message.id, figure(position), readable(&message.payload))
}

//! `mq topic`.

use std::time::Duration;

use clap::Subcommand;
use mq::{Admin, ErrorKind, ORDERED_PARTITIONS, TopicInfo, TopicName, TopicSpec};

use crate::end::End;
use crate::output::{Done, figure};
use crate::session::Session;
use crate::values;

/// Create, list, describe and delete topics
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create a topic; one that is there already has to be the same
    #[command(after_help = "Example:\n  mq topic create orders --ordered --retention 7d")]
    Create {
        /// The topic
        topic: TopicName,
        /// Partitions: the most consumers of an ordered group that work at once
        #[arg(long, value_name = "N")]
        partitions: Option<u32>,
        /// Lay it out for key order: 8 partitions, unless --partitions says otherwise
        #[arg(long)]
        ordered: bool,
        /// Keep messages this long, whether read or not
        #[arg(long, value_name = "D", value_parser = values::duration)]
        retention: Option<Duration>,
    },
    /// List the topics
    #[command(after_help = "Example:\n  mq topic list --json | jq -r .topic")]
    List,
    /// Describe a topic
    #[command(after_help = "Example:\n  mq topic describe orders")]
    Describe {
        /// The topic
        topic: TopicName,
    },
    /// Delete a topic with its groups and all their messages
    #[command(after_help = "Example:\n  mq topic delete orders")]
    Delete {
        /// The topic
        topic: TopicName,
    },
}

pub(crate) async fn run(session: &Session, command: Command) -> anyhow::Result<End> {
    let client = session.connect().await?;
    let admin = client.admin();
    match command {
        Command::Create { topic, partitions, ordered, retention } => {
            let mut spec = TopicSpec::default();
            spec.partitions = partitions.or(ordered.then_some(ORDERED_PARTITIONS));
            spec.retention = retention;
            admin.ensure_topic(&topic, &spec).await?;
            show(session, &[describe(&admin, &topic).await?])?;
        }
        Command::List => show(session, &admin.topics().await?)?,
        Command::Describe { topic } => show(session, &[admin.topic(&topic).await?])?,
        Command::Delete { topic } => {
            admin.delete_topic(&topic).await?;
            if session.output.json {
                session.output.json(&Done {
                    topic: topic.as_str(),
                    deleted: Some(true),
                    ..Done::default()
                })?;
            }
            eprintln!("topic {topic} deleted");
        }
    }
    session.output.flush()?;
    client.close(crate::session::CLOSE).await?;
    Ok(End::Done)
}

/// A broker that cannot describe a topic can still have made it.
async fn describe(admin: &Admin, topic: &TopicName) -> mq::Result<TopicInfo> {
    match admin.topic(topic).await {
        Err(error) if error.kind() == ErrorKind::Unsupported => Ok(TopicInfo::new(topic.as_str())),
        described => described,
    }
}

fn show(session: &Session, topics: &[TopicInfo]) -> anyhow::Result<()> {
    if session.output.json {
        return topics.iter().try_for_each(|topic| session.output.json(topic));
    }
    let rows: Vec<[String; 4]> = topics.iter().map(row).collect();
    session.output.table(["topic", "partitions", "retention", "groups"], &rows)
}

fn row(topic: &TopicInfo) -> [String; 4] {
    let retention = topic.retention_ms.map(|millis| format!("{:?}", Duration::from_millis(millis)));
    let groups = topic.groups.as_ref().map(|groups| groups.join(" "));
    [topic.topic.clone(), figure(topic.partitions), figure(retention), figure(groups)]
}

//! `mq group`.

use clap::Subcommand;
use mq::{Admin, Error, ErrorKind, GroupName, GroupSettings, ORDERED_PARTITIONS, TopicName, TopicSpec};
use serde::Serialize;

use crate::consume::{Settings, declared};
use crate::end::End;
use crate::output::Done;
use crate::session::Session;

/// Create, list, describe and delete the groups of a topic
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create a group, and its topic if need be; from then on it gets what is sent
    #[command(after_help = "Example:\n  mq group create orders billing --lease 1m --max-attempts 3")]
    Create {
        /// The topic
        topic: TopicName,
        /// The group
        group: GroupName,
        #[command(flatten)]
        settings: Settings,
    },
    /// List the groups of a topic
    #[command(after_help = "Example:\n  mq group list orders")]
    List {
        /// The topic
        topic: TopicName,
    },
    /// Show the settings of a group
    #[command(after_help = "Example:\n  mq group describe orders billing")]
    Describe {
        /// The topic
        topic: TopicName,
        /// The group
        group: GroupName,
    },
    /// Delete a group with its dead letters
    #[command(after_help = "Example:\n  mq group delete orders billing")]
    Delete {
        /// The topic
        topic: TopicName,
        /// The group
        group: GroupName,
    },
}

pub(crate) async fn run(session: &Session, command: Command) -> anyhow::Result<End> {
    let client = session.connect().await?;
    let admin = client.admin();
    match command {
        Command::Create { topic, group, settings } => {
            let settings = settings.over(declared(&client, &topic, &group).await?)?;
            admin.ensure_topic(&topic, &layout(&admin, &topic, settings.ordered).await?).await?;
            admin.ensure_group(&topic, &group, &settings).await?;
            show(session, &topic, &group, &settings)?;
        }
        Command::List { topic } => {
            for group in groups(&admin, &topic).await? {
                list(session, &topic, &group)?;
            }
        }
        Command::Describe { topic, group } => {
            let settings = admin.group_settings(&topic, &group).await?;
            show(session, &topic, &group, &settings)?;
        }
        Command::Delete { topic, group } => {
            admin.delete_group(&topic, &group).await?;
            if session.output.json {
                let (topic, group) = (topic.as_str(), group.as_str());
                let deleted = Done { topic, group: Some(group), deleted: Some(true), ..Done::default() };
                session.output.json(&deleted)?;
            }
            eprintln!("group {group} of topic {topic} deleted");
        }
    }
    session.output.flush()?;
    client.close(crate::session::CLOSE).await?;
    Ok(End::Done)
}

/// A new topic of an ordered group is laid out for key order.
async fn layout(admin: &Admin, topic: &TopicName, ordered: bool) -> mq::Result<TopicSpec> {
    if !ordered {
        return Ok(TopicSpec::default());
    }
    match admin.topic(topic).await {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            Ok(TopicSpec::default().partitions(ORDERED_PARTITIONS))
        }
        found => found.map(|_| TopicSpec::default()),
    }
}

/// Returns the groups of a topic.
pub(crate) async fn groups(admin: &Admin, topic: &TopicName) -> mq::Result<Vec<String>> {
    admin.topic(topic).await?.groups.ok_or_else(|| {
        let text = "this broker does not say which groups a topic has; name the group you mean";
        Error::new(ErrorKind::Unsupported, text).on_topic(topic)
    })
}

/// A group's settings as they are shown.
#[derive(Serialize)]
struct Line<'a> {
    topic: &'a str,
    group: &'a str,
    lease_ms: u64,
    max_attempts: u32,
    ordered: bool,
    hold_key: bool,
}

fn show(
    session: &Session,
    topic: &TopicName,
    group: &GroupName,
    settings: &GroupSettings,
) -> anyhow::Result<()> {
    let line = Line {
        topic: topic.as_str(),
        group: group.as_str(),
        lease_ms: u64::try_from(settings.lease.as_millis()).unwrap_or(u64::MAX),
        max_attempts: settings.max_attempts,
        ordered: settings.ordered,
        hold_key: settings.hold_key,
    };
    if session.output.json {
        return session.output.json(&line);
    }
    let row = [
        line.topic.to_owned(),
        line.group.to_owned(),
        format!("{:?}", settings.lease),
        line.max_attempts.to_string(),
        match (line.ordered, line.hold_key) {
            (true, true) => "by key, held".to_owned(),
            (true, false) => "by key".to_owned(),
            (false, _) => "-".to_owned(),
        },
    ];
    session.output.table(["topic", "group", "lease", "max attempts", "order"], &[row])
}

fn list(session: &Session, topic: &TopicName, group: &str) -> anyhow::Result<()> {
    if session.output.json {
        return session.output.json(&Done { topic: topic.as_str(), group: Some(group), ..Done::default() });
    }
    session.output.text(group)
}

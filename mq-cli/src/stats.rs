//! `mq stats`.

use std::time::Duration;

use mq::{Admin, GroupName, Stats, TopicName};
use serde::Serialize;
use tokio::time::{MissedTickBehavior, interval};

use crate::end::End;
use crate::group::groups;
use crate::output::figure;
use crate::session::{CLOSE, Session};
use crate::values::rfc3339;

const EXAMPLES: &str = "\
Examples:
  mq stats orders
  mq stats orders --group billing --watch

A figure the broker cannot give is null (a dash in the table), never a guess.";

/// How often `--watch` looks.
const EVERY: Duration = Duration::from_secs(1);

/// Count a group's messages: ready, in flight, delayed and dead
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The topic
    topic: TopicName,
    /// One group [default: every group of the topic]
    #[arg(long, value_name = "G")]
    group: Option<GroupName>,
    /// Look again each second, until Ctrl-C
    #[arg(long)]
    watch: bool,
}

/// The counts of one group.
#[derive(Debug, Serialize)]
struct Line {
    topic: String,
    group: String,
    ready: Option<u64>,
    in_flight: Option<u64>,
    delayed: Option<u64>,
    dead: Option<u64>,
    oldest_ready_at: Option<String>,
    consumers: Option<u64>,
}

impl Line {
    fn new(topic: &TopicName, group: &GroupName, stats: &Stats) -> Self {
        Self {
            topic: topic.to_string(),
            group: group.to_string(),
            ready: stats.ready,
            in_flight: stats.in_flight,
            delayed: stats.delayed,
            dead: stats.dead,
            oldest_ready_at: stats.oldest_ready_at.map(rfc3339),
            consumers: stats.consumers,
        }
    }

    fn row(&self) -> [String; 8] {
        [
            self.topic.clone(),
            self.group.clone(),
            figure(self.ready),
            figure(self.in_flight),
            figure(self.delayed),
            figure(self.dead),
            figure(self.oldest_ready_at.as_deref()),
            figure(self.consumers),
        ]
    }
}

const HEAD: [&str; 8] =
    ["topic", "group", "ready", "in flight", "delayed", "dead", "oldest ready at", "consumers"];

pub(crate) async fn run(session: &Session, args: Args) -> anyhow::Result<End> {
    let looking = async {
        let client = session.connect().await?;
        let admin = client.admin();
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let lines = count(&admin, &args).await?;
            if args.watch {
                session.output.clear()?;
            }
            show(session, &lines)?;
            if !args.watch {
                client.close(CLOSE).await?;
                return Ok(End::Done);
            }
        }
    };
    session.brief(looking).await
}

async fn count(admin: &Admin, args: &Args) -> anyhow::Result<Vec<Line>> {
    let groups = match &args.group {
        Some(group) => vec![group.clone()],
        None => groups(admin, &args.topic)
            .await?
            .into_iter()
            .map(GroupName::try_from)
            .collect::<Result<_, _>>()?,
    };
    let mut lines = Vec::with_capacity(groups.len());
    for group in &groups {
        lines.push(Line::new(&args.topic, group, &admin.stats(&args.topic, group).await?));
    }
    Ok(lines)
}

fn show(session: &Session, lines: &[Line]) -> anyhow::Result<()> {
    if session.output.json {
        lines.iter().try_for_each(|line| session.output.json(line))?;
    } else {
        let rows: Vec<[String; 8]> = lines.iter().map(Line::row).collect();
        session.output.table(HEAD, &rows)?;
    }
    session.output.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_figure_is_null_and_a_dash() {
        let mut stats = Stats::default();
        stats.ready = Some(3);
        let line = Line::new(&"orders".try_into().unwrap(), &"billing".try_into().unwrap(), &stats);
        assert_eq!(
            serde_json::to_string(&line).unwrap(),
            r#"{"topic":"orders","group":"billing","ready":3,"in_flight":null,"delayed":null,"dead":null,"oldest_ready_at":null,"consumers":null}"#
        );
        assert_eq!(line.row()[2..4], ["3", "-"]);
    }
}

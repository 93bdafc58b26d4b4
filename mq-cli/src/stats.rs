//! `mq stats`.

mod drain;

use std::time::Duration;

use mq::{Admin, GroupName, Stats, TopicName};
use serde::Serialize;
use tokio::time::{Instant, MissedTickBehavior, interval};

use self::drain::{Backlogs, Drain};
use crate::end::End;
use crate::group::groups;
use crate::output::figure;
use crate::session::{CLOSE, Session};
use crate::values::rfc3339;

const EXAMPLES: &str = "\
Examples:
  mq stats orders
  mq stats orders --group billing --watch

--watch shows beside each backlog by how many messages a second it shrinks, over the
last 15 s, and when it is gone at that rate; with --json drain_per_s and eta_s.
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
    #[serde(flatten)]
    drain: Option<Going>,
}

/// Where a watched backlog goes.
#[derive(Debug, Serialize)]
struct Going {
    #[serde(rename = "drain_per_s")]
    per_second: Option<f64>,
    #[serde(rename = "eta_s")]
    eta: Option<f64>,
    #[serde(skip)]
    drain: Drain,
}

impl From<Drain> for Going {
    fn from(drain: Drain) -> Self {
        let tenths = |value: f64| (value * 10.0).round() / 10.0;
        Self { per_second: drain.per_second.map(tenths), eta: drain.eta.map(f64::ceil), drain }
    }
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
            drain: None,
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

    fn watched_row(&self) -> [String; 10] {
        let [topic, group, ready, in_flight, delayed, dead, oldest, consumers] = self.row();
        let [rate, eta] = self.drain.as_ref().map(|going| going.drain).unwrap_or_default().cells();
        [topic, group, ready, rate, eta, in_flight, delayed, dead, oldest, consumers]
    }
}

const HEAD: [&str; 8] =
    ["topic", "group", "ready", "in flight", "delayed", "dead", "oldest ready at", "consumers"];
const WATCHED: [&str; 10] = [
    "topic",
    "group",
    "ready",
    "drains/s",
    "gone in",
    "in flight",
    "delayed",
    "dead",
    "oldest ready at",
    "consumers",
];

pub(crate) async fn run(session: &Session, args: Args) -> anyhow::Result<End> {
    let looking = async {
        let client = session.connect().await?;
        let admin = client.admin();
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut backlogs = args.watch.then(Backlogs::default);
        loop {
            ticks.tick().await;
            let lines = count(&admin, &args, backlogs.as_mut()).await?;
            if args.watch {
                session.output.clear()?;
            }
            show(session, &lines, args.watch)?;
            if !args.watch {
                client.close(CLOSE).await?;
                return Ok(End::Done);
            }
        }
    };
    session.brief(looking).await
}

async fn count(admin: &Admin, args: &Args, mut backlogs: Option<&mut Backlogs>) -> anyhow::Result<Vec<Line>> {
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
        let stats = admin.stats(&args.topic, group).await?;
        let look = |backlogs: &mut &mut Backlogs| backlogs.look(group, stats.ready, Instant::now()).into();
        let drain = backlogs.as_mut().map(look);
        lines.push(Line { drain, ..Line::new(&args.topic, group, &stats) });
    }
    Ok(lines)
}

fn show(session: &Session, lines: &[Line], watched: bool) -> anyhow::Result<()> {
    if session.output.json {
        lines.iter().try_for_each(|line| session.output.json(line))?;
    } else if watched {
        let rows: Vec<[String; 10]> = lines.iter().map(Line::watched_row).collect();
        session.output.table(WATCHED, &rows)?;
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

    #[test]
    fn a_watched_line_has_two_more_figures() {
        let stats = Stats::default();
        let line = Line::new(&"orders".try_into().unwrap(), &"billing".try_into().unwrap(), &stats);
        let drain = Drain { per_second: Some(2.04), eta: Some(17.2) };
        let line = Line { drain: Some(drain.into()), ..line };
        let json = serde_json::to_string(&line).unwrap();
        assert!(json.ends_with(r#""consumers":null,"drain_per_s":2.0,"eta_s":18.0}"#), "{json}");
        assert_eq!(line.watched_row()[2..5], ["-", "2.0", "18 s"]);
    }
}

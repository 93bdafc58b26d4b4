//! What dashboard and alerts ask for is what a run exports.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use mq_core::Message;
use mq_observe::{ALL, Kind, Metric, Observer, Snapshot};
use mq_worker::{Attempt, Failure, Text, Worker};

use crate::support::{client, publisher, run, until};

/// What no run on memory has: connections, and background operations that fail.
const NOT_ON_MEMORY: [&str; 4] = [
    "mq_background_failures_total",
    "mq_connections_lost_total",
    "mq_connections_made_total",
    "mq_reconnects_total",
];

fn read(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../observe").join(file);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The dashboard's queries, and the variables' ones.
fn dashboard() -> Vec<String> {
    fn find(value: &serde_json::Value, found: &mut Vec<String>) {
        match value {
            serde_json::Value::Object(fields) => {
                for (name, value) in fields {
                    match value.as_str() {
                        Some(text) if name == "expr" || name == "query" => found.push(text.to_owned()),
                        _ => find(value, found),
                    }
                }
            }
            serde_json::Value::Array(values) => values.iter().for_each(|value| find(value, found)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    find(&serde_json::from_str(&read("dashboard.json")).unwrap(), &mut found);
    found
}

/// The alerts' queries: `expr:` and the more indented lines below it.
fn alerts() -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let mut folded = None;
    for line in read("alerts.yml").lines() {
        let indent = line.len() - line.trim_start().len();
        match line.trim_start().strip_prefix("expr:") {
            Some(expr) => {
                folded = Some(indent);
                found.push(expr.to_owned());
            }
            None if folded.is_some_and(|of| indent > of) => found.last_mut().unwrap().push_str(line),
            None => folded = None,
        }
    }
    found
}

/// The metric of a name as queries have it: histograms with the suffixes of their series.
fn metric(name: &str) -> Option<&'static Metric> {
    let of = |metric: &&&'static Metric| match metric.kind {
        Kind::Histogram => {
            ["_bucket", "_sum", "_count"].iter().any(|end| name.strip_suffix(end) == Some(metric.name))
        }
        _ => metric.name == name,
    };
    ALL.iter().find(of).copied()
}

/// The names of metrics in a query.
fn names(query: &str) -> BTreeSet<&str> {
    let words = query.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("mq_")).collect()
}

async fn work(Text(body): Text, Attempt(attempt): Attempt) -> Result<(), Failure> {
    match &*body {
        "again" if attempt == 1 => Err(Failure::retry(Duration::ZERO)),
        "bad" => Err(Failure::reject("on purpose")),
        _ => Ok(()),
    }
}

async fn exported() -> Snapshot {
    let client = client();
    let observer = Observer::builder(&client).start().unwrap();
    let orders = publisher(&client, "orders").await;
    let worker = Worker::new(&client, "billing").on("orders", work).layer(observer.latency());
    run(worker, async {
        for body in ["good", "again", "bad"] {
            orders.send(Message::new(body)).await.unwrap();
        }
        until(|| client.counts().acked == 2 && client.counts().dead == 1).await;
        // One waits, for the age of the oldest.
        client.subscriber("orders", "idle").open().await.unwrap().pause();
    })
    .await;
    let idle = client.subscriber("orders", "idle").open().await.unwrap();
    idle.pause();
    orders.send(Message::new("waits")).await.unwrap();
    observer.sample().await;
    observer.snapshot()
}

#[tokio::test]
async fn every_metric_that_is_asked_for_is_exported() {
    let snapshot = exported().await;
    let with_values: BTreeSet<&str> = snapshot
        .families
        .iter()
        .filter(|family| !family.samples.is_empty())
        .map(|family| family.metric.name)
        .collect();
    let (dashboard, alerts) = (dashboard(), alerts());
    assert!(dashboard.len() > 20 && alerts.len() == 13, "queries were not found: {alerts:?}");
    let mut asked = BTreeSet::new();
    for query in dashboard.iter().chain(&alerts) {
        for name in names(query) {
            let metric = metric(name).unwrap_or_else(|| panic!("{name} does not exist: {query}"));
            asked.insert(metric.name);
            let exported = with_values.contains(metric.name) || NOT_ON_MEMORY.contains(&metric.name);
            assert!(exported, "a run on memory has no {name}: {query}");
        }
    }
    for wanted in [
        "mq_published_total",
        "mq_settled_total",
        "mq_group_ready_messages",
        "mq_end_to_end_duration_seconds",
        "mq_handler_duration_seconds",
        "mq_group_dead_messages",
    ] {
        assert!(asked.contains(wanted), "nobody looks at {wanted}");
    }
}

#[test]
fn queries_use_labels_that_their_metrics_have() {
    let mut known: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for metric in ALL {
        known.insert(
            metric.name,
            metric.labels.iter().copied().chain(["backend", "instance", "le"]).collect(),
        );
    }
    for query in dashboard().iter().chain(&alerts()) {
        for (name, rest) in query.match_indices("mq_").map(|(at, _)| query[at..].split_at(end(&query[at..])))
        {
            let Some(selector) = rest.strip_prefix('{').and_then(|rest| rest.split_once('}')) else {
                continue;
            };
            let labels = &known[metric(name).unwrap().name];
            for matcher in selector.0.split(',') {
                let label = matcher.split(['=', '!', '~']).next().unwrap();
                assert!(labels.contains(label), "{name} has no label {label}: {query}");
            }
        }
    }
}

/// Where a name ends.
fn end(text: &str) -> usize {
    text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len())
}

#[test]
fn the_readme_lists_every_metric() {
    let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    for metric in ALL {
        assert!(readme.contains(&format!("`{}`", metric.name)), "no {}", metric.name);
    }
}

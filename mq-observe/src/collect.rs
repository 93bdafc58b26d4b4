//! From what is counted to metrics.

use mq_core::{Activity, ConnectionCounts, OTHER};

use crate::catalog::{self as metric, ALL, Metric};
use crate::latency::{Latency, OUTCOMES};
use crate::sampler::{Sampled, Samples};
use crate::snapshot::{Family, Sample, Snapshot, Value};

/// Families in the making; every sample gets the backend's name.
struct Families {
    backend: &'static str,
    families: Vec<Family>,
}

impl Families {
    fn new(backend: &'static str) -> Self {
        let empty = |metric: &&'static Metric| Family { metric, samples: Vec::new() };
        Self { backend, families: ALL.iter().map(empty).collect() }
    }

    /// Adds a value, with those of the metric's labels in order.
    fn add(&mut self, metric: &'static Metric, labels: &[&str], value: Value) {
        debug_assert_eq!(metric.labels.len(), labels.len(), "{metric:?}");
        let own = metric.labels.iter().zip(labels).map(|(name, value)| (*name, (*value).to_owned()));
        let labels = std::iter::once(("backend", self.backend.to_owned())).chain(own).collect();
        if let Some(family) = self.families.iter_mut().find(|family| family.metric == metric) {
            family.samples.push(Sample { labels, value });
        }
    }

    #[allow(clippy::cast_precision_loss, reason = "counts beyond 2^53 are years away")]
    fn number(&mut self, metric: &'static Metric, labels: &[&str], value: u64) {
        self.add(metric, labels, Value::Number(value as f64));
    }
}

pub(crate) fn snapshot(activity: &Activity, samples: &Samples, latency: &Latency) -> Snapshot {
    let mut families = Families::new(activity.backend);
    sends(&mut families, activity);
    deliveries(&mut families, activity);
    behind(&mut families, activity);
    for sampled in &samples.groups {
        group(&mut families, sampled);
    }
    families.number(metric::FAILED_SAMPLES, &[], samples.failures);
    if let Some(up) = samples.up {
        families.number(metric::UP, &[], up.into());
    }
    times(&mut families, latency);
    Snapshot { families: families.families }
}

fn sends(families: &mut Families, activity: &Activity) {
    for counts in &activity.topics {
        let (topic, counts) = (counts.topic.as_str(), counts.counts);
        for (outcome, count) in
            [("confirmed", counts.sent), ("rejected", counts.rejected), ("unknown", counts.unknown)]
        {
            families.number(metric::PUBLISHED, &[topic, outcome], count);
        }
    }
    families.number(metric::SENDING, &[], activity.sending);
}

fn deliveries(families: &mut Families, activity: &Activity) {
    for group in &activity.groups {
        let (labels, counts) = ([group.topic.as_str(), group.group.as_str()], group.counts);
        families.number(metric::RECEIVED, &labels, counts.received);
        for (outcome, count) in [
            ("acked", counts.acked),
            ("retried", counts.retried),
            ("deferred", counts.deferred),
            ("dead", counts.dead),
            ("stale", counts.stale),
        ] {
            families.number(metric::SETTLED, &[labels[0], labels[1], outcome], count);
        }
        families.number(metric::IN_HAND, &labels, group.in_hand);
        families.number(metric::EXPIRED, &labels, counts.expired);
        families.number(metric::RENEWED, &labels, counts.renewed);
    }
}

/// What happened behind the handles.
fn behind(families: &mut Families, activity: &Activity) {
    let events = &activity.events;
    for (what, ConnectionCounts { made, lost, restored, .. }) in &events.connections {
        families.number(metric::MADE, &[what], *made);
        families.number(metric::LOST, &[what], *lost);
        families.number(metric::RECONNECTS, &[what], *restored);
    }
    for (operation, count) in &events.failed {
        families.number(metric::BACKGROUND, &[operation], *count);
    }
    families.number(metric::REBUILT, &[], events.rebuilt);
    families.number(metric::TAKEN_OVER, &[], events.taken_over);
    families.number(metric::LOSSES, &[], events.lost);
}

/// What the broker said of a group; what it did not say is absent.
fn group(families: &mut Families, sampled: &Sampled) {
    let (labels, stats) = ([sampled.topic.as_str(), sampled.group.as_str()], sampled.stats);
    for (metric, value) in [
        (metric::READY, stats.ready),
        (metric::HELD, stats.in_flight),
        (metric::DELAYED, stats.delayed),
        (metric::DEAD, stats.dead),
        (metric::MEMBERS, stats.consumers),
    ] {
        if let Some(value) = value {
            families.number(metric, &labels, value);
        }
    }
    if let Some(oldest) = stats.oldest_ready_at {
        families.add(metric::OLDEST, &labels, Value::Number(sampled.at.since(oldest).as_secs_f64()));
    }
}

fn times(families: &mut Families, latency: &Latency) {
    for (key, times) in latency.read() {
        let (topic, group) = key.map_or((OTHER, OTHER), |(topic, group)| (topic.as_str(), group.as_str()));
        for (outcome, histogram) in OUTCOMES.iter().zip(&times.handler) {
            let read = histogram.read();
            if read.count > 0 {
                families.add(metric::HANDLER, &[topic, group, outcome], Value::Distribution(read));
            }
        }
        let end_to_end = Value::Distribution(times.end_to_end.read());
        families.add(metric::END_TO_END, &[topic, group], end_to_end);
    }
}

//! The Prometheus text format, version 0.0.4.

use std::fmt::{self, Display, Formatter, Write as _};

use crate::histogram::BOUNDS;
use crate::snapshot::{Distribution, Family, Sample, Snapshot, Value};

/// The media type of the text.
pub(crate) const MEDIA_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

impl Display for Snapshot {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.families.iter().try_for_each(|family| write_family(f, family))
    }
}

fn write_family(f: &mut Formatter<'_>, family: &Family) -> fmt::Result {
    let metric = family.metric;
    writeln!(f, "# HELP {} {}", metric.name, metric.help)?;
    writeln!(f, "# TYPE {} {}", metric.name, metric.kind.as_str())?;
    family.samples.iter().try_for_each(|sample| write_sample(f, metric.name, sample))
}

fn write_sample(f: &mut Formatter<'_>, name: &str, sample: &Sample) -> fmt::Result {
    match &sample.value {
        Value::Number(value) => {
            f.write_str(name)?;
            write_labels(f, &sample.labels, None)?;
            writeln!(f, " {value}")
        }
        Value::Distribution(distribution) => write_distribution(f, name, &sample.labels, distribution),
    }
}

fn write_distribution(
    f: &mut Formatter<'_>,
    name: &str,
    labels: &[(&'static str, String)],
    distribution: &Distribution,
) -> fmt::Result {
    let bounds = BOUNDS.iter().map(ToString::to_string).chain(["+Inf".to_owned()]);
    for (bound, count) in bounds.zip(distribution.up_to.iter().chain([&distribution.count])) {
        write!(f, "{name}_bucket")?;
        write_labels(f, labels, Some(&bound))?;
        writeln!(f, " {count}")?;
    }
    write!(f, "{name}_sum")?;
    write_labels(f, labels, None)?;
    writeln!(f, " {}", distribution.sum)?;
    write!(f, "{name}_count")?;
    write_labels(f, labels, None)?;
    writeln!(f, " {}", distribution.count)
}

fn write_labels(f: &mut Formatter<'_>, labels: &[(&'static str, String)], le: Option<&str>) -> fmt::Result {
    let all = labels.iter().map(|(name, value)| (*name, value.as_str())).chain(le.map(|le| ("le", le)));
    let mut opened = false;
    for (name, value) in all {
        f.write_char(if opened { ',' } else { '{' })?;
        opened = true;
        write!(f, "{name}=\"")?;
        for c in value.chars() {
            match c {
                '\\' => f.write_str("\\\\")?,
                '"' => f.write_str("\\\"")?,
                '\n' => f.write_str("\\n")?,
                c => f.write_char(c)?,
            }
        }
        f.write_char('"')?;
    }
    if opened { f.write_char('}') } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::catalog::{BACKGROUND, END_TO_END, UP};
    use crate::histogram::Histogram;

    fn snapshot(metric: &'static crate::Metric, labels: &[(&'static str, &str)], value: Value) -> Snapshot {
        let labels = labels.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        Snapshot { families: vec![Family { metric, samples: vec![Sample { labels, value }] }] }
    }

    #[test]
    fn numbers_and_odd_labels() {
        let text = snapshot(BACKGROUND, &[("operation", "a\"b\\c\nd")], Value::Number(3.0)).to_string();
        assert!(text.ends_with("mq_background_failures_total{operation=\"a\\\"b\\\\c\\nd\"} 3\n"), "{text}");
        let text = snapshot(UP, &[], Value::Number(0.5)).to_string();
        assert!(text.starts_with("# HELP mq_broker_up ") && text.ends_with("\nmq_broker_up 0.5\n"), "{text}");
    }

    #[test]
    fn buckets_hold_those_below_them() {
        let histogram = Histogram::default();
        for millis in [1, 3, 400_000] {
            histogram.observe(Duration::from_millis(millis));
        }
        let text = snapshot(END_TO_END, &[("topic", "t")], Value::Distribution(histogram.read())).to_string();
        for line in [
            "mq_end_to_end_duration_seconds_bucket{topic=\"t\",le=\"0.001\"} 1",
            "mq_end_to_end_duration_seconds_bucket{topic=\"t\",le=\"0.005\"} 2",
            "mq_end_to_end_duration_seconds_bucket{topic=\"t\",le=\"300\"} 2",
            "mq_end_to_end_duration_seconds_bucket{topic=\"t\",le=\"+Inf\"} 3",
            "mq_end_to_end_duration_seconds_sum{topic=\"t\"} 400.004",
            "mq_end_to_end_duration_seconds_count{topic=\"t\"} 3",
        ] {
            assert!(text.lines().any(|shown| shown == line), "no {line} in {text}");
        }
    }
}

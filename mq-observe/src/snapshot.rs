//! Values of metrics at one moment.

use crate::catalog::Metric;

/// The values of all metrics at one moment; its [`Display`](std::fmt::Display) is the Prometheus text format.
///
/// For another monitoring system, go through the families:
///
/// ```
/// use mq_observe::{Snapshot, Value};
///
/// fn pass_on(snapshot: &Snapshot, mut set: impl FnMut(&str, &[(&'static str, String)], f64)) {
///     for family in &snapshot.families {
///         for sample in &family.samples {
///             if let Value::Number(value) = sample.value {
///                 set(family.metric.name, &sample.labels, value);
///             }
///         }
///     }
/// }
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Snapshot {
    /// One for each metric, in the order of [`ALL`](crate::ALL); a metric that has no value now has no samples.
    pub families: Vec<Family>,
}

/// The values of one metric.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Family {
    /// The metric.
    pub metric: &'static Metric,
    /// Its values, by labels.
    pub samples: Vec<Sample>,
}

/// A value with its labels.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Sample {
    /// Names and values of labels.
    pub labels: Vec<(&'static str, String)>,
    /// The value.
    pub value: Value,
}

/// A value.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Value {
    /// Of a counter or a gauge.
    Number(f64),
    /// Of a histogram.
    Distribution(Distribution),
}

/// A distribution of times.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Distribution {
    /// Counts of times up to each of [`BOUNDS`](crate::BOUNDS), each with those below it.
    pub up_to: Vec<u64>,
    /// How many times there are.
    pub count: u64,
    /// Their sum, in seconds.
    pub sum: f64,
}

impl Snapshot {
    /// Returns the value of a metric by its name and some of its labels, the first that fits.
    #[must_use]
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<&Value> {
        let family = self.families.iter().find(|family| family.metric.name == name)?;
        let fits = |sample: &&Sample| {
            let has = |(name, value): &(&str, &str)| {
                sample.labels.iter().any(|(known, of)| known == name && of == value)
            };
            labels.iter().all(has)
        };
        family.samples.iter().find(fits).map(|sample| &sample.value)
    }

    /// As [`value`](Self::value), of a counter or a gauge.
    #[must_use]
    pub fn number(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        match self.value(name, labels)? {
            Value::Number(number) => Some(*number),
            Value::Distribution(_) => None,
        }
    }
}

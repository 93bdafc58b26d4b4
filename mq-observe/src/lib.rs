#![doc = include_str!("../README.md")]

mod catalog;
mod collect;
mod endpoint;
mod histogram;
mod latency;
mod observer;
mod sampler;
mod snapshot;
mod text;
pub mod trace;

pub use catalog::{ALL, Kind, Metric};
pub use endpoint::{Endpoint, Probe, Serving};
pub use histogram::BOUNDS;
pub use latency::Latency;
pub use observer::{EVERY, Observer, ObserverBuilder};
pub use snapshot::{Distribution, Family, Sample, Snapshot, Value};
pub use trace::{Trace, TraceContext};

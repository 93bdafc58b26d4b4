//! The crate from outside, on memory.

mod dashboards;
mod endpoint;
#[cfg(feature = "otel")]
mod otel;
mod support;
mod trace;

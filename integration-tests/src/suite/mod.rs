//! The conformance suite: what every backend must do, as rows that any backend can run.
//!
//! A backend joins with a [`Harness`]: how to connect to it, and how to hurt it. [`manifest`] lists
//! the rows; [`run`] runs them, side by side, on topics of their own.

mod backends;
mod cases;
mod context;
mod cut;
mod fault_history;
mod faulty;
mod harm;
mod harness;
mod history;
mod manifest;
mod once;
mod planted;
mod runner;
mod victim;

pub use backends::{run_all_backends, selected};
pub use context::Context;
pub use faulty::Faulty;
pub use harness::{BrokerHarness, Harness, MemoryHarness, Victim};
pub use manifest::{Case, Verdict, manifest};
pub use once::{OncePlan, StoreUrl};
pub use planted::unnoticed;
pub use runner::{Options, Row, main, run};
pub use victim::{Plan, is_victim};

//! The consuming side of the runtime: pure state, and the tasks that move it.

mod auto;
mod gate;
mod keep;
mod lanes;
pub(crate) mod reply;
mod settling;
pub(crate) mod shared;
pub(crate) mod state;
mod tasks;

pub use auto::AckMode;
pub(crate) use tasks::{start, unanswered};

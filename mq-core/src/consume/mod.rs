//! The consuming side of the runtime: pure state, and the tasks that move it.

mod gate;
pub(crate) mod reply;
pub(crate) mod shared;
pub(crate) mod state;
mod tasks;

pub(crate) use tasks::{start, unanswered};

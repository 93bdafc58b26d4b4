#![doc = include_str!("../README.md")]

mod admin;
mod broker;
mod config;
mod consumer;
mod group;
mod op;
mod producer;
mod state;
mod topic;

pub use broker::{Broker, MemoryBackend};
pub use config::MemoryConfig;

use mq_core::Support::{Emulated, Native};
use mq_core::{Capabilities, Capability, Support};

/// What this backend can do.
pub const CAPABILITIES: Capabilities = Capabilities {
    backend: "memory",
    entries: &[
        (Capability::Confirm, Native, "stored before `send` returns, for the life of the process"),
        (Capability::Groups, Native, "a queue per group"),
        (Capability::Broadcast, Native, "a group that goes with its last member"),
        (Capability::OutOfOrderAck, Native, "each message has a slot"),
        (Capability::Delay, Native, "a timer queue per group"),
        (Capability::CrashCount, Native, "a member dropped without close died"),
        (Capability::Lease, Native, "core's timer, one step in the state"),
        (Capability::DeadLetters, Native, "a list per group"),
        (Capability::KeyOrder, Native, "a lane per partition, each with one owner"),
        (Capability::HoldKey, Native, "kept in its slot, with its attempt and its time"),
        (Capability::StartEarliest, Emulated, "with declared retention"),
        (Capability::StartTime, Emulated, "with declared retention"),
        (Capability::Peek, Native, "the retained messages, or the last 1,000"),
        (Capability::List, Native, "the broker's own table"),
        (Capability::InFlightCount, Native, "counted"),
        (Capability::DelayedCount, Native, "counted"),
        (Capability::Transactions, Native, "one step of the state"),
        (Capability::RequiredRouting, Native, "looked up in the same step"),
        (Capability::Pending, Native, "the broker's own table"),
        (Capability::CancelDelayed, Native, "taken out of the timer queue"),
        (Capability::Synced, Support::Unsupported, "nothing is on disk"),
    ],
};

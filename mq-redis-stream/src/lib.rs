#![doc = include_str!("../README.md")]

mod admin;
mod atomic;
mod backend;
mod codec;
mod config;
mod connection;
mod consumer;
mod dead;
mod entry;
mod error;
mod gauge;
mod intake;
mod kept;
mod lanes;
mod member;
mod names;
mod order;
mod partition;
mod pending;
mod producer;
mod reader;
mod resp;
mod scripts;
mod settle;
mod source;
mod synced;
mod takeover;
mod topology;
mod upkeep;
mod wire;

pub use backend::RedisStreamBackend;
pub use config::RedisStreamConfig;

use mq_core::{Capabilities, Capability, Support};

/// What this backend can do.
pub const CAPABILITIES: Capabilities = Capabilities {
    backend: "redis-stream",
    entries: &[
        (Capability::Confirm, Support::Native, "the reply to XADD"),
        (Capability::Groups, Support::Native, "consumer groups"),
        (Capability::Broadcast, Support::Native, "a group that is destroyed when its process leaves"),
        (Capability::OutOfOrderAck, Support::Native, "XACK in a script that checks the session"),
        (
            Capability::Delay,
            Support::Emulated,
            "a ZSET and a script that moves what is due by the server's clock",
        ),
        (
            Capability::CrashCount,
            Support::Emulated,
            "delivery counts of the pending list, raised only when a session ended",
        ),
        (Capability::Lease, Support::Emulated, "a timer of the holder, then a copy in the group's inbox"),
        (Capability::DeadLetters, Support::Emulated, "a stream of the group"),
        (Capability::KeyOrder, Support::Emulated, "numbered streams, each owned by one live member"),
        (Capability::StartEarliest, Support::Native, "on a topic with retention"),
        (
            Capability::StartTime,
            Support::Native,
            "on a topic with retention; entry ids are times of the server",
        ),
        (Capability::Peek, Support::Native, "XRANGE"),
        (Capability::List, Support::Native, "SCAN for streams"),
        (Capability::InFlightCount, Support::Native, "the pending list"),
        (Capability::DelayedCount, Support::Native, "ZCARD"),
        (Capability::SubjectFilter, Support::Unsupported, "not there yet"),
        (Capability::Expiry, Support::Unsupported, "not there yet"),
        (Capability::Priority, Support::Unsupported, "not there yet"),
        (Capability::Transactions, Support::Native, "one script adds all or nothing"),
        (
            Capability::HoldKey,
            Support::Emulated,
            "kept pending, its attempt and time in a hash that goes with the settlement",
        ),
        (Capability::Synced, Support::Native, "WAITAOF, on a server of 7.2 or later with `appendonly yes`"),
        (Capability::RequiredRouting, Support::Emulated, "a script that looks for a group before it adds"),
        (Capability::Pending, Support::Native, "XPENDING"),
        (Capability::CancelDelayed, Support::Emulated, "a search through what waits, taken out in one step"),
    ],
};

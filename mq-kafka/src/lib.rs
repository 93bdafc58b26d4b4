#![doc = include_str!("../README.md")]

mod admin;
mod codec;
mod config;
mod connection;
mod consumer;
mod dead;
mod declared;
mod error;
mod forward;
mod groups;
mod link;
mod member;
mod metadata;
mod native;
mod pending;
mod producer;
mod reader;
mod routing;
mod rungs;
mod runs;
mod sender;
mod settle;
mod stats;
mod tracker;
mod transaction;
mod verdicts;
mod waiting;

use mq_core::{Capabilities, Capability, Support};

pub use config::{KafkaConfig, Sasl};
pub use connection::KafkaBackend;

/// What this backend can do.
pub const CAPABILITIES: Capabilities = Capabilities {
    backend: "kafka",
    entries: &[
        (Capability::Confirm, Support::Native, "acks=all from an idempotent producer"),
        (Capability::Groups, Support::Native, "consumer groups"),
        (Capability::Broadcast, Support::Emulated, "a group of its own, deleted when it is closed"),
        (
            Capability::OutOfOrderAck,
            Support::Emulated,
            "what is done above the committed offset is in the commit's metadata",
        ),
        (
            Capability::Delay,
            Support::Emulated,
            "a ladder of topics, each with one constant delay, forwarded by running clients",
        ),
        (Capability::CrashCount, Support::Emulated, "a reservation committed before messages are handed out"),
        (Capability::Lease, Support::Emulated, "the holder's timer moves the message to the group's inbox"),
        (Capability::DeadLetters, Support::Emulated, "a compacted topic per group; tombstones remove"),
        (
            Capability::KeyOrder,
            Support::Native,
            "partitions by key (murmur2); an inbox moves with its topic's partitions",
        ),
        (Capability::StartEarliest, Support::Native, "the oldest offset"),
        (Capability::StartTime, Support::Native, "offsets by time"),
        (Capability::Peek, Support::Native, "a reader without a group"),
        (Capability::List, Support::Native, "cluster metadata"),
        (Capability::InFlightCount, Support::Emulated, "from the committed reservation"),
        (Capability::DelayedCount, Support::Unsupported, "the ladder's topics are shared by all groups"),
        (Capability::SubjectFilter, Support::Unsupported, "not there yet"),
        (Capability::Expiry, Support::Unsupported, "not there yet"),
        (Capability::Priority, Support::Unsupported, "a partition is read in order"),
        (
            Capability::Transactions,
            Support::Native,
            "a transactional producer; groups read what is committed",
        ),
        (
            Capability::HoldKey,
            Support::Emulated,
            "kept in hand, its attempt and time in the commit's metadata; some 200 for each partition",
        ),
        (
            Capability::Synced,
            Support::Unsupported,
            "brokers acknowledge before they write to disk; replicate over several instead",
        ),
        (
            Capability::RequiredRouting,
            Support::Emulated,
            "looks for a declared group first; one that was there a second ago is taken to be there",
        ),
        (Capability::Pending, Support::Emulated, "from the committed reservation; idle times are not known"),
        (Capability::CancelDelayed, Support::Unsupported, "a log has no way to take a message out"),
    ],
};

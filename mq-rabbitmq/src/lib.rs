#![doc = include_str!("../README.md")]

mod admin;
mod backend;
mod codec;
mod config;
mod connection;
mod consumer;
mod dead;
mod delay;
mod error;
mod flight;
mod forward;
mod hold;
mod intake;
mod kept;
mod names;
mod passing;
mod producer;
mod publish;
mod record;
mod returns;
mod settle;
mod starts;
mod topology;
mod tracker;
mod window;

use mq_core::Capability::{
    Broadcast, CancelDelayed, Confirm, CrashCount, DeadLetters, Delay, DelayedCount, Groups, HoldKey,
    InFlightCount, KeyOrder, Lease, List, OutOfOrderAck, Peek, Pending, RequiredRouting, StartEarliest,
    StartTime, Synced, Transactions,
};
use mq_core::Support::{Emulated, Native, Unsupported};
use mq_core::{Capabilities, Capability, Support};

pub use backend::RabbitMqBackend;
pub use config::RabbitMqConfig;

/// What this backend can do.
pub const CAPABILITIES: Capabilities = Capabilities { backend: "rabbitmq", entries: ENTRIES };

const ENTRIES: &[(Capability, Support, &str)] = &[
    (Confirm, Native, "publisher confirms of quorum queues"),
    (Groups, Native, "a quorum queue per group, bound to the topic's exchange"),
    (Broadcast, Native, "a queue of its own, deleted at close or 10 minutes after a crash"),
    (OutOfOrderAck, Native, "acknowledgement by tag"),
    (Delay, Emulated, "queues of constant time to live, forwarded by running clients"),
    (CrashCount, Native, "the broker's delivery count"),
    (Lease, Emulated, "a timer of the holder, who puts the message back"),
    (HoldKey, Emulated, "kept unacknowledged, its attempt and time in a queue beside its own"),
    (DeadLetters, Emulated, "a queue per group, read without consuming it"),
    (KeyOrder, Native, "a consistent-hash exchange over queues with a single active consumer"),
    (StartEarliest, Unsupported, "the past needs declared retention, which is not there yet"),
    (StartTime, Unsupported, "the past needs declared retention, which is not there yet"),
    (Peek, Unsupported, "an exchange keeps nothing; the past needs declared retention"),
    (List, Unsupported, "AMQP cannot list exchanges or queues"),
    (InFlightCount, Unsupported, "AMQP does not tell how many messages are unacknowledged"),
    (DelayedCount, Unsupported, "delayed messages of all groups share the same queues"),
    (Transactions, Unsupported, "AMQP's are atomic for one queue alone, and a topic has many"),
    (Synced, Native, "a quorum queue confirms what a majority has written to disk"),
    (RequiredRouting, Native, "`mandatory`, on a channel of its own"),
    (Pending, Unsupported, "AMQP does not list what is unacknowledged"),
    (CancelDelayed, Unsupported, "AMQP cannot take a message out of the middle of a queue"),
];

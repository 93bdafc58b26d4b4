//! The contract of `mq`: messages, driver traits, policy and the client runtime.
//!
//! Users depend on the facade crate `mq`; a third party who adds a backend depends on this crate
//! and implements [`driver`].

mod admin;
pub mod capability;
mod client;
mod clock;
mod coalesce;
pub mod config;
mod consume;
mod counters;
mod delivery;
pub mod driver;
pub mod envelope;
mod error;
mod event;
mod headers;
pub mod ladder;
mod lone;
#[cfg(test)]
mod lone_stress;
mod message;
mod name;
mod outbox;
pub mod policy;
mod publisher;
mod spent;
mod subscriber;
mod table;
mod terms;
mod topology;
mod transaction;
mod whole;

pub use bytes::Bytes;
pub use bytestring::ByteString;

pub use admin::Admin;
pub use capability::{Capabilities, Capability, Support};
pub use client::{Client, ClientOptions, IN_FLIGHT};
pub use clock::{Clock, Timestamp};
pub use consume::AckMode;
pub use counters::{Activity, BROADCAST, Counts, GroupCounts, OTHER, TopicCounts};
pub use delivery::{Delivery, Settled, SettledAll, ack_all};
pub use driver::{Budget, DeadLetter, Page, Pending, Selection, Stats, TopicInfo};
pub use error::{Error, ErrorKind, Result};
pub use event::{ConnectionCounts, Event, EventCounts, Events};
pub use headers::Headers;
pub use message::{JSON, Message, MessageId, Position, Receipt};
pub use name::{GroupName, MAX_NAME, SEPARATOR, TopicName};
pub use publisher::{MAX_KEY, MAX_SUBJECT, Publisher, PublisherBuilder, Sending};
pub use subscriber::{CloseReport, PREFETCH, Subscriber, SubscriberBuilder};
pub use table::{LABELS, Label, Table};
pub use terms::{Durability, SendRetry, Terms};
pub use topology::{GroupSettings, LEASE_RANGE, ORDERED_PARTITIONS, Policy, Start, TopicSpec};
pub use transaction::Transaction;

/// The names derived from a topic and a group.
pub mod derived {
    pub use crate::name::{dead, inbox, is_derived};
}

//! What a backend can do, as data.

use crate::error::{Error, ErrorKind, Result};

/// A thing a user may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Capability {
    /// `send` returns after the broker confirmed.
    Confirm,
    /// Groups share a topic's messages and are isolated from each other.
    Groups,
    /// A nameless, process-private group.
    Broadcast,
    /// `ack` in any order; after a crash only the unacked come back.
    OutOfOrderAck,
    /// `deliver_at`, `retry(after)` and `defer(after)` are held by the broker.
    Delay,
    /// A dead process's messages come back and are counted.
    CrashCount,
    /// A lease that expires while its holder lives.
    Lease,
    /// Dead letters that can be listed, redriven and purged.
    DeadLetters,
    /// Messages of one key in order, one at a time, with competing consumers.
    KeyOrder,
    /// A group starts at the earliest message kept.
    StartEarliest,
    /// A group starts at a moment.
    StartTime,
    /// Reading without a group.
    Peek,
    /// Topics and groups can be listed.
    List,
    /// The number of messages held by consumers is known.
    InFlightCount,
    /// The number of delayed messages of a group is known.
    DelayedCount,
    /// A group takes only some subjects.
    SubjectFilter,
    /// Messages that expire.
    Expiry,
    /// Messages that overtake others.
    Priority,
    /// Several messages published as one.
    Transactions,
    /// A retrying message holds the others of its key.
    HoldKey,
    /// A send can wait until the message is on disk.
    Synced,
    /// A message that no group would get can be refused.
    RequiredRouting,
    /// What consumers hold can be listed.
    Pending,
    /// A delayed message can be taken back before it is due.
    CancelDelayed,
}

impl Capability {
    /// Every capability, in the order of the table.
    pub const ALL: [Self; 24] = [
        Self::Confirm,
        Self::Groups,
        Self::Broadcast,
        Self::OutOfOrderAck,
        Self::Delay,
        Self::CrashCount,
        Self::Lease,
        Self::DeadLetters,
        Self::KeyOrder,
        Self::StartEarliest,
        Self::StartTime,
        Self::Peek,
        Self::List,
        Self::InFlightCount,
        Self::DelayedCount,
        Self::SubjectFilter,
        Self::Expiry,
        Self::Priority,
        Self::Transactions,
        Self::HoldKey,
        Self::Synced,
        Self::RequiredRouting,
        Self::Pending,
        Self::CancelDelayed,
    ];
}

/// How a backend does it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Support {
    /// By the broker's own means.
    Native,
    /// By this library on top of the broker, with the same guarantee.
    Emulated,
    /// Not at all: asking for it is an error.
    Unsupported,
}

/// What one backend declares.
#[derive(Clone, Copy, Debug)]
pub struct Capabilities {
    /// The backend's name.
    pub backend: &'static str,
    /// One entry per capability: how well, and how, in one line. What is absent is unsupported.
    pub entries: &'static [(Capability, Support, &'static str)],
}

impl Capabilities {
    /// Returns the support for `capability` and the line that says how.
    #[must_use]
    pub fn support(&self, capability: Capability) -> (Support, &'static str) {
        self.entries
            .iter()
            .find(|(known, ..)| *known == capability)
            .map_or((Support::Unsupported, "not there yet"), |(_, support, how)| (*support, how))
    }

    /// Passes if `capability` is there.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] with the line that says why.
    pub fn require(&self, capability: Capability) -> Result<()> {
        match self.support(capability) {
            (Support::Unsupported, how) => Err(Error::new(
                ErrorKind::Unsupported,
                format!("{} has no {capability:?}: {how}", self.backend),
            )),
            _ => Ok(()),
        }
    }
}

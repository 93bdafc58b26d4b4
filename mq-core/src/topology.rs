//! Topics and groups as data.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::capability::Capability;
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};

/// What to do about topology that is declared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// Create what is missing; what differs is a [`ErrorKind::Mismatch`].
    #[default]
    Create,
    /// Missing is [`ErrorKind::NotFound`]; what differs is a [`ErrorKind::Mismatch`].
    Verify,
    /// Ask nothing; what is missing shows when it is used.
    Assume,
}

/// How many partitions a topic laid out for key order has, unless it says otherwise.
pub const ORDERED_PARTITIONS: u32 = 8;

/// A topic's settings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TopicSpec {
    /// Partitions, queues or streams; `None` takes what exists, or the backend's default.
    pub partitions: Option<u32>,
    /// How long messages are kept for groups that start in the past; `None` keeps what groups
    /// still need (Kafka: the broker's default).
    pub retention: Option<Duration>,
}

impl TopicSpec {
    /// Sets the number of partitions: the most consumers of an ordered group that work at once.
    #[must_use]
    pub fn partitions(mut self, partitions: u32) -> Self {
        self.partitions = Some(partitions);
        self
    }

    /// Keeps messages this long, whether read or not.
    #[must_use]
    pub fn retention(mut self, retention: Duration) -> Self {
        self.retention = Some(retention);
        self
    }

    /// Checks the values.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] names the setting.
    pub fn validate(&self) -> Result<()> {
        match self.partitions {
            Some(0) => Err(Error::new(ErrorKind::InvalidInput, "partitions is 0; use at least 1")),
            Some(many @ 1025..) => {
                Err(Error::new(ErrorKind::InvalidInput, format!("partitions is {many}; the limit is 1024")))
            }
            _ => Ok(()),
        }
    }
}

/// Where a group that is new begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Start {
    /// With what is sent after the group was declared.
    #[default]
    Latest,
    /// With the oldest message kept.
    Earliest,
    /// With the first message sent at or after this moment.
    At(Timestamp),
}

impl Start {
    /// Returns the capability this start needs, if any.
    #[must_use]
    pub fn capability(self) -> Option<Capability> {
        match self {
            Self::Latest => None,
            Self::Earliest => Some(Capability::StartEarliest),
            Self::At(_) => Some(Capability::StartTime),
        }
    }
}

/// A group's settings: declared once, the same for all its members.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct GroupSettings {
    /// How long a delivery is its holder's, from the hand-over. Default 30 s.
    pub lease: Duration,
    /// After how many attempts a message is dead-lettered. Default 5. With 1, a message that was
    /// merely near a crash may be dead-lettered with it; 2 and more take no innocent.
    pub max_attempts: u32,
    /// Messages of one key in order and one at a time. Default off.
    pub ordered: bool,
    /// Whether a message that is retried or deferred holds the others of its key. Default off: they pass.
    #[serde(default)]
    pub hold_key: bool,
    /// Where the group begins when it is first declared; not compared afterwards.
    pub start: Start,
    /// Whether the group is private to a process and removed with it.
    pub ephemeral: bool,
}

impl Default for GroupSettings {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(30),
            max_attempts: 5,
            ordered: false,
            hold_key: false,
            start: Start::Latest,
            ephemeral: false,
        }
    }
}

/// The shortest and longest lease.
pub const LEASE_RANGE: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_secs(24 * 3600);

impl GroupSettings {
    /// Sets the lease.
    #[must_use]
    pub fn lease(mut self, lease: Duration) -> Self {
        self.lease = lease;
        self
    }

    /// Sets the number of attempts.
    #[must_use]
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.max_attempts = attempts;
        self
    }

    /// Keeps the order of each key.
    #[must_use]
    pub fn ordered(mut self) -> Self {
        self.ordered = true;
        self
    }

    /// Has a message that is retried or deferred hold its key: it stays with its holder until it is
    /// due again, and the key's others come once it is acked or a dead letter. Other keys flow
    /// meanwhile. Only with [`ordered`](Self::ordered); a message without a key is retried as elsewhere.
    ///
    /// What waits so is held and counts against the prefetch: with as many waiting as the prefetch
    /// allows, nothing more is fetched until one of them is due.
    ///
    /// # Examples
    /// ```
    /// # use mq_core::GroupSettings;
    /// let settings = GroupSettings::default().ordered().hold_key(true);
    /// assert!(settings.validate().is_ok());
    /// ```
    #[must_use]
    pub fn hold_key(mut self, hold: bool) -> Self {
        self.hold_key = hold;
        self
    }

    /// Sets where a new group begins.
    #[must_use]
    pub fn start(mut self, start: Start) -> Self {
        self.start = start;
        self
    }

    /// Checks the values.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] names the setting.
    pub fn validate(&self) -> Result<()> {
        let wrong = |text: String| Err(Error::new(ErrorKind::InvalidInput, text));
        if !LEASE_RANGE.contains(&self.lease) {
            return wrong(format!("a lease of {:?} is outside {LEASE_RANGE:?}", self.lease));
        }
        if self.max_attempts == 0 {
            return wrong("max_attempts is 0; use at least 1".into());
        }
        if self.hold_key && !self.ordered {
            return wrong(
                "hold_key is set and ordered is not; add `ordered()`, or leave hold_key out".into(),
            );
        }
        Ok(())
    }

    /// Compares what was declared before with what a member wants.
    ///
    /// # Errors
    /// [`ErrorKind::Mismatch`] names each setting that differs, with both values.
    pub fn check_same(&self, wanted: &Self) -> Result<()> {
        let mut differ = Vec::new();
        if self.lease != wanted.lease {
            differ.push(format!("lease is {:?}, not {:?}", self.lease, wanted.lease));
        }
        if self.max_attempts != wanted.max_attempts {
            differ.push(format!("max_attempts is {}, not {}", self.max_attempts, wanted.max_attempts));
        }
        if self.ordered != wanted.ordered {
            differ.push(format!("ordered is {}, not {}", self.ordered, wanted.ordered));
        }
        if self.hold_key != wanted.hold_key {
            differ.push(format!("hold_key is {}, not {}", self.hold_key, wanted.hold_key));
        }
        if differ.is_empty() {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Mismatch,
            format!(
                "the group was declared with other settings: {}; use the same, or delete the group first",
                differ.join("; ")
            ),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_of_older_versions_hold_no_key() {
        let settings = GroupSettings::default().ordered();
        let mut stored = serde_json::to_value(&settings).unwrap();
        assert!(stored.as_object_mut().unwrap().remove("hold_key").is_some());
        let stored: GroupSettings = serde_json::from_value(stored).unwrap();
        assert_eq!(stored, settings);
        let error = stored.check_same(&settings.clone().hold_key(true)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Mismatch);
        assert!(error.to_string().contains("hold_key is false, not true"), "{error}");
    }

    #[test]
    fn hold_key_needs_order() {
        let error = GroupSettings::default().hold_key(true).validate().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().contains("add `ordered()`"), "{error}");
        GroupSettings::default().ordered().hold_key(true).validate().unwrap();
    }
}

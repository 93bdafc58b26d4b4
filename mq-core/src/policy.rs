//! What becomes of a message: pure functions, the same for every backend.

use std::time::Duration;

use bytestring::ByteString;

use crate::clock::Timestamp;
use crate::driver::{Destination, Incoming, Relocation};
use crate::envelope::{Death, Envelope};
use crate::message::Message;
use crate::topology::GroupSettings;

/// The reason of a dead letter whose attempts ran out.
pub const MAX_ATTEMPTS: &str = "max attempts";
/// The reason of a dead letter that was to be retried or deferred, and whose copy the broker refused.
pub const REFUSED: &str = "copy refused";

/// How an incoming message is handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// At once, beside others.
    Deliver,
    /// Not before this moment.
    Hold(Timestamp),
    /// With nothing else in hand, after its start was recorded: a suspect on its last attempt.
    Alone,
    /// Not at all: its attempts ran out in crashes.
    Dead,
}

/// Decides how `incoming` is handed out.
#[must_use]
pub fn admit(incoming: &Incoming, settings: &GroupSettings, now: Timestamp) -> Admission {
    let attempt = incoming.envelope.attempt;
    match incoming.suspect {
        // With a single attempt there is no second one to find the guilty with.
        Some(suspect) if attempt >= settings.max_attempts => {
            if suspect.started || settings.max_attempts == 1 { Admission::Dead } else { Admission::Alone }
        }
        None if attempt > settings.max_attempts => Admission::Dead,
        _ => match incoming.message.deliver_at {
            Some(at) if at > now => Admission::Hold(at),
            _ => Admission::Deliver,
        },
    }
}

/// A delivery's message and history, as the policy sees it.
#[derive(Debug)]
pub struct Case<'a> {
    /// The message.
    pub message: &'a Message,
    /// Its history; `attempt` is the one just made.
    pub envelope: &'a Envelope,
    /// The group's settings.
    pub settings: &'a GroupSettings,
    /// This moment.
    pub now: Timestamp,
}

impl Case<'_> {
    /// Another attempt after `after`, or a dead letter if this was the last one.
    #[must_use]
    pub fn retry(&self, after: Duration, error: Option<ByteString>) -> Relocation {
        if self.envelope.attempt >= self.settings.max_attempts {
            return self.dead(MAX_ATTEMPTS.into(), error);
        }
        self.relocate(Destination::Inbox, self.envelope.attempt + 1, self.due(after), error)
    }

    /// The same attempt again after `after`.
    #[must_use]
    pub fn defer(&self, after: Duration) -> Relocation {
        self.relocate(Destination::Inbox, self.envelope.attempt, self.due(after), None)
    }

    /// A dead letter.
    #[must_use]
    pub fn dead(&self, reason: ByteString, error: Option<ByteString>) -> Relocation {
        let attempts = self.envelope.attempt.min(self.settings.max_attempts.max(1));
        let mut relocation = self.relocate(Destination::Dead, attempts, None, error);
        relocation.envelope.death = Some(Death { reason, at: self.now });
        relocation
    }

    fn due(&self, after: Duration) -> Option<Timestamp> {
        (!after.is_zero()).then(|| self.now.plus(after))
    }

    fn relocate(
        &self,
        to: Destination,
        attempt: u32,
        at: Option<Timestamp>,
        error: Option<ByteString>,
    ) -> Relocation {
        let mut message = self.message.clone();
        message.deliver_at = at;
        Relocation {
            to,
            message,
            envelope: Envelope {
                attempt,
                first_seen: self.envelope.first_seen.or(Some(self.now)),
                error: error.or_else(|| self.envelope.error.clone()),
                target: None,
                death: None,
            },
        }
    }
}

/// Makes the history and message with which a dead letter goes back to its group: attempts start
/// again, the time it was first seen stays.
#[must_use]
pub fn redriven(mut message: Message, envelope: &Envelope) -> (Message, Envelope) {
    message.deliver_at = None;
    (message, Envelope { first_seen: envelope.first_seen, ..Envelope::default() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::{Suspect, Token};

    fn incoming(attempt: u32, suspect: Option<bool>) -> Incoming {
        Incoming {
            token: Token { lane: 0, epoch: 0, high: 0, low: 0 },
            subscription: 0,
            message: Message::new("x"),
            envelope: Envelope { attempt, ..Envelope::default() },
            redelivered: suspect.is_some(),
            suspect: suspect.map(|started| Suspect { started }),
            position: None,
        }
    }

    #[test]
    fn only_a_suspect_on_its_last_attempt_runs_alone() {
        let settings = GroupSettings::default().max_attempts(3);
        let admit = |attempt, suspect| admit(&incoming(attempt, suspect), &settings, Timestamp::default());
        assert_eq!(admit(1, None), Admission::Deliver);
        assert_eq!(admit(3, None), Admission::Deliver);
        assert_eq!(admit(4, None), Admission::Dead);
        assert_eq!(admit(2, Some(false)), Admission::Deliver);
        assert_eq!(admit(3, Some(false)), Admission::Alone);
        assert_eq!(admit(4, Some(false)), Admission::Alone);
        assert_eq!(admit(4, Some(true)), Admission::Dead);
    }

    #[test]
    fn attempts_end_in_a_dead_letter_with_their_number() {
        let settings = GroupSettings::default().max_attempts(2);
        let message = Message::new("x");
        let now = Timestamp::from_millis(10);
        let case = |attempt| Envelope { attempt, ..Envelope::default() };
        let first = Case { message: &message, envelope: &case(1), settings: &settings, now }
            .retry(Duration::from_millis(5), None);
        assert_eq!((first.to, first.envelope.attempt), (Destination::Inbox, 2));
        assert_eq!(first.message.deliver_at, Some(Timestamp::from_millis(15)));
        let last = Case { message: &message, envelope: &first.envelope, settings: &settings, now }
            .retry(Duration::ZERO, Some("no".into()));
        assert_eq!((last.to, last.envelope.attempt), (Destination::Dead, 2));
        assert_eq!(last.envelope.death.map(|death| death.reason), Some(MAX_ATTEMPTS.into()));
        assert_eq!(last.envelope.error, Some("no".into()));
    }

    #[test]
    fn defer_keeps_the_attempt() {
        let settings = GroupSettings::default();
        let (message, envelope) = (Message::new("x"), Envelope { attempt: 2, ..Envelope::default() });
        let case =
            Case { message: &message, envelope: &envelope, settings: &settings, now: Timestamp::default() };
        assert_eq!(case.defer(Duration::ZERO).envelope.attempt, 2);
    }
}

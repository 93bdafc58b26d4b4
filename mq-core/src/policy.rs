//! What becomes of a message: pure functions, the same for every backend.

use std::time::Duration;

use bytestring::ByteString;

use crate::clock::Timestamp;
use crate::driver::{Destination, Hold, Incoming, Outcome, Relocation};
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
    if let Some(at) = incoming.not_before.filter(|at| *at > now) {
        return Admission::Hold(at);
    }
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
    pub fn retry(&self, after: Duration, error: Option<ByteString>) -> Outcome {
        if self.envelope.attempt >= self.settings.max_attempts {
            return Outcome::Relocate(Box::new(self.dead(MAX_ATTEMPTS.into(), error)));
        }
        self.again(self.envelope.attempt + 1, after, error)
    }

    /// The same attempt again after `after`.
    #[must_use]
    pub fn defer(&self, after: Duration) -> Outcome {
        self.again(self.envelope.attempt, after, None)
    }

    /// Kept where it holds its key, in the inbox where others pass.
    fn again(&self, attempt: u32, after: Duration, error: Option<ByteString>) -> Outcome {
        let until = (!after.is_zero()).then(|| self.now.plus(after));
        if holds_key(self.message, self.settings) {
            return Outcome::Hold(Box::new(Hold { envelope: self.history(attempt, error), until }));
        }
        Outcome::Relocate(Box::new(self.relocate(Destination::Inbox, attempt, until, error)))
    }

    /// A dead letter.
    #[must_use]
    pub fn dead(&self, reason: ByteString, error: Option<ByteString>) -> Relocation {
        let attempts = self.envelope.attempt.min(self.settings.max_attempts.max(1));
        let mut relocation = self.relocate(Destination::Dead, attempts, None, error);
        relocation.envelope.death = Some(Death { reason, at: self.now });
        relocation
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
        Relocation { to, message, envelope: self.history(attempt, error) }
    }

    fn history(&self, attempt: u32, error: Option<ByteString>) -> Envelope {
        Envelope {
            attempt,
            first_seen: self.envelope.first_seen.or(Some(self.now)),
            error: error.or_else(|| self.envelope.error.clone()),
            target: None,
            death: None,
        }
    }
}

/// Returns whether a message that is tried again holds the others of its key.
#[must_use]
pub fn holds_key(message: &Message, settings: &GroupSettings) -> bool {
    settings.hold_key && message.key.is_some()
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
            not_before: None,
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
        let first = moved(first);
        assert_eq!((first.to, first.envelope.attempt), (Destination::Inbox, 2));
        assert_eq!(first.message.deliver_at, Some(Timestamp::from_millis(15)));
        let last = Case { message: &message, envelope: &first.envelope, settings: &settings, now }
            .retry(Duration::ZERO, Some("no".into()));
        let last = moved(last);
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
        assert_eq!(moved(case.defer(Duration::ZERO)).envelope.attempt, 2);
    }

    #[test]
    fn what_holds_its_key_is_kept_until_its_last_attempt() {
        let settings = GroupSettings::default().ordered().hold_key(true).max_attempts(2);
        let (keyed, keyless) = (Message::new("x").key("k"), Message::new("x"));
        let now = Timestamp::from_millis(10);
        let retry = |message: &Message, attempt| {
            let envelope = Envelope { attempt, ..Envelope::default() };
            Case { message, envelope: &envelope, settings: &settings, now }
                .retry(Duration::from_millis(5), Some("no".into()))
        };
        let Outcome::Hold(hold) = retry(&keyed, 1) else { panic!("moved") };
        assert_eq!((hold.envelope.attempt, hold.until), (2, Some(Timestamp::from_millis(15))));
        assert_eq!(hold.envelope.error, Some("no".into()));
        assert_eq!(moved(retry(&keyed, 2)).to, Destination::Dead);
        assert_eq!(moved(retry(&keyless, 1)).to, Destination::Inbox);
    }

    #[test]
    fn what_waits_is_not_even_run_alone_before_its_time() {
        let settings = GroupSettings::default().max_attempts(2);
        let mut waits = incoming(2, Some(false));
        waits.not_before = Some(Timestamp::from_millis(5));
        waits.redelivered = true;
        let admit = |now| admit(&waits, &settings, Timestamp::from_millis(now));
        assert_eq!(admit(4), Admission::Hold(Timestamp::from_millis(5)));
        assert_eq!(admit(5), Admission::Alone);
    }

    fn moved(outcome: Outcome) -> Relocation {
        let Outcome::Relocate(relocation) = outcome else { panic!("not moved: {outcome:?}") };
        *relocation
    }
}

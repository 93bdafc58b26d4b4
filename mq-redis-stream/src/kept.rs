//! What is recorded of a message that holds its key: when it comes again, kept by the script, and its
//! history as a short text, `attempt first-seen error`, with `-` for a time that is not known.

use std::time::Duration;

use mq_core::envelope::Envelope;
use mq_core::{Clock, Timestamp};

/// A record, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Kept {
    /// How long it still waits.
    left: Duration,
    history: Envelope,
}

/// Writes a history.
pub(crate) fn write(history: &Envelope) -> String {
    let seen = history.first_seen.map_or_else(|| "-".into(), |at| at.as_millis().to_string());
    format!("{} {seen} {}", history.attempt, history.error.as_deref().unwrap_or_default())
}

impl Kept {
    pub(crate) fn read(left: i64, history: &str) -> Option<Self> {
        let mut parts = history.splitn(3, ' ');
        let attempt = parts.next()?.parse().ok()?;
        let first_seen = parts.next()?.parse().ok().map(Timestamp::from_millis);
        let error = parts.next().filter(|error| !error.is_empty()).map(Into::into);
        let history = Envelope { attempt, first_seen, error, ..Envelope::default() };
        Some(Self { left: Duration::from_millis(u64::try_from(left).ok()?), history })
    }

    /// Puts the history in its place, with the deaths since; returns when the message may come.
    pub(crate) fn apply(self, deaths: u32, envelope: &mut Envelope, clock: &Clock) -> Timestamp {
        *envelope = self.history;
        envelope.attempt = envelope.attempt.saturating_add(deaths);
        match self.left {
            Duration::ZERO => Timestamp::default(),
            // By the server's clock, so the time left was sent and not the moment.
            left => clock.now().plus(left),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn reads_back(attempt in 1u32.., seen in proptest::option::of(any::<u64>()), error in proptest::option::of(".{1,20}")) {
            let first_seen = seen.map(Timestamp::from_millis);
            let history = Envelope { attempt, first_seen, error: error.map(Into::into), ..Envelope::default() };
            let kept = Kept::read(7, &write(&history)).unwrap();
            prop_assert_eq!(kept, Kept { left: Duration::from_millis(7), history });
        }
    }

    #[test]
    fn deaths_are_counted_on_top() {
        let mut envelope = Envelope { attempt: 9, ..Envelope::default() };
        let kept = Kept::read(0, "3 5 no bread").unwrap();
        assert_eq!(kept.apply(1, &mut envelope, &Clock::default()), Timestamp::default());
        assert_eq!((envelope.attempt, envelope.error.as_deref()), (4, Some("no bread")));
        assert_eq!(Kept::read(0, "three - "), None);
    }
}

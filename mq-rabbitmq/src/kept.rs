//! What the messages of an ordered queue that hold their key come with next; pure.
//!
//! Such a message stays unacknowledged while it waits, so the broker knows nothing of it. The member that has
//! it records it in a small queue beside its own, and whoever has the queue next reads it there.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;

use mq_core::Timestamp;
use mq_core::driver::Hold;
use mq_core::envelope::Envelope;

use crate::returns::Mark;

const VERSION: &str = "h1";
/// The most bytes of an error that are recorded.
const ERROR: usize = 1000;

/// What one message comes with next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    /// How many members had died with it by then.
    deaths: u32,
    /// When it may come, in ms since 1970; 0 for at once.
    until: u64,
    history: Envelope,
}

impl Line {
    pub(crate) fn new(deaths: u32, hold: Hold) -> Self {
        let Hold { envelope: history, until } = hold;
        Self { deaths, until: until.map_or(0, Timestamp::as_millis), history }
    }

    /// Returns when the message may come.
    pub(crate) fn not_before(&self) -> Timestamp {
        Timestamp::from_millis(self.until)
    }

    pub(crate) fn history(&self) -> &Envelope {
        &self.history
    }

    /// Returns how many of so many deaths came after it was written.
    pub(crate) fn deaths_since(&self, deaths: u32) -> u32 {
        deaths.saturating_sub(self.deaths)
    }

    fn rank(&self) -> (u32, u64) {
        (self.history.attempt, self.until)
    }
}

/// The lines of one queue's record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lines(HashMap<Mark, Line>);

impl Lines {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn get(&self, mark: Mark) -> Option<&Line> {
        self.0.get(&mark)
    }

    /// Adds another record of the same queue; of two lines the later one stands.
    pub(crate) fn merge(&mut self, other: Self) {
        for (mark, line) in other.0 {
            if self.0.get(&mark).is_none_or(|known| known.rank() < line.rank()) {
                self.0.insert(mark, line);
            }
        }
    }

    /// Reads a record; what is of another version says nothing.
    pub(crate) fn parse(text: &[u8]) -> Self {
        let Ok(text) = std::str::from_utf8(text) else { return Self::default() };
        let Some(lines) = text.strip_prefix(VERSION) else { return Self::default() };
        Self(lines.lines().filter_map(read).collect())
    }
}

impl FromIterator<(Mark, Line)> for Lines {
    fn from_iter<I: IntoIterator<Item = (Mark, Line)>>(lines: I) -> Self {
        Self(lines.into_iter().collect())
    }
}

/// Reads `mark deaths attempt until first-seen error`: `-` for a time that is not known, the error as JSON.
fn read(line: &str) -> Option<(Mark, Line)> {
    let mut parts = line.splitn(6, ' ');
    let mark = Mark::parse(parts.next()?)?;
    let (deaths, attempt, until) =
        (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    let first_seen = parts.next()?.parse().ok().map(Timestamp::from_millis);
    let error: Option<String> = serde_json::from_str(parts.next()?).ok()?;
    let history = Envelope { attempt, first_seen, error: error.map(Into::into), ..Envelope::default() };
    Some((mark, Line { deaths, until, history }))
}

impl std::fmt::Display for Lines {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(VERSION)?;
        for (mark, Line { deaths, until, history }) in &self.0 {
            write!(f, "\n{mark} {deaths} {} {until} ", history.attempt)?;
            match history.first_seen {
                Some(at) => write!(f, "{} ", at.as_millis())?,
                None => f.write_str("- ")?,
            }
            let error = history.error.as_deref().map(|error| &error[..error.floor_char_boundary(ERROR)]);
            f.write_str(&serde_json::to_string(&error).map_err(|_| std::fmt::Error)?)?;
        }
        f.write_char('\n')
    }
}

/// What a member did to one queue's record; who has it alone writes.
#[derive(Debug, Default)]
pub(crate) struct Keep {
    /// Settled, and perhaps still in a record.
    gone: HashSet<Mark>,
}

/// So many settled marks are remembered: an old record may turn up again within moments.
const GONE: usize = 1024;

impl Keep {
    /// Takes note that a message was settled.
    pub(crate) fn forget(&mut self, mark: Mark) {
        if self.gone.len() >= GONE {
            self.gone.clear();
        }
        self.gone.insert(mark);
    }

    /// Returns the record that takes the place of `stored`.
    pub(crate) fn replace(&mut self, mut stored: Lines, new: &Lines) -> Lines {
        self.gone.retain(|mark| !new.0.contains_key(mark));
        stored.0.retain(|mark, _| !self.gone.contains(mark));
        stored.merge(new.clone());
        stored
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use mq_core::Message;

    use super::*;

    fn mark(id: u8) -> Mark {
        Mark::new(&Message::with_id("", id.to_string()), &Envelope::default())
    }

    fn line(deaths: u32, attempt: u32, until: u64) -> Line {
        let envelope = Envelope { attempt, ..Envelope::default() };
        Line::new(deaths, Hold { envelope, until: (until > 0).then(|| Timestamp::from_millis(until)) })
    }

    proptest! {
        #[test]
        fn records_read_back(
            lines in proptest::collection::vec(
                (any::<u8>(), any::<u32>(), 1u32.., any::<u64>(), proptest::option::of(any::<u64>()), proptest::option::of("(?s).{0,30}")),
                0..20,
            )
        ) {
            let record: Lines = lines.into_iter().map(|(id, deaths, attempt, until, seen, error)| {
                let first_seen = seen.map(Timestamp::from_millis);
                let history = Envelope { attempt, first_seen, error: error.map(Into::into), ..Envelope::default() };
                (mark(id), Line { deaths, until, history })
            }).collect();
            prop_assert_eq!(Lines::parse(record.to_string().as_bytes()), record);
        }
    }

    #[test]
    fn what_a_former_holder_left_stays_until_it_is_settled() {
        let stored: Lines = [(mark(1), line(0, 2, 50)), (mark(2), line(1, 3, 60))].into_iter().collect();
        let mut keep = Keep::default();
        keep.forget(mark(1));
        let new = [(mark(2), line(1, 4, 0)), (mark(3), line(0, 2, 70))].into_iter().collect();
        let now = keep.replace(stored.clone(), &new);
        assert_eq!(now.0.len(), 2);
        assert_eq!(now.get(mark(2)), Some(&line(1, 4, 0)));
        assert_eq!(now.0[&mark(2)].deaths_since(3), 2);
        // The old record turns up again: of two lines the later one stands, and what was settled stays gone.
        let mut both = now.clone();
        both.merge(stored);
        assert_eq!(keep.replace(both, &Lines::default()), now);
        assert_eq!(Lines::parse(b"h2\n"), Lines::default());
    }

    #[test]
    fn long_errors_are_cut() {
        let history = Envelope { error: Some("é".repeat(2000).into()), ..Envelope::default() };
        let lines: Lines = [(mark(1), Line { deaths: 0, until: 0, history })].into_iter().collect();
        assert!(lines.to_string().len() < 2 * ERROR);
    }
}

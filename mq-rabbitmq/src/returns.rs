//! Which returns of messages were orderly; pure.
//!
//! A member that leaves an ordered group lets the broker take back what it holds, because that keeps
//! the order. RabbitMQ before 4.3 counts this like the return after a crash. So the member records
//! beforehand what it returns, and whoever gets it next takes these returns off the broker's count.

use std::collections::HashMap;
use std::fmt::Write as _;

use mq_core::Message;
use mq_core::envelope::Envelope;

use crate::names::Hash128;

/// Names what a queue holds: a message or one of its copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Mark(u128);

impl Mark {
    /// Returns the mark of a message as it is stored: with the attempt of its headers.
    pub(crate) fn new(message: &Message, stored: &Envelope) -> Self {
        let mut hash = Hash128::default();
        message.id.with_str(|id| hash.update(id.as_bytes()));
        hash.update(&[0, u8::from(stored.first_seen.is_some())]);
        hash.update(&stored.attempt.to_be_bytes());
        Self(hash.finish())
    }
}

impl Mark {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        u128::from_str_radix(text, 16).ok().map(Self)
    }
}

impl std::fmt::Display for Mark {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// The returns of a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Count {
    /// How often it had been returned, in the broker's count, when its holder left.
    counted: u32,
    /// How many of these were orderly.
    orderly: u32,
}

/// The orderly returns to one queue.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Returns(HashMap<Mark, Count>);

const VERSION: &str = "r1";

impl Returns {
    /// Notes that a message is about to be returned in order. `counted` is the broker's count as
    /// the holder knows it, `orderly` how many of those it knew to be orderly.
    pub(crate) fn note(&mut self, mark: Mark, counted: u32, orderly: u32) {
        self.0.insert(mark, Count { counted, orderly });
    }

    /// Returns how many of a message's `counted` returns were orderly; not more than there were.
    pub(crate) fn orderly(&self, mark: Mark, counted: u32) -> u32 {
        let Some(known) = self.0.get(&mark) else { return 0 };
        // The return itself: a broker from 4.3 on does not count it.
        let last = u32::from(counted > known.counted);
        known.orderly.saturating_add(last).min(counted)
    }

    /// Adds another record of the same queue; the later count is the better known.
    pub(crate) fn merge(&mut self, other: Self) {
        for (mark, count) in other.0 {
            let known = self.0.entry(mark).or_default();
            if count.counted >= known.counted {
                *known = count;
            }
        }
    }

    /// Reads a record; what is of another version says nothing.
    pub(crate) fn parse(text: &[u8]) -> Self {
        let Ok(text) = std::str::from_utf8(text) else { return Self::default() };
        let Some(lines) = text.strip_prefix(VERSION) else { return Self::default() };
        let read = |line: &str| {
            let mut parts = line.split(' ');
            let mark = Mark::parse(parts.next()?)?;
            let count = Count { counted: parts.next()?.parse().ok()?, orderly: parts.next()?.parse().ok()? };
            Some((mark, count))
        };
        Self(lines.lines().filter_map(read).collect())
    }
}

impl std::fmt::Display for Returns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(VERSION)?;
        for (mark, Count { counted, orderly }) in &self.0 {
            f.write_char('\n')?;
            write!(f, "{mark} {counted} {orderly}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A message in a broker's queue, with the records of those who left.
    #[derive(Default)]
    struct Queue {
        counted: u32,
        crashes: u32,
        records: Vec<String>,
    }

    impl Queue {
        fn known(&self) -> Returns {
            let mut known = Returns::default();
            self.records.iter().for_each(|record| known.merge(Returns::parse(record.as_bytes())));
            known
        }
    }

    proptest! {
        /// However members leave and die, exactly the deaths count; also if old records stay.
        #[test]
        fn only_crashes_count(ends in proptest::collection::vec(any::<(bool, bool)>(), 0..20)) {
            let mark = Mark(7);
            let mut queue = Queue::default();
            for (orderly, keeps) in ends {
                let known = queue.known().orderly(mark, queue.counted);
                prop_assert_eq!(queue.counted - known, queue.crashes);
                if orderly {
                    let mut record = Returns::default();
                    record.note(mark, queue.counted, known);
                    if !keeps {
                        queue.records.clear();
                    }
                    queue.records.push(record.to_string());
                } else {
                    queue.crashes += 1;
                }
                queue.counted += 1;
            }
        }

        #[test]
        fn records_read_back(notes in proptest::collection::vec(any::<(u128, u32, u32)>(), 0..20)) {
            let mut returns = Returns::default();
            notes.iter().for_each(|(mark, counted, orderly)| returns.note(Mark(*mark), *counted, *orderly));
            prop_assert_eq!(Returns::parse(returns.to_string().as_bytes()), returns);
        }
    }

    #[test]
    fn a_broker_that_does_not_count_orderly_returns_is_believed() {
        let mut returns = Returns::default();
        returns.note(Mark(1), 0, 0);
        assert_eq!(returns.orderly(Mark(1), 0), 0);
        assert_eq!(returns.orderly(Mark(2), 3), 0);
    }

    #[test]
    fn a_copy_is_another_message() {
        let message = Message::with_id("", "id");
        let first = Envelope::default();
        let copy = Envelope { first_seen: Some(mq_core::Timestamp::from_millis(1)), ..Envelope::default() };
        let next = Envelope { attempt: 2, ..copy.clone() };
        let marks = [&first, &copy, &next].map(|stored| Mark::new(&message, stored));
        assert!(marks[0] != marks[1] && marks[1] != marks[2]);
        assert_eq!(Returns::parse(b"r2\n1 1 1"), Returns::default());
    }
}

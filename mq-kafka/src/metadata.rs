//! What is stored beside a committed offset: version 1 of a short text.
//!
//! `1;reserved;seen;crashes;started;holes;kept`, trailing empty fields left off; all numbers are relative
//! to the committed offset, in digits of five bits (`A`–`Z`, `a`–`z`, `0`–`9`, `-`, `_`; the upper
//! half of the alphabet says that another digit follows). `reserved`: offsets below it may have
//! been handed out by a member that did not say good-bye. `seen`: offsets below it were fetched
//! before. `crashes`: pairs of a run's length and how many members died with it. `started`:
//! offsets about to run alone. `holes`: pairs of lengths, not done and done, in turn. `kept`: the earliest moment
//! that something kept waits for, in ms since 1970, then for each kept offset how far it is behind the one before,
//! its next attempt, and its moment: 0 for at once, else 1 more than ms behind the earliest.

use std::ops::Range;

/// The most bytes written; brokers take 4,096 by default.
pub(crate) const LIMIT: usize = 4000;

/// The most bytes that what is kept may take: the rest is for the holes.
const KEPT_LIMIT: usize = 1800;

const VERSION: &str = "1";
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// A partition's state above its committed offset, relative to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Below this, what is not done may have been handed out when its holder died.
    pub(crate) reserved: u64,
    /// Below this, everything was fetched before.
    pub(crate) seen: u64,
    /// Runs of offsets and how many members died with them, from the committed offset on.
    pub(crate) crashes: Vec<(u64, u32)>,
    /// Offsets that are about to run alone, ascending.
    pub(crate) started: Vec<u64>,
    /// Runs that are done, ascending, none of them at 0.
    pub(crate) done: Vec<Range<u64>>,
    /// What is kept to hold its key, by offset, ascending.
    pub(crate) kept: Vec<(u64, Kept)>,
}

/// What is recorded of a message that holds its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kept {
    /// The attempt that the next delivery is.
    pub(crate) attempt: u32,
    /// When it may come, in ms since 1970; 0 for at once.
    pub(crate) until: u64,
}

/// Returns whether so much may be kept.
pub(crate) fn fits(kept: &[(u64, Kept)]) -> bool {
    let mut text = String::new();
    push_kept(&mut text, kept);
    text.len() <= KEPT_LIMIT
}

fn push_kept(text: &mut String, kept: &[(u64, Kept)]) {
    if kept.is_empty() {
        return;
    }
    let earliest = kept.iter().map(|(_, kept)| kept.until).filter(|until| *until > 0).min().unwrap_or(0);
    push(text, earliest);
    let mut previous = 0;
    for (offset, Kept { attempt, until }) in kept {
        push(text, offset - previous);
        push(text, (*attempt).into());
        push(text, if *until == 0 { 0 } else { until - earliest + 1 });
        previous = *offset;
    }
}

fn read_kept(numbers: &[u64]) -> Option<Vec<(u64, Kept)>> {
    let Some((earliest, rest)) = numbers.split_first() else { return Some(Vec::new()) };
    let mut at = 0u64;
    rest.chunks(3)
        .map(|part| {
            let [behind, attempt, moment] = *part else { return None };
            at = at.checked_add(behind).filter(|at| i64::try_from(*at).is_ok())?;
            let until = if moment == 0 { 0 } else { earliest.checked_add(moment - 1)? };
            Some((at, Kept { attempt: u32::try_from(attempt).ok()?, until }))
        })
        .collect()
}

impl Progress {
    /// Writes as much as fits; returns the text, and whether all of `done` is in it.
    pub(crate) fn encode(&self) -> (String, bool) {
        let mut text = String::with_capacity(16);
        text.push_str(VERSION);
        text.push(';');
        if self.reserved > 0 {
            push(&mut text, self.reserved);
        }
        text.push(';');
        if self.seen > self.reserved {
            push(&mut text, self.seen);
        }
        text.push(';');
        for (len, count) in &self.crashes {
            push(&mut text, *len);
            push(&mut text, (*count).into());
        }
        text.push(';');
        let mut previous = 0;
        for start in &self.started {
            push(&mut text, start - previous);
            previous = *start;
        }
        text.push(';');
        let mut kept = String::new();
        push_kept(&mut kept, &self.kept);
        let complete = self.push_done(&mut text, kept.len() + 1);
        text.push(';');
        text.push_str(&kept);
        text.truncate(text.trim_end_matches(';').len());
        if text == VERSION {
            text.clear();
        }
        (text, complete)
    }

    /// Writes what fits beside `reserved` bytes that follow.
    fn push_done(&self, text: &mut String, reserved: usize) -> bool {
        let mut previous = 0;
        for run in &self.done {
            let before = text.len();
            push(text, run.start - previous);
            push(text, run.end - run.start);
            if text.len() + reserved > LIMIT {
                text.truncate(before);
                return false;
            }
            previous = run.end;
        }
        true
    }

    /// Reads what [`encode`](Self::encode) wrote; `None` for anything else, such as another program's text.
    pub(crate) fn decode(text: &str) -> Option<Self> {
        if text.is_empty() {
            return Some(Self::default());
        }
        let mut fields = text.split(';');
        if fields.next() != Some(VERSION) {
            return None;
        }
        let mut field = || numbers(fields.next().unwrap_or_default());
        let reserved = single(&field()?)?;
        let seen = single(&field()?)?.max(reserved);
        let crashes = field()?
            .chunks(2)
            .map(|pair| Some((pair[0], u32::try_from(*pair.get(1)?).ok()?)))
            .collect::<Option<_>>()?;
        let mut at = 0u64;
        let mut advance = |by: u64| {
            at = at.checked_add(by).filter(|at| i64::try_from(*at).is_ok())?;
            Some(at)
        };
        let started = field()?.into_iter().map(&mut advance).collect::<Option<_>>()?;
        let done = holes(&field()?)?;
        let kept = read_kept(&field()?)?;
        Some(Self { reserved, seen, crashes, started, done, kept })
    }
}

fn holes(lengths: &[u64]) -> Option<Vec<Range<u64>>> {
    let mut at = 0u64;
    lengths
        .chunks(2)
        .map(|pair| {
            let start = at.checked_add(pair[0])?;
            at = start.checked_add(*pair.get(1)?).filter(|end| i64::try_from(*end).is_ok())?;
            Some(start..at)
        })
        .collect()
}

fn single(numbers: &[u64]) -> Option<u64> {
    match numbers {
        [] => Some(0),
        [number] if i64::try_from(*number).is_ok() => Some(*number),
        _ => None,
    }
}

fn push(text: &mut String, mut number: u64) {
    loop {
        let digit = (number & 31) as usize;
        number >>= 5;
        let more = usize::from(number > 0) << 5;
        text.push(char::from(ALPHABET[digit | more]));
        if more == 0 {
            return;
        }
    }
}

fn numbers(text: &str) -> Option<Vec<u64>> {
    let mut numbers = Vec::new();
    let (mut number, mut shift) = (0u64, 0u32);
    for byte in text.bytes() {
        let digit = digit(byte)?;
        if shift > 60 {
            return None;
        }
        number |= (digit & 31) << shift;
        if digit & 32 == 0 {
            numbers.push(number);
            (number, shift) = (0, 0);
        } else {
            shift += 5;
        }
    }
    (shift == 0).then_some(numbers)
}

fn digit(byte: u8) -> Option<u64> {
    let digit = match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'-' => 62,
        b'_' => 63,
        _ => return None,
    };
    Some(digit.into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn progress() -> impl Strategy<Value = Progress> {
        let crashes = proptest::collection::vec((1u64..1 << 40, 0u32..9), 0..5);
        let started = proptest::collection::btree_set(0u64..1 << 20, 0..4);
        let holes = proptest::collection::vec((1u64..1 << 12, 1u64..1 << 12), 0..900);
        let kept = (1u32..99, proptest::option::of(0u64..1 << 41))
            .prop_map(|(attempt, until)| Kept { attempt, until: until.map_or(0, |until| until + 1) });
        let kept = proptest::collection::btree_map(0u64..1 << 20, kept, 0..100);
        (0u64..1 << 40, 0u64..1 << 40, crashes, started, holes, kept).prop_map(
            |(reserved, seen, crashes, started, holes, kept)| {
                let mut at = 0;
                let done = holes
                    .into_iter()
                    .map(|(gap, len)| {
                        let start = at + gap;
                        at = start + len;
                        start..at
                    })
                    .collect();
                let started = started.into_iter().collect();
                let kept = kept.into_iter().collect();
                Progress { reserved, seen: seen.max(reserved), crashes, started, done, kept }
            },
        )
    }

    proptest! {
        #[test]
        fn reads_back_as_written_or_as_a_prefix_within_the_limit(progress in progress()) {
            let (text, complete) = progress.encode();
            prop_assert!(text.len() <= LIMIT && text.is_ascii());
            let read = Progress::decode(&text).unwrap();
            prop_assert_eq!(complete, read == progress);
            let kept = read.done.len();
            prop_assert_eq!(&read.done[..], &progress.done[..kept]);
            prop_assert_eq!((read.reserved, read.seen), (progress.reserved, progress.seen));
            prop_assert_eq!((read.crashes, read.started), (progress.crashes, progress.started));
            prop_assert_eq!(read.kept, progress.kept);
        }

        #[test]
        fn foreign_text_never_panics(text in ".{0,40}") {
            let _ = Progress::decode(&text);
        }

        #[test]
        fn near_misses_never_panic(text in "1;[A-Za-z0-9_;-]{0,60}") {
            let _ = Progress::decode(&text);
        }
    }

    #[test]
    fn examples() {
        assert_eq!(Progress::default().encode(), (String::new(), true));
        let live = Progress { reserved: 40, seen: 40, ..Progress::default() };
        assert_eq!(live.encode().0, "1;oB");
        let holes = Progress { seen: 9, done: vec![1..3, 4..9], ..Progress::default() };
        assert_eq!(holes.encode().0, "1;;J;;;BCBF");
        let kept = vec![(1, Kept { attempt: 2, until: 0 }), (3, Kept { attempt: 4, until: 40 })];
        let kept = Progress { seen: 9, kept, ..Progress::default() };
        assert_eq!(kept.encode().0, "1;;J;;;;oBBCACEB");
        assert_eq!(Progress::decode("1;;J;;;;oBBCACEB"), Some(kept));
        assert_eq!(Progress::decode("1;;J;;;;oBBC"), None);
        assert_eq!(Progress::decode("consumer-group metadata"), None);
        assert_eq!(Progress::decode("2;A"), None);
    }
}

//! What goes to stdout.

use std::io::{self, BufWriter, IsTerminal as _, Stdout, Write as _};

use anyhow::Context as _;
use parking_lot::Mutex;
use serde::Serialize;

/// The standard output: JSON lines for programs, or text for people.
#[derive(Debug)]
pub(crate) struct Output {
    /// Whether `--json` was given.
    pub(crate) json: bool,
    out: Mutex<BufWriter<Stdout>>,
}

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        Self { json, out: Mutex::new(BufWriter::with_capacity(1 << 16, io::stdout())) }
    }

    /// Writes `value` as one line of JSON; [`flush`](Self::flush) shows it.
    pub(crate) fn json(&self, value: &impl Serialize) -> anyhow::Result<()> {
        let mut line = serde_json::to_vec(value)?;
        line.push(b'\n');
        self.out.lock().write_all(&line).context(CLOSED)
    }

    /// Writes a line of text; [`flush`](Self::flush) shows it.
    pub(crate) fn text(&self, line: &str) -> anyhow::Result<()> {
        writeln!(self.out.lock(), "{line}").context(CLOSED)
    }

    /// Writes a table; [`flush`](Self::flush) shows it.
    pub(crate) fn table<const N: usize>(&self, head: [&str; N], rows: &[[String; N]]) -> anyhow::Result<()> {
        table(head, rows).iter().try_for_each(|line| self.text(line))
    }

    /// Writes what is buffered. A reader that takes its time does not hold up the runtime.
    pub(crate) fn flush(&self) -> anyhow::Result<()> {
        tokio::task::block_in_place(|| self.out.lock().flush()).context(CLOSED)
    }

    /// Empties the screen, if there is one.
    pub(crate) fn clear(&self) -> anyhow::Result<()> {
        if !self.json && io::stdout().is_terminal() {
            self.out.lock().write_all(b"\x1b[H\x1b[J").context(CLOSED)?;
        }
        Ok(())
    }
}

const CLOSED: &str = "cannot write to stdout";

fn table<const N: usize>(head: [&str; N], rows: &[[String; N]]) -> Vec<String> {
    let mut widths = head.map(str::len);
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: &[String; N]| {
        let padded = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        padded.collect::<Vec<String>>().join("  ").trim_end().to_owned()
    };
    std::iter::once(line(&head.map(str::to_uppercase))).chain(rows.iter().map(line)).collect()
}

/// What was done, as JSON.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Done<'a> {
    pub(crate) topic: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) group: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) deleted: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) redriven: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) purged: Option<u64>,
}

/// Writes a figure; one that the broker cannot give is a dash.
pub(crate) fn figure(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// Writes a number of things.
pub(crate) fn many(count: impl TryInto<u64>, thing: &str) -> String {
    match count.try_into().unwrap_or(u64::MAX) {
        1 => format!("1 {thing}"),
        count => format!("{count} {thing}s"),
    }
}

/// Writes bytes for people: text with its control characters shown, anything else as its size.
pub(crate) fn readable(bytes: &[u8]) -> String {
    let Ok(text) = std::str::from_utf8(bytes) else { return format!("<{} bytes>", bytes.len()) };
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() && c != '\t' {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    shown
}

/// Prints the first notes of many on stderr, and counts them all.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    count: u64,
}

impl Notes {
    const SHOWN: u64 = 20;

    /// Returns the words to print for `note`, if any.
    pub(crate) fn add(&mut self, note: &str) -> Option<String> {
        self.count += 1;
        match self.count {
            ..Self::SHOWN => Some(note.to_owned()),
            Self::SHOWN => Some(format!("{note}\nmore of these are only counted; --json shows them all")),
            _ => None,
        }
    }

    /// Returns how many there were.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_line_up() {
        let rows = [["orders".into(), "1".into()], ["a".into(), "12".into()]];
        assert_eq!(table(["topic", "ready"], &rows), ["TOPIC   READY", "orders  1", "a       12"]);
    }

    #[test]
    fn one_and_many() {
        assert_eq!((many(1_u64, "message"), many(0_usize, "send")), ("1 message".into(), "0 sends".into()));
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(readable(b"a\x1b[2J\nb"), "a\\u{1b}[2J\\nb");
        assert_eq!(readable(&[0xff, 0]), "<2 bytes>");
    }

    #[test]
    fn notes_end_after_some() {
        let mut notes = Notes::default();
        let shown = (0..100).filter(|_| notes.add("x").is_some()).count();
        assert_eq!((shown, notes.count()), (20, 100));
    }
}

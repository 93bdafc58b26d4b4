//! A progress bar, where a person can see one.

use std::io::{self, IsTerminal as _};

use indicatif::{ProgressBar, ProgressStyle};

use crate::output::Output;

/// Shows how far a long command is; nothing when stderr is no terminal.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: ProgressBar,
    by_bytes: bool,
}

impl Progress {
    /// Makes a bar for an input of `size` bytes, or a count if nobody knows.
    pub(crate) fn of_bytes(output: &Output, size: Option<u64>) -> Self {
        Self { by_bytes: size.is_some(), ..Self::new(output, size) }
    }

    /// Makes a bar for so many messages.
    pub(crate) fn of_messages(output: &Output, count: u64) -> Self {
        Self::new(output, Some(count))
    }

    fn new(output: &Output, length: Option<u64>) -> Self {
        let interleaved = output.json && io::stdout().is_terminal();
        if interleaved || !io::stderr().is_terminal() {
            return Self { bar: ProgressBar::hidden(), by_bytes: false };
        }
        let (bar, template) = match length {
            Some(length) => (ProgressBar::new(length), "{bar:40} {percent}% {eta} left"),
            None => (ProgressBar::new_spinner(), "{spinner} {pos} messages ({per_sec})"),
        };
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        Self { bar: bar.with_style(style), by_bytes: false }
    }

    pub(crate) fn add(&self, messages: u64, bytes: u64) {
        self.bar.inc(if self.by_bytes { bytes } else { messages });
    }

    /// Prints words above the bar.
    pub(crate) fn say(&self, words: &str) {
        self.bar.suspend(|| eprintln!("{words}"));
    }

    pub(crate) fn end(&self) {
        self.bar.finish_and_clear();
    }
}

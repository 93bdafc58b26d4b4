//! Reads message lines on a thread of its own, as fast as they are asked for.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};

use anyhow::Context as _;
use tokio::sync::mpsc;

use crate::line::{self, Draft};

/// The most lines handed over at once.
const CHUNK: usize = 256;
/// Chunks read ahead.
const AHEAD: usize = 4;

/// A line that was read.
#[derive(Debug)]
pub(crate) struct Line {
    /// Its number, from 1.
    pub(crate) number: u64,
    /// How many bytes of the input it took.
    pub(crate) bytes: u64,
    /// Its message, or its id, if it has one, and what is wrong with it.
    pub(crate) message: Result<Draft, (Option<String>, String)>,
}

/// Lines as they come; the reader's failure ends them.
pub(crate) type Lines = mpsc::Receiver<io::Result<Vec<Line>>>;

/// Opens `file`, or stdin for `-`; returns its lines and its size, if it has one.
pub(crate) fn open(file: &OsStr) -> anyhow::Result<(Lines, Option<u64>)> {
    if file == "-" {
        return Ok((read(io::stdin()), None));
    }
    let opened = File::open(file).with_context(|| format!("cannot open {}", file.display()))?;
    let size = opened.metadata().ok().filter(std::fs::Metadata::is_file).map(|meta| meta.len());
    Ok((read(opened), size))
}

fn read(input: impl Read + Send + 'static) -> Lines {
    let (sender, lines) = mpsc::channel(AHEAD);
    tokio::task::spawn_blocking(move || {
        let mut reader = Reader { input: BufReader::with_capacity(1 << 18, input), number: 0 };
        loop {
            let chunk = reader.chunk();
            let last = !matches!(&chunk, Ok(lines) if !lines.is_empty());
            if matches!(&chunk, Ok(lines) if lines.is_empty()) || sender.blocking_send(chunk).is_err() || last
            {
                return;
            }
        }
    });
    lines
}

struct Reader<R> {
    input: BufReader<R>,
    number: u64,
}

impl<R: Read> Reader<R> {
    /// Reads until there are many lines, or some and the next one would have to be waited for.
    fn chunk(&mut self) -> io::Result<Vec<Line>> {
        let mut lines = Vec::new();
        let mut text = Vec::new();
        while lines.len() < CHUNK && (lines.is_empty() || self.input.buffer().contains(&b'\n')) {
            text.clear();
            let bytes = self.input.read_until(b'\n', &mut text)?;
            if bytes == 0 {
                break;
            }
            self.number += 1;
            let content = text.trim_ascii();
            if content.is_empty() {
                continue;
            }
            let message = line::parse(content).map_err(|error| (line::id_of(content), error));
            lines.push(Line { number: self.number, bytes: bytes as u64, message });
        }
        Ok(lines)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_are_numbered_and_blank_ones_left_out() {
        let mut lines = read(&b"{\"body\":\"a\"}\n\n  \r\nno\n{\"id\":\"x\"}\n{\"body\":\"b\"}"[..]);
        let mut seen = Vec::new();
        while let Some(chunk) = lines.recv().await {
            seen.extend(chunk.unwrap());
        }
        let numbers: Vec<_> = seen.iter().map(|line| (line.number, line.message.is_ok())).collect();
        assert_eq!(numbers, [(1, true), (4, false), (5, false), (6, true)]);
        assert_eq!(seen[2].message.as_ref().unwrap_err().0.as_deref(), Some("x"));
    }

    #[tokio::test]
    async fn a_live_input_is_not_waited_for() {
        let (reader, mut writer) = io::pipe().unwrap();
        let mut lines = read(reader);
        io::Write::write_all(&mut writer, b"{\"body\":\"a\"}\n{\"bo").unwrap();
        assert_eq!(lines.recv().await.unwrap().unwrap().len(), 1);
        drop(writer);
        let rest = lines.recv().await.unwrap().unwrap();
        assert!(rest[0].message.is_err());
        assert!(lines.recv().await.is_none());
    }
}

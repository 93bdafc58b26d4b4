//! What a service did, in an append-only file: one JSON line per effect.
//!
//! A service writes its effects here before it tells anybody. After a crash it reads them back, so
//! that what it is told again changes nothing.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::marker::PhantomData;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::kill::{Trap, kill_this_process};

/// What an append waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Durability {
    /// The operating system has it: it survives the process.
    Process,
    /// The disk has it: it survives the machine.
    Machine,
}

/// An append-only file of `T`s.
#[derive(Debug)]
pub(crate) struct Journal<T> {
    file: Arc<File>,
    durability: Durability,
    trap: Trap,
    entries: PhantomData<fn(T)>,
}

impl<T: Serialize + DeserializeOwned> Journal<T> {
    /// Opens the journal, makes it if it is not there, and returns what was written before.
    ///
    /// A last line without its end was being written in a crash. Nobody was told of it: it is removed.
    pub(crate) fn open(path: &Path, durability: Durability, trap: Trap) -> Result<(Self, Vec<T>)> {
        let open = || OpenOptions::new().read(true).append(true).create(true).open(path);
        let mut file = open()
            .with_context(|| format!("cannot open {}; choose another folder with --state", path.display()))?;
        lock(&file, path)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).with_context(|| format!("cannot read {}", path.display()))?;
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
        if whole < bytes.len() {
            let trimmed = file.set_len(whole as u64).and_then(|()| file.seek(SeekFrom::End(0)));
            trimmed.with_context(|| format!("cannot trim the torn last line of {}", path.display()))?;
        }
        let entries = parse(&bytes[..whole], path)?;
        Ok((Self { file: Arc::new(file), durability, trap, entries: PhantomData }, entries))
    }

    /// Writes entries; they are durable when this returns.
    pub(crate) async fn append(&mut self, entries: &[T]) -> Result<()> {
        if entries.is_empty() {
            return Ok(());
        }
        let mut bytes = Vec::with_capacity(entries.len() * 128);
        let fatal = self.trap.pass(entries.len());
        for (index, entry) in entries.iter().enumerate() {
            let start = bytes.len();
            serde_json::to_writer(&mut bytes, entry).context("cannot write a journal entry as JSON")?;
            bytes.push(b'\n');
            if fatal == Some(index) {
                bytes.truncate(start + (bytes.len() - start) / 2);
                break;
            }
        }
        self.write(bytes).await?;
        if fatal.is_some() {
            kill_this_process();
        }
        Ok(())
    }

    async fn write(&self, bytes: Vec<u8>) -> Result<()> {
        let (file, durability) = (self.file.clone(), self.durability);
        let write = move || {
            (&*file).write_all(&bytes)?;
            if durability == Durability::Machine { file.sync_data() } else { Ok(()) }
        };
        let written = tokio::task::spawn_blocking(write).await.context("the journal's writer panicked")?;
        written.context("cannot write to a journal; make room on the disk and start the run again")
    }
}

fn lock(file: &File, path: &Path) -> Result<()> {
    match file.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => bail!(
            "{} is in use: this run is going on in another process; wait for it, or use another --run",
            path.display()
        ),
        Err(TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("cannot lock {}; put --state on a local disk", path.display()))
        }
    }
}

fn parse<T: DeserializeOwned>(bytes: &[u8], path: &Path) -> Result<Vec<T>> {
    let lines = bytes.split_inclusive(|byte| *byte == b'\n').enumerate();
    lines
        .map(|(index, line)| {
            serde_json::from_slice(line).with_context(|| {
                format!(
                    "{} line {} is damaged; restore the file, or start afresh with another --run",
                    path.display(),
                    index + 1
                )
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn path(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("order-processing-{}-{name}", std::process::id()));
        // Left behind by an earlier process of the same number, if at all.
        drop(std::fs::remove_file(&path));
        path
    }

    type Entry = (u64, String);

    fn open(path: &Path) -> Result<(Journal<Entry>, Vec<Entry>)> {
        Journal::open(path, Durability::Machine, Trap::default())
    }

    #[tokio::test]
    async fn what_was_written_is_read_back() {
        let path = path("read-back");
        let entries: Vec<_> = (0..100).map(|n| (n, format!("entry {n}"))).collect();
        let (mut journal, before) = open(&path).unwrap();
        assert!(before.is_empty());
        journal.append(&entries[..60]).await.unwrap();
        journal.append(&entries[60..]).await.unwrap();
        drop(journal);
        assert_eq!(open(&path).unwrap().1, entries);
        std::fs::remove_file(path).unwrap();
    }

    #[tokio::test]
    async fn a_torn_last_line_is_removed_wherever_it_is_torn() {
        let path = path("torn");
        for cut in 1..13 {
            let (mut journal, _) = open(&path).unwrap();
            journal.append(&[(1, "one".into()), (2, "two".into())]).await.unwrap();
            drop(journal);
            let whole = std::fs::read(&path).unwrap();
            std::fs::write(&path, &whole[..whole.len() - cut.min(10)]).unwrap();
            let (mut journal, entries) = open(&path).unwrap();
            assert_eq!(entries, [(1, "one".into())], "cut {cut}");
            journal.append(&[(3, "three".into())]).await.unwrap();
            drop(journal);
            assert_eq!(open(&path).unwrap().1, [(1, "one".into()), (3, "three".into())]);
            std::fs::remove_file(&path).unwrap();
        }
    }

    #[tokio::test]
    async fn damage_before_the_end_is_an_error_with_its_line() {
        let path = path("damaged");
        std::fs::write(&path, "[1,\"one\"]\nnonsense\n[3,\"three\"]\n").unwrap();
        let error = format!("{:#}", open(&path).unwrap_err());
        assert!(error.contains("line 2 is damaged"), "{error}");
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn two_processes_cannot_write_one_journal() {
        let path = path("locked");
        let _first = open(&path).unwrap();
        let error = open(&path).unwrap_err().to_string();
        assert!(error.contains("in use"), "{error}");
        std::fs::remove_file(path).unwrap();
    }
}

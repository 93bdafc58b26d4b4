//! Records of lone starts: queues that say that a message was about to run alone.
//!
//! Who finds one believes that the message ended the process of its last holder. So a process removes
//! the records it made, however the delivery ended, and until that is done it takes no word from
//! them: it lives.

use std::collections::HashMap;
use std::sync::Arc;

use mq_core::{Events, Result};
use parking_lot::Mutex;

use crate::connection::Pause;
use crate::error::heals;
use crate::topology::Topology;

/// The record of a lone start.
#[derive(Clone, Debug)]
pub(crate) struct Lone {
    /// The queue that is the record.
    pub(crate) name: String,
    /// Whether this process made it.
    pub(crate) mine: bool,
}

/// The records that this process made or removes.
#[derive(Debug)]
pub(crate) struct Starts {
    topology: Arc<Topology>,
    events: Events,
    known: Mutex<Known>,
    /// Records are made and removed one after the other: a removal that is late must not remove what
    /// was made since.
    turn: tokio::sync::Mutex<()>,
}

impl Starts {
    pub(crate) fn new(topology: Arc<Topology>, events: Events) -> Arc<Self> {
        Arc::new(Self { topology, events, known: Mutex::default(), turn: tokio::sync::Mutex::default() })
    }

    /// Takes note that a record is about to be made; from now on its delivery must end in
    /// [`clear`](Self::clear) or [`remove`](Self::remove).
    pub(crate) fn announce(&self, name: &str) -> Lone {
        self.known.lock().want(name);
        Lone { name: name.to_owned(), mine: true }
    }

    /// Makes a record that was announced, unless it is to go already.
    pub(crate) async fn record(&self, name: &str) -> Result<()> {
        let _turn = self.turn.lock().await;
        if self.known.lock().is_wanted(name) { self.topology.declare_record(name).await } else { Ok(()) }
    }

    /// Returns whether a message ran alone in a process that did not say how it ended.
    pub(crate) async fn find(&self, name: &str) -> Result<bool> {
        if self.known.lock().has(name) {
            return Ok(false);
        }
        Ok(self.topology.find_queue(name).await?.is_some())
    }

    /// Removes a record in the background, for as long as that takes.
    pub(crate) fn clear(self: &Arc<Self>, lone: Option<Lone>) {
        let Some(Lone { name, .. }) = lone else { return };
        self.known.lock().spend(&name);
        tokio::spawn(self.clone().clear_all_the_same(name));
    }

    async fn clear_all_the_same(self: Arc<Self>, name: String) {
        let mut pause = Pause::default();
        while let Err(error) = self.try_remove(&name).await {
            self.events.failed("clearing a lone start", &error);
            if !heals(&error) {
                return;
            }
            tokio::time::sleep(pause.next()).await;
        }
    }

    /// Removes a record now: its message is about to go to somebody else.
    ///
    /// # Errors
    /// What the broker says; the removal then goes on in the background.
    pub(crate) async fn remove(self: &Arc<Self>, lone: Lone) -> Result<()> {
        self.known.lock().spend(&lone.name);
        let removed = self.try_remove(&lone.name).await;
        if removed.is_err() {
            self.clear(Some(lone));
        }
        removed
    }

    async fn try_remove(&self, name: &str) -> Result<()> {
        let _turn = self.turn.lock().await;
        if !self.known.lock().is_unwanted(name) {
            return Ok(());
        }
        self.topology.delete_queue(name).await?;
        self.known.lock().removed(name);
        Ok(())
    }
}

/// Which records may be at the broker, and whether each is still wanted there; pure.
#[derive(Debug, Default)]
struct Known(HashMap<String, bool>);

impl Known {
    fn want(&mut self, name: &str) {
        self.0.insert(name.to_owned(), true);
    }

    fn spend(&mut self, name: &str) {
        self.0.insert(name.to_owned(), false);
    }

    fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    fn is_wanted(&self, name: &str) -> bool {
        self.0.get(name) == Some(&true)
    }

    fn is_unwanted(&self, name: &str) -> bool {
        self.0.get(name) == Some(&false)
    }

    fn removed(&mut self, name: &str) {
        if self.is_unwanted(name) {
            self.0.remove(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_records_say_nothing_until_they_are_gone() {
        let mut known = Known::default();
        assert!(!known.has("m"));
        known.want("m");
        assert!(known.has("m") && known.is_wanted("m"));
        // The connection was cut, and the removal waits for the next one.
        known.spend("m");
        assert!(known.has("m") && known.is_unwanted("m") && !known.is_wanted("m"));
        known.removed("m");
        assert!(!known.has("m"));
    }

    #[test]
    fn a_late_removal_leaves_what_was_announced_since() {
        let mut known = Known::default();
        known.want("m");
        known.spend("m");
        known.want("m");
        assert!(!known.is_unwanted("m"));
        known.removed("m");
        assert!(known.is_wanted("m"));
    }
}

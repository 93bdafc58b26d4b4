//! What happens behind the handles, for who wants to watch.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::broadcast;

use crate::error::Error;

/// Something that happened on a client's connections and consumers.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A connection was made; `what` names its use.
    Connected {
        /// What the connection is for.
        what: &'static str,
    },
    /// A connection or consumer was lost; it is being rebuilt.
    Disconnected {
        /// What was lost.
        what: &'static str,
        /// Why.
        reason: String,
    },
    /// A missing topic, queue, stream or group was made again.
    Rebuilt {
        /// What was made.
        what: String,
    },
    /// A lease ran out while its holder lived; the message goes to another attempt.
    LeaseExpired {
        /// The message's id.
        id: String,
    },
    /// Messages that a dead member held were taken over.
    TakenOver {
        /// How many.
        messages: u64,
    },
    /// Messages are gone before every group had them.
    Lost {
        /// What is known of them.
        what: String,
    },
    /// A background operation failed and will be tried again.
    Failed {
        /// The operation.
        what: &'static str,
        /// Why.
        reason: String,
    },
}

/// How many events there were, and of what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct EventCounts {
    /// Connections by use.
    pub connections: BTreeMap<&'static str, ConnectionCounts>,
    /// Topics, queues, streams and groups that were made again.
    pub rebuilt: u64,
    /// Messages that were taken over from dead members.
    pub taken_over: u64,
    /// Times that messages were gone before every group had them.
    pub lost: u64,
    /// Background operations that failed and are tried again, by operation.
    pub failed: BTreeMap<&'static str, u64>,
}

/// What happened to the connections of one use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnectionCounts {
    /// Connections made.
    pub made: u64,
    /// Connections lost.
    pub lost: u64,
    /// Connections made in the place of a lost one.
    pub restored: u64,
}

impl EventCounts {
    fn add(&mut self, event: &Event) {
        match event {
            Event::Connected { what } => {
                let connections = self.connections.entry(what).or_default();
                connections.made += 1;
                connections.restored += u64::from(connections.restored < connections.lost);
            }
            Event::Disconnected { what, .. } => self.connections.entry(what).or_default().lost += 1,
            Event::Rebuilt { .. } => self.rebuilt += 1,
            Event::TakenOver { messages } => self.taken_over += messages,
            Event::Lost { .. } => self.lost += 1,
            Event::Failed { what, .. } => *self.failed.entry(what).or_default() += 1,
            // Counted with the other leases.
            Event::LeaseExpired { .. } => {}
        }
    }
}

/// Tells events to whoever listens, and counts them; never waits.
#[derive(Clone, Debug)]
pub struct Events {
    listeners: broadcast::Sender<Event>,
    counts: Arc<Mutex<EventCounts>>,
}

impl Default for Events {
    fn default() -> Self {
        Self { listeners: broadcast::channel(256).0, counts: Arc::default() }
    }
}

impl Events {
    /// Tells `event` to the log and to all listeners.
    pub fn emit(&self, event: Event) {
        tracing::debug!(target: "mq", ?event);
        self.counts.lock().add(&event);
        // No listener is not an error.
        let _ = self.listeners.send(event);
    }

    /// Emits that `what` failed and will be tried again.
    pub fn failed(&self, what: &'static str, error: &Error) {
        self.emit(Event::Failed { what, reason: error.to_string() });
    }

    /// Listens from now on; who lags by more than 256 events misses the oldest.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.listeners.subscribe()
    }

    /// Returns how many there were so far.
    #[must_use]
    pub fn counts(&self) -> EventCounts {
        self.counts.lock().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_restored_was_lost_before() {
        let events = Events::default();
        let connected = || events.emit(Event::Connected { what: "publish" });
        let lost = || events.emit(Event::Disconnected { what: "publish", reason: "cut".into() });
        connected();
        connected();
        lost();
        connected();
        connected();
        let counts = events.counts().connections["publish"];
        assert_eq!(counts, ConnectionCounts { made: 4, lost: 1, restored: 1 });
    }
}

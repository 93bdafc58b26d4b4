//! What happens behind the handles, for who wants to watch.

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

/// Tells events to whoever listens; never waits.
#[derive(Clone, Debug)]
pub struct Events(broadcast::Sender<Event>);

impl Default for Events {
    fn default() -> Self {
        Self(broadcast::Sender::new(256))
    }
}

impl Events {
    /// Tells `event` to the log and to all listeners.
    pub fn emit(&self, event: Event) {
        tracing::debug!(target: "mq", ?event);
        // No listener is not an error.
        let _ = self.0.send(event);
    }

    /// Emits that `what` failed and will be tried again.
    pub fn failed(&self, what: &'static str, error: &Error) {
        self.emit(Event::Failed { what, reason: error.to_string() });
    }

    /// Listens from now on; who lags by more than 256 events misses the oldest.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.0.subscribe()
    }
}

//! How a run is, for who supervises the process.

use tokio::sync::watch;

/// How far a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Stage {
    /// It is not subscribed to all topics yet.
    Starting,
    /// It receives and handles.
    Running,
    /// Nothing more is received; what is under way may end.
    Draining,
    /// It has ended; what was under way was given back.
    Over,
}

/// Tells how a worker's run is; [`Worker::health`](crate::Worker::health) gives it. Clones tell the same.
#[derive(Clone, Debug)]
pub struct Health(pub(crate) watch::Receiver<Stage>);

impl Health {
    /// Returns how far the run is; a run that was dropped or failed is [`Stage::Over`].
    #[must_use]
    pub fn stage(&self) -> Stage {
        // The run holds the sender.
        if self.0.has_changed().is_err() { Stage::Over } else { *self.0.borrow() }
    }

    /// Whether it receives messages: what a readiness probe asks.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.stage() == Stage::Running
    }

    /// Whether the run has not ended: what a liveness probe asks.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.stage() != Stage::Over
    }

    /// Waits until a stage is reached, or a later one.
    pub async fn reached(&self, stage: Stage) {
        // An error says that the run is over.
        let _ = self.0.clone().wait_for(|now| *now >= stage).await;
    }
}

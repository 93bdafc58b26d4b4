//! What the tour's programs share.

use std::sync::Arc;

use tokio::sync::watch;

/// Counts what handlers did; its clones count together.
#[derive(Clone, Debug, Default)]
pub struct Tally(Arc<watch::Sender<usize>>);

impl Tally {
    /// Counts one more; returns how many that is.
    #[must_use]
    pub fn next(&self) -> usize {
        self.0.send_modify(|count| *count += 1);
        *self.0.borrow()
    }

    /// Counts one more.
    pub fn add(&self) {
        self.0.send_modify(|count| *count += 1);
    }

    /// Returns once there are so many.
    pub async fn reached(&self, count: usize) {
        // The sender is ours.
        let _ = self.0.subscribe().wait_for(|now| *now >= count).await;
    }
}

//! What pauses one handler's intake.

use std::sync::Arc;

use mq_core::{GroupName, Subscriber, TopicName};
use tokio::sync::watch;
use tokio::time::Instant;

/// A handler's subscription with a gate in front.
#[derive(Clone, Debug)]
pub(crate) struct Control {
    pub(crate) subscriber: Subscriber,
    gate: Arc<watch::Sender<Option<Instant>>>,
}

impl Control {
    pub(crate) fn new(subscriber: Subscriber) -> Self {
        Self { subscriber, gate: Arc::default() }
    }

    pub(crate) fn topic(&self) -> &TopicName {
        &self.subscriber.topics()[0]
    }

    pub(crate) fn group(&self) -> &GroupName {
        self.subscriber.group()
    }

    /// The later of two pauses counts.
    pub(crate) fn pause_until(&self, until: Instant) {
        let later = |gate: &mut Option<Instant>| {
            let later = *gate < Some(until);
            if later {
                *gate = Some(until);
            }
            later
        };
        if self.gate.send_if_modified(later) {
            self.subscriber.pause();
        }
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.gate.borrow().is_some()
    }

    /// Waits until nothing is paused; the first to see the end of a pause ends it.
    pub(crate) async fn open(&self) {
        if !self.is_paused() {
            return;
        }
        let mut gate = self.gate.subscribe();
        loop {
            let Some(until) = *gate.borrow_and_update() else { return };
            if until > Instant::now() {
                // Whether the time is over or the pause longer: look again.
                let _ = tokio::time::timeout_at(until, gate.changed()).await;
                continue;
            }
            let over = |gate: &mut Option<Instant>| {
                let over = *gate == Some(until);
                if over {
                    *gate = None;
                }
                over
            };
            if self.gate.send_if_modified(over) {
                self.subscriber.resume();
            }
        }
    }

    /// Returns once a pause is asked for.
    pub(crate) async fn paused(&self) {
        let mut gate = self.gate.subscribe();
        // The sender is ours.
        let _ = gate.wait_for(Option::is_some).await;
    }
}

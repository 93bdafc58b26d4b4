//! What all handlers of a worker share.

use std::collections::HashMap;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytestring::ByteString;
use mq_core::{Client, GroupName, Publisher, Result, SendRetry};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::extensions::Extensions;
use crate::failure::{Failure, Verdict};
use crate::health::Stage;
use crate::outcome::Publish;
use crate::report::Report;

/// How long a broker that is gone is waited for, if nothing ends the handler before.
const GONE: Duration = Duration::from_secs(3600);

/// Changes what becomes of failures of some kind.
pub(crate) type Rule = Box<dyn Fn(&Failure) -> Option<Verdict> + Send + Sync>;

pub(crate) struct Shared {
    pub(crate) client: Client,
    pub(crate) group: GroupName,
    pub(crate) state: Extensions,
    pub(crate) rules: Vec<Rule>,
    /// Looked at before each message, without the lock of `stage`.
    stopping: AtomicBool,
    stage: watch::Sender<Stage>,
    pub(crate) counts: Counts,
    stopped: OnceLock<ByteString>,
    publishers: Mutex<HashMap<String, Publisher>>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("group", &self.group).finish_non_exhaustive()
    }
}

impl Shared {
    pub(crate) fn new(
        client: Client,
        group: GroupName,
        state: Extensions,
        rules: Vec<Rule>,
        stage: watch::Sender<Stage>,
    ) -> Self {
        Self {
            client,
            group,
            state,
            rules,
            stopping: AtomicBool::new(false),
            stage,
            counts: Counts::default(),
            stopped: OnceLock::new(),
            publishers: Mutex::default(),
        }
    }

    /// Moves on; there is no way back.
    pub(crate) fn enter(&self, stage: Stage) {
        self.stage.send_if_modified(|now| {
            let later = *now < stage;
            *now = stage.max(*now);
            self.stopping.store(*now >= Stage::Draining, Ordering::Relaxed);
            later
        });
    }

    /// Returns once `stage` is reached.
    pub(crate) async fn reached(&self, stage: Stage) {
        // The sender is ours.
        let _ = self.stage.subscribe().wait_for(|now| *now >= stage).await;
    }

    pub(crate) async fn stopping(&self) {
        self.reached(Stage::Draining).await;
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// The first reason counts.
    pub(crate) fn stop(&self, reason: ByteString) {
        tracing::error!(target: "mq", group = %self.group, %reason, "the worker is stopped");
        let _ = self.stopped.set(reason);
        self.enter(Stage::Draining);
    }

    pub(crate) fn stopped(&self) -> Option<&ByteString> {
        self.stopped.get()
    }

    /// Applies the rules to a failure that leaves it to them.
    pub(crate) fn judge(&self, failure: Failure) -> Failure {
        if failure.verdict() != Verdict::Policy {
            return failure;
        }
        match self.rules.iter().find_map(|rule| rule(&failure)) {
            Some(verdict) => failure.with_verdict(verdict),
            None => failure,
        }
    }

    /// Publishes all, side by side. A broker that is gone is waited for: that is no fault of the message.
    pub(crate) async fn publish(&self, messages: Vec<Publish>) -> Result<(), Failure> {
        let mut sends = Vec::with_capacity(messages.len());
        for Publish { topic, message } in messages {
            let publisher = self.publisher(topic).await?;
            sends.push(async move { publisher.send(message).await });
        }
        futures_util::future::try_join_all(sends).await?;
        Ok(())
    }

    async fn publisher(&self, topic: String) -> Result<Publisher> {
        if let Some(known) = self.publishers.lock().get(&topic) {
            return Ok(known.clone());
        }
        let publisher = self.client.publisher(topic.as_str()).retry(SendRetry::any(GONE)).await?;
        self.publishers.lock().insert(topic, publisher.clone());
        Ok(publisher)
    }
}

/// How a message was settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Settlement {
    Handled,
    Skipped,
    Retried,
    Dead,
    Deferred,
    Stale,
}

#[derive(Debug, Default)]
pub(crate) struct Counts([AtomicU64; 6]);

impl Counts {
    pub(crate) fn add(&self, settlement: Settlement, many: usize) {
        self.0[settlement as usize].fetch_add(many as u64, Ordering::Relaxed);
    }

    pub(crate) fn report(&self, given_back: usize) -> Report {
        let [handled, skipped, retried, dead, deferred, stale] =
            std::array::from_fn(|index| self.0[index].load(Ordering::Relaxed));
        Report { handled, skipped, retried, dead, deferred, stale, given_back: given_back as u64 }
    }
}

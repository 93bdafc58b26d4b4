//! Topics that are deleted under a member: noticed, and made again as the policy allows.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use mq_core::TopicName;

use super::Shared;
use crate::declared;

/// How often a member asks whether its topics are there.
const LOOK: Duration = Duration::from_secs(5);
/// A broker that has just started may not know its topics yet: so long must one be missing.
const SURE: Duration = Duration::from_secs(1);

/// So long may the broker take to answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// What is known of the topics of a member.
#[derive(Debug)]
pub(super) struct Watch {
    next: Instant,
    missing: Option<Instant>,
}

impl Default for Watch {
    fn default() -> Self {
        Self { next: Instant::now() + LOOK, missing: None }
    }
}

impl Watch {
    /// Asks the broker when it is time to, or when there is a doubt.
    pub(super) fn sees_a_topic_gone(&mut self, shared: &Shared) -> bool {
        if shared.gone.swap(false, Ordering::AcqRel) {
            return true;
        }
        let now = Instant::now();
        if now < self.next && (self.missing.is_some() || !shared.doubtful.swap(false, Ordering::AcqRel)) {
            return false;
        }
        if shared.link.is_down() || !shared.misses_a_topic() {
            (self.next, self.missing) = (Instant::now() + LOOK, None);
            return false;
        }
        let since = *self.missing.get_or_insert(now);
        self.next = now + SURE;
        now.duration_since(since) >= SURE
    }
}

impl Shared {
    /// Whether the broker says that a topic of this member is not there.
    fn misses_a_topic(&self) -> bool {
        for source in &self.sources {
            match self.inner.partitions_within(&source.topic, PATIENCE) {
                Ok(Some(_)) => {}
                Ok(None) => return true,
                // A broker that does not answer must not hold up the thread that asks.
                Err(_) => return false,
            }
        }
        false
    }

    /// Makes the topics again, or waits until they are there, or the member is closed.
    pub(super) fn make_again(&self) {
        self.renewed.store(true, Ordering::Release);
        let mut pause = Duration::from_millis(20);
        while !self.is_closed() {
            match self.runtime.block_on(self.restore()) {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => self.inner.context.events.failed("rebuild", &error.in_group(&self.name)),
            }
            std::thread::sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0));
            pause = (pause * 2).min(Duration::from_secs(1));
        }
    }

    async fn restore(&self) -> mq_core::Result<bool> {
        let mut all = true;
        for source in self.sources.iter().filter(|source| !source.inbox) {
            all &= declared::restore(&self.inner, &TopicName::new(&*source.topic)?, &self.name).await?;
        }
        Ok(all)
    }
}

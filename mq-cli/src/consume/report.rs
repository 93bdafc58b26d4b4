//! What a consumer shows.

use mq::{Delivery, MessageId, Result, TopicName};

use super::Job;
use crate::end::text;
use crate::line::Received;
use crate::output::{Notes, Output, readable};

/// Shows messages and counts what became of them.
#[derive(Debug)]
pub(crate) struct Report<'a> {
    output: &'a Output,
    topic: TopicName,
    received: u64,
    settled: Vec<(&'static str, u64)>,
    failures: Notes,
}

impl<'a> Report<'a> {
    pub(crate) fn new(job: &Job<'a>) -> Self {
        let topic = job.subscriber.topics()[0].clone();
        let output = &job.session.output;
        Self { output, topic, received: 0, settled: Vec::new(), failures: Notes::default() }
    }

    pub(crate) fn received(&self) -> u64 {
        self.received
    }

    pub(crate) fn count_received(&mut self, many: usize) {
        self.received += many as u64;
    }

    /// Shows messages before they are settled, so that none is settled that was not seen.
    pub(crate) fn show(&self, deliveries: &[Delivery], settled: &str) -> anyhow::Result<()> {
        for delivery in deliveries {
            let received = Received::from(delivery);
            if self.output.json {
                self.output.json(&received.line(self.topic.as_str(), settled))?;
            } else {
                self.output.text(&words(&received))?;
            }
        }
        self.output.flush()
    }

    /// Shows a message that a command handled; for people on stderr, since stdout is the command's.
    pub(crate) fn handled(&self, received: &Received, settled: &str) -> anyhow::Result<()> {
        if self.output.json {
            self.output.json(&received.line(self.topic.as_str(), settled))?;
            return self.output.flush();
        }
        eprintln!("{}: attempt {}: {settled}", received.message.id, received.attempt);
        Ok(())
    }

    /// Counts settlements that held, and says which did not; returns whether this one did.
    pub(crate) fn settled(&mut self, id: &MessageId, settled: &'static str, verdict: Result<()>) -> bool {
        if let Err(error) = verdict {
            let note = format!("message {id}: {settled}: {}", text(&error));
            if let Some(words) = self.failures.add(&note) {
                eprintln!("{words}");
            }
            return false;
        }
        match self.settled.iter_mut().find(|(known, _)| *known == settled) {
            Some((_, count)) => *count += 1,
            None => self.settled.push((settled, 1)),
        }
        true
    }

    /// Returns whether a settlement failed.
    pub(crate) fn failed(&self) -> bool {
        self.failures.count() > 0
    }

    pub(crate) fn summary(&self) {
        let mut words = format!("{} received", self.received);
        for (settled, count) in &self.settled {
            words.push_str(&format!(", {count} {settled}"));
        }
        if self.failed() {
            words.push_str(&format!(", {} not settled", self.failures.count()));
        }
        eprintln!("{words}");
    }
}

fn words(received: &Received) -> String {
    let message = &received.message;
    let mut words = message.id.to_string();
    if let Some(position) = received.position {
        words.push_str(&format!(" at {position}"));
    }
    if let Some(key) = &message.key {
        words.push_str(&format!(" key={}", readable(key)));
    }
    if let Some(subject) = &message.subject {
        words.push_str(&format!(" subject={}", readable(subject.as_bytes())));
    }
    if received.attempt > 1 {
        words.push_str(&format!(" attempt={}", received.attempt));
    }
    format!("{words}: {}", readable(&message.payload))
}

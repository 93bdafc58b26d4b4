//! Settlements on their way, and their answers.

use std::collections::VecDeque;

use futures_util::FutureExt as _;
use mq_core::{Delivery, Error, ErrorKind, Settled, SettledAll, ack_all};

use crate::shared::{Counts, Settlement};

/// What a place settled: acks to be sent together, and answers to be awaited in order, beside other work.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    acks: Vec<Delivery>,
    /// What the acks count as.
    kind: Option<Settlement>,
    waiting: VecDeque<Waiting>,
    /// How many messages the waiting ones are.
    missing: usize,
}

#[derive(Debug)]
enum Waiting {
    One(Settled, Settlement),
    Many(SettledAll, usize, Settlement),
}

impl Answers {
    /// Acks a message with the next ones; not sent before [`send_acks`](Self::send_acks).
    pub(crate) fn ack(&mut self, delivery: Delivery, kind: Settlement) {
        if self.kind != Some(kind) {
            self.send_acks();
            self.kind = Some(kind);
        }
        self.acks.push(delivery);
    }

    /// Sends the acks.
    pub(crate) fn send_acks(&mut self) {
        let many = self.acks.len();
        if let Some(kind) = self.kind.filter(|_| many > 0) {
            let next = Vec::with_capacity(many);
            let acks = std::mem::replace(&mut self.acks, next);
            self.missing += many;
            self.waiting.push_back(Waiting::Many(ack_all(acks), many, kind));
        }
    }

    /// Takes note of a settlement that was sent.
    pub(crate) fn add(&mut self, answer: Settled, settlement: Settlement) {
        self.missing += 1;
        self.waiting.push_back(Waiting::One(answer, settlement));
    }

    /// Whether no answer is missing.
    pub(crate) fn are_there(&self) -> bool {
        self.waiting.is_empty()
    }

    /// How many messages' answers are missing.
    pub(crate) fn missing(&self) -> usize {
        self.missing
    }

    /// Takes the answers that are there.
    pub(crate) fn take(&mut self, counts: &Counts) {
        while self.first(counts).now_or_never().is_some() && !self.are_there() {}
    }

    /// Waits for the first answer.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub(crate) async fn first(&mut self, counts: &Counts) {
        let many = match self.waiting.front_mut() {
            None => return,
            Some(Waiting::One(answer, settlement)) => {
                match answer.await {
                    Ok(()) => counts.add(*settlement, 1),
                    Err(error) => count_failure(counts, &error),
                }
                1
            }
            Some(Waiting::Many(answers, many, settlement)) => {
                let failures = answers.await.err().unwrap_or_default();
                counts.add(*settlement, *many - failures.len());
                failures.iter().for_each(|(_, error)| count_failure(counts, error));
                *many
            }
        };
        self.missing -= many;
        self.waiting.pop_front();
    }
}

fn count_failure(counts: &Counts, error: &Error) {
    match error.kind() {
        ErrorKind::StaleDelivery => counts.add(Settlement::Stale, 1),
        // The broker refused the copy: core made a dead letter of it.
        ErrorKind::Rejected | ErrorKind::InvalidInput => counts.add(Settlement::Dead, 1),
        // Closed before it was answered: among those given back.
        _ => {}
    }
}

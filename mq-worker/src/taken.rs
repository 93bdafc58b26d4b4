//! What a place received and has not handled.

use std::time::{Duration, Instant};

use mq_core::Delivery;

/// The most messages that a place takes at once.
const MOST: usize = 32;
/// What is handled within this time, all of it, is quick: another place could hardly have begun.
const QUICK: Duration = Duration::from_micros(100);

/// How many messages a place takes at once: one, and more while the handler is so quick that taking them
/// and settling them one by one would cost as much as it does.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace(usize);

impl Default for Pace {
    fn default() -> Self {
        Self(1)
    }
}

impl Pace {
    pub(crate) fn many(self) -> usize {
        self.0
    }

    /// Takes note of how it went with what was taken at this pace.
    pub(crate) fn note(&mut self, taken: &Taken) {
        let quick = !taken.put_back && !taken.is_late();
        self.0 = if quick { (self.0 * 2).min(MOST) } else { 1 };
    }
}

/// Messages that were received together; dropped, those not handled are put back.
#[derive(Debug)]
pub(crate) struct Taken {
    next: Option<Delivery>,
    /// Those behind it, the last one first.
    rest: Vec<Delivery>,
    many: bool,
    since: Instant,
    put_back: bool,
}

impl Taken {
    pub(crate) fn one(delivery: Delivery) -> Self {
        Self { next: Some(delivery), rest: Vec::new(), many: false, since: Instant::now(), put_back: false }
    }

    /// Returns `None` if there are none.
    pub(crate) fn new(mut rest: Vec<Delivery>) -> Option<Self> {
        rest.reverse();
        let mut taken = Self::one(rest.pop()?);
        taken.many = !rest.is_empty();
        taken.rest = rest;
        Some(taken)
    }

    pub(crate) fn next(&mut self) -> Option<Delivery> {
        self.next.take().or_else(|| self.rest.pop())
    }

    /// Whether there was more than one.
    pub(crate) fn are_many(&self) -> bool {
        self.many
    }

    /// Whether handling them takes so long that others should have them.
    pub(crate) fn is_late(&self) -> bool {
        self.since.elapsed() > QUICK
    }

    /// Leaves what is not handled to whoever receives next: this place has no time for it.
    pub(crate) fn put_back(&mut self) {
        self.put_back = true;
        self.rest.drain(..).chain(self.next.take()).for_each(Delivery::put_back);
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.put_back();
    }
}

//! What a run did.

use std::fmt;

use bytestring::ByteString;

/// What a worker did, as the broker confirmed it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// Messages handled and acked.
    pub handled: u64,
    /// Messages acked though no handler ran: filtered out, or done before.
    pub skipped: u64,
    /// Failed attempts that are followed by another.
    pub retried: u64,
    /// Messages that became dead letters.
    pub dead: u64,
    /// Messages given back uncounted by a handler or a layer.
    pub deferred: u64,
    /// Results refused because they came after the lease was lost; the message was, or will be, delivered again.
    pub stale: u64,
    /// Messages still under way when draining ran out of time, given back.
    pub given_back: u64,
}

/// A layer stopped the worker. It is the source of the error that the run returned:
/// `error.source()` and `downcast_ref`.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Stopped {
    /// Why.
    pub reason: ByteString,
    /// What was done until then.
    pub report: Report,
}

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} were handled before, {} are dead letters", self.report.handled, self.report.dead)
    }
}

impl std::error::Error for Stopped {}

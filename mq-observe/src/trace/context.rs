//! A place in a trace, as the header `traceparent` says it.

use std::fmt;
use std::str::FromStr;

use mq_core::Message;

/// The header with the place in the trace: W3C Trace Context, level 1.
pub const TRACEPARENT: &str = "traceparent";
/// The header with what tracing systems add to it; passed on as it is.
pub const TRACESTATE: &str = "tracestate";

/// Set if the trace is recorded.
const SAMPLED: u8 = 1;

tokio::task_local! {
    static CURRENT: TraceContext;
}

/// A place in a trace. Handlers take it as `Extension<TraceContext>` where the [`Trace`](crate::Trace) layer runs.
///
/// ```
/// use mq_observe::TraceContext;
/// let header = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
/// let context: TraceContext = header.parse().unwrap();
/// assert_eq!(context.span_id, 0x00f0_67aa_0ba9_02b7);
/// assert_eq!(context.to_string(), header);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TraceContext {
    /// The trace; never 0.
    pub trace_id: u128,
    /// The span; never 0.
    pub span_id: u64,
    /// Flags; the lowest bit says that the trace is recorded.
    pub flags: u8,
}

/// Says that a header is no `traceparent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidTraceparent;

impl fmt::Display for InvalidTraceparent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "not a traceparent: version, trace id, span id and flags in lower-case hex, joined by '-'",
        )
    }
}

impl std::error::Error for InvalidTraceparent {}

impl TraceContext {
    /// Begins a trace, recorded, with random ids.
    #[must_use]
    pub fn root() -> Self {
        Self { trace_id: fastrand::u128(1..), span_id: fastrand::u64(1..), flags: SAMPLED }
    }

    /// Returns a place below this one, with a random id.
    #[must_use]
    pub fn child(self) -> Self {
        Self { span_id: fastrand::u64(1..), ..self }
    }

    /// Makes a place of given ids; `None` if one is 0.
    #[must_use]
    pub fn new(trace_id: u128, span_id: u64, flags: u8) -> Option<Self> {
        (trace_id != 0 && span_id != 0).then_some(Self { trace_id, span_id, flags })
    }

    /// Returns the place that a message carries; `None` without a valid one.
    #[must_use]
    pub fn of(message: &Message) -> Option<Self> {
        message.headers.get_str(TRACEPARENT)?.parse().ok()
    }

    /// Returns the place of the attempt that this task works on, where the [`Trace`](crate::Trace) layer runs.
    #[must_use]
    pub fn current() -> Option<Self> {
        CURRENT.try_with(|current| *current).ok()
    }

    /// Puts this place into a message's headers, in the place of any other.
    #[must_use]
    pub fn inject(self, mut message: Message) -> Message {
        if !message.headers.is_empty() {
            message.headers.remove(TRACEPARENT);
        }
        message.header(TRACEPARENT, self.to_string())
    }

    /// Runs a future in which this is the [`current`](Self::current) place.
    pub(crate) fn scope<F: Future>(self, future: F) -> impl Future<Output = F::Output> {
        CURRENT.scope(self, future)
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace_id, self.span_id, self.flags)
    }
}

impl FromStr for TraceContext {
    type Err = InvalidTraceparent;

    /// Reads version 00, and of later versions the parts that 00 has.
    fn from_str(header: &str) -> Result<Self, InvalidTraceparent> {
        let mut parts = header.split('-');
        let read = (|| {
            let version = u8::from_str_radix(hex(parts.next()?, 2)?, 16).ok()?;
            let trace_id = u128::from_str_radix(hex(parts.next()?, 32)?, 16).ok()?;
            let span_id = u64::from_str_radix(hex(parts.next()?, 16)?, 16).ok()?;
            let flags = u8::from_str_radix(hex(parts.next()?, 2)?, 16).ok()?;
            let known = version == 0 && parts.next().is_none() || (1..0xff).contains(&version);
            known.then(|| Self::new(trace_id, span_id, flags))?
        })();
        read.ok_or(InvalidTraceparent)
    }
}

/// Returns what is so many lower-case hex digits.
fn hex(part: &str, digits: usize) -> Option<&str> {
    let fits = part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    (part.len() == digits && fits).then_some(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_traceparent_is_ignored() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        for bad in [
            "",
            "00",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b-01",
        ] {
            assert_eq!(bad.parse::<TraceContext>(), Err(InvalidTraceparent), "{bad}");
        }
        let later = "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more";
        assert_eq!(later.parse::<TraceContext>(), good.parse());
    }

    #[test]
    fn a_child_stays_in_the_trace() {
        let root = TraceContext::root();
        let child = root.child();
        assert_eq!((child.trace_id, child.flags), (root.trace_id, 1));
        assert_ne!(child.span_id, root.span_id);
        let message = root.inject(Message::new("x").header(TRACEPARENT, "old").header("a", "b"));
        assert_eq!((TraceContext::of(&message), message.headers.len()), (Some(root), 2));
    }
}

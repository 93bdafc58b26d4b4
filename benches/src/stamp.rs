//! The moment of a send, in the payload: sender and handler are one process.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use bytes::Bytes;

static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);
const LENGTH: usize = 8;

/// Returns a payload of the same length that begins with the present moment.
pub(crate) fn write(payload: &[u8]) -> Bytes {
    let nanos = u64::try_from(EPOCH.elapsed().as_nanos()).unwrap_or(u64::MAX);
    let mut stamped = Vec::with_capacity(payload.len());
    stamped.extend_from_slice(&nanos.to_be_bytes());
    stamped.extend_from_slice(payload.get(LENGTH..).unwrap_or_default());
    stamped.into()
}

/// Returns how long ago the payload was written.
pub(crate) fn age(payload: &[u8]) -> Duration {
    let sent = payload.first_chunk::<LENGTH>().map_or(0, |bytes| u64::from_be_bytes(*bytes));
    EPOCH.elapsed().saturating_sub(Duration::from_nanos(sent))
}

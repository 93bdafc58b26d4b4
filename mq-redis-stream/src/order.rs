//! Keeps messages with equal due times in the order of their sending.

use mq_core::Timestamp;

/// Makes ever larger prefixes, unlike those of any other process.
#[derive(Debug)]
pub(crate) struct Order {
    last: u64,
    process: u64,
}

impl Default for Order {
    fn default() -> Self {
        Self { last: 0, process: fastrand::u64(..) }
    }
}

impl Order {
    /// Returns the next prefix: microseconds, made unique, and the process.
    pub(crate) fn next(&mut self, now: Timestamp) -> [u8; 16] {
        self.last = (self.last + 1).max(now.as_millis().saturating_mul(1000));
        let mut prefix = [0; 16];
        prefix[..8].copy_from_slice(&self.last.to_be_bytes());
        prefix[8..].copy_from_slice(&self.process.to_be_bytes());
        prefix
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn prefixes_grow(times in proptest::collection::vec(0u64..5, 2..50)) {
            let mut order = Order::default();
            let prefixes: Vec<_> = times.iter().map(|at| order.next(Timestamp::from_millis(*at))).collect();
            prop_assert!(prefixes.windows(2).all(|pair| pair[0] < pair[1]));
        }
    }
}

//! How many entries to ask for, so that a budget of bytes holds: no I/O.

use mq_core::driver::Budget;

/// The most entries of one read.
pub(crate) const MOST: usize = 500;
/// Until sizes are known, this many messages may fill the whole budget of bytes.
const FIRST: usize = 16;

/// Learns the size of messages.
#[derive(Debug, Default)]
pub(crate) struct Gauge {
    mean: Option<usize>,
}

impl Gauge {
    /// Returns how many messages to ask for.
    pub(crate) fn count(&self, budget: Budget) -> usize {
        let by_bytes = match self.mean {
            Some(mean) => budget.bytes / mean.max(1),
            None => FIRST,
        };
        budget.messages.min(by_bytes).clamp(1, MOST)
    }

    /// Returns about how many bytes so many messages take.
    pub(crate) fn bytes(&self, messages: usize) -> usize {
        self.mean.unwrap_or(0).saturating_mul(messages)
    }

    /// Takes in what a read brought. Grows at once, shrinks slowly.
    pub(crate) fn learn(&mut self, messages: usize, bytes: usize) {
        if messages == 0 {
            return;
        }
        let mean = bytes.div_ceil(messages);
        self.mean = Some(match self.mean {
            Some(old) if old > mean => old - (old - mean).div_ceil(4),
            _ => mean,
        });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Once sizes are known, a read of such messages fits, or is a single message.
        #[test]
        fn reads_fit(size in 1usize..1_000_000, messages in 1usize..2000, bytes in 1usize..10_000_000) {
            let mut gauge = Gauge::default();
            gauge.learn(7, 7 * size);
            let count = gauge.count(Budget { messages, bytes });
            prop_assert!(count == 1 || count * size <= bytes);
            prop_assert!(count <= messages && count <= MOST);
        }
    }

    #[test]
    fn small_messages_soon_come_in_full_reads() {
        let mut gauge = Gauge::default();
        let budget = Budget { messages: 10_000, bytes: 1 << 20 };
        assert_eq!(gauge.count(budget), 16);
        gauge.learn(16, 16 * 100_000);
        for _ in 0..40 {
            gauge.learn(10, 1000);
        }
        assert_eq!(gauge.count(budget), MOST);
    }
}

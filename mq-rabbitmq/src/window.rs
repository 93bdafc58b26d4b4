//! How many messages the broker sends ahead.

use mq_core::driver::Budget;

/// How many messages the broker sends ahead on a queue of an ordered group. The same for all
/// members: it appends what is returned to what was returned before, so a member that could not take
/// all of it at once would, when it leaves, put the first behind the rest.
pub(crate) const ORDERED_WINDOW: u16 = 64;
/// The size of a message, where a window in bytes is told to a broker that counts messages.
const ASSUMED: usize = 16 << 10;

/// Returns how many messages the broker may send ahead on each of several queues: a share of the
/// whole, but never so few that one busy queue could not fill a small prefetch. The broker counts
/// messages alone, so bytes are taken for messages of an [`ASSUMED`] size.
pub(crate) fn window(prefetch: Budget, queues: usize) -> u16 {
    const SMALL: usize = 64;
    let most = prefetch.messages.min((prefetch.bytes / ASSUMED).max(SMALL));
    let share = most.div_ceil(queues.max(1)).max(SMALL).min(most).max(1);
    u16::try_from(share).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_share_the_prefetch() {
        for (prefetch, queues, each) in [
            (1000, 1, 1000),
            (1000, 8, 125),
            (100, 8, 64),
            (30, 8, 30),
            (1, 8, 1),
            (0, 1, 1),
            (100_000, 1, 65_535),
        ] {
            let prefetch = Budget { messages: prefetch, bytes: usize::MAX };
            assert_eq!(window(prefetch, queues), each);
        }
    }

    #[test]
    fn windows_keep_to_the_bytes() {
        for (bytes, queues, each) in [(64 << 20, 1, 1000), (8 << 20, 1, 512), (8 << 20, 2, 256), (1, 4, 64)] {
            assert_eq!(window(Budget { messages: 1000, bytes }, queues), each);
        }
    }
}

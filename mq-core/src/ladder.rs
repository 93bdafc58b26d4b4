//! The arithmetic of delays on brokers that can only hold a message for a constant time.
//!
//! A ladder is a row of places, the *rungs*, each of which holds what it is given for one constant
//! delay; so its head is always the next one due, and a long delay never blocks a short one. A
//! message waits on the longest rung that is not longer than its remaining delay, then moves to
//! the next; what is left below the shortest rung is held by the consumer that receives it.
//!
//! ```
//! use std::time::Duration;
//! use mq_core::ladder::{RUNGS, Step, step};
//! assert_eq!(step(Duration::from_millis(700)), Step::Deliver);
//! assert_eq!(step(Duration::from_secs(70)), Step::Wait(3));
//! assert_eq!(RUNGS[3], Duration::from_secs(64));
//! ```

use std::time::Duration;

/// How many rungs there are.
pub const COUNT: usize = 13;

/// The constant delay of each rung: 1 s, then four times the one before, up to 194 days.
pub const RUNGS: [Duration; COUNT] = {
    let mut rungs = [Duration::ZERO; COUNT];
    let mut rung = 0;
    while rung < COUNT {
        rungs[rung] = Duration::from_secs(1 << (2 * rung));
        rung += 1;
    }
    rungs
};

/// What to do with a message that is not due yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Hand it to its target, whose consumer holds the rest: less than the shortest rung.
    Deliver,
    /// Put it on this rung.
    Wait(usize),
}

/// Returns the next step of a message whose delay has `remaining` left.
#[must_use]
pub fn step(remaining: Duration) -> Step {
    match RUNGS.iter().rposition(|rung| *rung <= remaining) {
        Some(rung) => Step::Wait(rung),
        None => Step::Deliver,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Never early, and few hops: at most three on each rung below the longest.
        #[test]
        fn a_message_climbs_down_without_overshooting(millis in 0u64..40 * 365 * 86_400_000) {
            let mut remaining = Duration::from_millis(millis);
            let mut hops = [0u64; COUNT];
            while let Step::Wait(rung) = step(remaining) {
                prop_assert!(RUNGS[rung] <= remaining);
                remaining -= RUNGS[rung];
                hops[rung] += 1;
            }
            prop_assert!(remaining < RUNGS[0]);
            prop_assert!(hops[..COUNT - 1].iter().all(|hops| *hops <= 3));
        }
    }
}

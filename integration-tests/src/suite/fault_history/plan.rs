//! What a seed decides of a history.

use std::time::Duration;

use mq::{GroupSettings, TopicSpec};

/// How long clients may take to be at work again after a fault.
const RECONNECTING: Duration = Duration::from_secs(3);

/// A fault, or an event that is none but that faults meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// All connections are reset.
    Cut,
    /// All connections are reset and new ones refused for a while.
    Unreachable(Duration),
    /// Connections stay open and carry nothing for a while.
    Stall(Duration),
    /// Everything is late for a while, by a fifth of it.
    Slow(Duration),
    /// The broker is frozen for a while.
    Pause(Duration),
    /// The broker is stopped in order and started.
    Restart,
    /// The broker is killed and started.
    Kill,
    /// A member joins in a process of its own that is killed when so many messages came to it.
    KillMember(usize),
    /// A member leaves and another comes, in order.
    Turnover,
}

impl Fault {
    fn draw(rng: &mut fastrand::Rng) -> Self {
        let mut ms = |range: std::ops::Range<u64>| Duration::from_millis(rng.u64(range));
        let (short, long) = (ms(100..1_500), ms(200..2_000));
        match rng.u8(0..100) {
            0..22 => Self::Cut,
            22..32 => Self::Unreachable(short),
            32..48 => Self::Stall(long),
            48..53 => Self::Slow(long),
            53..63 => Self::Pause(long),
            63..69 => Self::Restart,
            69..75 => Self::Kill,
            75..90 => Self::KillMember(rng.usize(1..60)),
            _ => Self::Turnover,
        }
    }

    /// Whether it may cause what must not happen without a fault.
    pub(super) fn hurts(self) -> bool {
        self != Self::Turnover
    }

    /// Whether the broker's process ends.
    pub(super) fn stops_broker(self) -> bool {
        matches!(self, Self::Restart | Self::Kill)
    }

    /// For how long after its end it may still show, where a dead member's messages are back within `session`.
    pub(super) fn grace(self, session: Duration) -> Duration {
        match self {
            Self::Restart | Self::Kill | Self::KillMember(_) => session + RECONNECTING,
            // Shorter than any session: members reconnect and keep theirs, or lose it with the connection.
            _ => session.min(Duration::from_secs(2)) + RECONNECTING,
        }
    }
}

/// A history: who takes part, and what happens to them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) seed: u64,
    pub(super) ordered: bool,
    partitions: u32,
    pub(super) keys: usize,
    pub(super) members: usize,
    /// Sends give up after 4 s, so that outcomes are unknown.
    pub(super) impatient: bool,
    /// What happens, each after a quiet while.
    pub(super) faults: Vec<(Duration, Fault)>,
    /// The quiet while after the last.
    pub(super) tail: Duration,
}

impl Plan {
    pub(super) fn draw(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let faults = match rng.u8(0..8) {
            0 => 0,
            _ => rng.usize(1..4),
        };
        let quiet = |rng: &mut fastrand::Rng| Duration::from_millis(rng.u64(700..2_000));
        Self {
            seed,
            ordered: rng.bool(),
            partitions: rng.u32(1..5),
            keys: rng.usize(4..24),
            members: rng.usize(1..4),
            impatient: rng.bool(),
            faults: (0..faults).map(|_| (quiet(&mut rng), Fault::draw(&mut rng))).collect(),
            tail: quiet(&mut rng) + Duration::from_secs(1),
        }
    }

    pub(super) fn settings(&self) -> GroupSettings {
        // Neither leases nor attempts run out: what a history counts is its own doing or a fault's.
        let mut settings = GroupSettings::default().lease(Duration::from_secs(120)).max_attempts(100);
        settings.ordered = self.ordered;
        settings
    }

    pub(super) fn spec(&self) -> TopicSpec {
        TopicSpec::default().partitions(self.partitions)
    }
}

/// What a member does with a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    Ack,
    Retry(u64),
    Defer(u64),
    Drop,
    Dead,
}

/// Decides what becomes of a message when it comes for the `turn`th time, and after how long.
pub(super) fn act(seed: u64, number: usize, turn: usize) -> (Duration, Act) {
    let mut rng = fastrand::Rng::with_seed(seed ^ ((number as u64) << 16) ^ turn as u64);
    let after = Duration::from_millis(rng.u64(0..8));
    let act = match rng.u8(0..100) {
        _ if turn > 4 => Act::Ack,
        0..80 => Act::Ack,
        80..87 => Act::Retry(rng.u64(0..300)),
        87..92 => Act::Defer(rng.u64(0..200)),
        92..96 => Act::Drop,
        _ => Act::Dead,
    };
    (after, act)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_a_plan_and_all_faults_are_drawn() {
        let plans: Vec<Plan> = (0..400).map(Plan::draw).collect();
        assert_eq!(plans, (0..400).map(Plan::draw).collect::<Vec<_>>());
        let kind = |fault: Fault| std::mem::discriminant(&fault);
        let drawn: std::collections::HashSet<_> =
            plans.iter().flat_map(|plan| &plan.faults).map(|(_, fault)| kind(*fault)).collect();
        assert_eq!(drawn.len(), 9);
        assert!(plans.iter().any(|plan| plan.faults.is_empty()));
    }
}

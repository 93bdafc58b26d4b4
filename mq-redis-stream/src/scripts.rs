//! The scripts: each one atomic step on the server, with a bounded amount of work.

use std::sync::LazyLock;

use redis::{Cmd, ToRedisArgs};

const PRELUDE: &str = include_str!("lua/prelude.lua");

/// A script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Script {
    EnsureTopic,
    EnsureGroup,
    Join,
    Tick,
    Claim,
    Scan,
    Bury,
    Strays,
    Ack,
    Relocate,
    Start,
    Hold,
    Leave,
    Assign,
    Release,
    Delay,
    Trim,
    Move,
    DeleteGroup,
    DeleteTopic,
    Leftovers,
    Stats,
    Publish,
    Atomic,
    Cancel,
    Trimmed,
}

const SOURCES: [(Script, &str); 26] = [
    (Script::EnsureTopic, include_str!("lua/ensure_topic.lua")),
    (Script::EnsureGroup, include_str!("lua/ensure_group.lua")),
    (Script::Join, include_str!("lua/join.lua")),
    (Script::Tick, include_str!("lua/tick.lua")),
    (Script::Claim, include_str!("lua/claim.lua")),
    (Script::Scan, include_str!("lua/scan.lua")),
    (Script::Bury, include_str!("lua/bury.lua")),
    (Script::Strays, include_str!("lua/strays.lua")),
    (Script::Ack, include_str!("lua/ack.lua")),
    (Script::Relocate, include_str!("lua/relocate.lua")),
    (Script::Start, include_str!("lua/start.lua")),
    (Script::Hold, include_str!("lua/hold.lua")),
    (Script::Leave, include_str!("lua/leave.lua")),
    (Script::Assign, include_str!("lua/assign.lua")),
    (Script::Release, include_str!("lua/release.lua")),
    (Script::Delay, include_str!("lua/delay.lua")),
    (Script::Trim, include_str!("lua/trim.lua")),
    (Script::Move, include_str!("lua/move.lua")),
    (Script::DeleteGroup, include_str!("lua/delete_group.lua")),
    (Script::DeleteTopic, include_str!("lua/delete_topic.lua")),
    (Script::Leftovers, include_str!("lua/leftovers.lua")),
    (Script::Stats, include_str!("lua/stats.lua")),
    (Script::Publish, include_str!("lua/publish.lua")),
    (Script::Atomic, include_str!("lua/atomic.lua")),
    (Script::Cancel, include_str!("lua/cancel.lua")),
    (Script::Trimmed, include_str!("lua/trimmed.lua")),
];

static SCRIPTS: LazyLock<Vec<redis::Script>> = LazyLock::new(|| {
    SOURCES.iter().map(|(_, source)| redis::Script::new(&format!("{PRELUDE}{source}"))).collect()
});

impl Script {
    /// Starts a call with `keys`; arguments follow. `arguments` and `size` say how much room to make.
    pub(crate) fn call_sized<K: ToRedisArgs>(self, keys: &[K], arguments: usize, size: usize) -> Cmd {
        let mut cmd = Cmd::with_capacity(3 + keys.len() + arguments, 64 + 48 * keys.len() + size);
        cmd.arg("EVALSHA").arg(SCRIPTS[self as usize].get_hash()).arg(keys.len()).arg(keys);
        cmd
    }

    /// Starts a call with `keys`; arguments follow.
    pub(crate) fn call<K: ToRedisArgs>(self, keys: &[K]) -> Cmd {
        self.call_sized(keys, 8, 128)
    }
}

/// The commands that make the server know all scripts.
pub(crate) fn load() -> redis::Pipeline {
    let mut pipeline = redis::Pipeline::with_capacity(SOURCES.len());
    for (_, source) in SOURCES {
        pipeline.cmd("SCRIPT").arg("LOAD").arg(format!("{PRELUDE}{source}"));
    }
    pipeline
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_stand_in_the_order_of_the_enum() {
        for (place, (script, source)) in SOURCES.iter().enumerate() {
            assert_eq!(*script as usize, place);
            assert!(source.contains("KEYS"), "{script:?}");
        }
    }
}

//! The conformance suite as a program; `cargo xtask conformance` runs it.

use mq_integration_tests::suite;

fn main() -> anyhow::Result<()> {
    suite::run_all_backends(suite::Options::default())
}

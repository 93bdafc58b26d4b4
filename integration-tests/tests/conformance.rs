//! Runs the conformance suite on memory and on the three brokers, in containers.

use mq_integration_tests::suite::{self, Options};

fn main() -> anyhow::Result<()> {
    // A filter for other tests selects nothing here.
    let filters: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    if !suite::is_victim() {
        let selected = suite::selected(&filters);
        if std::env::args().any(|arg| arg == "--list") {
            selected.iter().for_each(|name| println!("{name}: test"));
            return Ok(());
        }
        if selected.is_empty() {
            return Ok(());
        }
    }
    // The same histories for every change; `cargo xtask conformance` draws new ones.
    let options = Options { seed: Some(1), ..Options::default() };
    suite::run_all_backends(options)
}

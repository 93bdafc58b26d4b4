//! Rows that fail on a backend today, each with what is known of it. They are run and reported like
//! the others; `cargo xtask conformance` fails because of them, `cargo xtask test` does not.

/// Backend, row, and what is known.
pub const GAPS: &[(&str, &str, &str)] = &[
    (
        "kafka",
        "delay.many_due_at_once",
        "on a busy machine the forwarder needed 13 s for 3,000 messages; has passed since it runs alone",
    ),
    (
        "kafka",
        "delay.never_early_never_late",
        "while other clients come and go deliveries were up to 1.4 s late; has passed since it runs alone",
    ),
    (
        "rabbitmq",
        "delay.never_early_never_late",
        "beside a burst of 3,000 deliveries were up to 1.9 s late; has passed since it runs alone",
    ),
];

pub(super) fn is_known(backend: &str, case: &str) -> bool {
    GAPS.iter().any(|(known, row, _)| (*known, *row) == (backend, case))
}

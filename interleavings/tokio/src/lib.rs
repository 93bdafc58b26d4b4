//! What `mq-core` and `mq-memory` use of tokio, by shuttle, but for time: nobody who sleeps wakes up.
//!
//! With shuttle's own sleep, which ends at once, whoever looks again from time to time would do what a
//! lost wake-up left undone, and hide it.

pub use shuttle_tokio::{pin, runtime, select, spawn, sync, task};

pub mod time {
    //! Time that does not pass.

    use std::future::{Pending, pending};
    use std::time::Duration;

    pub use shuttle_tokio::time::{Instant, error, timeout, timeout_at};

    /// Sleeps for ever.
    pub fn sleep(_: Duration) -> Pending<()> {
        pending()
    }

    /// Sleeps for ever.
    pub fn sleep_until(_: Instant) -> Pending<()> {
        pending()
    }
}

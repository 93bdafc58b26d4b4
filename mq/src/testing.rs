//! Helpers to test a service: on memory in virtual time, where a retry in an hour takes no time, or, with another
//! client, on a real broker.
//!
//! ```
//! use std::time::Duration;
//! use mq::Message;
//! use mq::testing::{Bench, memory};
//! use mq::worker::{Attempt, Failure, Worker};
//!
//! async fn second_time_lucky(Attempt(attempt): Attempt) -> Result<(), Failure> {
//!     if attempt == 1 { Err(Failure::retry(Duration::from_secs(3600))) } else { Ok(()) }
//! }
//!
//! # tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap().block_on(async {
//! // In a #[tokio::test(start_paused = true)]:
//! let client = memory(); // or mq::connect("redis://…").await? for a real broker
//! let worker = Worker::new(&client, "billing").on("orders", second_time_lucky);
//! let seen = Bench::new(&client).run(worker, [("orders", Message::new("one book"))]).await.unwrap();
//! assert_eq!((seen.report.retried, seen.report.handled), (1, 1));
//! # });
//! ```

pub use mq_worker::testing::{Bench, Seen};

use mq_core::driver::Context;
use mq_core::{Client, ClientOptions, Clock};
use mq_memory::{Broker, MemoryConfig};

/// Returns a client of a broker in memory, its own and empty, on the clock of tokio: with
/// `#[tokio::test(start_paused = true)]` time passes at once when there is nothing to do.
#[must_use]
pub fn memory() -> Client {
    let context = Context { clock: Clock::tokio(), ..Context::default() };
    Client::new(Broker::new().backend(MemoryConfig::default(), context), ClientOptions::default())
}

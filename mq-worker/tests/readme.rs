//! The README's example of a test, as it stands there.

use std::time::Duration;

use mq_core::{Client, ClientOptions, Clock, Message, driver::Context};
use mq_memory::{Broker, MemoryConfig};
use mq_worker::{Attempt, Failure, Worker};

async fn second_time_lucky(Attempt(attempt): Attempt) -> Result<(), Failure> {
    if attempt == 1 { Err(Failure::retry(Duration::from_secs(30))) } else { Ok(()) }
}

#[tokio::test(start_paused = true)]
async fn a_retry_in_half_a_minute_takes_no_time() {
    let context = Context { clock: Clock::tokio(), ..Context::default() };
    let memory = Broker::new().backend(MemoryConfig::default(), context);
    let client = Client::new(memory, ClientOptions::default());
    let orders = client.publisher("orders").await.unwrap();

    let worker = Worker::new(&client, "billing").on("orders", second_time_lucky);
    let report = worker.run_until(async {
        orders.send(Message::new("one book")).await.unwrap();
        tokio::time::sleep(Duration::from_secs(60)).await;
    });
    let report = report.await.unwrap();
    assert_eq!((report.retried, report.handled, report.dead), (1, 1, 0));
}

#[test]
fn it_is_what_the_readme_shows() {
    let (readme, this) = (include_str!("../README.md"), include_str!("readme.rs"));
    let begin = readme.find("```rust,ignore\nuse std::time").unwrap();
    let (_, shown) = readme[begin..].split_once('\n').unwrap();
    let (shown, _) = shown.split_once("```").unwrap();
    assert!(this.contains(shown), "the README shows another test");
}

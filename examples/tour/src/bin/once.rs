//! Something is done once, without a worker: around any future, by a store that processes share.

use std::time::Duration;

use anyhow::Result;
use mq::worker::layers::{Idempotent, MemoryStore, Once};
use mq::worker::{Backoff, retry};
use tour::Tally;

async fn charge(charged: &Tally) -> std::io::Result<u32> {
    tokio::time::sleep(Duration::from_millis(5)).await;
    match charged.next() {
        1 => Err(std::io::Error::other("the bank hung up")),
        _ => Ok(1177),
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    // In Redis or a database instead, it holds for all processes: RedisStore, SqlStore.
    let (payments, charged) = (Idempotent::new(MemoryStore::new()), Tally::default());
    let pay = || payments.once("payment-17", charge(&charged));

    let (first, second) = tokio::join!(pay(), pay());
    assert!(first.is_err(), "it failed, and is not marked");
    assert_eq!(second?, Once::Busy, "two at once are one");

    let backoff = Backoff::constant(Duration::from_millis(10)).attempts(3);
    assert_eq!(retry(backoff, pay).await?, Once::Ran(1177));
    assert_eq!(pay().await?, Once::Done);
    assert_eq!(charged.next() - 1, 2);
    println!("one payment asked for four times: failed once, then charged once");
    Ok(())
}

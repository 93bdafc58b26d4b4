//! Concurrency that follows how it goes, and two groups in one worker.

use std::time::Duration;

use anyhow::Result;
use contract::{connect, end, topic};
use mq::Message;
use mq::worker::{Handler, State, Worker};
use tokio::sync::Semaphore;
use tour::Tally;

/// A partner that serves eight at once: whoever comes as the ninth waits.
static PARTNER: Semaphore = Semaphore::const_new(8);

async fn call(State(calls): State<Tally>) -> Result<()> {
    let _turn = PARTNER.acquire().await?;
    tokio::time::sleep(Duration::from_millis(2)).await;
    calls.add();
    Ok(())
}

async fn archive(State(calls): State<Tally>) {
    calls.add();
}

#[tokio::main]
async fn main() -> Result<()> {
    let (client, topic, calls) = (connect().await?, topic("calls")?, Tally::default());
    let publisher = client.publisher(&topic).await?;
    let worker = Worker::new(&client, "partner")
        // From 2 on it grows while all is well, and shrinks when calls fail or take twice as long.
        .on(&topic, call.concurrency(2..=64))
        // Another group sees every message, too.
        .on(&topic, archive.group("archive"))
        .state(calls.clone());
    let report = worker.run_until(async {
        for sent in publisher.send_batch((0..500).map(|_| Message::new("…")).collect()).await {
            sent?;
        }
        calls.reached(1000).await;
        anyhow::Ok(())
    });
    assert_eq!(report.await?.handled, 1000);
    println!("500 calls to a partner who takes eight at once, and the archive saw them all");
    end(&client, &topic).await
}

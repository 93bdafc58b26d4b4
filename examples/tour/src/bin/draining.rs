//! A worker that is told to stop: what is under way ends, what does not in time is given back uncounted.

use std::time::Duration;

use anyhow::Result;
use contract::{connect, end, next, topic};
use mq::Message;
use mq::worker::{Handler, State, Text, Worker};
use tour::Tally;

async fn work(Text(text): Text, State(begun): State<Tally>) {
    begun.add();
    match &*text {
        "hangs" => std::future::pending().await,
        _ => tokio::time::sleep(Duration::from_millis(200)).await,
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let (client, topic, begun) = (connect().await?, topic("jobs")?, Tally::default());
    let publisher = client.publisher(&topic).await?;
    let worker = Worker::new(&client, "jobs")
        .on(&topic, work.concurrency(4))
        .state(begun.clone())
        .drain(Duration::from_millis(800));
    let report = worker.run_until(async {
        for text in ["slow", "slow", "slow", "hangs"] {
            publisher.send(Message::new(text)).await?;
        }
        begun.reached(4).await; // here a service waits for its signal
        anyhow::Ok(())
    });
    let report = report.await?;
    assert_eq!((report.handled, report.given_back), (3, 1));
    println!("{} ended within the deadline, {} given back", report.handled, report.given_back);

    let inbox = client.subscriber(&topic, "jobs").open().await?;
    let back = next(&inbox).await?;
    assert_eq!((back.payload().as_ref(), back.attempt()), (&b"hangs"[..], 1));
    back.ack().await?;
    println!("what was given back comes again, as the first attempt");
    end(&client, &topic).await
}

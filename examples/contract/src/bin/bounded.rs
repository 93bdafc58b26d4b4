//! Point 10, bounded: windows limit what is sent and not answered, and what is held and not settled.

use std::time::Duration;

use anyhow::Result;
use contract::{end, next, topic, url};
use mq::driver::Context;
use mq::{ClientOptions, ErrorKind, Message};

// One thread: nothing is answered between two calls that do not wait.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let options = ClientOptions::default().in_flight(5, 1 << 20);
    let client = mq::connect_with(url(), options, Context::default()).await?;
    let topic = topic("bounded")?;
    let inbox = client.subscriber(&topic, "billing").prefetch(3).open().await?;
    let publisher = client.publisher(&topic).await?;

    let mut under_way = Vec::new();
    let full = loop {
        match publisher.try_enqueue(Message::new("an order")) {
            Ok(sending) => under_way.push(sending),
            Err(error) => break error,
        }
    };
    assert_eq!((under_way.len(), full.kind()), (5, ErrorKind::Full));
    println!("after {} sends: {full}", under_way.len());
    // This one waits for room, and drops nothing.
    publisher.send(Message::new("one more")).await?;
    for sending in under_way {
        sending.await?;
    }

    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(next(&inbox).await?);
    }
    let more = inbox.receive_batch(10, Duration::from_millis(300)).await?;
    assert!(more.is_empty(), "{more:?}");
    println!("{} held, and no more until one is settled", held.len());
    mq::ack_all(held).await.map_err(|failed| anyhow::anyhow!("{failed:?}"))?;
    for _ in 0..3 {
        next(&inbox).await?.ack().await?;
    }
    end(&client, &topic).await
}

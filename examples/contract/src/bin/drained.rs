//! Point 12, drained: close stops the intake, waits for what is in hand, and reports what it could not.

use std::time::Duration;

use anyhow::Result;
use contract::{connect, end, next, orders, topic};
use mq::{Delivery, ErrorKind, Message};

#[tokio::main]
async fn main() -> Result<()> {
    let (client, topic) = (connect().await?, topic("drained")?);
    let inbox = client.subscriber(&topic, "billing").open().await?;
    let publisher = client.publisher(&topic).await?;
    for order in orders(20)? {
        publisher.send(Message::json(&order)?).await?;
    }
    let mut held: Vec<Delivery> = Vec::new();
    while held.len() < 10 {
        held.push(next(&inbox).await?);
    }
    let stuck = held.split_off(8);
    let handler = tokio::spawn(async move {
        for delivery in held {
            tokio::time::sleep(Duration::from_millis(20)).await;
            delivery.ack().await?;
        }
        Ok::<(), mq::Error>(())
    });

    let report = inbox.close(Duration::from_secs(2)).await?;
    handler.await??;
    assert_eq!(report.given_back, 2);
    let closed = inbox.receive().await.expect_err("closed");
    assert_eq!(closed.kind(), ErrorKind::Closed);
    println!("8 in hand were finished; {} stuck ones were given back", report.given_back);

    let next_member = client.subscriber(&topic, "billing").open().await?;
    for _ in 0..12 {
        next(&next_member).await?.ack().await?;
    }
    drop(stuck);
    println!("the next member got those and the 10 that nobody had");
    end(&client, &topic).await
}

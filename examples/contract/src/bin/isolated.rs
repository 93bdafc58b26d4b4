//! Point 7, isolated: retries and dead letters of one group are invisible to another.

use std::time::Duration;

use anyhow::Result;
use contract::{connect, end, next, topic};
use mq::{Message, Selection};

#[tokio::main]
async fn main() -> Result<()> {
    let (client, topic) = (connect().await?, topic("isolated")?);
    let failing = client.subscriber(&topic, "billing").open().await?;
    let other = client.subscriber(&topic, "analytics").open().await?;
    client.publisher(&topic).await?.send(Message::new("an order")).await?;

    next(&failing).await?.retry(Duration::ZERO).await?;
    next(&failing).await?.dead_letter("no such card").await?;
    let redriven = client.admin().redrive(&topic, failing.group(), &Selection::All).await?;
    assert_eq!(redriven, 1);
    next(&failing).await?.ack().await?;

    next(&other).await?.ack().await?;
    let more = other.receive_batch(1, Duration::from_millis(300)).await?;
    assert!(more.is_empty(), "{more:?}");
    println!("billing had it three times: retried, dead, redriven; analytics once");
    end(&client, &topic).await
}

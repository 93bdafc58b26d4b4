//! Point 4, leased: a message is its holder's until the lease runs out; a late ack is refused.

use std::time::Duration;

use anyhow::Result;
use contract::{connect, end, next, topic};
use mq::{ErrorKind, Message};

#[tokio::main]
async fn main() -> Result<()> {
    let (client, topic) = (connect().await?, topic("leased")?);
    let lease = Duration::from_millis(500);
    let inbox = client.subscriber(&topic, "billing").lease(lease).open().await?;
    let publisher = client.publisher(&topic).await?;

    publisher.send(Message::new("slow")).await?;
    let slow = next(&inbox).await?;
    // The holder lives, but does not say so.
    let again = next(&inbox).await?;
    assert_eq!((again.payload(), again.attempt()), (slow.payload(), 2));
    let late = slow.ack().await.expect_err("the lease ran out");
    assert_eq!(late.kind(), ErrorKind::StaleDelivery);
    again.ack().await?;
    println!("not settled in {lease:?}: handed out again; the late ack: {late}");

    publisher.send(Message::new("renewed")).await?;
    let renewed = next(&inbox).await?;
    for _ in 0..10 {
        tokio::time::sleep(lease / 5).await;
        renewed.extend()?;
    }
    renewed.ack().await?;
    println!("extended for two leases: nobody else got it");
    end(&client, &topic).await
}

//! Point 11, cancel-safe: any future may be dropped; nothing is lost, only an answer.

use std::time::{Duration, Instant};

use anyhow::Result;
use contract::{connect, end, orders, topic};
use mq::Message;
use tokio::time::timeout;

#[tokio::main]
async fn main() -> Result<()> {
    let (client, topic) = (connect().await?, topic("cancel-safe")?);
    let inbox = client.subscriber(&topic, "billing").open().await?;
    let publisher = client.publisher(&topic).await?;

    let orders = orders(200)?;
    for order in &orders {
        // Queued when `enqueue` returns; who drops the rest loses the answer alone.
        drop(publisher.enqueue(Message::json(order)?).await?);
    }

    let begun = Instant::now();
    let (mut received, mut given_up) = (0, 0);
    while received < orders.len() {
        match timeout(Duration::from_micros(50), inbox.receive()).await {
            Ok(delivery) => {
                received += 1;
                let delivery = delivery?;
                assert_eq!(delivery.attempt(), 1, "no cancelled receive took it");
                // Queued before `ack` returns.
                drop(delivery.ack());
            }
            Err(_) => {
                given_up += 1;
                assert!(begun.elapsed() < Duration::from_secs(60), "lost after {received}");
            }
        }
    }
    let report = inbox.close(Duration::from_secs(10)).await?;
    assert_eq!(report.given_back, 0);
    let again = client.subscriber(&topic, "billing").open().await?;
    let left = again.receive_batch(10, Duration::from_millis(300)).await?;
    assert!(left.is_empty(), "{left:?}");
    println!("{received} orders, each once, beside {given_up} receives that were given up");
    end(&client, &topic).await
}

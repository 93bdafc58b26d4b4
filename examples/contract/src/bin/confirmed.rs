//! Point 1, confirmed: `Ok` means that the broker stored the message; a failure says whether it may have.

use anyhow::Result;
use contract::{Order, connect, end, next, orders, topic};
use mq::{ErrorKind, MAX_KEY, Message};

#[tokio::main]
async fn main() -> Result<()> {
    let (client, topic) = (connect().await?, topic("confirmed")?);
    let inbox = client.subscriber(&topic, "billing").open().await?;
    let publisher = client.publisher(&topic).await?;

    let orders = orders(10)?;
    let mut batch = orders.iter().map(Message::json).collect::<mq::Result<Vec<_>>>()?;
    batch[4] = batch[4].clone().key("k".repeat(MAX_KEY + 1));
    let verdicts = publisher.send_batch(batch).await;

    let stored = verdicts.iter().filter(|verdict| verdict.is_ok()).count();
    let Err(refused) = &verdicts[4] else { anyhow::bail!("a key over the limit was taken") };
    assert_eq!((stored, refused.kind()), (9, ErrorKind::Rejected));
    assert!(!refused.is_unknown_outcome(), "stored nowhere, for certain");
    println!("{stored} of 10 are confirmed; the fifth: {refused}");

    let mut numbers = Vec::new();
    for _ in 0..stored {
        let delivery = next(&inbox).await?;
        numbers.push(delivery.json::<Order>()?.order_id);
        delivery.ack().await?;
    }
    numbers.sort_unstable();
    assert_eq!(numbers, [1, 2, 3, 4, 6, 7, 8, 9, 10]);
    println!("all 9 came, and the refused one did not");
    end(&client, &topic).await
}

//! Point 5, delayed: held by the broker, never early; a long delay blocks no short one.

use std::time::{Duration, SystemTime};

use anyhow::Result;
use contract::{connect, end, next, topic};
use mq::{Message, Timestamp};

#[tokio::main]
async fn main() -> Result<()> {
    let (client, topic) = (connect().await?, topic("delayed")?);
    let inbox = client.subscriber(&topic, "reminders").open().await?;
    let publisher = client.publisher(&topic).await?;

    let now = || Timestamp::from(SystemTime::now());
    let (year, soon) = (Duration::from_secs(365 * 24 * 3600), Duration::from_millis(700));
    let (year, soon) = (now().plus(year), now().plus(soon));
    publisher.send(Message::new("renew the certificate").deliver_at(year)).await?;
    publisher.send(Message::new("water the plants").deliver_at(soon)).await?;

    let delivery = next(&inbox).await?;
    assert_eq!(delivery.payload().as_ref(), b"water the plants");
    assert!(now() >= soon, "early");
    println!("700 ms came {:?} late, past one of a year", now().since(soon));

    let due = now().plus(Duration::from_millis(300));
    delivery.retry(Duration::from_millis(300)).await?;
    next(&inbox).await?.ack().await?;
    assert!(now() >= due, "early");
    println!("a retry in 300 ms came {:?} late", now().since(due));
    end(&client, &topic).await
}

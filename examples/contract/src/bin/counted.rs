//! Point 3, counted: each message knows its attempt, and ends in the dead letters after `max_attempts`.

use std::time::Duration;

use anyhow::Result;
use contract::{connect, end, next, topic};
use mq::{Message, Page};

#[tokio::main]
async fn main() -> Result<()> {
    let (client, topic) = (connect().await?, topic("counted")?);
    let inbox = client.subscriber(&topic, "billing").max_attempts(3).open().await?;
    client.publisher(&topic).await?.send(Message::new("no such card")).await?;

    // Not now: given back, and not counted.
    next(&inbox).await?.defer(Duration::from_millis(10)).await?;
    for attempt in 1..=3 {
        let delivery = next(&inbox).await?;
        assert_eq!(delivery.attempt(), attempt);
        println!("attempt {attempt} fails");
        delivery.retry_because(Duration::from_millis(20), "declined").await?;
    }
    let page = Page { offset: 0, limit: 10 };
    let dead = client.admin().dead_letters(&topic, inbox.group(), page).await?;
    assert_eq!((dead.len(), dead[0].envelope.attempt), (1, 3));
    assert_eq!(dead[0].envelope.error.as_deref(), Some("declined"));
    println!("a dead letter after 3 attempts: {:?}", dead[0].envelope.error);
    end(&client, &topic).await
}

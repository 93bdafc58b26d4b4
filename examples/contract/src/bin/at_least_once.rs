//! Point 2, at least once, per group: a declared group gets each message until it acks it.

use anyhow::Result;
use contract::{connect, end, next, topic};
use mq::{GroupName, GroupSettings, Message, TopicSpec};

#[tokio::main]
async fn main() -> Result<()> {
    let (client, topic) = (connect().await?, topic("at-least-once")?);
    let groups = ["billing", "shipping"];
    client.admin().ensure_topic(&topic, &TopicSpec::default()).await?;
    for group in groups {
        client.admin().ensure_group(&topic, &GroupName::new(group)?, &GroupSettings::default()).await?;
    }

    // Nobody listens yet.
    client.publisher(&topic).await?.send(Message::new("an order")).await?;

    for group in groups {
        let inbox = client.subscriber(&topic, group).open().await?;
        // Dropped: a handler that panicked, say.
        drop(next(&inbox).await?);
        let again = next(&inbox).await?;
        assert_eq!((again.payload().as_ref(), again.redelivered()), (&b"an order"[..], true));
        again.ack().await?;
        println!("{group} dropped the order, got it again, and acked it");
    }
    end(&client, &topic).await
}

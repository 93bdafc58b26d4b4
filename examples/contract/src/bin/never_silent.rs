//! Point 9, never silent: a consumer goes on until it is closed, and what happens is told.

use std::time::Duration;

use anyhow::{Context as _, Result};
use contract::{connect, end, next, topic, url};
use mq::{ErrorKind, Event, Message};

#[tokio::main]
async fn main() -> Result<()> {
    let url = url();
    let wrong = format!("{url}{}no_such_key=1", if url.contains('?') { '&' } else { '?' });
    let error = mq::connect(wrong).await.expect_err("there is no such key");
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    println!("at once: {error}");

    let (client, topic) = (connect().await?, topic("never-silent")?);
    let inbox = client.subscriber(&topic, "billing").open().await?;
    let mut events = client.events();
    client.admin().delete_topic(&topic).await?;
    let rebuilt = async {
        loop {
            if let Event::Rebuilt { what } = events.recv().await? {
                return anyhow::Ok(what);
            }
        }
    };
    let receiving = inbox.receive();
    tokio::select! {
        what = tokio::time::timeout(Duration::from_secs(40), rebuilt) => println!("made again: {}", what??),
        ended = receiving => anyhow::bail!("the consumer ended: {ended:?}"),
    }
    client.publisher(&topic).await?.send(Message::new("after")).await?;
    next(&inbox).await.context("the consumer is silent")?.ack().await?;
    println!("and the consumer goes on");
    end(&client, &topic).await
}

//! What the examples share: the broker, a topic, and real orders.

use std::time::Duration;

use anyhow::{Context as _, Result};
use mq::{Client, Delivery, MessageId, Subscriber, TopicName};
use serde::{Deserialize, Serialize};

/// Connects to the broker that `MQ_URL` names, else to one in this process.
///
/// # Errors
/// The broker is away, or the URL is wrong.
pub async fn connect() -> Result<Client> {
    Ok(mq::connect(url()).await?)
}

/// Returns `MQ_URL`, else `memory://`.
#[must_use]
pub fn url() -> String {
    std::env::var("MQ_URL").unwrap_or_else(|_| "memory://".into())
}

/// Makes up a topic that no other run uses.
///
/// # Errors
/// The name is too long or has a character that no topic may have.
pub fn topic(name: &str) -> Result<TopicName> {
    Ok(TopicName::new(format!("{name}-{}", MessageId::generate()))?)
}

/// Receives a message; none within 30 s is an error.
///
/// # Errors
/// As said.
pub async fn next(subscriber: &Subscriber) -> Result<Delivery> {
    let received = tokio::time::timeout(Duration::from_secs(30), subscriber.receive()).await;
    Ok(received.context("no message came")??)
}

/// Deletes the topic and disconnects.
///
/// # Errors
/// What the broker says.
pub async fn end(client: &Client, topic: &TopicName) -> Result<()> {
    client.admin().delete_topic(topic).await?;
    client.close(Duration::from_secs(10)).await?;
    Ok(())
}

/// A purchase at an online music shop.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Order {
    /// Its number, by date.
    pub order_id: u32,
    /// The day.
    pub date: String,
    /// Who bought.
    pub customer_id: String,
    /// How many.
    pub quantity: u32,
    /// The sum, in US dollars.
    pub amount_usd: String,
}

/// Reads the first `count` orders.
///
/// # Errors
/// The data is not there or not what it was.
pub fn orders(count: usize) -> Result<Vec<Order>> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../order-processing/data/cdnow-orders.csv");
    let data = std::fs::read_to_string(path).with_context(|| path.to_owned())?;
    data.lines().skip(1).take(count).map(order).collect()
}

fn order(line: &str) -> Result<Order> {
    let fields: Vec<&str> = line.split(',').collect();
    let [order_id, date, customer_id, quantity, amount_usd] = fields[..] else {
        anyhow::bail!("not an order: {line}");
    };
    Ok(Order {
        order_id: order_id.parse()?,
        date: date.into(),
        customer_id: customer_id.into(),
        quantity: quantity.parse()?,
        amount_usd: amount_usd.into(),
    })
}

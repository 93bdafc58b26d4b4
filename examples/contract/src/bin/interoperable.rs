//! Point 13, interoperable: the body is the broker's body and headers are its headers; nothing is wrapped.

use anyhow::Result;
use contract::{connect, end, next, orders, topic};
use mq::{JSON, Message};

const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

#[tokio::main]
async fn main() -> Result<()> {
    let (client, topic) = (connect().await?, topic("interoperable")?);
    let inbox = client.subscriber(&topic, "billing").open().await?;
    let order = &orders(1)?[0];
    let sent = Message::json(order)?
        .id("order-1")
        .key(&order.customer_id)
        .subject("orders.created")
        .header("traceparent", TRACE)
        .header("tag", "first")
        .header("tag", vec![0xff, 0x00]);
    client.publisher(&topic).await?.send(sent.clone()).await?;

    let delivery = next(&inbox).await?;
    let came = delivery.message();
    assert_eq!((&came.payload, &came.headers), (&sent.payload, &sent.headers));
    assert_eq!((&came.id, &came.key, &came.subject), (&sent.id, &sent.key, &sent.subject));
    assert_eq!(came.content_type.as_deref(), Some(JSON));
    println!("{}", String::from_utf8_lossy(&came.payload));
    println!(
        "came as it was sent, with {} headers; a foreign client reads the same",
        came.headers.iter().count()
    );
    delivery.ack().await?;
    end(&client, &topic).await
}

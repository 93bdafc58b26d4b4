//! Point 8, inspectable: dead letters keep everything; counts are exact or `None`.

use anyhow::Result;
use contract::{Order, connect, end, next, orders, topic};
use mq::{Message, Page, Selection};

#[tokio::main]
async fn main() -> Result<()> {
    let (client, topic) = (connect().await?, topic("inspectable")?);
    let inbox = client.subscriber(&topic, "billing").open().await?;
    let publisher = client.publisher(&topic).await?;
    let orders = orders(5)?;
    for order in &orders {
        publisher.send(Message::json(order)?.header("source", "web")).await?;
        next(&inbox).await?.dead_letter("no such card").await?;
    }

    let (admin, group) = (client.admin(), inbox.group());
    let page = Page { offset: 0, limit: 10 };
    let letters = admin.dead_letters(&topic, group, page).await?;
    let first: Order = letters[0].message.parse_json()?;
    assert_eq!((letters.len(), &first), (5, &orders[0]));
    let death = letters[0].envelope.death.as_ref().expect("a dead letter says why");
    println!("order {} of customer {}: {}", first.order_id, first.customer_id, death.reason);

    let one = Selection::Ids(vec![letters[2].message.id.clone()]);
    assert_eq!(admin.redrive(&topic, group, &one).await?, 1);
    let again = next(&inbox).await?;
    assert_eq!((again.json::<Order>()?, again.attempt()), (orders[2].clone(), 1));
    again.ack().await?;

    let stats = admin.stats(&topic, group).await?;
    assert_eq!((stats.ready.unwrap_or(0), stats.dead), (0, Some(4)));
    assert_eq!(admin.purge(&topic, group, &Selection::All).await?, 4);
    println!("one redriven and acked, four purged");
    end(&client, &topic).await
}

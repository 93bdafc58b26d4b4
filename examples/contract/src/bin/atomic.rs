//! Point 1, several messages as one: an order and its invoice are both stored, or neither is.

use anyhow::Result;
use contract::{connect, end, next, orders, topic};
use mq::{ErrorKind, Message};

#[tokio::main]
async fn main() -> Result<()> {
    let client = connect().await?;
    let (orders_topic, invoices_topic) = (topic("atomic-orders")?, topic("atomic-invoices")?);
    let shipping = client.subscriber(&orders_topic, "shipping").open().await?;
    let to_orders = client.publisher(&orders_topic).await?;
    // A message that no group would get is refused where that is asked for.
    let to_invoices = client.publisher(&invoices_topic).require_group().await?;
    let order = orders(1)?.remove(0);

    let mut transaction = client.transaction();
    transaction.add(&to_orders, Message::json(&order)?)?;
    transaction.add(&to_invoices, Message::new("USD").header("order", order.order_id.to_string()))?;
    let refused = transaction.commit().await.expect_err("nobody reads invoices");
    if refused.kind() == ErrorKind::Unsupported {
        println!("no transactions here: {refused}");
        client.admin().delete_topic(&invoices_topic).await?;
        return end(&client, &orders_topic).await;
    }
    assert_eq!(refused.kind(), ErrorKind::Unroutable);
    println!("neither is stored: {refused}");

    let accounting = client.subscriber(&invoices_topic, "accounting").open().await?;
    let mut transaction = client.transaction();
    transaction.add(&to_orders, Message::json(&order)?)?;
    transaction.add(&to_invoices, Message::new("USD"))?;
    assert_eq!(transaction.commit().await?.len(), 2);
    for inbox in [&shipping, &accounting] {
        next(inbox).await?.ack().await?;
    }
    assert_eq!(client.admin().stats(&orders_topic, &"shipping".try_into()?).await?.ready, Some(0));
    println!("both came, each once");
    client.admin().delete_topic(&invoices_topic).await?;
    end(&client, &orders_topic).await
}

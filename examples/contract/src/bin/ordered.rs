//! Point 6, ordered: one customer's orders come in their order, one at a time, over several members.

use std::collections::HashMap;

use anyhow::Result;
use contract::{Order, connect, end, next, orders, topic};
use mq::{Message, Subscriber};

#[tokio::main]
async fn main() -> Result<()> {
    let (client, topic) = (connect().await?, topic("ordered")?);
    let open = || client.subscriber(&topic, "billing").ordered().open();
    let members = [open().await?, open().await?];

    // Ten customers, who buy again and again.
    let mut orders = orders(1000)?;
    for order in &mut orders {
        order.customer_id = order.customer_id.split_off(order.customer_id.len() - 1);
    }
    let publisher = client.publisher(&topic).await?;
    let message = |order: &Order| Message::json(order).map(|message| message.key(&order.customer_id));
    let batch = orders.iter().map(message).collect::<mq::Result<Vec<_>>>()?;
    for verdict in publisher.send_batch(batch).await {
        verdict?;
    }

    let mut last = HashMap::new();
    for _ in 0..orders.len() {
        let delivery = either(&members).await?;
        let order: Order = delivery.json()?;
        let before = last.insert(order.customer_id.clone(), order.order_id);
        assert!(before < Some(order.order_id), "{order:?} came after {before:?}");
        delivery.ack().await?;
    }
    println!("{} orders of {} customers, each customer's in order", orders.len(), last.len());
    end(&client, &topic).await
}

async fn either([one, two]: &[Subscriber; 2]) -> Result<mq::Delivery> {
    tokio::select! {
        delivery = next(one) => delivery,
        delivery = next(two) => delivery,
    }
}

//! Handlers take the parts of a message they ask for; what they return is published before the source is acked.

use anyhow::Result;
use contract::{Order, connect, end, orders, topic};
use mq::Message;
use mq::worker::{Attempt, Failure, Id, Json, Key, Publish, State, Text, Worker};
use tour::Tally;

#[derive(Clone)]
struct Shop {
    parcels: String,
    packed: Tally,
}

async fn sell(Id(id): Id, Json(order): Json<Order>, State(shop): State<Shop>) -> Result<Publish, Failure> {
    let cents = order.amount_usd.replace('.', "").parse::<u64>()?;
    let parcel = Message::new(format!("{} for {cents} cents", order.quantity));
    // An id made from the source's: who gets it twice can tell.
    Ok(Publish::new(shop.parcels, parcel.key(&order.customer_id).id(format!("parcel-{id}"))))
}

async fn pack(Text(what): Text, key: Option<Key>, Attempt(attempt): Attempt, State(shop): State<Shop>) {
    assert!(what.contains("cents") && key.is_some() && attempt == 1);
    shop.packed.add();
}

#[tokio::main]
async fn main() -> Result<()> {
    let (client, sales, parcels) = (connect().await?, topic("sales")?, topic("parcels")?);
    let shop = Shop { parcels: parcels.to_string(), packed: Tally::default() };
    let publisher = client.publisher(&sales).await?;
    let worker = Worker::new(&client, "shop").on(&sales, sell).on(&parcels, pack).state(shop.clone());
    let report = worker.run_until(async {
        for order in orders(100)? {
            publisher.send(Message::json(&order)?).await?;
        }
        publisher.send(Message::new("garbage")).await?;
        shop.packed.reached(100).await;
        anyhow::Ok(())
    });
    let report = report.await?;
    assert_eq!((report.handled, report.dead), (200, 1));
    println!("100 orders sold, 100 parcels packed, 1 that is no order among the dead letters");
    client.admin().delete_topic(&parcels).await?;
    end(&client, &sales).await
}

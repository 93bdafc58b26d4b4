//! Formats by content type, and messages of older versions brought up to date.

use anyhow::Result;
use contract::{connect, end, topic};
use mq::Message;
use mq::codec::{Encode, Json, MessagePack, Upcasters, versioned};
use mq::worker::layers::Upcast;
use mq::worker::{Body, Handler, State, Worker};
use serde::{Deserialize, Serialize};
use tour::Tally;

#[derive(Serialize, Deserialize)]
struct Order {
    items: Vec<String>,
    currency: String,
}

async fn place(Body(order): Body<Order>, State(placed): State<Tally>) {
    assert!(order.items == ["book"] && order.currency == "EUR");
    placed.add();
}

#[tokio::main]
async fn main() -> Result<()> {
    let (client, topic, placed) = (connect().await?, topic("orders")?, Tally::default());
    let publisher = client.publisher(&topic).await?;
    // Version 1 had one item, version 2 had no currency.
    let steps = Upcasters::of("order")
        .then(|mut order| {
            order["items"] = vec![order["item"].take()].into();
            Ok(order)
        })
        .then(|mut order| {
            order["currency"] = "EUR".into();
            Ok(order)
        });
    let order = Order { items: vec!["book".into()], currency: "EUR".into() };
    let worker =
        Worker::new(&client, "shop").on(&topic, place.layer(Upcast::new(steps))).state(placed.clone());
    let report = worker.run_until(async {
        for message in [
            versioned(Message::new(r#"{"item":"book"}"#), "order", 1),
            versioned(Message::new(r#"{"items":["book"]}"#), "order", 2),
            versioned(Json::new().message(&order)?, "order", 3),
            versioned(MessagePack::new().message(&order)?, "order", 3),
            versioned(Message::new("{}"), "order", 4), // a dead letter: this program is too old for it
            versioned(Message::new("<order/>").content_type("text/xml"), "order", 3), // and no codec for this
        ] {
            publisher.send(message).await?;
        }
        placed.reached(4).await;
        anyhow::Ok(())
    });
    let report = report.await?;
    assert_eq!((report.handled, report.dead), (4, 2));
    println!("three versions in two formats placed; a newer version and an unknown format are dead letters");
    end(&client, &topic).await
}

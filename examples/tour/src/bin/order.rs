//! Each customer's orders one at a time and in order, those of different customers side by side.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Result;
use contract::{Order, connect, end, orders, topic};
use mq::Message;
use mq::worker::{Handler, Json, State, Worker};
use tour::Tally;

#[derive(Clone, Default)]
struct Books {
    last: Arc<Mutex<HashMap<String, u32>>>,
    booked: Tally,
}

async fn book(Json(order): Json<Order>, State(books): State<Books>) {
    tokio::time::sleep(Duration::from_millis(2)).await;
    let last = books.last.lock().unwrap().insert(order.customer_id, order.order_id);
    assert!(last < Some(order.order_id), "out of order");
    books.booked.add();
}

#[tokio::main]
async fn main() -> Result<()> {
    let (client, topic, books) = (connect().await?, topic("orders")?, Books::default());
    let worker =
        Worker::new(&client, "books").on(&topic, book.ordered().concurrency(64)).state(books.clone());
    let report = worker.run_until(async {
        let publisher = client.publisher(&topic).await?;
        let message = |order: &Order| Ok(Message::json(order)?.key(&order.customer_id));
        let messages = orders(1000)?.iter().map(message).collect::<mq::Result<Vec<_>>>()?;
        publisher.send_batch(messages).await.into_iter().collect::<mq::Result<Vec<_>>>()?;
        books.booked.reached(1000).await;
        anyhow::Ok(())
    });
    assert_eq!(report.await?.retried, 0);
    let customers = books.last.lock().unwrap().len();
    println!("1,000 orders of {customers} customers, each customer's in order, 64 at once");
    end(&client, &topic).await
}

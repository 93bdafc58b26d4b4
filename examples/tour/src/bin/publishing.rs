//! What goes around a publisher: default headers, a filter, a steady pace, batches.

use std::time::{Duration, Instant};

use anyhow::Result;
use contract::{connect, end, topic};
use mq::Message;
use mq::worker::layers::RateLimit;
use mq::worker::{Batching, Headers, Outlet, State, Worker};
use tour::Tally;

async fn count(Headers(headers): Headers, State(seen): State<Tally>) {
    assert_eq!(headers.get_str("source"), Some("shop"));
    seen.add();
}

#[tokio::main]
async fn main() -> Result<()> {
    let (client, topic, seen) = (connect().await?, topic("orders")?, Tally::default());
    let outlet = Outlet::new(client.publisher(&topic).await?)
        .header("source", "shop")
        .filter(|message| !message.payload.is_empty())
        .rate_limit(RateLimit::new(500, Duration::from_secs(1)).burst(50))
        .batch(Batching::new(20, 1 << 20, Duration::from_millis(10)));
    let start = Instant::now();
    let worker = Worker::new(&client, "billing").on(&topic, count).state(seen.clone());
    let report = worker.run_until(async {
        let sends = (0..200).map(|number| {
            let body = if number % 4 == 0 { String::new() } else { number.to_string() };
            outlet.send(Message::new(body))
        });
        let sent = futures_util::future::try_join_all(sends).await?;
        assert_eq!(sent.iter().flatten().count(), 150);
        seen.reached(150).await;
        anyhow::Ok(())
    });
    assert_eq!(report.await?.handled, 150);
    assert!(start.elapsed() >= Duration::from_millis(200));
    println!("200 sends: 50 empty ones kept back, 50 at once and 500 a second after, 20 in a batch");
    end(&client, &topic).await
}

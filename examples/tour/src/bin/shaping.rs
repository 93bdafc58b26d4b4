//! Layers that check, change and record messages, and let a customer have one at a time.

use std::time::Duration;

use anyhow::Result;
use contract::{connect, end, topic};
use mq::Message;
use mq::worker::layers::{Audit, ConcurrencyLimit, Map, Validate};
use mq::worker::{Handler, State, Text, Worker};
use tour::Tally;

async fn import(Text(line): Text, State(lines): State<Tally>) {
    assert_eq!(line.trim(), &*line);
    tokio::time::sleep(Duration::from_millis(1)).await;
    lines.add();
}

#[tokio::main]
async fn main() -> Result<()> {
    let (client, topic) = (connect().await?, topic("lines")?);
    let (lines, recorded) = (Tally::default(), Tally::default());
    let publisher = client.publisher(&topic).await?;
    let route = import
        .layer(Audit::new({
            let recorded = recorded.clone();
            move |record| {
                assert_eq!(record.outcome.is_ok(), record.message.key.is_some());
                recorded.add();
            }
        }))
        .layer(Validate::new(|message| match &message.key {
            Some(_) => Ok(()),
            None => Err("a line needs its customer as the key"),
        }))
        .layer(Map::new(|mut message| {
            let text = String::from_utf8_lossy(&message.payload).trim().to_owned();
            message.payload = text.into();
            Ok(message)
        }))
        .layer(ConcurrencyLimit::new(1).per_key());
    let report = Worker::new(&client, "import").on(&topic, route).state(lines).run_until(async {
        for number in 0..100 {
            let line = Message::new(format!("  line {number} "));
            let customer = format!("customer-{}", number % 10);
            publisher.send(if number % 20 == 0 { line } else { line.key(customer) }).await?;
        }
        recorded.reached(100).await;
        anyhow::Ok(())
    });
    let report = report.await?;
    assert_eq!((report.handled, report.dead), (95, 5));
    println!("100 lines: 95 trimmed and imported, 5 without a customer dead-lettered, all on record");
    end(&client, &topic).await
}

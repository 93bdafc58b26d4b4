//! A handler of many messages at once, with one verdict for all or one for each.

use std::time::Duration;

use anyhow::Result;
use contract::{connect, end, topic};
use mq::Message;
use mq::worker::{Failure, State, Text, Worker, batch};
use tour::Tally;

/// One statement for many rows; what is no number is a dead letter, the rest is stored.
async fn store(
    rows: Vec<Text>,
    State((statements, stored)): State<(Tally, Tally)>,
) -> Vec<Result<(), Failure>> {
    statements.add();
    let verdict = |Text(row): Text| match row.parse::<u32>() {
        Ok(_) => {
            stored.add();
            Ok(())
        }
        Err(error) => Err(Failure::reject(error)),
    };
    rows.into_iter().map(verdict).collect()
}

#[tokio::main]
async fn main() -> Result<()> {
    let (client, topic) = (connect().await?, topic("rows")?);
    let (statements, stored) = (Tally::default(), Tally::default());
    let publisher = client.publisher(&topic).await?;
    let route = batch(store).size(100).within(Duration::from_millis(50));
    let worker = Worker::new(&client, "db").on(&topic, route).state((statements.clone(), stored.clone()));
    let report = worker.run_until(async {
        let row = |number: u32| match number {
            7 => Message::new("seven"),
            _ => Message::new(number.to_string()),
        };
        for sent in publisher.send_batch((0..1000).map(row).collect()).await {
            sent?;
        }
        stored.reached(999).await;
        anyhow::Ok(())
    });
    let report = report.await?;
    assert_eq!((report.handled, report.dead), (999, 1));
    let statements = statements.next() - 1;
    assert!((10..500).contains(&statements), "{statements}");
    println!("1,000 rows, 999 stored, one a dead letter; many rows in a statement");
    end(&client, &topic).await
}

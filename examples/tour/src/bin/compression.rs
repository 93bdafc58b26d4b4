//! Compressed payloads, and a bomb that costs one dead letter.

use anyhow::Result;
use contract::{Order, connect, end, orders, topic};
use mq::Page;
use mq::codec::{Compression, Encode, Json, compress};
use mq::worker::layers::Decompress;
use mq::worker::{Handler, State, Worker};
use tour::Tally;

async fn import(mq::worker::Json(batch): mq::worker::Json<Vec<Order>>, State(imported): State<Tally>) {
    batch.iter().for_each(|_| imported.add());
}

#[tokio::main]
async fn main() -> Result<()> {
    let (client, topic, imported) = (connect().await?, topic("imports")?, Tally::default());
    let publisher = client.publisher(&topic).await?;
    let limit = 100_000; // bytes, after decompression
    let route = import.layer(Decompress::up_to(limit));
    let worker = Worker::new(&client, "import").on(&topic, route).state(imported.clone());
    let batch = Json::new().message(&orders(500)?)?;
    let (plain, mut sizes) = (batch.payload.len(), Vec::new());
    let report = worker.run_until(async {
        publisher.send(compress(mq::Message::new(vec![b' '; 50_000_000]), Compression::Zstd)?).await?;
        for with in Compression::ALL {
            let message = compress(batch.clone(), with)?.id(with.name());
            sizes.push(format!("{} {}", with.name(), message.payload.len()));
            publisher.send(message).await?;
        }
        imported.reached(2000).await;
        anyhow::Ok(())
    });
    let report = report.await?;
    assert_eq!((report.handled, report.dead), (4, 1));
    let group = mq::GroupName::new("import")?;
    let letters = client.admin().dead_letters(&topic, &group, Page { offset: 0, limit: 1 }).await?;
    let reason = letters[0].envelope.death.as_ref().map(|death| death.reason.to_string()).unwrap_or_default();
    assert!(reason.contains("more than 100000 bytes when decompressed"), "{reason}");
    println!("{plain} bytes: {}; 50 MB in a few kB are a dead letter", sizes.join(", "));
    end(&client, &topic).await
}

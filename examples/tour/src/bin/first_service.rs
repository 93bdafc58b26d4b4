//! A first service: runs until Ctrl-C, then says what it did.

use mq::worker::{Failure, Text, Worker};

async fn charge(Text(amount): Text) -> Result<(), Failure> {
    let amount: u32 = amount.parse()?; // any error: tried again, in the end a dead letter
    println!("charged {amount}");
    Ok(()) // acked
}

#[tokio::main]
async fn main() -> mq::Result<()> {
    let client = mq::connect("memory://").await?; // or kafka://, amqp://, redis://
    let worker = Worker::new(&client, "billing").on("orders", charge);
    println!("{:?}", worker.run_until(tokio::signal::ctrl_c()).await?);
    Ok(())
}

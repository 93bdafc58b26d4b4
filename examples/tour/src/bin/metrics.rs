//! Metrics and health over HTTP, as Prometheus and an orchestrator ask for them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result};
use contract::{connect, end, topic};
use mq::Message;
use mq::observe::{Endpoint, Observer};
use mq::worker::{State, Text, Worker};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tour::Tally;

async fn charge(Text(_order): Text, State(charged): State<Tally>) {
    charged.add();
}

async fn get(address: std::net::SocketAddr, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    stream
        .write_all(format!("GET {path} HTTP/1.1\r\nHost: mq\r\nConnection: close\r\n\r\n").as_bytes())
        .await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

#[tokio::main]
async fn main() -> Result<()> {
    let (client, topic, charged) = (connect().await?, topic("orders")?, Tally::default());
    let orders = client.publisher(&topic).await?;
    let observer = Observer::builder(&client).start()?;
    let working = Arc::new(AtomicBool::new(false));
    let probe = working.clone();
    let endpoint = Endpoint::new(&observer).ready("billing", move || probe.load(Ordering::Relaxed));
    let serving = endpoint.bind("127.0.0.1:0").await?; // a service takes a fixed port
    assert!(get(serving.address(), "/readyz").await?.starts_with("HTTP/1.1 503"));
    let worker =
        Worker::new(&client, "billing").on(&topic, charge).layer(observer.latency()).state(charged.clone());
    let report = worker.run_until(async {
        working.store(true, Ordering::Relaxed); // all topics are subscribed to
        for number in 0..5 {
            orders.send(Message::new(format!("order {number}"))).await?;
        }
        charged.reached(5).await;
        anyhow::Ok(())
    });
    assert_eq!(report.await?.handled, 5);
    assert!(get(serving.address(), "/readyz").await?.starts_with("HTTP/1.1 200"));
    let metrics = get(serving.address(), "/metrics").await?;
    let acked = metrics.lines().find(|line| line.contains("outcome=\"acked\"")).context("no acks")?;
    assert!(acked.ends_with(" 5"), "{acked}");
    println!("{acked}");
    serving.close().await;
    end(&client, &topic).await
}

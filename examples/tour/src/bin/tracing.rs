//! One trace from a send over an attempt that fails to what the handler publishes.

use std::time::Duration;

use anyhow::{Context as _, Result};
use contract::{connect, end, topic};
use mq::Message;
use mq::observe::{Trace, TraceContext};
use mq::worker::{Attempt, Extension, Failure, Publish, State, Text, Worker};

/// Fails once, then packs.
async fn pack(
    Text(order): Text,
    Attempt(attempt): Attempt,
    Extension(place): Extension<TraceContext>, // for what is logged or called
    State(parcels): State<String>,
) -> Result<Publish, Failure> {
    assert_eq!(TraceContext::current(), Some(place));
    match attempt {
        1 => Err(Failure::retry(Duration::ZERO)),
        _ => Ok(Publish::new(parcels, Message::new(order.into_bytes()))),
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let (client, orders, parcels) = (connect().await?, topic("orders")?, topic("parcels")?);
    let (to_orders, trace) = (client.publisher(&orders).await?, Trace::new(&client));
    let copies = client.subscriber(&orders, "audit").open().await?;
    let results = client.subscriber(&parcels, "shipping").open().await?;
    let worker = Worker::new(&client, "packing")
        .on(&orders, pack)
        .layer(trace) // spans, and the header on what the handler returns
        .state(parcels.to_string());
    let run = worker.run_until(async {
        trace.send(&to_orders, Message::new("one book")).await?; // a span, and its header
        let (order, parcel) = (copies.receive().await?, results.receive().await?);
        let sent = TraceContext::of(order.message()).context("no traceparent")?;
        let packed = TraceContext::of(parcel.message()).context("no traceparent")?;
        assert_eq!(sent.trace_id, packed.trace_id);
        assert_ne!(sent.span_id, packed.span_id);
        println!("order {sent}, parcel {packed}: one trace, two spans");
        order.ack().await?;
        parcel.ack().await?;
        anyhow::Ok(())
    });
    assert_eq!(run.await?.handled, 1);
    client.admin().delete_topic(&parcels).await?;
    end(&client, &orders).await
}

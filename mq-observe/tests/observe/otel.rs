//! Spans as OpenTelemetry exports them.

use mq_core::Message;
use mq_observe::{Trace, TraceContext};
use mq_worker::{Publish, Text, Worker};
use opentelemetry::trace::{SpanKind, TracerProvider as _};
use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider};
use tracing_subscriber::layer::SubscriberExt as _;

use crate::support::{client, publisher, run, until};

async fn pack(Text(order): Text) -> Publish {
    Publish::new("parcels", Message::new(order.into_bytes()))
}

#[tokio::test]
async fn an_attempt_is_below_the_send() {
    let exporter = InMemorySpanExporter::default();
    let provider = SdkTracerProvider::builder().with_simple_exporter(exporter.clone()).build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
    let _guard = tracing::subscriber::set_default(tracing_subscriber::registry().with(layer));
    let client = client();
    let trace = Trace::new(&client);
    let orders = publisher(&client, "orders").await;
    let parcels = client.subscriber("parcels", "shipping").open().await.unwrap();
    let worker = Worker::new(&client, "packing").on("orders", pack).layer(trace);
    run(worker, async {
        trace.send(&orders, Message::new("one book")).await.unwrap();
        until(|| client.counts().acked == 1).await;
    })
    .await;
    let parcel = parcels.receive().await.unwrap();
    let result = TraceContext::of(parcel.message()).unwrap();
    parcel.ack().await.unwrap();
    provider.force_flush().unwrap();
    let spans = exporter.get_finished_spans().unwrap();
    let find = |name: &str| spans.iter().find(|span| span.name == name).unwrap();
    let (send, process) = (find("send orders"), find("process orders"));
    assert_eq!((&send.span_kind, &process.span_kind), (&SpanKind::Producer, &SpanKind::Consumer));
    assert_eq!(process.span_context.trace_id(), send.span_context.trace_id());
    assert_eq!(process.parent_span_id, send.span_context.span_id());
    assert_eq!(u64::from_be_bytes(process.span_context.span_id().to_bytes()), result.span_id);
}

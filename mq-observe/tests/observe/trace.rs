//! Spans, as a log of JSON lines shows them.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use mq_core::Message;
use mq_observe::{Trace, TraceContext};
use mq_worker::{Attempt, Extension, Failure, Publish, Text, Worker};
use serde_json::Value;
use tracing_subscriber::fmt::format::FmtSpan;

use crate::support::{client, publisher, run, until};

/// Keeps what is logged.
#[derive(Clone, Default)]
struct Log(Arc<parking_lot::Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    /// Returns the spans of a name that have ended, in order.
    fn spans(&self, name: &str) -> Vec<Value> {
        let text = String::from_utf8(self.0.lock().clone()).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.map(|line| line["span"].clone()).filter(|span| span["name"] == name).collect()
    }
}

/// Fails once; then passes the message on.
async fn pack(
    Text(order): Text,
    Attempt(attempt): Attempt,
    Extension(place): Extension<TraceContext>,
) -> Result<Publish, Failure> {
    assert_eq!(TraceContext::current(), Some(place));
    if attempt == 1 {
        return Err(Failure::retry(Duration::ZERO));
    }
    Ok(Publish::new("parcels", Message::new(order.into_bytes())))
}

#[tokio::test]
async fn spans_are_joined_from_the_send_to_what_the_handler_publishes() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .json()
        .with_span_events(FmtSpan::CLOSE)
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);
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
    let (sends, attempts) = (log.spans("send"), log.spans("process"));
    assert_eq!((sends.len(), attempts.len()), (1, 2), "{attempts:?}");
    let (send, first, second) = (&sends[0], &attempts[0], &attempts[1]);
    assert_eq!(send["otel.name"], "send orders");
    assert_eq!(second["otel.name"], "process orders");
    assert_eq!((&send["otel.kind"], &second["otel.kind"]), (&"producer".into(), &"consumer".into()));
    for span in [send, first, second] {
        assert_eq!(span["trace_id"], format!("{:032x}", result.trace_id));
        assert_eq!(span["messaging.system"], "memory");
        assert_eq!(span["messaging.destination.name"], "orders");
    }
    for attempt in [first, second] {
        assert_eq!(attempt["parent_span_id"], send["span_id"]);
        assert_eq!(attempt["messaging.consumer.group.name"], "packing");
    }
    assert_eq!((&first["mq.outcome"], &first["otel.status_code"]), (&"failed".into(), &"ERROR".into()));
    assert_eq!((&second["mq.outcome"], &second["otel.status_code"]), (&"handled".into(), &Value::Null));
    assert_eq!(second["span_id"], format!("{:016x}", result.span_id));
    assert_ne!(first["span_id"], second["span_id"]);
}

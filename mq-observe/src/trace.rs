//! Spans of sends and attempts, joined across processes by the W3C header `traceparent`.
//!
//! Names and fields follow OpenTelemetry's conventions for messaging: `send orders` of kind producer, `process
//! orders` of kind consumer, `messaging.system`, `messaging.destination.name` and so on. With the
//! feature `otel` they are spans of the OpenTelemetry layer that the program has installed, parents
//! included; without it they are `tracing` spans that carry `trace_id` and `span_id` as fields, and the header
//! is passed on all the same.

mod context;
#[cfg(feature = "otel")]
mod otel;

use mq_core::{Client, Message, Publisher, Receipt, Result};
use mq_worker::{Context, Layer, Next, Outcome};
use tracing::field::{Empty, display};
use tracing::{Instrument as _, Span};

pub use context::{TRACEPARENT, TRACESTATE, TraceContext};

use crate::latency::{OUTCOMES, index};

/// Traces a client's sends and its workers' attempts: a layer for workers, and [`send`](Self::send).
///
/// What a handler returns carries the trace on, as does what it sends with a `Trace`.
///
/// ```
/// # async fn example() -> mq_core::Result<()> {
/// # let client = mq_core::Client::new(
/// #     mq_memory::Broker::new().backend(Default::default(), Default::default()), Default::default());
/// use mq_core::Message;
/// use mq_observe::Trace;
/// use mq_worker::{Text, Worker};
///
/// async fn pack(Text(order): Text) {}
///
/// let trace = Trace::new(&client);
/// let orders = client.publisher("orders").await?;
/// let worker = Worker::new(&client, "packing").on("orders", pack).layer(trace);
/// trace.send(&orders, Message::new("one book")).await?;
/// # Ok(())
/// # }
/// # tokio::runtime::Runtime::new().unwrap().block_on(example()).unwrap();
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Trace {
    system: &'static str,
}

impl Trace {
    /// Makes the tracer of a client.
    #[must_use]
    pub fn new(client: &Client) -> Self {
        Self { system: client.capabilities().backend }
    }

    /// Sends a message in a producer span and gives it the span's `traceparent`.
    ///
    /// # Errors
    /// As for [`Publisher::send`].
    ///
    /// # Cancel safety
    /// As for [`Publisher::send`].
    pub async fn send(&self, publisher: &Publisher, message: Message) -> Result<Receipt> {
        let topic = publisher.topic();
        let span = tracing::info_span!(
            target: "mq",
            "send",
            otel.name = %format_args!("send {topic}"),
            otel.kind = "producer",
            otel.status_code = Empty,
            "error.type" = Empty,
            trace_id = Empty,
            span_id = Empty,
            messaging.system = self.system,
            messaging.operation.name = "send",
            "messaging.operation.type" = "send",
            messaging.destination.name = %topic,
            messaging.message.id = %message.id,
            messaging.message.body.size = message.payload.len(),
        );
        let own = own(&span, TraceContext::current());
        let sent = publisher.send(own.inject(message)).instrument(span.clone()).await;
        if let Err(error) = &sent {
            failed(&span, &format!("{:?}", error.kind()));
        }
        sent
    }
}

impl Layer for Trace {
    async fn call(&self, context: &mut Context<'_>, next: Next<'_>) -> Outcome {
        let message = context.delivery().message();
        let (topic, parent) = (context.topic(), TraceContext::of(message));
        let span = tracing::info_span!(
            target: "mq",
            "process",
            otel.name = %format_args!("process {topic}"),
            otel.kind = "consumer",
            otel.status_code = Empty,
            "error.type" = Empty,
            trace_id = Empty,
            span_id = Empty,
            parent_span_id = Empty,
            messaging.system = self.system,
            messaging.operation.name = "process",
            "messaging.operation.type" = "process",
            messaging.destination.name = %topic,
            messaging.consumer.group.name = %context.group(),
            messaging.message.id = %message.id,
            messaging.message.body.size = message.payload.len(),
            mq.attempt = context.delivery().attempt(),
            mq.outcome = Empty,
        );
        if let Some(parent) = parent {
            span.record("parent_span_id", display(format_args!("{:016x}", parent.span_id)));
        }
        let state = message.headers.get(TRACESTATE).cloned();
        let own = own(&span, parent);
        context.stamp(TRACEPARENT, own.to_string());
        if let Some(state) = state {
            context.stamp(TRACESTATE, state);
        }
        context.extensions.insert(own);
        let outcome = own.scope(next.run(context)).instrument(span.clone()).await;
        let index = index(&outcome);
        span.record("mq.outcome", OUTCOMES[index]);
        if outcome.is_err() {
            failed(&span, OUTCOMES[index]);
        }
        outcome
    }
}

fn failed(span: &Span, what: &str) {
    span.record("otel.status_code", "ERROR");
    span.record("error.type", what);
}

/// Returns the span's own place in the trace of its parent, and notes it in the span.
fn own(span: &Span, parent: Option<TraceContext>) -> TraceContext {
    let next = || parent.map_or_else(TraceContext::root, TraceContext::child);
    #[cfg(feature = "otel")]
    let own = otel::place(span, parent).unwrap_or_else(next);
    #[cfg(not(feature = "otel"))]
    let own = next();
    span.record("trace_id", display(format_args!("{:032x}", own.trace_id)));
    span.record("span_id", display(format_args!("{:016x}", own.span_id)));
    own
}

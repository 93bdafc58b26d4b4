//! Layers around a handler: those that come with the worker, and one of one's own.

use std::time::{Duration, Instant};

use anyhow::Result;
use contract::{connect, end, topic};
use mq::Message;
use mq::worker::layers::{Filter, Idempotent, MemoryStore, RateLimit};
use mq::worker::{Context, Extension, Handler, Layer, Next, Outcome, State, Worker};
use tour::Tally;

/// Tells the handler who asks, and counts what was done.
struct Tenant(Tally);

impl Layer for Tenant {
    async fn call(&self, context: &mut Context<'_>, next: Next<'_>) -> Outcome {
        let tenant = context.message().headers.get_str("tenant").unwrap_or("nobody").to_owned();
        context.extensions.insert(tenant);
        let outcome = next.run(context).await;
        self.0.add();
        outcome
    }
}

async fn call_partner(Extension(tenant): Extension<String>, State(calls): State<Tally>) {
    assert_eq!(tenant, "acme");
    calls.add();
}

#[tokio::main]
async fn main() -> Result<()> {
    let (client, topic, seen, calls) =
        (connect().await?, topic("calls")?, Tally::default(), Tally::default());
    let publisher = client.publisher(&topic).await?;
    let route = call_partner
        .layer(Tenant(seen.clone())) // the first is the outermost
        .layer(Filter::header("tenant", "acme"))
        .layer(Idempotent::new(MemoryStore::new()).window(Duration::from_secs(3600)))
        .layer(RateLimit::new(100, Duration::from_secs(1)).burst(10))
        .concurrency(1);
    let start = Instant::now();
    let report = Worker::new(&client, "partner").on(&topic, route).state(calls.clone()).run_until(async {
        for number in 0..60 {
            let tenant = if number % 3 == 0 { "other" } else { "acme" };
            let message = Message::new("…").id(format!("call-{}", number / 2)).header("tenant", tenant);
            publisher.send(message).await?;
        }
        seen.reached(60).await;
        anyhow::Ok(())
    });
    let report = report.await?;
    assert_eq!((report.handled, report.skipped), (30, 30));
    assert!(start.elapsed() >= Duration::from_millis(200));
    println!("60 messages: 20 of other tenants, 10 twice; 30 calls, 10 at once and 100 a second after");
    end(&client, &topic).await
}

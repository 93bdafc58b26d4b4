//! A circuit breaker pauses the intake while the bank is down; a kill switch stops a worker that cannot work.

use std::error::Error as _;
use std::time::Duration;

use anyhow::{Context as _, Result};
use contract::{connect, end, topic};
use mq::Message;
use mq::worker::layers::{CircuitBreaker, KillSwitch};
use mq::worker::{Backoff, Handler, State, Stopped, Worker};
use tour::Tally;

#[derive(Clone, Default)]
struct Bank {
    calls: Tally,
    charged: Tally,
}

async fn charge(State(bank): State<Bank>) -> Result<(), &'static str> {
    // Down for the first five calls.
    if bank.calls.next() <= 5 {
        return Err("the bank is down");
    }
    bank.charged.add();
    Ok(())
}

async fn misconfigured() -> Result<(), &'static str> {
    Err("no credentials")
}

#[tokio::main]
async fn main() -> Result<()> {
    let (client, topic, bank) = (connect().await?, topic("charges")?, Bank::default());
    let publisher = client.publisher(&topic).await?;
    let messages = || (0..50).map(|_| Message::new("…")).collect();
    let breaker = CircuitBreaker::after(3).pause(Duration::from_millis(100));
    let worker = Worker::new(&client, "billing").on(&topic, charge.layer(breaker).concurrency(1));
    let report =
        worker.retry(Backoff::constant(Duration::from_millis(10))).state(bank.clone()).run_until(async {
            publisher.send_batch(messages()).await;
            bank.charged.reached(50).await;
        });
    // Three failures, two probes that failed, and then all of them.
    let report = report.await?;
    assert_eq!((report.handled, report.retried, report.dead), (50, 5, 0));
    println!("50 charged; the bank was called 5 times while it was down");

    let worker = Worker::new(&client, "broken").on(&topic, misconfigured.layer(KillSwitch::after(10)));
    let error = worker.run_until(async {
        publisher.send_batch(messages()).await;
        std::future::pending::<()>().await;
    });
    let error = error.await.expect_err("it stops itself");
    let stopped = error.source().and_then(|source| source.downcast_ref::<Stopped>()).context("stopped")?;
    assert_eq!(stopped.report.dead, 0);
    println!("{error}");
    end(&client, &topic).await
}

//! Failures: tried again at once, then after pauses, then a dead letter, by the error; and redriven.

use std::time::Duration;

use anyhow::Result;
use contract::{connect, end, topic};
use mq::worker::{Backoff, Failure, State, Text, Verdict, Worker};
use mq::{GroupName, Message, Selection};
use tour::Tally;

async fn import(Text(text): Text, State(calls): State<Tally>) -> Result<(), Failure> {
    let call = calls.next();
    let number: u32 = text.parse()?; // a rule below makes this error hopeless
    match number {
        7 if call < 8 => Err("the bank does not answer".into()),
        _ => Ok(()),
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let (client, topic, group) = (connect().await?, topic("imports")?, GroupName::new("importer")?);
    let (publisher, admin) = (client.publisher(&topic).await?, client.admin());
    let worker = |calls: &Tally| {
        Worker::new(&client, &group)
            .on(&topic, import)
            .state(calls.clone())
            // 3 attempts of 2 tries each, 50 ms and 100 ms apart.
            .retry(
                Backoff::exponential(Duration::from_millis(50)..=Duration::from_secs(1))
                    .attempts(3)
                    .immediate(1),
            )
            .rule(|failure| failure.downcast_ref::<std::num::ParseIntError>().map(|_| Verdict::Reject))
    };
    let calls = Tally::default();
    let report = worker(&calls).run_until(async {
        publisher.send(Message::new("seven")).await?;
        publisher.send(Message::new("7")).await?;
        calls.reached(7).await;
        anyhow::Ok(())
    });
    let report = report.await?;
    assert_eq!((report.retried, report.dead, report.handled), (2, 2, 0));
    println!("7 calls: one for what no call can help, six for the bank that does not answer");

    // It answers by now.
    let again = worker(&calls).run_until(async {
        let redriven = admin.redrive(&topic, &group, &Selection::All).await?;
        calls.reached(9).await;
        anyhow::Ok(redriven)
    });
    let report = again.await?;
    assert_eq!((report.handled, report.dead), (1, 1));
    println!("redriven: one handled, one dead again");
    end(&client, &topic).await
}

//! One topic, a handler for each subject.

use anyhow::Result;
use contract::{connect, end, topic};
use mq::Message;
use mq::worker::{Dispatch, State, Subject, Worker};
use tour::Tally;

#[derive(Clone, Default)]
struct Seen {
    created: Tally,
    changed: Tally,
    rest: Tally,
}

async fn created(State(seen): State<Seen>) {
    seen.created.add();
}

async fn changed(Subject(subject): Subject, State(seen): State<Seen>) {
    assert!(subject.ends_with(".changed"));
    seen.changed.add();
}

async fn rest(State(seen): State<Seen>) {
    seen.rest.add();
}

#[tokio::main]
async fn main() -> Result<()> {
    let (client, topic, seen) = (connect().await?, topic("events")?, Seen::default());
    let publisher = client.publisher(&topic).await?;
    let dispatch = Dispatch::by_subject()
        .on("order.created", created)
        .on("order.*.changed", changed) // `*` is one word, `#` any number
        .otherwise(rest);
    let report = Worker::new(&client, "audit").on(&topic, dispatch).state(seen.clone()).run_until(async {
        for subject in ["order.created", "order.address.changed", "order.items.changed", "bill.paid"] {
            publisher.send(Message::new("…").subject(subject)).await?;
        }
        tokio::join!(seen.created.reached(1), seen.changed.reached(2), seen.rest.reached(1));
        anyhow::Ok(())
    });
    assert_eq!(report.await?.handled, 4);
    println!("1 created, 2 changed, 1 of another kind");
    end(&client, &topic).await
}

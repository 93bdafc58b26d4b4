use std::collections::BTreeSet;
use std::future::IntoFuture as _;

use anyhow::{Context as _, Result, ensure};
use mq::{ClientOptions, Delivery, Message, Publisher, Subscriber};

use super::{DEADLINE, WINDOW};
use crate::suite::context::{Context, PATIENCE, QUIET, body};
use crate::suite::cut::Cuts;
use crate::suite::manifest::Verdict;

/// What was sent for certain, and what may have been.
#[derive(Default)]
struct Sent {
    count: usize,
    certain: BTreeSet<String>,
    possible: BTreeSet<String>,
}

impl Sent {
    /// Makes the next message; nothing is known of it yet.
    fn next(&mut self) -> (String, Message) {
        self.count += 1;
        let body = format!("m{:05}", self.count);
        (body.clone(), Message::new(body))
    }

    fn batch(&mut self, count: usize) -> (Vec<String>, Vec<Message>) {
        (0..count).map(|_| self.next()).unzip()
    }

    fn certainly(&mut self, bodies: impl IntoIterator<Item = String>) {
        self.certain.extend(bodies);
    }

    /// Waits until the whole window is free: messages that need all of it go through.
    async fn fill(&mut self, publisher: &Publisher) -> Result<()> {
        let (bodies, messages) = self.batch(WINDOW);
        let verdicts = tokio::time::timeout(PATIENCE, publisher.send_batch(messages)).await;
        verdicts.context("the window is not whole")?.into_iter().collect::<mq::Result<Vec<_>>>()?;
        self.certainly(bodies);
        Ok(())
    }

    /// Checks that all that is certain comes, each once, and nothing that was not sent.
    async fn all_come(&self, subscriber: &Subscriber) -> Result<()> {
        let mut missing = self.certain.clone();
        let mut seen = BTreeSet::new();
        let end = tokio::time::Instant::now() + PATIENCE;
        while !missing.is_empty() {
            let Ok(delivery) = tokio::time::timeout_at(end, subscriber.receive()).await else { break };
            self.check(delivery?, &mut missing, &mut seen).await?;
        }
        ensure!(missing.is_empty(), "lost: {missing:?}");
        while let Ok(delivery) = tokio::time::timeout(QUIET, subscriber.receive()).await {
            self.check(delivery?, &mut missing, &mut seen).await?;
        }
        Ok(())
    }

    async fn check(
        &self,
        delivery: Delivery,
        missing: &mut BTreeSet<String>,
        seen: &mut BTreeSet<String>,
    ) -> Result<()> {
        let body = body(&delivery);
        let known = missing.remove(&body) || self.possible.contains(&body);
        ensure!(known || self.certain.contains(&body), "{body} came, whose send was dropped in time");
        ensure!(seen.insert(body.clone()), "{body} came twice");
        Ok(delivery.ack().await?)
    }
}

pub(crate) async fn publishing(context: Context) -> Result<Verdict> {
    let topic = context.topic();
    let subscriber = context.subscribe(&topic, "g").await?;
    let mut sent = Sent::default();
    let window = ClientOptions::default().in_flight(WINDOW, 1 << 20);

    let mut cuts = Cuts::of(&context, "opening a publisher");
    while cuts.next() {
        let client = context.harness.client_with(window).await?;
        cuts.cut(client.publisher(&topic).into_future()).await?.transpose()?;
        sent.fill(&client.publisher(&topic).await?).await?;
        client.close(DEADLINE).await?;
    }

    let client = context.harness.client_with(window).await?;
    let publisher = client.publisher(&topic).await?;
    sends(&context, &publisher, &mut sent).await?;
    sends_behind_others(&context, &publisher, &mut sent).await?;
    let report = client.close(DEADLINE).await?;
    ensure!(report.unanswered == 0, "{report:?}");

    let mut cuts = Cuts::of(&context, "closing a client");
    while cuts.next() {
        let client = context.harness.client_with(window).await?;
        let publisher = client.publisher(&topic).await?;
        for _ in 0..WINDOW {
            let (body, message) = sent.next();
            drop(publisher.enqueue(message).await?);
            sent.certainly([body]);
        }
        cuts.cut(client.close(DEADLINE)).await?.transpose()?;
    }
    sent.all_come(&subscriber).await?;
    context.until_empty(&topic, "g").await?;
    Ok(Verdict::Pass)
}

/// With room in the window, the first poll queues the message, and no poll sends nothing.
async fn sends(context: &Context, publisher: &Publisher, sent: &mut Sent) -> Result<()> {
    let mut cuts = Cuts::of(context, "send");
    while cuts.next() {
        sent.fill(publisher).await?;
        let (body, message) = sent.next();
        cuts.cut(publisher.send(message)).await?.transpose()?;
        sent.certainly(cuts.polled().then_some(body));
    }
    let mut cuts = Cuts::of(context, "send_batch");
    while cuts.next() {
        sent.fill(publisher).await?;
        let (bodies, messages) = sent.batch(WINDOW);
        let verdicts = cuts.cut(publisher.send_batch(messages)).await?;
        verdicts.into_iter().flatten().collect::<mq::Result<Vec<_>>>()?;
        sent.certainly(bodies.into_iter().filter(|_| cuts.polled()));
    }
    let mut cuts = Cuts::of(context, "Sending");
    while cuts.next() {
        sent.fill(publisher).await?;
        let (body, message) = sent.next();
        let sending = publisher.enqueue(message).await?;
        cuts.cut(sending).await?.transpose()?;
        sent.certainly([body]);
    }
    sent.fill(publisher).await
}

/// Behind a full window, a call that is dropped may have been queued, but for `enqueue`.
async fn sends_behind_others(context: &Context, publisher: &Publisher, sent: &mut Sent) -> Result<()> {
    for what in ["send in a full window", "send_batch in a full window", "enqueue in a full window"] {
        let mut cuts = Cuts::of(context, what);
        while cuts.next() {
            sent.fill(publisher).await?;
            let mut under_way = Vec::new();
            for _ in 0..WINDOW {
                let (body, message) = sent.next();
                under_way.push(publisher.enqueue(message).await?);
                sent.certainly([body]);
            }
            let (bodies, mut messages) = sent.batch(if what.starts_with("send_batch") { WINDOW } else { 1 });
            let done = if messages.len() > 1 {
                let verdicts = cuts.cut(publisher.send_batch(messages)).await?;
                verdicts.map(|verdicts| verdicts.into_iter().try_for_each(|verdict| verdict.map(drop)))
            } else if what.starts_with("send") {
                cuts.cut(publisher.send(messages.remove(0))).await?.map(|sent| sent.map(drop))
            } else {
                cuts.cut(publisher.enqueue(messages.remove(0))).await?.map(|sending| sending.map(drop))
            };
            match done {
                Some(done) => {
                    done?;
                    sent.certainly(bodies);
                }
                None if what.starts_with("send") && cuts.polled() => sent.possible.extend(bodies),
                None => {}
            }
            for sending in under_way {
                sending.await?;
            }
        }
    }
    sent.fill(publisher).await
}

//! Tells the shop about the orders, and where it was if it is started again.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result};
use mq::{Message, Publisher};
use serde::{Deserialize, Serialize};

use crate::journal::Journal;
use crate::order::{Event, Order};
use crate::pace;
use crate::shop::Shop;

/// Orders between two lines of the journal.
const CHUNK: usize = 5000;

/// A line of the intake's journal: so many orders, from the first, are confirmed.
#[derive(Debug, Serialize, Deserialize)]
struct Confirmed {
    confirmed: usize,
}

/// Sends the orders, each customer's in order.
#[derive(Debug)]
pub(crate) struct Intake {
    shop: Shop,
    publisher: Publisher,
    journal: Journal<Confirmed>,
    confirmed: Arc<AtomicUsize>,
}

impl Intake {
    /// Opens the intake where it stopped.
    pub(crate) async fn open(shop: &Shop) -> Result<Self> {
        let publisher = shop.publisher(Event::Placed).await?;
        let (journal, lines) = shop.journal::<Confirmed>("intake")?;
        let confirmed = lines.last().map_or(0, |line| line.confirmed);
        Ok(Self { shop: shop.clone(), publisher, journal, confirmed: Arc::new(AtomicUsize::new(confirmed)) })
    }

    /// Returns the number of orders confirmed, now and later.
    pub(crate) fn confirmed(&self) -> Arc<AtomicUsize> {
        self.confirmed.clone()
    }

    /// Sends what is not confirmed.
    pub(crate) async fn run(mut self, orders: &[Order]) -> Result<()> {
        let start = self.confirmed.load(Ordering::Relaxed);
        let (size, mut pace) = pace::of(self.shop.rate, CHUNK);
        for (index, chunk) in orders[start.min(orders.len())..].chunks(size).enumerate() {
            pace.wait().await;
            // The chunk on which the run was interrupted may have been sent, in part or whole.
            let again = self.shop.resumed && index * size < CHUNK;
            for round in rounds(chunk) {
                let messages: mq::Result<Vec<Message>> =
                    round.into_iter().map(|order| order.message(Event::Placed, again)).collect();
                // A round holds one order of a customer at most: what is sent again overtakes nothing.
                for verdict in self.publisher.send_batch(messages?).await {
                    verdict.context("the intake failed")?;
                }
            }
            let confirmed = start + index * size + chunk.len();
            self.journal.append(&[Confirmed { confirmed }]).await?;
            self.confirmed.store(confirmed, Ordering::Relaxed);
            self.shop.changed.notify_one();
        }
        Ok(())
    }
}

/// Parts orders into rounds with one order of each customer at most, each customer's in order.
fn rounds(orders: &[Order]) -> Vec<Vec<&Order>> {
    let mut rounds: Vec<Vec<&Order>> = Vec::new();
    let mut sent: HashMap<&str, usize> = HashMap::new();
    for order in orders {
        let round = sent.entry(&order.customer).or_default();
        if *round == rounds.len() {
            rounds.push(Vec::new());
        }
        rounds[*round].push(order);
        *round += 1;
    }
    rounds
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::order::sample;

    #[test]
    fn a_round_has_one_order_of_a_customer_and_keeps_their_order() {
        let orders: Vec<Order> = [(1, "a"), (2, "b"), (3, "a"), (4, "a"), (5, "b"), (6, "c")]
            .map(|(id, customer)| sample(id, customer, 1))
            .into();
        let ids: Vec<Vec<u64>> =
            rounds(&orders).iter().map(|round| round.iter().map(|order| order.id).collect()).collect();
        assert_eq!(ids, [vec![1, 2, 6], vec![3, 5], vec![4]]);
    }
}

//! The business result: what became of every order, whatever the broker, the timing and the crashes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write};

use anyhow::{Result, bail};
use sha2::{Digest, Sha256};

use crate::order::Order;
use crate::services::analytics::Analytics;
use crate::services::inventory::Inventory;
use crate::services::notification::Notification;
use crate::services::payment::Payment;

/// What the services know at the end.
#[derive(Debug)]
pub(crate) struct Books {
    pub(crate) inventory: Inventory,
    pub(crate) payment: Payment,
    pub(crate) notification: Notification,
    pub(crate) analytics: Analytics,
    pub(crate) dead: BTreeSet<u64>,
}

/// What became of an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Completed, for so many cents.
    Completed(u64),
    /// Given up.
    Dead,
    /// Nobody knows: an error of the broker, the library or the shop.
    Lost,
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Completed(cents) => write!(f, "completed {cents}"),
            Self::Dead => f.write_str("dead"),
            Self::Lost => f.write_str("lost"),
        }
    }
}

impl Books {
    /// Returns what became of an order.
    pub(crate) fn fate(&self, order: u64) -> Fate {
        match self.payment.charged.get(&order) {
            Some(cents) if self.notification.completed.contains(&order) => Fate::Completed(*cents),
            _ if self.dead.contains(&order) => Fate::Dead,
            _ => Fate::Lost,
        }
    }

    /// Returns the SHA-256 of the ledger: customers with their orders and charges, stock by day,
    /// totals by event and month, all sorted.
    pub(crate) fn digest(&self, orders: &[Order]) -> String {
        let mut hash = Hash(Sha256::new());
        // A hash takes everything.
        let _ = self.write_ledger(orders, &mut hash);
        hex(&hash.0.finalize())
    }

    fn write_ledger(&self, orders: &[Order], out: &mut impl Write) -> fmt::Result {
        let mut customers: BTreeMap<&str, BTreeMap<u64, Fate>> = BTreeMap::new();
        for order in orders {
            customers.entry(&order.customer).or_default().insert(order.id, self.fate(order.id));
        }
        for (customer, orders) in customers {
            writeln!(out, "customer {customer}")?;
            for (order, fate) in orders {
                writeln!(out, "order {order} {fate}")?;
            }
        }
        for (day, pieces) in &self.inventory.taken {
            writeln!(out, "stock {day} {pieces}")?;
        }
        for ((event, month), total) in &self.analytics.totals {
            writeln!(out, "{event} {month} {} {} {}", total.orders, total.pieces, total.cents)?;
        }
        Ok(())
    }

    /// Checks that the services' books agree with each other.
    ///
    /// # Errors
    /// The first that doesn't.
    pub(crate) fn check(&self) -> Result<()> {
        if let Some(order) =
            self.notification.completed.iter().find(|id| !self.payment.charged.contains_key(id))
        {
            bail!("order {order} was completed but never paid");
        }
        let paid: u64 = self.payment.charged.values().sum();
        let counted: u64 = self
            .analytics
            .totals
            .iter()
            .filter(|((event, _), _)| *event == crate::order::Event::Paid)
            .map(|(_, total)| total.cents)
            .sum();
        if paid != counted {
            bail!("payment charged {paid} cents and analytics counted {counted}");
        }
        Ok(())
    }
}

/// Returns the SHA-256 of the orders as read.
pub(crate) fn fingerprint(orders: &[Order]) -> String {
    let mut hash = Hash(Sha256::new());
    for order in orders {
        let Order { id, line, date, customer, quantity, cents } = order;
        // A hash takes everything.
        let _ = writeln!(hash, "{id} {line} {date} {customer} {quantity} {cents}");
    }
    hex(&hash.0.finalize())
}

struct Hash(Sha256);

impl Write for Hash {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.update(text.as_bytes());
        Ok(())
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // A string takes everything.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::order::{Event, sample};
    use crate::services::notification::Told;
    use crate::services::payment::Charge;
    use crate::stage::{Service, Step};

    fn books(orders: &[Order], dead: &[u64]) -> Books {
        let mut books = Books {
            inventory: Inventory::default(),
            payment: Payment::default(),
            notification: Notification::default(),
            analytics: Analytics::default(),
            dead: dead.iter().copied().collect(),
        };
        for order in orders.iter().filter(|order| !dead.contains(&order.id)) {
            books.payment.apply(order.id, &Charge::Charged(order.cents));
            books.notification.apply(order.id, &Told::Receipt);
            if let Step::Done(counted) = books.analytics.handle(Event::Paid, order, 1) {
                books.analytics.apply(order.id, &counted);
            }
        }
        books
    }

    #[test]
    fn the_digest_depends_on_the_result_and_not_on_how_it_came_about() {
        let orders = [sample(1, "b", 100), sample(2, "a", 200), sample(3, "b", 300)];
        let digest = books(&orders, &[2]).digest(&orders);
        let mut turned = orders.clone();
        turned.reverse();
        assert_eq!(books(&turned, &[2]).digest(&turned), digest);
        assert_ne!(books(&orders, &[1]).digest(&orders), digest);
        assert_ne!(books(&orders, &[]).digest(&orders), digest);
        assert_eq!(digest.len(), 64);
    }

    #[test]
    fn an_order_that_nobody_knows_of_is_lost() {
        let orders = [sample(1, "a", 100), sample(2, "a", 0)];
        let books = books(&orders, &[]);
        assert_eq!(
            (books.fate(1), books.fate(2), books.fate(3)),
            (Fate::Completed(100), Fate::Completed(0), Fate::Lost)
        );
        books.check().unwrap();
    }
}

//! Takes an order's goods from stock.

use std::collections::{BTreeMap, HashSet};

use serde::{Deserialize, Serialize};

use crate::order::{Event, Order};
use crate::stage::{Service, Step};

/// The stock that orders took.
#[derive(Debug, Default)]
pub(crate) struct Inventory {
    reserved: HashSet<u64>,
    /// Pieces taken on each day.
    pub(crate) taken: BTreeMap<String, u64>,
}

/// Pieces taken from stock for an order.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Taken {
    date: String,
    pieces: u64,
}

impl Service for Inventory {
    const NAME: &'static str = "inventory";
    const READS: &'static [Event] = &[Event::Placed];
    const TELLS: Option<Event> = Some(Event::Reserved);
    type Effect = Taken;

    fn handle(&self, _: Event, order: &Order, _: u32) -> Step<Taken> {
        if self.reserved.contains(&order.id) {
            return Step::Known;
        }
        Step::Done(Taken { date: order.date.clone(), pieces: order.quantity })
    }

    fn apply(&mut self, order: u64, taken: &Taken) {
        if self.reserved.insert(order) {
            *self.taken.entry(taken.date.clone()).or_default() += taken.pieces;
        }
    }

    fn finished(&self) -> usize {
        self.reserved.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::order::sample;

    #[test]
    fn an_order_told_twice_takes_its_goods_once() {
        let mut inventory = Inventory::default();
        let order = sample(1, "a", 100);
        let Step::Done(taken) = inventory.handle(Event::Placed, &order, 1) else { panic!("not taken") };
        inventory.apply(1, &taken);
        assert!(matches!(inventory.handle(Event::Placed, &order, 2), Step::Known));
        inventory.apply(1, &taken);
        assert_eq!(inventory.taken, BTreeMap::from([("1997-01-01".to_owned(), 2)]));
    }
}

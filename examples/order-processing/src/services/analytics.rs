//! Sees everything: a second group on every topic, beside the services that work on them.

use std::collections::{BTreeMap, HashSet};

use serde::{Deserialize, Serialize};

use crate::order::{Event, Order};
use crate::stage::{Service, Step};

/// Totals by event and month.
#[derive(Debug, Default)]
pub(crate) struct Analytics {
    seen: HashSet<(Event, u64)>,
    pub(crate) totals: BTreeMap<(Event, String), Total>,
}

/// What happened in a month.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Total {
    pub(crate) orders: u64,
    pub(crate) pieces: u64,
    pub(crate) cents: u64,
}

/// An event that was counted.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Counted {
    event: Event,
    month: String,
    pieces: u64,
    cents: u64,
}

impl Service for Analytics {
    const NAME: &'static str = "analytics";
    const READS: &'static [Event] = &Event::ALL;
    const TELLS: Option<Event> = None;
    /// Sums don't depend on the order of what they sum.
    const ORDERED: bool = false;
    type Effect = Counted;

    fn handle(&self, event: Event, order: &Order, _: u32) -> Step<Counted> {
        if self.seen.contains(&(event, order.id)) {
            return Step::Known;
        }
        let month = order.month().to_owned();
        Step::Done(Counted { event, month, pieces: order.quantity, cents: order.cents })
    }

    fn apply(&mut self, order: u64, counted: &Counted) {
        if self.seen.insert((counted.event, order)) {
            let total = self.totals.entry((counted.event, counted.month.clone())).or_default();
            total.orders += 1;
            total.pieces += counted.pieces;
            total.cents += counted.cents;
        }
    }

    fn finished(&self) -> usize {
        self.seen.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::order::sample;

    #[test]
    fn each_event_of_an_order_counts_once() {
        let mut analytics = Analytics::default();
        for event in [Event::Placed, Event::Reserved, Event::Placed] {
            if let Step::Done(counted) = analytics.handle(event, &sample(1, "a", 100), 1) {
                analytics.apply(1, &counted);
            }
        }
        let total = Total { orders: 1, pieces: 2, cents: 100 };
        let month = || "1997-01".to_owned();
        assert_eq!(
            analytics.totals,
            BTreeMap::from([((Event::Placed, month()), total), ((Event::Reserved, month()), total)])
        );
    }
}

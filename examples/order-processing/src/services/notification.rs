//! Tells a customer that the order is on its way: the last stage.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use crate::order::{Event, Order};
use crate::stage::{Service, Step};

/// The orders that are completed.
#[derive(Debug, Default)]
pub(crate) struct Notification {
    pub(crate) completed: HashSet<u64>,
}

/// What the customer was told.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Told {
    /// Paid, on its way.
    Receipt,
    /// On its way, for free.
    Gift,
}

impl Service for Notification {
    const NAME: &'static str = "notification";
    const READS: &'static [Event] = &[Event::Paid];
    const TELLS: Option<Event> = None;
    type Effect = Told;

    fn handle(&self, _: Event, order: &Order, _: u32) -> Step<Told> {
        if self.completed.contains(&order.id) {
            return Step::Known;
        }
        Step::Done(if order.cents == 0 { Told::Gift } else { Told::Receipt })
    }

    fn apply(&mut self, order: u64, _: &Told) {
        self.completed.insert(order);
    }

    fn finished(&self) -> usize {
        self.completed.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::order::sample;

    #[test]
    fn a_customer_is_told_once() {
        let mut notification = Notification::default();
        let (paid, free) = (sample(1, "a", 100), sample(2, "a", 0));
        assert!(matches!(notification.handle(Event::Paid, &free, 1), Step::Done(Told::Gift)));
        assert!(matches!(notification.handle(Event::Paid, &paid, 1), Step::Done(Told::Receipt)));
        notification.apply(1, &Told::Receipt);
        assert!(matches!(notification.handle(Event::Paid, &paid, 1), Step::Known));
    }
}

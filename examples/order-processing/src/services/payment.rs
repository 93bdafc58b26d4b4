//! Charges an order; a declined card is tried again with back-off, then given up.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::order::{Event, Order};
use crate::stage::{Service, Step};

/// After so many attempts the broker moves an order to the dead letters.
pub(crate) const MAX_ATTEMPTS: u32 = 6;

/// The charges made.
#[derive(Debug, Default)]
pub(crate) struct Payment {
    /// Cents charged for each order; 0 for a promotion.
    pub(crate) charged: HashMap<u64, u64>,
    /// Orders that were declined at least once.
    pub(crate) declined: HashSet<u64>,
    /// Of these, the orders that were not charged since.
    waiting: HashSet<u64>,
}

/// What the bank said.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Charge {
    /// It took so many cents; a promotion asks for none.
    Charged(u64),
    /// It declined on this attempt.
    Declined(u32),
}

impl Service for Payment {
    const NAME: &'static str = "payment";
    const READS: &'static [Event] = &[Event::Reserved];
    const TELLS: Option<Event> = Some(Event::Paid);
    const MAX_ATTEMPTS: u32 = MAX_ATTEMPTS;
    type Effect = Charge;

    fn handle(&self, _: Event, order: &Order, attempt: u32) -> Step<Charge> {
        if self.charged.contains_key(&order.id) {
            return Step::Known;
        }
        match charge(order, attempt) {
            Charge::Declined(attempt) => Step::Retry {
                effect: Charge::Declined(attempt),
                after: back_off(attempt),
                because: "the bank declined the card",
            },
            charged @ Charge::Charged(_) => Step::Done(charged),
        }
    }

    fn apply(&mut self, order: u64, charge: &Charge) {
        match charge {
            Charge::Charged(cents) => {
                self.charged.insert(order, *cents);
                self.waiting.remove(&order);
            }
            Charge::Declined(_) => {
                self.declined.insert(order);
                self.waiting.insert(order);
            }
        }
    }

    fn finished(&self) -> usize {
        self.charged.len()
    }

    fn waiting(&self) -> usize {
        self.waiting.len()
    }
}

/// Waits 100 ms after the first attempt, twice as long after each further one, 500 ms at most.
fn back_off(attempt: u32) -> Duration {
    Duration::from_millis(50 << attempt.min(10)).min(Duration::from_millis(500))
}

/// Stands for a bank. A promotion costs nothing, so nobody is asked.
fn charge(order: &Order, attempt: u32) -> Charge {
    if order.cents > 0 && attempt <= declines(order.id) {
        Charge::Declined(attempt)
    } else {
        Charge::Charged(order.cents)
    }
}

/// Returns how many attempts fail. Fixed by the order's id: of 1,000 orders 1 fails for ever, 10 once, 10 twice.
fn declines(order: u64) -> u32 {
    match scramble(order) % 1000 {
        0 => u32::MAX,
        1..=10 => 1,
        11..=20 => 2,
        _ => 0,
    }
}

/// The finaliser of SplitMix64: neighbouring numbers become unrelated ones.
fn scramble(number: u64) -> u64 {
    let mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::order::sample;

    fn first(wanted: u32) -> u64 {
        (1..).find(|id| declines(*id) == wanted).unwrap()
    }

    #[test]
    fn about_two_percent_recover_and_one_in_a_thousand_never_does() {
        let count = |wanted| (1..=69_659).filter(|id| declines(*id) == wanted).count();
        assert!((600..800).contains(&count(1)), "{}", count(1));
        assert!((600..800).contains(&count(2)), "{}", count(2));
        assert!((50..100).contains(&count(u32::MAX)), "{}", count(u32::MAX));
    }

    #[test]
    fn a_declined_order_is_charged_once_it_is_accepted() {
        let mut payment = Payment::default();
        let order = sample(first(2), "a", 500);
        for attempt in 1..=2 {
            let Step::Retry { effect, after, .. } = payment.handle(Event::Reserved, &order, attempt) else {
                panic!("accepted")
            };
            assert_eq!(after, Duration::from_millis(100 * u64::from(attempt)));
            payment.apply(order.id, &effect);
            assert_eq!((payment.waiting(), payment.finished()), (1, 0));
        }
        let Step::Done(charge) = payment.handle(Event::Reserved, &order, 3) else { panic!("declined") };
        payment.apply(order.id, &charge);
        assert_eq!((payment.waiting(), payment.declined.len()), (0, 1));
        assert_eq!(payment.charged[&order.id], 500);
        assert!(matches!(payment.handle(Event::Reserved, &order, 4), Step::Known));
    }

    #[test]
    fn a_promotion_is_completed_without_a_charge() {
        let order = sample(first(u32::MAX), "a", 0);
        assert_eq!(charge(&order, 1), Charge::Charged(0));
        assert_eq!(charge(&sample(order.id, "a", 1), u32::MAX), Charge::Declined(u32::MAX));
    }

    #[test]
    fn back_off_doubles_up_to_half_a_second() {
        let waits: Vec<_> = (1..=MAX_ATTEMPTS).map(|attempt| back_off(attempt).as_millis()).collect();
        assert_eq!(waits, [100, 200, 400, 500, 500, 500]);
    }
}

//! Judges whether a customer's orders come in order.
//!
//! **The rule.** At every stage, the first deliveries of a customer's orders are in the order of their
//! lines in the data. A retry lets the customer's later orders pass, and so may a redelivery after
//! a crash; so an order that any stage sent or handled more than once bears the header
//! [`AGAIN`](crate::order::AGAIN) from then on, and is not judged: it neither fails nor sets the mark for others.

use std::collections::HashMap;

/// The last line seen of each customer.
#[derive(Debug, Default)]
pub(crate) struct Judge {
    last: HashMap<String, u64>,
    out_of_order: u64,
}

impl Judge {
    /// Sees the first delivery of an order that nobody sent or handled before.
    pub(crate) fn see(&mut self, customer: &str, line: u64) {
        let Some(last) = self.last.get_mut(customer) else {
            self.last.insert(customer.to_owned(), line);
            return;
        };
        if line < *last {
            self.out_of_order += 1;
        } else {
            *last = line;
        }
    }

    /// Takes in what was seen before a restart.
    pub(crate) fn restore(&mut self, customer: &str, line: u64) {
        let counted = self.out_of_order;
        self.see(customer, line);
        self.out_of_order = counted;
    }

    pub(crate) fn out_of_order(&self) -> u64 {
        self.out_of_order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_behind_a_later_one_of_its_customer_is_counted() {
        let mut judge = Judge::default();
        for (customer, line) in [("a", 2), ("b", 9), ("a", 3), ("b", 4), ("a", 5)] {
            judge.see(customer, line);
        }
        assert_eq!(judge.out_of_order(), 1);
    }

    #[test]
    fn a_restart_forgets_no_mark() {
        let mut judge = Judge::default();
        judge.restore("a", 7);
        judge.see("a", 6);
        assert_eq!(judge.out_of_order(), 1);
    }
}

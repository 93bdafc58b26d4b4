//! An order, what happens to it, and how it travels.

use std::fmt;

use mq::Message;
use serde::{Deserialize, Serialize};

/// The header of an order that some stage sent or handled more than once; see [`crate::judge`].
pub(crate) const AGAIN: &str = "again";

/// One purchase.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Order {
    /// What every effect is keyed by.
    pub(crate) id: u64,
    /// Its line in the data: a customer's orders are in the order of their lines.
    pub(crate) line: u64,
    /// `YYYY-MM-DD`.
    pub(crate) date: String,
    /// The key of its messages.
    pub(crate) customer: String,
    /// Pieces.
    pub(crate) quantity: u64,
    /// What it costs, in US cents; 0 for a promotion.
    pub(crate) cents: u64,
}

/// What is told about an order; each event is a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Event {
    /// A customer ordered.
    Placed,
    /// Its goods were taken from stock.
    Reserved,
    /// It was paid for, or needed no payment.
    Paid,
}

impl Event {
    /// Every event, in the order in which they happen.
    pub(crate) const ALL: [Self; 3] = [Self::Placed, Self::Reserved, Self::Paid];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Placed => "placed",
            Self::Reserved => "reserved",
            Self::Paid => "paid",
        }
    }

    /// Returns the topic of the event in a run.
    pub(crate) fn topic(self, run: &str) -> String {
        format!("orders-{self}-{run}")
    }

    /// Returns the event that a topic of a run tells.
    pub(crate) fn of_topic(topic: &str) -> Option<Self> {
        let (name, _) = topic.strip_prefix("orders-")?.split_once('-')?;
        Self::ALL.into_iter().find(|event| event.name() == name)
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Order {
    /// Makes the message that tells `event`: keyed by customer, with an id that is the same however
    /// often it is sent.
    pub(crate) fn message(&self, event: Event, again: bool) -> mq::Result<Message> {
        let message = Message::json(self)?
            .id(format!("{event}-{}", self.id))
            .key(&self.customer)
            .subject(format!("order.{event}"));
        Ok(if again { message.header(AGAIN, "1") } else { message })
    }

    /// Returns the month, `YYYY-MM`.
    pub(crate) fn month(&self) -> &str {
        self.date.get(..7).unwrap_or(&self.date)
    }
}

#[cfg(test)]
pub(crate) fn sample(id: u64, customer: &str, cents: u64) -> Order {
    Order { id, line: id + 1, date: "1997-01-01".into(), customer: customer.into(), quantity: 2, cents }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_tells_its_event() {
        for event in Event::ALL {
            assert_eq!(Event::of_topic(&event.topic("a-b")), Some(event));
        }
        assert_eq!(Event::of_topic("orders-lost-a"), None);
    }

    #[test]
    fn a_message_has_its_customer_as_key_and_the_same_id_each_time() {
        let order = sample(7, "00042", 1177);
        let message = order.message(Event::Paid, false).unwrap();
        assert_eq!(message.key.as_deref(), Some(b"00042".as_slice()));
        assert_eq!(message.id.to_string(), "paid-7");
        assert_eq!(message.headers.get(AGAIN), None);
        assert_eq!(message.parse_json::<Order>().unwrap(), order);
        assert!(order.message(Event::Paid, true).unwrap().headers.get(AGAIN).is_some());
    }
}

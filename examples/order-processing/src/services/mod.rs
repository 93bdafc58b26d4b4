//! The services: each is a set of rules with a subscriber group, a publisher and a journal of its own.
//!
//! A service is a state machine: [`handle`](crate::stage::Service::handle) decides from what it
//! knows, [`apply`](crate::stage::Service::apply) learns an effect, whether it happened just now or
//! was read from the journal. How messages come and go is the same for all: [`crate::stage`].

pub(crate) mod analytics;
pub(crate) mod inventory;
pub(crate) mod notification;
pub(crate) mod payment;

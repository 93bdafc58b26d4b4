//! An open channel, and the exchanges that were found by it.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lapin::Channel;
use lapin::types::ShortString;
use mq_core::{Error, ErrorKind, Result};
use tokio::time::{Instant, timeout_at};

use super::full;
use crate::codec::Publication;
use crate::error::heals;
use crate::flight::Slot;
use crate::topology::Topology;

/// An open channel.
pub(super) struct Open {
    pub(super) channel: Arc<Channel>,
    /// How many messages were published on it.
    pub(super) published: Arc<AtomicU64>,
    /// Whether a connection was lost before, and with it perhaps what the broker knew.
    lost: bool,
    /// The exchanges that were there when they were looked for.
    known: HashSet<ShortString>,
}

impl Open {
    pub(super) fn new(channel: Channel, lost: bool) -> Self {
        Self { channel: Arc::new(channel), published: Arc::default(), lost, known: HashSet::new() }
    }

    pub(super) fn is_live(&self) -> bool {
        self.channel.status().connected()
    }

    /// Returns whether all exchanges of `items` were there.
    pub(super) fn knows(&self, items: &[Publication]) -> bool {
        let mut before = "";
        items.iter().all(|item| {
            let exchange = item.exchange.as_str();
            exchange == std::mem::replace(&mut before, exchange) || self.known.contains(exchange)
        })
    }

    /// Looks for the exchanges that are not known, and returns those not found with the reason: a
    /// publish to a missing exchange would close the channel and leave the fate of all others on it
    /// open.
    pub(super) async fn look_up(
        &mut self,
        items: &[Publication],
        topology: &Topology,
        deadline: Instant,
    ) -> Vec<(ShortString, Error)> {
        let mut absent: Vec<(ShortString, Error)> = Vec::new();
        for exchange in items.iter().map(|item| &item.exchange) {
            if exchange.as_str().is_empty()
                || self.known.contains(exchange)
                || absent.iter().any(|(name, _)| name == exchange)
            {
                continue;
            }
            let found = timeout_at(deadline, find(exchange.as_str(), topology, self.lost)).await;
            match found.unwrap_or_else(|_| Err(full())) {
                Ok(()) => drop(self.known.insert(exchange.clone())),
                Err(error) => absent.push((exchange.clone(), error)),
            }
        }
        absent
    }

    pub(super) fn begin(&self, item: Publication) -> Slot {
        self.published.fetch_add(1, Ordering::Relaxed);
        Slot::begin(self.channel.clone(), item)
    }
}

/// Looks for an exchange and, if a connection was `lost`, makes sure of the routes that are known here.
async fn find(exchange: &str, topology: &Topology, lost: bool) -> Result<()> {
    if !topology.find_exchange(exchange).await? {
        return Err(Error::new(ErrorKind::NotFound, format!("there is no topic {exchange:?}")));
    }
    let restored = if lost { topology.restore_routes(exchange).await } else { Ok(()) };
    restored.or_else(|error| {
        if heals(&error) {
            return Err(error);
        }
        topology.events().failed("restoring routes", &error);
        Ok(())
    })
}

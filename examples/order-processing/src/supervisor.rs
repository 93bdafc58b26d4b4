//! Knows when the shop is done: every order is completed or in the dead letters.

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use mq::{GroupName, Page, TopicName};
use serde::{Deserialize, Serialize};

use crate::journal::Journal;
use crate::meter::Meter;
use crate::order::Order;
use crate::progress::Progress;
use crate::services::inventory::Inventory;
use crate::services::notification::Notification;
use crate::services::payment::Payment;
use crate::shop::Shop;
use crate::stage::Service;

/// How often to look if nothing moves.
const TICK: Duration = Duration::from_millis(200);
/// How often to read the dead letters while other orders are under way.
const DEAD_LETTERS_EVERY: Duration = Duration::from_secs(5);
/// Dead letters read at once.
const PAGE: usize = 500;

/// Why the shop closes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Every order is accounted for.
    Complete,
    /// Nothing moved for too long.
    Stalled,
    /// Somebody pressed Ctrl-C.
    Interrupted,
}

/// The counters of the services.
#[derive(Clone, Debug)]
pub(crate) struct Meters {
    pub(crate) intake: Arc<AtomicUsize>,
    pub(crate) inventory: Arc<Meter>,
    pub(crate) payment: Arc<Meter>,
    pub(crate) notification: Arc<Meter>,
    pub(crate) analytics: Arc<Meter>,
}

impl Meters {
    pub(crate) fn all(&self) -> [&Arc<Meter>; 4] {
        [&self.inventory, &self.payment, &self.notification, &self.analytics]
    }
}

/// A line of the supervisor's journal: an order was found in the dead letters.
#[derive(Debug, Serialize, Deserialize)]
struct Dead {
    order: u64,
    stage: String,
    reason: String,
}

/// Watches the services.
#[derive(Debug)]
pub(crate) struct Supervisor {
    shop: Shop,
    meters: Meters,
    orders: usize,
    patience: Duration,
    pub(crate) dead: BTreeSet<u64>,
    journal: Journal<Dead>,
    looked: Instant,
}

impl Supervisor {
    pub(crate) fn open(shop: &Shop, meters: Meters, orders: usize, patience: Duration) -> Result<Self> {
        let (journal, lines) = shop.journal::<Dead>("dead")?;
        let dead = lines.iter().map(|dead| dead.order).collect();
        Ok(Self { shop: shop.clone(), meters, orders, patience, dead, journal, looked: Instant::now() })
    }

    /// Watches until every order is accounted for, nothing moves any more, or Ctrl-C.
    pub(crate) async fn watch(&mut self, progress: &mut Progress) -> Result<Ended> {
        let mut interrupted = pin!(tokio::signal::ctrl_c());
        let mut moved = (self.activity(), Instant::now());
        loop {
            if self.complete() {
                return Ok(Ended::Complete);
            }
            let changed = self.shop.changed.clone();
            tokio::select! {
                waited = tokio::time::timeout(TICK, changed.notified()) => {
                    if self.dead_letters_due(waited.is_err()) {
                        self.read_dead_letters().await?;
                    }
                }
                signal = &mut interrupted => {
                    signal.context("cannot listen to Ctrl-C")?;
                    return Ok(Ended::Interrupted);
                }
            }
            progress.show(&self.meters, self.dead.len());
            let activity = self.activity();
            if activity != moved.0 {
                moved = (activity, Instant::now());
            } else if moved.1.elapsed() > self.patience {
                return Ok(Ended::Stalled);
            }
        }
    }

    /// Everything is accounted for, and analytics saw all that was told.
    fn complete(&self) -> bool {
        let told = self.orders + self.meters.inventory.finished() + self.meters.payment.finished();
        self.open_orders() == 0 && self.meters.analytics.finished() >= told
    }

    /// Returns how many orders are neither completed nor dead.
    fn open_orders(&self) -> usize {
        self.orders.saturating_sub(self.meters.notification.finished() + self.dead.len())
    }

    fn activity(&self) -> u64 {
        let handled: u64 = self.meters.all().iter().map(|meter| meter.activity()).sum();
        handled + (self.dead.len() + self.meters.intake.load(Ordering::Relaxed)) as u64
    }

    /// When all that is open was declined, only the dead letters tell what was given up.
    fn dead_letters_due(&self, idle: bool) -> bool {
        let declined = self.meters.payment.waiting().saturating_sub(self.dead.len());
        let rest = idle && self.open_orders() > 0 && self.open_orders() <= declined;
        rest || self.looked.elapsed() >= DEAD_LETTERS_EVERY
    }

    /// Looks into the dead letters of every stage; looking changes nothing there.
    async fn read_dead_letters(&mut self) -> Result<()> {
        let stages = [
            (Inventory::READS, Inventory::NAME),
            (Payment::READS, Payment::NAME),
            (Notification::READS, Notification::NAME),
        ];
        let mut found = Vec::new();
        for (reads, stage) in stages {
            for event in reads {
                self.read_group(&event.topic(&self.shop.run), stage, &mut found).await?;
            }
        }
        self.journal.append(&found).await?;
        self.dead.extend(found.into_iter().map(|dead| dead.order));
        self.looked = Instant::now();
        Ok(())
    }

    async fn read_group(&self, topic: &str, stage: &str, found: &mut Vec<Dead>) -> Result<()> {
        let (topic, group) = (TopicName::new(topic)?, GroupName::new(stage)?);
        for offset in (0..).step_by(PAGE) {
            let page = Page { offset, limit: PAGE };
            let letters = self.shop.client.admin().dead_letters(&topic, &group, page).await?;
            for letter in &letters {
                // What is no order was no order of ours.
                let Ok(order) = letter.message.parse_json::<Order>() else { continue };
                let known = self.dead.contains(&order.id) || found.iter().any(|dead| dead.order == order.id);
                if !known {
                    let reason = letter
                        .envelope
                        .death
                        .as_ref()
                        .map_or_else(String::new, |death| death.reason.to_string());
                    found.push(Dead { order: order.id, stage: stage.to_owned(), reason });
                }
            }
            if letters.len() < PAGE {
                break;
            }
        }
        Ok(())
    }
}

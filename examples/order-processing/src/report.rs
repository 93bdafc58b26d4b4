//! The report of a run: a table for people, one JSON object for programs.

use std::fmt;

use serde::Serialize;

use crate::data::Data;
use crate::ledger::{Books, Fate};
use crate::meter::Figures;
use crate::shop::Shop;
use crate::supervisor::{Ended, Meters};

/// What a run did. Orders and what became of them count over all of a run's processes, the
/// figures of the stages since this one started.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) run: String,
    pub(crate) backend: &'static str,
    /// Whether an earlier process of this run was continued.
    pub(crate) resumed: bool,
    pub(crate) seconds: f64,
    pub(crate) orders: usize,
    pub(crate) completed: usize,
    /// Of the completed: without a charge.
    pub(crate) promotions: usize,
    /// Declined at least once.
    pub(crate) retried: usize,
    pub(crate) dead: usize,
    /// Rows of the data that are no orders.
    pub(crate) rejected: usize,
    /// Orders that are neither completed nor dead.
    pub(crate) lost: usize,
    /// Over all stages, by the rule of [`crate::judge`].
    pub(crate) out_of_order: u64,
    pub(crate) charged_cents: u64,
    pub(crate) digest: String,
    pub(crate) stages: Vec<Figures>,
}

impl Report {
    pub(crate) fn new(shop: &Shop, data: &Data, books: &Books, meters: &Meters, seconds: f64) -> Self {
        let fates: Vec<Fate> = data.orders.iter().map(|order| books.fate(order.id)).collect();
        let count = |which: fn(&Fate) -> bool| fates.iter().filter(|fate| which(fate)).count();
        let stages: Vec<Figures> = meters.all().iter().map(|meter| meter.figures()).collect();
        Self {
            run: shop.run.clone(),
            backend: shop.client.capabilities().backend,
            resumed: shop.resumed,
            seconds,
            orders: fates.len(),
            completed: count(|fate| matches!(fate, Fate::Completed(_))),
            promotions: count(|fate| *fate == Fate::Completed(0)),
            retried: books.payment.declined.len(),
            dead: count(|fate| *fate == Fate::Dead),
            rejected: data.rejected.len(),
            lost: count(|fate| *fate == Fate::Lost),
            out_of_order: stages.iter().map(|stage| stage.out_of_order).sum(),
            charged_cents: books.payment.charged.values().sum(),
            digest: books.digest(&data.orders),
            stages,
        }
    }

    /// Returns whether every order is accounted for, and every customer's were in order.
    pub(crate) fn reconciles(&self, ended: Ended) -> bool {
        ended == Ended::Complete
            && self.orders == self.completed + self.dead
            && self.lost == 0
            && self.out_of_order == 0
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let resumed = if self.resumed { ", continued" } else { "" };
        writeln!(f, "run {} on {}{resumed}: {:.1} s\n", self.run, self.backend, self.seconds)?;
        writeln!(
            f,
            "{:<14}{:>9}{:>12}{:>9}{:>9}{:>12}",
            "stage", "handled", "per second", "p50 ms", "p99 ms", "duplicates"
        )?;
        for stage in &self.stages {
            writeln!(
                f,
                "{:<14}{:>9}{:>12}{:>9}{:>9}{:>12}",
                stage.stage,
                stage.handled,
                stage.per_second,
                millis(stage.p50_ms),
                millis(stage.p99_ms),
                stage.duplicates
            )?;
        }
        writeln!(f)?;
        let mut row = |name: &str, count: usize, note: String| writeln!(f, "{name:<14}{count:>9}  {note}");
        row("orders in", self.orders, String::new())?;
        row(
            "completed",
            self.completed,
            format!("{} of them promotions, without a charge", self.promotions),
        )?;
        row("dead", self.dead, format!("declined {} times", crate::services::payment::MAX_ATTEMPTS))?;
        row("retried", self.retried, "declined at least once".into())?;
        row("rejected", self.rejected, "rows that are no orders".into())?;
        row("lost", self.lost, "orders in - completed - dead".into())?;
        let out_of_order = usize::try_from(self.out_of_order).unwrap_or(usize::MAX);
        row("out of order", out_of_order, "of a customer's orders, over all stages".into())?;
        writeln!(f, "\ncharged       ${}.{:02}", self.charged_cents / 100, self.charged_cents % 100)?;
        write!(f, "digest        {}", self.digest)
    }
}

fn millis(latency: Option<u64>) -> String {
    latency.map_or_else(|| "-".to_owned(), |millis| millis.to_string())
}

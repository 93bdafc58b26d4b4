//! Seeded random histories with faults.
//!
//! A seed decides who takes part, what becomes of each delivery, and which faults happen when: connections
//! cut, refused, stalled and slowed by a proxy, the broker paused, restarted or killed, a member's process
//! killed. What was sent, came and was settled is recorded and judged in the end, see [`check`]. Unlike the
//! fates of [`history`](super::history), which messages meet a fault depends on timing; what may happen to them does not.

mod check;
mod member;
mod plan;
mod play;
mod records;

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

pub(super) use member::{MEMBER, become_member};

use self::check::{Findings, unfinished};
use self::plan::Plan;
use self::play::Play;
use self::records::Records;
use super::context::Context;
use super::faulty::Faulty;
use super::manifest::Verdict;

/// The longest that one history may take: three starts of a broker that each take a minute on a busy machine, and the
/// work. One of whose messages none comes any more ends by itself after a minute.
pub(super) const LIMIT: Duration = Duration::from_secs(400);
/// How many messages a failure tells the story of.
const STORIES: usize = 6;

/// Plays as many histories as the options say, from the seed on.
pub(super) async fn row(context: Context) -> Result<Verdict> {
    let Some(faulty) = context.harness.faulty().await? else { return Ok(Verdict::Unsupported) };
    let mut totals = Totals::default();
    let mut first = None;
    for number in 0..context.histories {
        let seed = context.seed.wrapping_add(u64::from(number));
        let begun = Instant::now();
        let told = one(&context, &faulty, seed, &mut totals).await;
        if context.histories > 1 || told.is_err() {
            let backend = context.harness.name();
            println!("{backend} seed {seed}: {} ms; {totals}", begun.elapsed().as_millis());
        }
        if let Err(error) = told {
            let what = format!(
                "{error:#}\n    replay: cargo xtask conformance {}::faults.history --histories 1 --seed {seed}",
                context.harness.name()
            );
            println!("{what}");
            first.get_or_insert(what);
            totals.failed.push(seed);
        }
    }
    println!("{}: {totals}", context.harness.name());
    if let Some(first) = first {
        bail!("of {totals}: seeds {:?}; the first: {first}", totals.failed);
    }
    ensure!(totals.confirmed > 0, "nothing was confirmed");
    Ok(Verdict::Pass)
}

async fn one(context: &Context, faulty: &Faulty, seed: u64, totals: &mut Totals) -> Result<()> {
    totals.histories += 1;
    faulty.recover().await?;
    let plan = Plan::draw(seed);
    let context = Context::new(faulty.harness(), "faults.history", context.seed).await?;
    let client = context.client.clone();
    let play = Play::new(context, faulty.clone(), plan.clone());
    let log = play.log();
    let played = tokio::time::timeout(LIMIT, play.run()).await;
    drop(client.close(Duration::from_secs(5)).await);
    let faults: Vec<_> = log.records.lock().faults.clone();
    let findings = match played {
        Ok(Ok(findings)) => findings,
        Ok(Err(error)) => return Err(error.context(format!("{plan:?} {faults:?}"))),
        Err(_) => bail!("took over {LIMIT:?}: {} {plan:?} {faults:?}", standing(&log.records.lock())),
    };
    totals.add(&findings);
    if findings.lost.is_empty() && findings.unexpected.is_empty() {
        return Ok(());
    }
    let mut report = format!("{plan:?}\n    {faults:?}");
    let records = log.records.lock();
    for number in findings.lost.iter().take(STORIES) {
        write!(report, "\n    lost: {}", records.story(*number))?;
    }
    for (number, what) in findings.unexpected.iter().take(STORIES) {
        let story = number.map(|number| records.story(number)).unwrap_or_default();
        write!(report, "\n    unexpected: {what}: {story}")?;
    }
    bail!("{} lost, {} unexpected: {report}", findings.lost.len(), findings.unexpected.len())
}

/// Tells how far a history is.
fn standing(records: &Records) -> String {
    let Records { sent, came, .. } = records;
    format!(
        "{} sent, {} of them not answered; {} came, the last at {:?}; {} confirmed ones did not come to an end;",
        sent.len(),
        sent.iter().filter(|sent| sent.answer.is_none()).count(),
        came.len(),
        came.last().map(|came| came.at),
        unfinished(records).len()
    )
}

/// What all histories amount to.
#[derive(Debug, Default)]
struct Totals {
    histories: usize,
    confirmed: usize,
    lost: usize,
    unexpected: usize,
    failed: Vec<u64>,
}

impl Totals {
    fn add(&mut self, findings: &Findings) {
        self.confirmed += findings.confirmed;
        self.lost += findings.lost.len();
        self.unexpected += findings.unexpected.len();
    }
}

impl std::fmt::Display for Totals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { histories, confirmed, lost, unexpected, failed } = self;
        write!(
            f,
            "{histories} histories, {confirmed} confirmed, {lost} lost, {unexpected} unexpected, {} failed",
            failed.len()
        )
    }
}

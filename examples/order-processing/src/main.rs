//! Order processing on real data: one program, on any broker.
//!
//! ```text
//!           orders-placed            orders-reserved          orders-paid
//! intake ──────┬──────► inventory ──────┬──────► payment ────────┬──────► notification
//!              │                        │       (retries, dead   │
//!              │                        │           letters)     │
//!              └────────────────────────┴──────► analytics ◄─────┘
//! ```
//!
//! Read it from [`services`] (the rules) over [`stage`] (how messages are worked off) to
//! [`supervisor`] (when it is done).

mod data;
mod intake;
mod journal;
mod judge;
mod kill;
mod ledger;
mod meter;
mod metrics;
mod order;
mod pace;
mod progress;
mod report;
mod services;
mod shop;
mod stage;
mod supervisor;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Parser;
use mq::worker::Health;
use tokio::sync::watch;
use tokio::try_join;

use crate::data::Data;
use crate::intake::Intake;
use crate::ledger::Books;
use crate::metrics::Metrics;
use crate::order::Order;
use crate::progress::Progress;
use crate::report::Report;
use crate::services::analytics::Analytics;
use crate::services::inventory::Inventory;
use crate::services::notification::Notification;
use crate::services::payment::Payment;
use crate::shop::{Place, Shop};
use crate::stage::{CLOSE, Service, Stage};
use crate::supervisor::{Ended, Meters, Supervisor};

/// Processes 69,659 real orders: inventory, payment, notification and analytics, joined by topics.
///
/// Exit codes: 0 all is accounted for; 1 an error, or rows of the data were rejected; 2 wrong
/// arguments; 3 orders are lost or out of order, or the run stalled; 130 Ctrl-C.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// The broker: memory://, kafka://host:9092, amqp://user:password@host:5672, redis://host:6379.
    /// Brokers other than memory are features: --features kafka, rabbitmq, redis-stream, or full.
    #[arg(long, default_value = "memory://")]
    url: String,
    /// A CSV file of orders instead of the one that is built in.
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,
    /// Takes only the first N rows.
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Names the run; with the name of a run that was interrupted, continues it. Default: a fresh
    /// name, whose topics and folder are removed after success.
    #[arg(long, value_name = "ID")]
    run: Option<String>,
    /// The folder of the services' journals. Default: order-processing-ID in the temporary folder.
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Gives up if nothing moves for so many seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    patience: u64,
    /// Serves /metrics, /healthz and /readyz at this address, such as 127.0.0.1:9464.
    #[arg(long, value_name = "ADDRESS")]
    metrics: Option<String>,
    /// Sends so many orders a second. Default: as fast as the broker confirms them.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
    /// Prints one JSON object instead of tables.
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    match start(Args::parse()) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn start(args: Args) -> Result<u8> {
    let data = data::read(args.data.as_deref(), args.limit)?;
    for rejected in &data.rejected {
        eprintln!("rejected {rejected}");
    }
    let named = args.run.is_some();
    let (stop, stopped) = watch::channel(false);
    let place = Place { url: args.url, run: args.run, state: args.state, rate: args.rate };
    let mut shop = Shop::open(place, data.orders.len(), ledger::fingerprint(&data.orders), stopped).await?;
    shop.metrics = args.metrics.map(|address| Metrics::start(&shop.client, address)).transpose()?;
    eprintln!("run {} on {}", shop.run, shop.client.capabilities().backend);
    let again = || format!("run {0} stopped; unless it was on memory, continue it with --run {0}", shop.run);
    let patience = Duration::from_secs(args.patience);
    let (ended, report) = run(&shop, &data, stop, patience).await.with_context(again)?;
    let reconciles = report.reconciles(ended);
    if !named && (reconciles || shop.in_process) {
        shop.clean_up().await.context("the run ended, but could not be cleaned up")?;
    }
    shop.client.close(CLOSE).await?;
    if ended == Ended::Interrupted {
        eprintln!("interrupted: {}", again());
        return Ok(130);
    }
    if args.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        println!("{report}");
    }
    Ok(exit_code(ended, reconciles, &report))
}

fn exit_code(ended: Ended, reconciles: bool, report: &Report) -> u8 {
    if !reconciles {
        let how =
            if ended == Ended::Stalled { "nothing moved any more" } else { "the books don't reconcile" };
        eprintln!(
            "error: {how}; unless it was on memory, topics and journals of run {} are kept",
            report.run
        );
        3
    } else if report.rejected > 0 {
        eprintln!("error: {} rows were rejected; correct them as said above", report.rejected);
        1
    } else {
        0
    }
}

/// Opens everything, runs it to the end and draws up the report.
async fn run(
    shop: &Shop,
    data: &Data,
    stop: watch::Sender<bool>,
    patience: Duration,
) -> Result<(Ended, Report)> {
    let started = Instant::now();
    let inventory = Stage::<Inventory>::open(shop)?;
    let payment = Stage::<Payment>::open(shop)?;
    let notification = Stage::<Notification>::open(shop)?;
    let analytics = Stage::<Analytics>::open(shop)?;
    let intake = Intake::open(shop).await?;
    let meters = Meters {
        intake: intake.confirmed(),
        inventory: inventory.meter.clone(),
        payment: payment.meter.clone(),
        notification: notification.meter.clone(),
        analytics: analytics.meter.clone(),
    };
    let mut supervisor = Supervisor::open(shop, meters.clone(), data.orders.len(), patience)?;
    if let Some(kill_at) = &shop.kill_at {
        kill_at.watch_retries(&shop.client);
    }
    let mut health = Vec::new();
    let inventory = at_work(inventory, &mut health);
    let payment = at_work(payment, &mut health);
    let notification = at_work(notification, &mut health);
    let analytics = at_work(analytics, &mut health);
    let serving = match &shop.metrics {
        Some(metrics) => Some(metrics.serve(&health).await?),
        None => None,
    };
    let (inventory, payment, notification, analytics, (), ended) = try_join!(
        inventory,
        payment,
        notification,
        analytics,
        send(shop, intake, &data.orders, health),
        watch(&mut supervisor, data.orders.len(), stop),
    )?;
    if let Some(serving) = serving {
        serving.close().await;
    }
    let books = Books { inventory, payment, notification, analytics, dead: supervisor.dead };
    books.check()?;
    let report = Report::new(shop, data, &books, &meters, started.elapsed().as_secs_f64());
    Ok((ended, report))
}

/// Runs a service as a task of its own and returns what it knows at the end.
fn at_work<S: Service>(
    stage: Arc<Stage<S>>,
    health: &mut Vec<(&'static str, Health)>,
) -> impl Future<Output = Result<S>> + use<S> {
    let (worker, its_health) = stage.worker();
    health.push((S::NAME, its_health));
    let running = tokio::spawn(stage.run(worker));
    async move { running.await.with_context(|| format!("the service {} panicked", S::NAME))? }
}

/// Sends once every group is there: each gets every message.
async fn send(shop: &Shop, intake: Intake, orders: &[Order], health: Vec<(&str, Health)>) -> Result<()> {
    let orders: Arc<[Order]> = orders.into();
    let health: Vec<Health> = health.into_iter().map(|(_, health)| health).collect();
    let sending = async move {
        for service in health {
            service.reached(mq::worker::Stage::Running).await;
        }
        intake.run(&orders).await
    };
    tokio::select! {
        sent = tokio::spawn(sending) => sent.context("the intake panicked")?,
        () = shop.stopped() => Ok(()),
    }
}

async fn watch(supervisor: &mut Supervisor, orders: usize, stop: watch::Sender<bool>) -> Result<Ended> {
    let mut progress = Progress::new(orders);
    let ended = supervisor.watch(&mut progress).await;
    progress.clear();
    stop.send_replace(true);
    ended
}

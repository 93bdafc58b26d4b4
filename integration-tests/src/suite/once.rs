//! A worker that does each message once, by a store that it shares with other processes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Result;
use futures_util::future::BoxFuture;
use mq::Client;
use mq::worker::layers::{Idempotent, RedisStore, SqlStore};
use mq::worker::{Backoff, Failure, Handler as _, Id, State, Worker};
use redis::AsyncCommands as _;
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use serde::{Deserialize, Serialize};
use sqlx::any::AnyPoolOptions;
use sqlx::pool::PoolConnectionMetadata;
use sqlx::{AnyConnection, AnyPool};
use tokio::sync::Notify;

use super::victim::Plan;

/// How long a dead process's claims hold.
const LEASE: Duration = Duration::from_secs(10);
const PLACES: usize = 16;
/// How long a store may take to answer while everything else runs beside it.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where it is kept what was done, and what the effects are.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum StoreUrl {
    /// A Redis, and what its keys begin with.
    Redis(String, String),
    /// A database.
    Sql(String),
}

/// What a worker does before it is killed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OncePlan {
    /// The store.
    pub store: StoreUrl,
    /// It kills itself when it is to handle so many messages.
    pub dies_after: Option<usize>,
}

/// The effects: each is made in one transaction with its mark.
#[derive(Clone)]
pub(super) enum Effects {
    Redis { store: RedisStore, connection: ConnectionManager, list: String },
    Sql { store: SqlStore, pool: AnyPool },
}

/// The row kills processes, not machines: nothing has to be on the disk.
fn quick(
    connection: &mut AnyConnection,
    _: PoolConnectionMetadata,
) -> BoxFuture<'_, Result<(), sqlx::Error>> {
    Box::pin(async move {
        sqlx::query("PRAGMA synchronous = OFF").execute(connection).await?;
        Ok(())
    })
}

impl Effects {
    pub(super) async fn open(url: &StoreUrl) -> Result<Self> {
        let whole = |error| anyhow::anyhow!("the store: {error}");
        match url {
            StoreUrl::Redis(url, prefix) => {
                let store = RedisStore::connect(url, format!("{prefix}:done:")).await.map_err(whole)?;
                let patient = ConnectionManagerConfig::new().set_response_timeout(Some(PATIENCE));
                let client = redis::Client::open(url.as_str())?;
                let connection = client.get_connection_manager_with_config(patient).await?;
                Ok(Self::Redis { store, connection, list: format!("{prefix}:effects") })
            }
            StoreUrl::Sql(url) => {
                sqlx::any::install_default_drivers();
                let pool = AnyPoolOptions::new().after_connect(quick).connect(url).await?;
                let store = SqlStore::new(pool.clone()).await.map_err(whole)?;
                sqlx::query("CREATE TABLE IF NOT EXISTS effects (id TEXT)").execute(&pool).await?;
                Ok(Self::Sql { store, pool })
            }
        }
    }

    async fn add(&self, id: &str) -> Result<(), Failure> {
        match self {
            Self::Redis { store, connection, list } => {
                let mut both = redis::pipe();
                both.atomic().rpush(list, id).ignore().add_command(store.mark(id)).ignore();
                let _: () = both.query_async(&mut connection.clone()).await?;
            }
            Self::Sql { pool, .. } => {
                let mut both = pool.begin_with("BEGIN IMMEDIATE").await?;
                sqlx::query("INSERT INTO effects VALUES ($1)")
                    .bind(id.to_owned())
                    .execute(&mut *both)
                    .await?;
                sqlx::query(SqlStore::MARK).bind(id.to_owned()).execute(&mut *both).await?;
                both.commit().await?;
            }
        }
        Ok(())
    }

    pub(super) async fn all(&self) -> Result<Vec<String>> {
        match self {
            Self::Redis { connection, list, .. } => Ok(connection.clone().lrange(list, 0, -1).await?),
            Self::Sql { pool, .. } => {
                Ok(sqlx::query_scalar("SELECT id FROM effects").fetch_all(pool).await?)
            }
        }
    }

    /// How many there are, without reading them: it is asked again and again.
    pub(super) async fn count(&self) -> Result<usize> {
        match self {
            Self::Redis { connection, list, .. } => Ok(connection.clone().llen(list).await?),
            Self::Sql { pool, .. } => {
                let count: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM effects").fetch_one(pool).await?;
                Ok(count.try_into()?)
            }
        }
    }
}

/// When the process is to die.
struct Death {
    handled: AtomicUsize,
    after: Option<usize>,
    now: Notify,
}

async fn effect(
    Id(id): Id,
    State(effects): State<Effects>,
    State(death): State<Arc<Death>>,
) -> Result<(), Failure> {
    let handled = death.handled.fetch_add(1, Ordering::Relaxed);
    if death.after == Some(handled) {
        death.now.notify_one();
    }
    if death.after.is_some_and(|after| handled >= after) {
        return std::future::pending().await;
    }
    effects.add(&id.to_string()).await
}

impl OncePlan {
    /// Works until it is killed, or kills itself.
    pub(super) async fn work(
        &self,
        client: &Client,
        plan: &Plan,
        ready: impl FnOnce(),
        die: impl FnOnce(),
    ) -> Result<()> {
        let effects = Effects::open(&self.store).await?;
        let death =
            Arc::new(Death { handled: AtomicUsize::new(0), after: self.dies_after, now: Notify::new() });
        let route = effect.concurrency(PLACES).lease(plan.settings.lease);
        let route = match effects.clone() {
            Effects::Redis { store, .. } => route.layer(Idempotent::new(store).lease(LEASE)),
            Effects::Sql { store, .. } => route.layer(Idempotent::new(store).lease(LEASE)),
        };
        let worker = Worker::new(client, plan.group.as_str())
            .on(plan.topic.as_str(), route.prefetch(plan.prefetch))
            .retry(Backoff::default().attempts(plan.settings.max_attempts))
            .state(effects)
            .state(death.clone());
        let working = worker.run_until(async {
            ready();
            std::future::pending::<()>().await;
        });
        tokio::select! {
            worked = working => drop(worked?),
            () = death.now.notified() => die(),
        }
        Ok(())
    }
}

//! What was done, kept in a table.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use sqlx::any::AnyPoolOptions;
use sqlx::{AnyPool, AssertSqlSafe, Row as _};

use super::store::{Claim, Store, StoreError};

/// How long a call waits for a connection.
const PATIENCE: Duration = Duration::from_secs(5);

/// Keeps what was done in a table `mq_done` of SQLite or PostgreSQL, by the database's clock. Clones share a pool of
/// connections. One row for each key; rows of windows and claims that are over stay until [`purge`](Self::purge).
///
/// A process that dies between an effect and its mark repeats the effect. Where the effect is in the same database,
/// run [`MARK`](Self::MARK) in its transaction: both are there or neither.
#[derive(Clone)]
pub struct SqlStore {
    pool: AnyPool,
    statements: Arc<Statements>,
}

#[derive(Debug)]
struct Statements {
    claim: String,
    owner: &'static str,
    complete: String,
    release: &'static str,
    purge: String,
}

impl Statements {
    fn new(now: &str) -> Self {
        Self {
            claim: format!(
                "INSERT INTO mq_done (key, owner, until) VALUES ($1, $2, {now} + $3) \
                 ON CONFLICT (key) DO UPDATE SET owner = excluded.owner, until = excluded.until \
                 WHERE mq_done.until <= {now} OR mq_done.owner = excluded.owner"
            ),
            owner: "SELECT owner FROM mq_done WHERE key = $1",
            complete: format!(
                "INSERT INTO mq_done (key, owner, until) VALUES ($1, NULL, {now} + $2) \
                 ON CONFLICT (key) DO UPDATE SET owner = NULL, until = excluded.until"
            ),
            release: "DELETE FROM mq_done WHERE key = $1 AND owner = $2",
            purge: format!("DELETE FROM mq_done WHERE until <= {now}"),
        }
    }
}

impl fmt::Debug for SqlStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqlStore").finish_non_exhaustive()
    }
}

impl SqlStore {
    /// Marks key `$1` as done for ever.
    pub const MARK: &str = "INSERT INTO mq_done (key, owner, until) VALUES ($1, NULL, NULL) \
                            ON CONFLICT (key) DO UPDATE SET owner = NULL, until = NULL";

    /// Opens a `sqlite:` or `postgres:` URL and makes the table if it is missing. For SQLite `?mode=rwc` makes the
    /// file, too.
    ///
    /// # Errors
    /// The URL is wrong, the database does not answer within 5 s, or the table cannot be made.
    pub async fn connect(url: &str) -> Result<Self, StoreError> {
        sqlx::any::install_default_drivers();
        Self::new(AnyPoolOptions::new().acquire_timeout(PATIENCE).connect(url).await?).await
    }

    /// Uses a pool of yours, and makes the table if it is missing.
    ///
    /// # Errors
    /// The database is neither SQLite nor PostgreSQL, does not answer, or the table cannot be made.
    pub async fn new(pool: AnyPool) -> Result<Self, StoreError> {
        let backend = pool.acquire().await?.backend_name().to_owned();
        let now = match backend.as_str() {
            "SQLite" => {
                // Readers and the writer do not wait for each other.
                sqlx::query("PRAGMA journal_mode = WAL").fetch_all(&pool).await?;
                "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)"
            }
            "PostgreSQL" => "CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT)",
            other => return Err(format!("{other} is not known to it; use SQLite or PostgreSQL").into()),
        };
        let table = "CREATE TABLE IF NOT EXISTS mq_done (key TEXT PRIMARY KEY, owner BIGINT, until BIGINT)";
        sqlx::query(table).execute(&pool).await?;
        Ok(Self { pool, statements: Arc::new(Statements::new(now)) })
    }

    /// Removes what is over; returns how many rows it was.
    ///
    /// # Errors
    /// The database cannot be asked.
    pub async fn purge(&self) -> Result<u64, StoreError> {
        Ok(self.query(&self.statements.purge).execute(&self.pool).await?.rows_affected())
    }

    fn query(&self, text: &str) -> sqlx::query::Query<'static, sqlx::Any, sqlx::any::AnyArguments> {
        // All statements are made of constants.
        sqlx::query(AssertSqlSafe(text.to_owned()))
    }
}

fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX / 2).clamp(1, i64::MAX / 2)
}

impl Store for SqlStore {
    async fn claim(&self, key: &str, owner: u64, lease: Duration) -> Result<Claim, StoreError> {
        let claim = self.query(&self.statements.claim).bind(key.to_owned());
        let claimed = claim.bind(owner.cast_signed()).bind(millis(lease)).execute(&self.pool).await?;
        if claimed.rows_affected() > 0 {
            return Ok(Claim::Mine);
        }
        let row = self.query(self.statements.owner).bind(key.to_owned()).fetch_optional(&self.pool).await?;
        Ok(match row.map(|row| row.try_get::<Option<i64>, _>(0)).transpose()? {
            Some(None) => Claim::Done,
            // Given up meanwhile: the next try gets it.
            Some(Some(_)) | None => Claim::Busy,
        })
    }

    async fn complete(&self, key: &str, window: Option<Duration>) -> Result<(), StoreError> {
        let complete = self.query(&self.statements.complete).bind(key.to_owned());
        complete.bind(window.map(millis)).execute(&self.pool).await?;
        Ok(())
    }

    async fn release(&self, key: &str, owner: u64) -> Result<(), StoreError> {
        let release = self.query(self.statements.release).bind(key.to_owned());
        release.bind(owner.cast_signed()).execute(&self.pool).await?;
        Ok(())
    }
}

//! What was done, kept in Redis.

use std::fmt;
use std::time::Duration;

use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{AsyncCommands as _, Script};

use super::store::{Claim, Store, StoreError};

/// What stands for done; owners are numbers.
const DONE: &str = "done";
/// How long a call waits for its answer.
const PATIENCE: Duration = Duration::from_secs(5);

const CLAIM: &str = "
local now = redis.call('GET', KEYS[1])
if now == 'done' then return 2 end
if now and now ~= ARGV[1] then return 1 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 0";

const RELEASE: &str = "
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0";

/// Keeps what was done in Redis 6.2 or newer, one string for each key, under a prefix. Clones share a connection,
/// which is made again when it breaks. As durable as that Redis is: what it forgets is done again.
///
/// A process that dies between an effect and its mark repeats the effect. Where the effect is in the same Redis,
/// send [`mark`](Self::mark) in its transaction: both are there or neither.
#[derive(Clone)]
pub struct RedisStore {
    connection: ConnectionManager,
    prefix: String,
    claim: Script,
    release: Script,
}

impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStore").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

impl RedisStore {
    /// Connects to a `redis://` or `rediss://` URL; keys begin with `prefix`, which a group has to itself.
    ///
    /// # Errors
    /// The URL is wrong, or the server does not answer within 5 s.
    pub async fn connect(url: &str, prefix: impl Into<String>) -> Result<Self, StoreError> {
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(PATIENCE))
            .set_response_timeout(Some(PATIENCE))
            .set_number_of_retries(2);
        let client = redis::Client::open(url)?;
        let connection = ConnectionManager::new_with_config(client, config).await?;
        let (claim, release) = (Script::new(CLAIM), Script::new(RELEASE));
        Ok(Self { connection, prefix: prefix.into(), claim, release })
    }

    /// Returns the command that marks a key as done for ever.
    #[must_use]
    pub fn mark(&self, key: &str) -> redis::Cmd {
        redis::Cmd::set(self.name(key), DONE)
    }

    fn name(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1)
}

impl Store for RedisStore {
    async fn claim(&self, key: &str, owner: u64, lease: Duration) -> Result<Claim, StoreError> {
        let mut claim = self.claim.key(self.name(key));
        claim.arg(owner).arg(millis(lease));
        Ok(match claim.invoke_async(&mut self.connection.clone()).await? {
            0 => Claim::Mine,
            1 => Claim::Busy,
            _ => Claim::Done,
        })
    }

    async fn complete(&self, key: &str, window: Option<Duration>) -> Result<(), StoreError> {
        let (mut connection, name) = (self.connection.clone(), self.name(key));
        match window {
            Some(window) => connection.pset_ex(name, DONE, millis(window)).await?,
            None => connection.set(name, DONE).await?,
        }
        Ok(())
    }

    async fn release(&self, key: &str, owner: u64) -> Result<(), StoreError> {
        let mut release = self.release.key(self.name(key));
        release.arg(owner);
        Ok(release.invoke_async(&mut self.connection.clone()).await?)
    }
}

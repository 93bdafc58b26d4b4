//! Stores of what was done: the same promises, wherever they are kept.

use std::time::Duration;

use mq_worker::layers::{Claim, Idempotent, MemoryStore, Once, OnceError, Store, StoreError, check_store};

const LEASE: Duration = Duration::from_secs(30);

#[tokio::test]
async fn the_check_finds_what_a_store_does_not_keep() {
    /// Forgets whose claim it is.
    #[derive(Clone)]
    struct Forgetful(MemoryStore);
    impl Store for Forgetful {
        async fn claim(&self, key: &str, _: u64, lease: Duration) -> Result<Claim, StoreError> {
            self.0.claim(key, 1, lease).await
        }
        async fn complete(&self, key: &str, window: Option<Duration>) -> Result<(), StoreError> {
            self.0.complete(key, window).await
        }
        async fn release(&self, key: &str, owner: u64) -> Result<(), StoreError> {
            self.0.release(key, owner).await
        }
    }
    let found = check_store(&Forgetful(MemoryStore::new())).await.unwrap_err().to_string();
    assert_eq!(found, "owner 2 claims \"a\": Mine instead of Busy");
}

#[tokio::test]
async fn in_memory() {
    check_store(&MemoryStore::new()).await.unwrap();
}

#[cfg(feature = "sql-store")]
fn database(name: &str) -> (std::path::PathBuf, String) {
    let path =
        std::env::temp_dir().join(format!("mq-{name}-{}-{}.db", std::process::id(), fastrand::u32(..)));
    let url = format!("sqlite:{}?mode=rwc", path.display());
    (path, url)
}

#[cfg(feature = "sql-store")]
#[tokio::test]
async fn in_sqlite() {
    use mq_worker::layers::SqlStore;
    let (path, url) = database("store");
    let store = SqlStore::connect(&url).await.unwrap();
    check_store(&store).await.unwrap();
    // Another process, as it were, sees the same.
    let other = SqlStore::connect(&url).await.unwrap();
    store.complete("a", None).await.unwrap();
    assert_eq!(other.claim("a", 9, LEASE).await.unwrap(), Claim::Done);
    other.complete("over", Some(Duration::from_millis(1))).await.unwrap();
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(store.purge().await.unwrap(), 1);
    drop((store, other));
    for extension in ["db", "db-wal", "db-shm"] {
        // The last two may be gone by now.
        drop(std::fs::remove_file(path.with_extension(extension)));
    }
}

/// `MQ_POSTGRES_URL=postgres://user:password@host/database cargo test -p mq-worker --all-features -- --ignored in_postgresql`
#[cfg(feature = "sql-store")]
#[tokio::test]
#[ignore = "needs a PostgreSQL of yours; leaves some rows in its table mq_done"]
async fn in_postgresql() {
    use mq_worker::layers::SqlStore;
    let url = std::env::var("MQ_POSTGRES_URL").expect("MQ_POSTGRES_URL names the database");
    let store = SqlStore::connect(&url).await.unwrap();
    check_store(&store).await.unwrap();
}

#[cfg(feature = "sql-store")]
#[tokio::test]
async fn a_database_that_is_not_there_is_an_error() {
    use mq_worker::layers::SqlStore;
    for url in
        ["sqlite:/no/such/folder/a.db", "postgres://mq@127.0.0.1:1/none", "mysql://127.0.0.1/none", "none"]
    {
        assert!(SqlStore::connect(url).await.is_err(), "{url}");
    }
}

#[cfg(feature = "redis-store")]
#[tokio::test]
async fn a_redis_that_is_not_there_is_an_error() {
    use mq_worker::layers::RedisStore;
    let start = std::time::Instant::now();
    assert!(RedisStore::connect("redis://127.0.0.1:1", "p:").await.is_err());
    assert!(RedisStore::connect("http://127.0.0.1", "p:").await.is_err());
    assert!(start.elapsed() < Duration::from_secs(10));
}

#[tokio::test(start_paused = true)]
async fn once_without_a_worker() {
    let once = Idempotent::new(MemoryStore::new()).lease(Duration::from_secs(3));
    let failed = once.once("a", async { Err::<(), _>("no") }).await.unwrap_err();
    assert!(matches!(failed, OnceError::Work("no")));
    // Longer than the lease: it is renewed, and nobody else does it meanwhile.
    let slow = async {
        tokio::time::sleep(Duration::from_secs(60)).await;
        Ok::<_, &str>(7)
    };
    let late = async {
        tokio::time::sleep(Duration::from_secs(30)).await;
        once.once("a", async { Ok::<_, &str>(8) }).await
    };
    let (slow, late) = tokio::join!(once.once("a", slow), late);
    assert_eq!((slow.unwrap(), late.unwrap()), (Once::Ran(7), Once::Busy));
    assert_eq!(once.once("a", async { Ok::<_, &str>(9) }).await.unwrap(), Once::Done);
    // Dropped: it is given up.
    let dropped = tokio::time::timeout(
        Duration::from_secs(1),
        once.once("b", std::future::pending::<Result<(), &str>>()),
    );
    assert!(dropped.await.is_err());
    tokio::task::yield_now().await;
    assert_eq!(once.once("b", async { Ok::<_, &str>(1) }).await.unwrap(), Once::Ran(1));
}

//! Where it is kept what was done.

use std::collections::HashMap;
use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// What a store failed with.
pub type StoreError = Box<dyn StdError + Send + Sync>;

/// The store could not be asked whether a message was handled before; nothing was handled.
#[derive(Debug)]
pub struct StoreDown(pub StoreError);

impl fmt::Display for StoreDown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the store of what was done cannot be asked, so nothing was handled; bring it back")
    }
}

impl StdError for StoreDown {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&*self.0)
    }
}

/// What a store says to who wants to do something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// It is the caller's to do.
    Mine,
    /// Another one is at it.
    Busy,
    /// It was done.
    Done,
}

/// Keeps what was done and who is at what, for [`Idempotent`](crate::layers::Idempotent). Shared by all
/// processes of a group, each of its calls is one atomic step.
///
/// Calls may be dropped at any await; then whether they took effect is open, and the claim runs out.
pub trait Store: Send + Sync + 'static {
    /// Claims a key for `owner` until `lease` has passed, or renews its claim.
    ///
    /// # Errors
    /// The store cannot be asked; the message is tried again.
    fn claim(
        &self,
        key: &str,
        owner: u64,
        lease: Duration,
    ) -> impl Future<Output = Result<Claim, StoreError>> + Send;

    /// Marks a key as done, by whoever: for `window`, or for ever.
    ///
    /// # Errors
    /// The store cannot be asked.
    fn complete(
        &self,
        key: &str,
        window: Option<Duration>,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Gives up a claim, if it is `owner`'s.
    ///
    /// # Errors
    /// The store cannot be asked; the claim runs out.
    fn release(&self, key: &str, owner: u64) -> impl Future<Output = Result<(), StoreError>> + Send;
}

/// Keeps it in this process. Clones are the same store; entries go when their time is over.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore(Arc<Mutex<Entries>>);

#[derive(Debug, Default)]
struct Entries {
    keys: HashMap<String, Entry>,
    /// When there are so many, those that are over are removed.
    sweep_at: usize,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    /// `None` once done.
    owner: Option<u64>,
    /// `None` for ever.
    until: Option<Instant>,
}

impl Entry {
    fn is_over(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| until <= now)
    }
}

impl MemoryStore {
    /// Makes an empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn put(&self, key: &str, entry: Entry) {
        let mut entries = self.0.lock();
        if entries.keys.len() >= entries.sweep_at.max(1024) {
            let now = Instant::now();
            entries.keys.retain(|_, entry| !entry.is_over(now));
            entries.sweep_at = entries.keys.len() * 2;
        }
        entries.keys.insert(key.to_owned(), entry);
    }
}

impl Store for MemoryStore {
    async fn claim(&self, key: &str, owner: u64, lease: Duration) -> Result<Claim, StoreError> {
        let now = Instant::now();
        let mine = Entry { owner: Some(owner), until: Some(now + lease) };
        if let Some(entry) = self.0.lock().keys.get_mut(key).filter(|entry| !entry.is_over(now)) {
            match entry.owner {
                None => return Ok(Claim::Done),
                Some(other) if other != owner => return Ok(Claim::Busy),
                Some(_) => *entry = mine,
            }
            return Ok(Claim::Mine);
        }
        self.put(key, mine);
        Ok(Claim::Mine)
    }

    async fn complete(&self, key: &str, window: Option<Duration>) -> Result<(), StoreError> {
        let until = window.map(|window| Instant::now() + window);
        self.put(key, Entry { owner: None, until });
        Ok(())
    }

    async fn release(&self, key: &str, owner: u64) -> Result<(), StoreError> {
        let keys = &mut self.0.lock().keys;
        if keys.get(key).is_some_and(|entry| entry.owner == Some(owner)) {
            keys.remove(key);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn claims_are_one_owners_until_they_run_out() {
        let store = MemoryStore::new();
        assert_eq!(store.claim("a", 1, SECOND).await.unwrap(), Claim::Mine);
        assert_eq!(store.claim("a", 2, SECOND).await.unwrap(), Claim::Busy);
        store.release("a", 2).await.unwrap();
        assert_eq!(store.claim("a", 1, 2 * SECOND).await.unwrap(), Claim::Mine);
        tokio::time::advance(SECOND).await;
        assert_eq!(store.claim("a", 2, SECOND).await.unwrap(), Claim::Busy);
        tokio::time::advance(SECOND).await;
        assert_eq!(store.claim("a", 2, SECOND).await.unwrap(), Claim::Mine);
        store.complete("a", Some(SECOND)).await.unwrap();
        assert_eq!(store.claim("a", 2, SECOND).await.unwrap(), Claim::Done);
        tokio::time::advance(SECOND).await;
        assert_eq!(store.claim("a", 2, SECOND).await.unwrap(), Claim::Mine);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_over_is_removed() {
        let store = MemoryStore::new();
        for round in 0..10 {
            for key in 0..1000 {
                store.complete(&format!("{round}-{key}"), Some(SECOND)).await.unwrap();
            }
            tokio::time::advance(SECOND).await;
        }
        assert!(store.0.lock().keys.len() <= 3000);
    }
}

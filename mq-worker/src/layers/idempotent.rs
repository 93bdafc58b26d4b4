//! Each message once.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use mq_core::Message;
use tokio::time::Instant;

use super::store::{Claim, Store, StoreDown, StoreError};
use crate::backoff::{Backoff, retry};
use crate::context::Context;
use crate::failure::Failure;
use crate::layer::{Layer, Next};
use crate::outcome::{Done, Outcome};

/// How long a claim holds without being renewed, unless it is said otherwise.
const LEASE: Duration = Duration::from_secs(30);
/// How long to ask again about what another one is at, and the first pause, doubled each time: most handlers
/// take less, and giving back goes through the broker.
const PATIENCE: Duration = Duration::from_millis(500);
const FIRST_PAUSE: Duration = Duration::from_millis(5);
/// How long a store may take to answer.
const ANSWER: Duration = Duration::from_secs(5);
/// How long it is given back for then.
const BUSY: Duration = Duration::from_secs(1);

type KeyOf = Box<dyn Fn(&Message) -> Option<String> + Send + Sync>;

/// Handles each message once, whoever sent it twice: by its id, or by a key of yours, as long as the store
/// remembers. What was done before is acked and skipped.
///
/// It is marked as done only after the handler succeeded and what it returned is published. Two handlers
/// that get it at once, in whichever process, run it once: the other one waits half a second, then gives it back for
/// a second, uncounted. A process
/// that dies between the effect and the mark does it again: where that matters, keep the mark in the
/// same transaction as the effect.
///
/// A store that is down, or does not answer within 5 s, fails the message before its handler runs, with [`StoreDown`](crate::layers::StoreDown);
/// the policy says when it is tried again. If
/// it fails after the handler succeeded it is asked twice more, and then the message is acked unmarked.
///
/// ```
/// use std::time::Duration;
/// use mq_worker::Handler;
/// use mq_worker::layers::{Idempotent, MemoryStore};
///
/// async fn charge() {}
/// let route = charge.layer(
///     Idempotent::new(MemoryStore::new())
///         .window(Duration::from_secs(24 * 3600))
///         .key(|message| message.headers.get_str("payment").map(str::to_owned)),
/// );
/// ```
pub struct Idempotent<S: Store> {
    store: Arc<S>,
    key: KeyOf,
    window: Option<Duration>,
    lease: Duration,
}

impl<S: Store> Idempotent<S> {
    /// Handles each id once, for ever.
    #[must_use]
    pub fn new(store: S) -> Self {
        Self {
            store: Arc::new(store),
            key: Box::new(|message| Some(message.id.to_string())),
            window: None,
            lease: LEASE,
        }
    }

    /// Sets what makes two messages the same; what has no key is handled each time. Default: the id.
    #[must_use]
    pub fn key(mut self, key: impl Fn(&Message) -> Option<String> + Send + Sync + 'static) -> Self {
        self.key = Box::new(key);
        self
    }

    /// Sets how long it is remembered that it was done. Default: for ever.
    #[must_use]
    pub fn window(mut self, window: Duration) -> Self {
        self.window = Some(window);
        self
    }

    /// Sets how long a claim holds when its process dies; it is renewed while the handler runs. Default 30 s.
    #[must_use]
    pub fn lease(mut self, lease: Duration) -> Self {
        self.lease = lease;
        self
    }

    /// Does something once for a key, without a worker: whoever calls it with the same key, here or in another
    /// process, at once or later.
    ///
    /// ```
    /// use mq_worker::layers::{Idempotent, MemoryStore, Once};
    ///
    /// # async fn example() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    /// let payments = Idempotent::new(MemoryStore::new());
    /// match payments.once("payment-17", async { Ok::<_, std::io::Error>("charged") }).await? {
    ///     Once::Ran(receipt) => println!("{receipt}"),
    ///     Once::Done => println!("was done before"),
    ///     Once::Busy => println!("another one is at it"),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`OnceError::Work`] if the work failed: it is not marked, and may be done again.
    ///
    /// # Cancel safety
    /// Dropping the future drops the work and gives the key up.
    pub async fn once<T, E>(
        &self,
        key: &str,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<Once<T>, OnceError<E>> {
        let owner = fastrand::u64(..);
        match self.answer(self.store.claim(key, owner, self.lease)).await {
            Ok(Claim::Mine) => {}
            Ok(Claim::Done) => return Ok(Once::Done),
            Ok(Claim::Busy) => return Ok(Once::Busy),
            Err(error) => return Err(OnceError::Store(StoreDown(error))),
        }
        let claimed = Claimed { store: &self.store, key: Some(key.to_owned()), owner };
        let worked = self.keep(key, owner, work).await;
        if worked.is_ok() {
            self.complete(key).await;
            claimed.keep();
        } else {
            claimed.release().await;
        }
        worked.map(Once::Ran)
    }

    /// Does the work and keeps the claim meanwhile.
    async fn keep<T, E>(
        &self,
        key: &str,
        owner: u64,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, OnceError<E>> {
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                biased;
                worked = &mut work => return worked.map_err(OnceError::Work),
                () = tokio::time::sleep(self.lease / 3) => {}
            }
            tokio::select! {
                biased;
                worked = &mut work => return worked.map_err(OnceError::Work),
                renewed = self.answer(self.store.claim(key, owner, self.lease)) => match renewed {
                    Ok(Claim::Mine) => {}
                    Ok(_) => return Err(OnceError::Lost),
                    // The claim may outlast it.
                    Err(error) => tracing::warn!(target: "mq", key, %error, "a claim was not renewed"),
                },
            }
        }
    }

    /// Waits for the store, not for ever.
    async fn answer<T>(&self, asked: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        match tokio::time::timeout(ANSWER, asked).await {
            Ok(answer) => answer,
            Err(_) => Err(format!("no answer in {ANSWER:?}").into()),
        }
    }

    async fn complete(&self, key: &str) {
        let backoff = Backoff::constant(Duration::from_millis(100)).attempts(3);
        if let Err(error) = retry(backoff, || self.answer(self.store.complete(key, self.window))).await {
            tracing::warn!(target: "mq", key, %error, "done, and not marked: a duplicate would be handled again");
        }
    }
}

impl<S: Store> fmt::Debug for Idempotent<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Idempotent").field("window", &self.window).finish_non_exhaustive()
    }
}

impl<S: Store> Layer for Idempotent<S> {
    async fn call(&self, context: &mut Context<'_>, next: Next<'_>) -> Outcome {
        let Some(key) = (self.key)(context.message()) else { return next.run(context).await };
        let end = Instant::now() + PATIENCE;
        let mut pause = FIRST_PAUSE;
        loop {
            match self.once(&key, next.run(context)).await {
                Ok(Once::Ran(done)) => return Ok(done),
                Ok(Once::Done) => return Ok(Done::skipped()),
                Ok(Once::Busy) if Instant::now() + pause < end => {
                    context.wait_until(Instant::now() + pause).await?;
                    pause *= 2;
                }
                Ok(Once::Busy) => return Err(Failure::defer(BUSY).because("another handler is at it")),
                Err(OnceError::Work(failure)) => return Err(failure),
                Err(OnceError::Store(down)) => return Err(down.into()),
                Err(OnceError::Lost) => return Err(LOST.into()),
            }
        }
    }
}

const LOST: &str = "the claim was lost while the work was done; give it a longer `lease`";

/// What came of [`Idempotent::once`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Once<T> {
    /// It was done now.
    Ran(T),
    /// It was done before.
    Done,
    /// Another one is at it.
    Busy,
}

/// Why something was not done, or not marked.
#[derive(Debug)]
pub enum OnceError<E> {
    /// The store could not be asked; nothing was done.
    Store(StoreDown),
    /// The claim ran out meanwhile; the work was dropped.
    Lost,
    /// The work failed.
    Work(E),
}

impl<E: fmt::Display> fmt::Display for OnceError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Store(down) => down.fmt(f),
            Self::Lost => f.write_str(LOST),
            Self::Work(error) => error.fmt(f),
        }
    }
}

impl<E: std::error::Error> std::error::Error for OnceError<E> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Store(down) => down.source(),
            Self::Lost => None,
            Self::Work(error) => error.source(),
        }
    }
}

/// A claim under way; given up when it is dropped.
struct Claimed<'a, S: Store> {
    store: &'a Arc<S>,
    key: Option<String>,
    owner: u64,
}

impl<S: Store> Claimed<'_, S> {
    fn keep(mut self) {
        self.key = None;
    }

    async fn release(mut self) {
        let release = self.store.release(self.key.as_deref().unwrap_or_default(), self.owner);
        // What cannot be released runs out.
        let _ = tokio::time::timeout(ANSWER, release).await;
        self.key = None;
    }
}

impl<S: Store> Drop for Claimed<'_, S> {
    /// Cancelled: nobody is left to wait for the store.
    fn drop(&mut self) {
        let (Some(key), Ok(runtime)) = (self.key.take(), tokio::runtime::Handle::try_current()) else {
            return;
        };
        let (store, owner) = (self.store.clone(), self.owner);
        runtime.spawn(async move { store.release(&key, owner).await });
    }
}

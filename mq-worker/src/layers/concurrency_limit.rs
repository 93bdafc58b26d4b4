//! No more than so many at once.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use mq_core::Message;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::rate_limit::{KeyOf, own_key};
use crate::context::{Context, stopped};
use crate::layer::{Layer, Next};
use crate::outcome::Outcome;

/// Lets so many messages through at once; the others wait, their leases renewed.
///
/// [`Route::concurrency`](crate::Route::concurrency) limits one handler and costs nothing; this limits what several
/// share, or each [key](Self::per) by itself. A waiting message takes up one of its handler's places.
///
/// ```
/// use std::sync::Arc;
/// use mq_worker::{Handler, layers::ConcurrencyLimit};
///
/// async fn charge() {}
/// async fn refund() {}
/// // The bank takes four calls at once, whoever calls, and one for each customer.
/// let bank = Arc::new(ConcurrencyLimit::new(4));
/// let customer = Arc::new(ConcurrencyLimit::new(1).per_key());
/// let charges = charge.layer(customer.clone()).layer(bank.clone());
/// let refunds = refund.layer(customer).layer(bank);
/// ```
pub struct ConcurrencyLimit {
    messages: usize,
    key: Option<KeyOf>,
    all: Arc<Semaphore>,
    of_keys: Arc<Mutex<HashMap<Vec<u8>, Arc<Semaphore>>>>,
}

impl ConcurrencyLimit {
    /// Lets `messages` through at once.
    #[must_use]
    pub fn new(messages: usize) -> Self {
        let messages = messages.clamp(1, Semaphore::MAX_PERMITS);
        Self { messages, key: None, all: Arc::new(Semaphore::new(messages)), of_keys: Arc::default() }
    }

    /// Counts each of what `key` makes of a message by itself.
    #[must_use]
    pub fn per(mut self, key: impl Fn(&Message) -> Vec<u8> + Send + Sync + 'static) -> Self {
        self.key = Some(Box::new(key));
        self
    }

    /// Counts each key by itself; messages without one together.
    #[must_use]
    pub fn per_key(self) -> Self {
        self.per(own_key)
    }

    fn places(&self, key: Option<&Vec<u8>>) -> Arc<Semaphore> {
        let Some(key) = key else { return self.all.clone() };
        let mut of_keys = self.of_keys.lock();
        if let Some(known) = of_keys.get(key) {
            return known.clone();
        }
        let places = Arc::new(Semaphore::new(self.messages));
        of_keys.insert(key.clone(), places.clone());
        places
    }
}

/// A message's place; the last one of a key takes what is known of the key along.
struct Place<'a> {
    limit: &'a ConcurrencyLimit,
    key: Option<Vec<u8>>,
    places: Arc<Semaphore>,
    permit: Option<OwnedSemaphorePermit>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.permit = None;
        if let Some(key) = &self.key {
            let mut of_keys = self.limit.of_keys.lock();
            // The map's and ours: nobody else is there or waits.
            if Arc::strong_count(&self.places) == 2 {
                of_keys.remove(key);
            }
        }
    }
}

impl fmt::Debug for ConcurrencyLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConcurrencyLimit").field("messages", &self.messages).finish_non_exhaustive()
    }
}

impl Layer for ConcurrencyLimit {
    async fn call(&self, context: &mut Context<'_>, next: Next<'_>) -> Outcome {
        let key = self.key.as_ref().map(|key| key(context.message()));
        let places = self.places(key.as_ref());
        let mut place = Place { limit: self, key, permit: None, places };
        place.permit = tokio::select! {
            permit = place.places.clone().acquire_owned() => permit.ok(),
            () = context.stopping() => return Err(stopped()),
        };
        next.run(context).await
    }
}

//! What every store keeps, as a check that a store of one's own can run.

use std::time::Duration;

use super::store::{Claim, Store, StoreError};

const LEASE: Duration = Duration::from_secs(30);
/// Long enough to be asked within it, short enough to wait for.
const SHORT: Duration = Duration::from_millis(500);
/// Claims at once.
const MANY: u64 = 20;

/// Checks that a store keeps what [`Store`] promises, on keys of its own; takes about a second.
///
/// # Errors
/// What it does not keep, or what the store failed with.
pub async fn check_store(store: &impl Store) -> Result<(), StoreError> {
    let prefix = format!("check-{:x}-", fastrand::u64(..));
    let name = |key: &str| format!("{prefix}{key}");
    let claims = async |key: &str, owner, lease, expected| {
        let claim = store.claim(&name(key), owner, lease).await?;
        expect(format!("owner {owner} claims {key:?}"), &claim, &expected)
    };
    // A claim is one owner's, who may renew it and give it up.
    claims("a", 1, LEASE, Claim::Mine).await?;
    claims("a", 2, LEASE, Claim::Busy).await?;
    claims("a", 1, LEASE, Claim::Mine).await?;
    store.release(&name("a"), 2).await?;
    claims("a", 2, LEASE, Claim::Busy).await?;
    store.release(&name("a"), 1).await?;
    claims("a", u64::MAX, LEASE, Claim::Mine).await?;
    // Done is done, for ever.
    store.complete(&name("a"), None).await?;
    claims("a", u64::MAX, LEASE, Claim::Done).await?;
    store.release(&name("a"), u64::MAX).await?;
    claims("a", 3, LEASE, Claim::Done).await?;
    // What runs out is anybody's.
    claims("b", 1, SHORT, Claim::Mine).await?;
    claims("b", 2, LEASE, Claim::Busy).await?;
    store.complete(&name("c"), Some(SHORT)).await?;
    claims("c", 1, LEASE, Claim::Done).await?;
    tokio::time::sleep(SHORT * 2).await;
    claims("b", 2, LEASE, Claim::Mine).await?;
    claims("c", 1, LEASE, Claim::Mine).await?;
    // Of many at once, one gets it.
    let key = name("d");
    let many = (0..MANY).map(|owner| store.claim(&key, owner, LEASE));
    let many = futures_util::future::try_join_all(many).await?;
    let mine = many.iter().filter(|claim| **claim == Claim::Mine).count();
    expect(format!("{MANY} claim at once"), &mine, &1)?;
    // Keys are kept as they are.
    for key in ["", "it's \"quoted\" \n \u{1f600}", &"long".repeat(200)] {
        store.complete(&name(key), None).await?;
        claims(key, 1, LEASE, Claim::Done).await?;
    }
    Ok(())
}

#[expect(clippy::needless_pass_by_value, reason = "it is made for this call")]
fn expect<T: PartialEq + std::fmt::Debug>(what: String, found: &T, expected: &T) -> Result<(), StoreError> {
    if found == expected { Ok(()) } else { Err(format!("{what}: {found:?} instead of {expected:?}").into()) }
}

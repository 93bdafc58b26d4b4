//! The worker's stores on real servers.

use mq::worker::layers::{Claim, RedisStore, Store as _, check_store};
use mq_integration_tests::brokers;

#[tokio::test(flavor = "multi_thread")]
async fn redis_keeps_what_a_store_promises() {
    let redis = brokers::redis().await.unwrap();
    let store = RedisStore::connect(redis.url(), "done:").await.unwrap();
    check_store(&store).await.unwrap();
    // A store that is down is an error within bounds, and the connection comes back by itself.
    let lease = std::time::Duration::from_secs(30);
    redis.kill().await.unwrap();
    let down = tokio::time::timeout(std::time::Duration::from_secs(20), store.claim("a", 1, lease)).await;
    assert!(down.expect("it hangs").is_err());
    redis.start().await.unwrap();
    let mut claim = store.claim("a", 1, lease).await;
    for _ in 0..100 {
        if claim.is_ok() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        claim = store.claim("a", 1, lease).await;
    }
    assert_eq!(claim.unwrap(), Claim::Mine);
}

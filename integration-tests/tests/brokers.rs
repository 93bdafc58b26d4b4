//! The broker containers keep what they promise: they serve, keep URL and data, and go away.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use mq_integration_tests::brokers::{self, Broker, BrokerKind};

fn serves(broker: &Broker) -> Result<()> {
    let port = broker.port().context("a broker started here has a port")?;
    Ok(broker.kind().probe(port)?)
}

/// Probing blocks, so a frozen broker is asked from a thread of its own.
async fn is_frozen(broker: &Broker) -> Result<bool> {
    let (kind, port) = (broker.kind(), broker.port().context("no port")?);
    Ok(tokio::task::spawn_blocking(move || kind.probe(port).is_err()).await?)
}

async fn survives(broker: Broker) -> Result<()> {
    serves(&broker)?;
    let url = broker.url().to_owned();

    broker.restart().await?;
    serves(&broker)?;

    broker.kill().await?;
    assert!(serves(&broker).is_err(), "a killed broker must not serve");
    broker.start().await?;
    serves(&broker)?;
    assert_eq!(broker.url(), url);

    broker.pause().await?;
    assert!(is_frozen(&broker).await?, "a frozen broker must not answer");
    broker.unpause().await?;
    broker.wait_until_ready().await
}

#[tokio::test]
async fn redis_survives_restart_kill_and_pause() -> Result<()> {
    survives(brokers::redis().await?).await
}

#[tokio::test]
async fn rabbitmq_survives_restart_kill_and_pause() -> Result<()> {
    survives(brokers::rabbitmq().await?).await
}

#[tokio::test]
async fn kafka_survives_restart_kill_and_pause() -> Result<()> {
    survives(brokers::kafka().await?).await
}

#[tokio::test]
async fn redis_keeps_what_it_answered_over_a_kill() -> Result<()> {
    let redis = brokers::redis().await?;
    redis.exec(["redis-cli", "set", "kept", "yes"]).await?;
    redis.kill().await?;
    redis.start().await?;
    assert_eq!(redis.exec(["redis-cli", "get", "kept"]).await?, "yes\n");
    Ok(())
}

#[tokio::test]
async fn a_failing_command_and_the_log_can_be_seen() -> Result<()> {
    let redis = brokers::redis().await?;
    let error = redis.exec(["sh", "-c", "echo seen; exit 3"]).await.unwrap_err();
    assert!(format!("{error:#}").contains("seen"), "{error:#}");
    let log = redis.logs_tail(3).await?;
    assert!(log.contains("Ready to accept connections"), "{log}");
    assert!(log.lines().count() <= 3);
    Ok(())
}

#[tokio::test]
async fn rabbitmq_has_its_plugins() -> Result<()> {
    let rabbitmq = brokers::rabbitmq().await?;
    let plugins = rabbitmq.exec(["rabbitmq-plugins", "list", "--enabled", "--minimal"]).await?;
    for plugin in ["rabbitmq_management", "rabbitmq_consistent_hash_exchange"] {
        assert!(plugins.contains(plugin), "{plugins}");
    }
    assert!(rabbitmq.management_url().is_some());
    Ok(())
}

#[tokio::test]
async fn a_dropped_broker_is_gone_even_when_frozen() -> Result<()> {
    let redis = brokers::redis().await?;
    let port = redis.port().context("no port")?;
    redis.pause().await?;
    drop(redis);
    assert!(BrokerKind::Redis.probe(port).is_err());
    Ok(())
}

#[test]
fn a_shared_broker_outlives_the_runtime_of_its_first_user() -> Result<()> {
    let url = || -> Result<String> {
        let runtime = tokio::runtime::Runtime::new()?;
        runtime.block_on(async { Ok(brokers::shared_redis().await?.url().to_owned()) })
    };
    assert_eq!(url()?, url()?);
    Ok(())
}

/// Starts itself as a child that is killed while it holds a broker.
#[test]
fn a_killed_process_leaves_no_container_behind() -> Result<()> {
    const PORT_FILE: &str = "MQ_TEST_PORT_FILE";
    if let Ok(file) = std::env::var(PORT_FILE) {
        return hold_a_broker(&file);
    }
    let file = std::env::temp_dir().join(format!("mq-port-{}", std::process::id()));
    let mut child = Command::new(std::env::current_exe()?)
        .args(["--exact", "a_killed_process_leaves_no_container_behind"])
        .env(PORT_FILE, &file)
        .spawn()?;
    let port: u16 =
        eventually("the child's broker", || std::fs::read_to_string(&file).ok()?.trim().parse().ok())?;
    BrokerKind::Redis.probe(port)?;
    child.kill()?;
    child.wait()?;
    std::fs::remove_file(&file)?;
    eventually("the removal of the broker", || BrokerKind::Redis.probe(port).err())?;
    Ok(())
}

fn hold_a_broker(file: &str) -> Result<()> {
    tokio::runtime::Runtime::new()?.block_on(async {
        let redis = brokers::redis().await?;
        let port = redis.port().context("no port")?;
        std::fs::write(file, format!("{port}\n"))?;
        std::future::pending::<()>().await;
        Ok(())
    })
}

fn eventually<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> Result<T> {
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(value) = check() {
            return Ok(value);
        }
        anyhow::ensure!(std::time::Instant::now() < deadline, "still waiting for {what} after 60 s");
        std::thread::sleep(Duration::from_millis(50));
    }
}

//! The order-processing example gives the same digest on every backend, also when it is killed and
//! started again.

use std::path::PathBuf;
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use mq_integration_tests::brokers::{self, BrokerKind};
use serde_json::Value;

const LIMIT: &str = "3000";

/// The example's program, which `cargo test --workspace --all-features` has built beside this test.
fn program() -> Result<PathBuf> {
    let test = std::env::current_exe()?;
    let folder = test.ancestors().nth(2).context("no target folder")?;
    let program = folder.join("order-processing");
    ensure!(
        program.exists(),
        "{} is missing: cargo build -p order-processing --features full",
        program.display()
    );
    Ok(program)
}

/// Where a run keeps its state: for the next of its name, and for who looks into one that failed.
fn state(run: &str) -> PathBuf {
    std::env::temp_dir().join(format!("order-processing-test-{run}"))
}

/// Runs to the end.
fn complete(url: &str, name: &str) -> Result<Value> {
    let result = result(&run(url, name, None)?)?;
    std::fs::remove_dir_all(state(name))?;
    Ok(result)
}

fn run(url: &str, run: &str, kill_at: Option<&str>) -> Result<Output> {
    let mut command = Command::new(program()?);
    command.args(["--url", url, "--run", run, "--limit", LIMIT, "--json", "--state"]).arg(state(run));
    if let Some(point) = kill_at {
        command.env("ORDER_PROCESSING_KILL_AT", point);
    }
    Ok(command.output()?)
}

fn result(output: &Output) -> Result<Value> {
    let told = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {told}", output.status);
    let result: Value = serde_json::from_slice(&output.stdout).context("not one JSON object")?;
    ensure!(result["lost"] == 0 && result["out_of_order"] == 0, "{result}");
    Ok(result)
}

fn fresh(name: &str) -> String {
    format!("{name}-{:x}", fastrand::u32(..))
}

fn on_memory() -> Result<Value> {
    complete("memory://", &fresh("memory"))
}

/// One run without a crash, and one that is killed at three points drawn from a seed, the last with retries pending.
async fn same_digest(kind: BrokerKind) -> Result<()> {
    let url = brokers::shared(kind).await?.url().to_owned();
    tokio::task::spawn_blocking(move || {
        let expected = on_memory()?;
        let whole = complete(&url, &fresh(kind.name()))?;
        for field in ["digest", "orders", "completed", "dead"] {
            ensure!(
                whole[field] == expected[field],
                "{field}: {}, on memory {}",
                whole[field],
                expected[field]
            );
        }
        let seed = fastrand::u64(..);
        let mut rng = fastrand::Rng::with_seed(seed);
        let name = fresh(&format!("{}-killed", kind.name()));
        let points = [
            format!("inventory:{}", rng.u32(100..1500)),
            format!("payment.sent:{}", rng.u32(1..500)),
            format!("retry:{}", rng.u32(2..8)),
        ];
        for point in &points {
            let killed = run(&url, &name, Some(point))?;
            let told = String::from_utf8_lossy(&killed.stderr);
            ensure!(
                killed.status.code().is_none(),
                "not killed at {point} (seed {seed}): {} {told}",
                killed.status
            );
        }
        let after = complete(&url, &name)?;
        ensure!(
            after["digest"] == expected["digest"],
            "seed {seed}: killed at {points:?}: {after}\n memory: {expected}"
        );
        Ok(())
    })
    .await?
}

#[tokio::test(flavor = "multi_thread")]
async fn kafka_gives_the_digest_of_memory() -> Result<()> {
    same_digest(BrokerKind::Kafka).await
}

#[tokio::test(flavor = "multi_thread")]
async fn rabbitmq_gives_the_digest_of_memory() -> Result<()> {
    same_digest(BrokerKind::RabbitMq).await
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_gives_the_digest_of_memory() -> Result<()> {
    same_digest(BrokerKind::Redis).await
}

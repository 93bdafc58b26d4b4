//! One run of the shop: its broker, its names and its folder.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use mq::{Client, ErrorKind, MessageId, Publisher, SendRetry, TopicName, TopicSpec};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::sync::watch;

use crate::journal::{Durability, Journal};
use crate::kill::{KillAt, Trap};
use crate::metrics::Metrics;
use crate::order::Event;

/// What everything in a run shares.
#[derive(Clone, Debug)]
pub(crate) struct Shop {
    pub(crate) client: Client,
    pub(crate) run: String,
    pub(crate) state: PathBuf,
    /// Whether this run was started before.
    pub(crate) resumed: bool,
    /// Whether the broker ends with this process.
    pub(crate) in_process: bool,
    pub(crate) kill_at: Option<KillAt>,
    /// Orders a second, if it is not to be as many as can be.
    pub(crate) rate: Option<u32>,
    /// Who watches the run, if somebody asked.
    pub(crate) metrics: Option<Metrics>,
    /// Something was done.
    pub(crate) changed: Arc<Notify>,
    /// Turns true when everybody is to go home.
    pub(crate) stop: watch::Receiver<bool>,
    durability: Durability,
}

/// Where and what to run.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) url: String,
    pub(crate) run: Option<String>,
    pub(crate) state: Option<PathBuf>,
    pub(crate) rate: Option<u32>,
}

/// How long a broker may be gone: what it did not confirm is sent again so long.
const PATIENCE: Duration = Duration::from_secs(3600);
/// The most processes among which an ordered group could share its work.
const PARTITIONS: u32 = 8;

/// The file of a run's [`Manifest`].
const MANIFEST: &str = "run.json";

/// What a run is about, kept in its folder: a run can't be continued with other orders or elsewhere.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Manifest {
    broker: String,
    orders: usize,
    orders_sha256: String,
}

impl Shop {
    /// Connects, and makes or finds the run's folder.
    pub(crate) async fn open(
        place: Place,
        orders: usize,
        orders_sha256: String,
        stop: watch::Receiver<bool>,
    ) -> Result<Self> {
        let run = place.run.unwrap_or_else(fresh_run);
        TopicName::new(Event::Reserved.topic(&run)).context("choose another --run")?;
        let kill_at = KillAt::from_env()?;
        let client = connect(&place.url).await?;
        let broker = client.capabilities().backend.to_owned();
        let in_process = place.url.starts_with("memory:");
        let state =
            place.state.unwrap_or_else(|| std::env::temp_dir().join(format!("order-processing-{run}")));
        let resumed = claim(&state, &Manifest { broker, orders, orders_sha256 })?;
        if resumed && in_process {
            bail!(
                "{} belongs to an earlier run, and memory:// forgot its messages when it ended; use another --run or --state, or a broker",
                state.display()
            );
        }
        // A broker in this process ends with it; nothing can be continued after the machine failed.
        let durability = if in_process { Durability::Process } else { Durability::Machine };
        let (rate, changed) = (place.rate, Arc::default());
        Ok(Self {
            client,
            run,
            state,
            resumed,
            in_process,
            kill_at,
            rate,
            metrics: None,
            changed,
            stop,
            durability,
        })
    }

    /// Makes a publisher of an event.
    pub(crate) async fn publisher(&self, event: Event) -> Result<Publisher> {
        let publisher = self.client.publisher(event.topic(&self.run)).spec(topic_spec());
        Ok(publisher.retry(SendRetry::any(PATIENCE)).await?)
    }

    /// Opens the journal of a service.
    pub(crate) fn journal<T: Serialize + DeserializeOwned>(
        &self,
        name: &str,
    ) -> Result<(Journal<T>, Vec<T>)> {
        let path = self.state.join(format!("{name}.journal"));
        Journal::open(&path, self.durability, Trap::new(self.kill_at.as_ref(), name))
    }

    /// Returns when everybody is to go home.
    pub(crate) async fn stopped(&self) {
        // A sender that is gone says the same.
        drop(self.stop.clone().wait_for(|stop| *stop).await);
    }

    /// Removes the run's topics and its folder.
    pub(crate) async fn clean_up(&self) -> Result<()> {
        for event in Event::ALL {
            let topic = TopicName::new(event.topic(&self.run))?;
            match self.client.admin().delete_topic(&topic).await {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
                _ => {}
            }
        }
        remove_files(&self.state).with_context(|| format!("cannot remove {}", self.state.display()))
    }
}

/// Returns what the topics are like: the same, whoever opens them first.
pub(crate) fn topic_spec() -> TopicSpec {
    TopicSpec::default().partitions(PARTITIONS)
}

/// Removes what a run wrote, and its folder unless there is more in it.
fn remove_files(state: &Path) -> std::io::Result<()> {
    for file in fs::read_dir(state)? {
        let path = file?.path();
        let journal = path.extension().is_some_and(|extension| extension == "journal");
        if journal || path.ends_with(MANIFEST) {
            fs::remove_file(path)?;
        }
    }
    match fs::remove_dir(state) {
        Err(error) if error.kind() != std::io::ErrorKind::DirectoryNotEmpty => Err(error),
        _ => Ok(()),
    }
}

/// Names a run: the random end of an id.
fn fresh_run() -> String {
    MessageId::generate().with_str(|id| id.chars().skip(24).collect())
}

async fn connect(url: &str) -> Result<Client> {
    mq::connect(url).await.map_err(|error| {
        let kind = error.kind();
        let error = anyhow::Error::new(error);
        match (missing_feature(url), kind) {
            (Some(feature), _) => error.context(format!(
                "this build has no {feature}; enable it: \
                 cargo run --release -p order-processing --features {feature} -- --url …"
            )),
            (None, ErrorKind::InvalidInput) => error.context("cannot use --url"),
            (None, ErrorKind::Unauthorized) => error.context("correct user and password in --url"),
            (None, _) => error.context(
                "cannot use the broker of --url; is it running (`cargo xtask brokers up` starts one), \
                 and are host and port right?",
            ),
        }
    })
}

/// Returns the feature that `url` needs, if it is not compiled in.
fn missing_feature(url: &str) -> Option<&'static str> {
    let feature = match url.split_once("://")?.0 {
        "kafka" | "kafkas" => "kafka",
        "amqp" | "amqps" => "rabbitmq",
        "redis" | "rediss" => "redis-stream",
        _ => return None,
    };
    (!mq::backends().iter().any(|backend| backend.backend == feature)).then_some(feature)
}

/// Makes the folder, or finds it as this run left it; returns which.
fn claim(state: &Path, manifest: &Manifest) -> Result<bool> {
    fs::create_dir_all(state)
        .with_context(|| format!("cannot make {}; choose another folder with --state", state.display()))?;
    let path = state.join(MANIFEST);
    if !path.exists() {
        let fresh = state.join(format!("{MANIFEST}.new"));
        fs::write(&fresh, serde_json::to_vec(manifest)?)
            .and_then(|()| fs::rename(&fresh, &path))
            .with_context(|| format!("cannot write {}", path.display()))?;
        return Ok(false);
    }
    let known: Manifest = serde_json::from_slice(&fs::read(&path)?)
        .with_context(|| format!("{} is damaged; start afresh with another --run", path.display()))?;
    if known != *manifest {
        bail!(
            "this run was started with {} orders on {}, now it is {} on {}; continue it with the same --url, --data and --limit, or use another --run",
            known.orders,
            known.broker,
            manifest.orders,
            manifest.broker
        );
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(orders: usize) -> Manifest {
        Manifest { broker: "redis-stream".into(), orders, orders_sha256: format!("{orders}") }
    }

    #[test]
    fn a_run_is_continued_with_the_same_orders_only() {
        let state = std::env::temp_dir().join(format!("order-processing-{}-claim", std::process::id()));
        assert!(!claim(&state, &manifest(10)).unwrap());
        assert!(claim(&state, &manifest(10)).unwrap());
        let error = claim(&state, &manifest(11)).unwrap_err().to_string();
        assert!(error.contains("10 orders on redis-stream") && error.contains("--limit"), "{error}");
        let mine = state.join("notes.txt");
        fs::write(&mine, "keep").unwrap();
        remove_files(&state).unwrap();
        assert!(mine.exists() && !state.join(MANIFEST).exists());
        fs::remove_file(mine).unwrap();
        remove_files(&state).unwrap();
        assert!(!state.exists());
    }

    #[test]
    fn fresh_runs_have_names_of_their_own() {
        assert_ne!(fresh_run(), fresh_run());
        TopicName::new(Event::Reserved.topic(&fresh_run())).unwrap();
    }
}

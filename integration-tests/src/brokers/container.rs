//! A container and what can be done to it, on a runtime of the module's own.
//!
//! Tests each have their own runtime; a connection to the engine, and a broker shared by several
//! tests, must outlive any of them.

use std::collections::HashMap;
use std::future::Future;
use std::process::Child;
use std::sync::{Arc, LazyLock, OnceLock};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use testcontainers::bollard::Docker;
use testcontainers::bollard::models::PortBinding;
use testcontainers::bollard::query_parameters::KillContainerOptionsBuilder;
use testcontainers::core::{ExecCommand, IntoContainerPort};
use testcontainers::runners::AsyncRunner;
use testcontainers::{ContainerAsync, ContainerRequest, GenericImage, ImageExt};
use tokio::runtime::{Handle, Runtime};

use super::reaper::{RUN_LABEL, Sweep, current_run, spawn_reaper, sweep};

const STOP_SECONDS: i32 = 60;
/// The exit code of what was killed.
const KILLED: i64 = 137;
const KILL_LIMIT: Duration = Duration::from_secs(30);
const REMOVE_LIMIT: Duration = Duration::from_secs(30);
/// Tries of the engine to freeze a container.
const FREEZES: u32 = 5;

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("mq-brokers")
        .enable_all()
        .build()
        .expect("a runtime for the container engine's client")
});

/// Runs a future on the module's runtime; it goes on when the caller is cancelled.
pub(super) async fn detached<T: Send + 'static>(
    future: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    RUNTIME.spawn(future).await.map_err(|error| anyhow!("a container task ended early: {error}"))?
}

/// What to start: an image, its environment, and fixed ports, each outside and inside.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) image: (&'static str, &'static str),
    pub(super) environment: Vec<(String, String)>,
    pub(super) ports: Vec<(u16, u16)>,
}

impl Plan {
    fn request(&self) -> ContainerRequest<GenericImage> {
        let mut image = GenericImage::new(self.image.0, self.image.1);
        for (_, inside) in &self.ports {
            image = image.with_exposed_port(inside.tcp());
        }
        let bindings: HashMap<_, _> = self
            .ports
            .iter()
            .map(|(outside, inside)| (format!("{inside}/tcp"), Some(vec![local(*outside)])))
            .collect();
        let request = image.with_label(RUN_LABEL, current_run()).with_host_config_modifier(move |host| {
            host.publish_all_ports = Some(false);
            host.port_bindings = Some(bindings.clone());
        });
        self.environment.iter().fold(request, |request, (name, value)| request.with_env_var(name, value))
    }
}

fn local(port: u16) -> PortBinding {
    PortBinding { host_ip: Some("127.0.0.1".to_owned()), host_port: Some(port.to_string()) }
}

/// A started container, removed when dropped.
#[derive(Debug)]
pub(super) struct Container {
    inner: Option<Arc<ContainerAsync<GenericImage>>>,
}

impl Container {
    /// Starts a container; `Ok(None)` when one of its ports was taken in the meantime.
    pub(super) async fn start_new(plan: Plan) -> Result<Option<Self>> {
        require_image(plan.image).await?;
        prepare_removal().await?;
        match plan.request().start().await {
            Ok(container) => Ok(Some(Self { inner: Some(Arc::new(container)) })),
            Err(error) if is_port_conflict(&format!("{error:?}")) => Ok(None),
            Err(error) => Err(error).context("starting a container"),
        }
    }

    pub(super) async fn stop(&self) -> Result<()> {
        let container = self.handle()?;
        detached(async move {
            container.stop_with_timeout(Some(STOP_SECONDS)).await?;
            let code = container.exit_code().await?;
            ensure!(code != Some(KILLED), "it did not end by itself in {STOP_SECONDS} s and was killed");
            Ok(())
        })
        .await
        .context("stopping a container")
    }

    pub(super) async fn start(&self) -> Result<()> {
        let container = self.handle()?;
        detached(async move { Ok(container.start().await?) }).await.context("starting a stopped container")
    }

    pub(super) async fn kill(&self) -> Result<()> {
        let container = self.handle()?;
        detached(async move {
            let options = KillContainerOptionsBuilder::new().signal("KILL").build();
            let engine = Docker::connect_with_defaults()?;
            engine.kill_container(container.id(), Some(options)).await?;
            // The engine answers once the signal is sent; the port is free once it is gone.
            let gone = async {
                while container.is_running().await? {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                anyhow::Ok(())
            };
            tokio::time::timeout(KILL_LIMIT, gone).await?
        })
        .await
        .context("killing a container")
    }

    pub(super) async fn pause(&self) -> Result<()> {
        // A busy machine may fail to freeze a container at once.
        for _ in 0..FREEZES {
            let container = self.handle()?;
            match detached(async move { Ok(container.pause().await?) }).await {
                Err(error) if format!("{error:#}").contains("unable to freeze") => {}
                paused => return paused.context("pausing a container"),
            }
        }
        bail!("pausing a container: it could not be frozen in {FREEZES} tries")
    }

    pub(super) async fn unpause(&self) -> Result<()> {
        let container = self.handle()?;
        detached(async move { Ok(container.unpause().await?) }).await.context("unpausing a container")
    }

    pub(super) async fn exec(&self, command: Vec<String>) -> Result<String> {
        let container = self.handle()?;
        // The client's future may not change threads, so a blocking one drives it.
        let run = move || Handle::current().block_on(run_inside(&container, command));
        detached(async move { tokio::task::spawn_blocking(run).await? })
            .await
            .context("running a command in a container")
    }

    pub(super) async fn logs(&self) -> Result<String> {
        let container = self.handle()?;
        detached(async move {
            let mut text = container.stdout_to_vec().await?;
            text.extend(container.stderr_to_vec().await?);
            Ok(String::from_utf8_lossy(&text).into_owned())
        })
        .await
        .context("reading a container's log")
    }

    fn handle(&self) -> Result<Arc<ContainerAsync<GenericImage>>> {
        self.inner.clone().context("the container is gone")
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let Some(container) = self.inner.take() else {
            return;
        };
        let (done, wait) = std::sync::mpsc::channel();
        RUNTIME.spawn(async move {
            drop(container);
            let _ = done.send(());
        });
        if wait.recv_timeout(REMOVE_LIMIT).is_err() {
            tracing::warn!("a container was not removed in time; the reaper will remove it");
        }
    }
}

async fn run_inside(container: &ContainerAsync<GenericImage>, command: Vec<String>) -> Result<String> {
    let shown = command.join(" ");
    let mut run = container.exec(ExecCommand::new(command)).await?;
    let stdout = run.stdout_to_vec().await?;
    let stderr = run.stderr_to_vec().await?;
    match run.exit_code().await? {
        Some(0) => Ok(String::from_utf8_lossy(&stdout).into_owned()),
        code => bail!(
            "`{shown}` ended with {code:?}: {}{}",
            String::from_utf8_lossy(&stdout),
            String::from_utf8_lossy(&stderr)
        ),
    }
}

async fn require_image((name, tag): (&str, &str)) -> Result<()> {
    let engine = Docker::connect_with_defaults()
        .context("no container engine is configured; run `cargo xtask setup`")?;
    engine.ping().await.context("no container engine answers; run `cargo xtask setup`")?;
    engine
        .inspect_image(&format!("{name}:{tag}"))
        .await
        .with_context(|| format!("no image {name}:{tag}; run `cargo xtask setup`"))?;
    Ok(())
}

/// Removes what dead processes left and sees to this one's own end, once per process.
async fn prepare_removal() -> Result<()> {
    static REAPER: OnceLock<std::result::Result<Child, String>> = OnceLock::new();
    let prepare = || {
        REAPER.get_or_init(|| {
            let swept = sweep(Sweep::Dead).and_then(|_| spawn_reaper(&current_run()));
            swept.map_err(|error| error.to_string())
        })
    };
    match tokio::task::spawn_blocking(prepare).await? {
        Ok(_) => Ok(()),
        Err(error) => bail!("containers could not be cleaned up: {error}"),
    }
}

fn is_port_conflict(error: &str) -> bool {
    error.contains("port is already allocated") || error.contains("address already in use")
}

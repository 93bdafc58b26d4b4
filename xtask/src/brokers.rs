//! The brokers for work by hand: fixed ports, on the host's network where there is one.

use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::fixtures::kind::BrokerKind;
use crate::images::{HASH_LABEL, label, tag};
use crate::process;

/// How long a broker may take to serve.
pub(crate) const READY_LIMIT: Duration = Duration::from_secs(90);

/// The default port's last three digits after 17; management and the brokers' own ports follow.
pub(crate) const FIXED: [Fixed; 3] = [
    Fixed { kind: BrokerKind::Kafka, port: 17_092, environment: &[] },
    Fixed {
        kind: BrokerKind::RabbitMq,
        port: 17_672,
        environment: &[
            "MQ_MANAGEMENT_PORT=17673",
            "RABBITMQ_DIST_PORT=17674",
            "ERL_EPMD_PORT=17675",
            "ERL_EPMD_ADDRESS=127.0.0.1",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=-kernel inet_dist_use_interface {127,0,0,1}",
        ],
    },
    Fixed { kind: BrokerKind::Redis, port: 17_379, environment: &[] },
];

const MANAGEMENT_PORT: u16 = 17_673;

/// A broker at its fixed port.
#[derive(Debug)]
pub(crate) struct Fixed {
    pub(crate) kind: BrokerKind,
    port: u16,
    environment: &'static [&'static str],
}

impl Fixed {
    /// Returns its URL.
    pub(crate) fn url(&self) -> String {
        self.kind.url(self.port)
    }

    fn name(&self) -> String {
        format!("mq-brokers-{}", self.kind.name())
    }

    /// Keeps a container that runs the image of now; replaces any other.
    fn start(&self) -> Result<()> {
        let name = self.name();
        if self.is_current() {
            return Ok(());
        }
        remove(&name)?;
        let mut run = Command::new("docker");
        run.args(["run", "--detach", "--name", &name, "--label", "mq.brokers=1"]);
        run.args(["--env", &format!("MQ_PORT={}", self.port)]);
        for variable in self.environment {
            run.args(["--env", variable]);
        }
        self.connect(&mut run);
        process::output(run.arg(tag(self.kind))).map(drop).with_context(|| format!("starting {name}"))
    }

    /// The host's network costs no throughput; only Linux has it.
    fn connect(&self, run: &mut Command) {
        if cfg!(target_os = "linux") {
            run.args(["--network", "host", "--env", "MQ_BIND=127.0.0.1"]);
            return;
        }
        let management = (self.kind == BrokerKind::RabbitMq).then_some(MANAGEMENT_PORT);
        for port in [Some(self.port), management].into_iter().flatten() {
            run.args(["--publish", &format!("127.0.0.1:{port}:{port}")]);
        }
    }

    /// Says whether a container runs with what `docker/` says now.
    fn is_current(&self) -> bool {
        let format = format!(
            "{{{{.State.Running}}}} {{{{.State.Paused}}}} {{{{index .Config.Labels {HASH_LABEL:?}}}}}"
        );
        let mut inspect = Command::new("docker");
        inspect.args(["container", "inspect", "--format", &format, &self.name()]);
        let image = label(&tag(self.kind)).unwrap_or_default();
        process::output(&mut inspect).is_ok_and(|state| state.trim() == format!("true false {image}"))
    }
}

/// Starts what does not run, waits until all serve, and prints the URLs.
pub(crate) fn up() -> Result<()> {
    for fixed in &FIXED {
        fixed.start()?;
    }
    for fixed in &FIXED {
        fixed
            .kind
            .wait_until_ready(fixed.port, READY_LIMIT)
            .with_context(|| format!("see `docker logs {}`", fixed.name()))?;
        println!("{}", fixed.url());
    }
    eprintln!("RabbitMQ management: http://127.0.0.1:{MANAGEMENT_PORT} (guest, guest)");
    Ok(())
}

/// Stops and removes the brokers.
pub(crate) fn down() -> Result<()> {
    FIXED.iter().try_for_each(|fixed| remove(&fixed.name()))
}

/// Prints each URL and whether it serves.
pub(crate) fn status() -> Result<ExitCode> {
    let mut code = ExitCode::SUCCESS;
    for fixed in &FIXED {
        match fixed.kind.probe(fixed.port) {
            Ok(()) => println!("{} serves", fixed.url()),
            Err(error) => {
                println!("{} does not serve: {error}", fixed.url());
                code = ExitCode::FAILURE;
            }
        }
    }
    Ok(code)
}

fn remove(name: &str) -> Result<()> {
    let filter = format!("name=^/?{name}$");
    let mut list = Command::new("docker");
    list.args(["ps", "--all", "--quiet", "--filter", &filter]);
    if process::output(&mut list)?.trim().is_empty() {
        return Ok(());
    }
    let mut remove = Command::new("docker");
    process::output(remove.args(["rm", "--force", "--volumes", name]))
        .map(drop)
        .with_context(|| format!("removing {name}"))
}

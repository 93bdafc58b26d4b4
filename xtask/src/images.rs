//! The brokers' images: official ones with our configuration, or the same from packages.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::build_tools::install;
use crate::fixtures::kind::BrokerKind;
use crate::process::{self, is_installed};

/// Labels an image, and so its containers, with a hash of what it was built from.
pub(crate) const HASH_LABEL: &str = "mq.docker.hash";
const BASE: &str = "mq-test/base:trixie";
const SUITE: &str = "trixie";
const PULL_ANSWER: Duration = Duration::from_secs(20);
const PULL_LIMIT: Duration = Duration::from_secs(600);

/// Provides the three images; those that fit `docker/` as it is now are kept.
pub(crate) fn ensure() -> Result<()> {
    for kind in BrokerKind::ALL {
        let hash = hash(&folder(kind)).context("reading docker/")?;
        if label(&tag(kind)).as_deref() == Some(hash.as_str()) {
            continue;
        }
        let start = Instant::now();
        let (base, origin) = upstream(kind)?;
        build(kind, &base, &hash)?;
        eprintln!("image {} ready: {origin}, {:.0} s", tag(kind), start.elapsed().as_secs_f64());
    }
    Ok(())
}

/// Returns name and tag in one.
pub(crate) fn tag(kind: BrokerKind) -> String {
    let (name, tag) = kind.image();
    format!("{name}:{tag}")
}

fn official(kind: BrokerKind) -> &'static str {
    match kind {
        BrokerKind::Kafka => "apache/kafka:4.3.0",
        BrokerKind::RabbitMq => "rabbitmq:4-management",
        BrokerKind::Redis => "redis:8",
    }
}

fn folder(kind: BrokerKind) -> PathBuf {
    process::root().join("docker").join(kind.name())
}

fn docker(args: &[&str]) -> Result<String> {
    process::output(Command::new("docker").args(args))
}

/// Returns what an image was built from, if it is there.
pub(crate) fn label(image: &str) -> Option<String> {
    let format = format!("{{{{index .Config.Labels {HASH_LABEL:?}}}}}");
    let value = docker(&["image", "inspect", "--format", &format, image]).ok()?;
    Some(value.trim().to_owned())
}

fn is_present(image: &str) -> bool {
    docker(&["image", "inspect", "--format", "{{.Id}}", image]).is_ok()
}

/// Returns the image to put our configuration on, and where it came from.
fn upstream(kind: BrokerKind) -> Result<(String, &'static str)> {
    let official = official(kind);
    if is_present(official) {
        return Ok((official.to_owned(), "from the official image"));
    }
    let mut pull = Command::new("docker");
    if process::succeeds_within(pull.args(["pull", official]), PULL_ANSWER, PULL_LIMIT)? {
        return Ok((official.to_owned(), "from the official image"));
    }
    eprintln!("{official} cannot be pulled; building {}", kind.name());
    let built = build_from_packages(kind)
        .with_context(|| format!("{official} could be neither pulled nor replaced"))?;
    Ok((built, "built from packages"))
}

fn build(kind: BrokerKind, base: &str, hash: &str) -> Result<()> {
    let context = folder(kind);
    docker_build(&context.join("Dockerfile"), &context, base, &tag(kind), &format!("{HASH_LABEL}={hash}"))
}

fn docker_build(file: &Path, context: &Path, base: &str, tag: &str, label: &str) -> Result<()> {
    let mut command = Command::new("docker");
    command
        .args(["build", "--quiet", "--build-arg", &format!("BASE={base}")])
        .args(["--label", label, "--tag", tag, "--file"])
        .arg(file)
        .arg(context);
    process::output(&mut command).map(drop).with_context(|| format!("building {tag}"))
}

fn build_from_packages(kind: BrokerKind) -> Result<String> {
    if !cfg!(target_os = "linux") || !process::is_root() {
        bail!("building from packages needs Linux and the superuser; or make a registry reachable");
    }
    ensure_base()?;
    let context = match kind {
        BrokerKind::Kafka => kafka_context()?,
        BrokerKind::RabbitMq | BrokerKind::Redis => folder(kind),
    };
    let tag = format!("{}-upstream", kind.image().0);
    let file = folder(kind).join("Dockerfile.debian");
    docker_build(&file, &context, BASE, &tag, "mq.docker=upstream")?;
    Ok(tag)
}

fn ensure_base() -> Result<()> {
    if is_present(BASE) {
        return Ok(());
    }
    if !is_installed("debootstrap") {
        install(&["debootstrap"])?;
    }
    let script = process::root().join("docker/base/bootstrap.sh");
    let mut bootstrap = Command::new("sh");
    bootstrap.arg(script).args([SUITE, BASE]).args(debian_mirror());
    process::output(&mut bootstrap).map(drop).context("making the Debian base image")
}

/// Returns the mirror that this machine's own packages come from, if it is a Debian.
fn debian_mirror() -> Option<String> {
    let system = fs::read_to_string("/etc/os-release").ok()?;
    if !system.lines().any(|line| line == "ID=debian") {
        return None;
    }
    let format = "$(REPO_URI) $(CODENAME) $(ORIGIN)";
    let mut ask = Command::new("apt-get");
    ask.args(["indextargets", "--format", format, "Created-By: Packages"]);
    let targets = process::output(&mut ask).ok()?;
    targets
        .lines()
        .filter_map(|line| line.split_once(' '))
        .find(|(_, about)| about.ends_with(" Debian") && !about.contains('-'))
        .map(|(uri, _)| uri.trim_end_matches('/').to_owned())
}

/// Fetches Kafka's jars into the target directory, once per `pom.xml`.
fn kafka_context() -> Result<PathBuf> {
    if !is_installed("mvn") {
        install(&["maven", "default-jdk-headless"])?;
    }
    let context = process::target_directory()?.join("docker/kafka");
    let wanted = fs::read(folder(BrokerKind::Kafka).join("pom.xml"))?;
    let fetched = context.join("fetched.xml");
    if fs::read(&fetched).is_ok_and(|pom| pom == wanted) {
        return Ok(context);
    }
    let libraries = context.join("lib");
    if libraries.exists() {
        fs::remove_dir_all(&libraries)?;
    }
    fs::create_dir_all(&context)?;
    fs::write(context.join("pom.xml"), &wanted)?;
    let mut fetch = Command::new("mvn");
    fetch
        .args(["-q", "-B", "dependency:copy-dependencies"])
        .args(["-DincludeScope=runtime", "-DoutputDirectory=lib"])
        .current_dir(&context);
    process::output(&mut fetch).context("fetching Kafka's jars")?;
    fs::write(fetched, &wanted)?;
    Ok(context)
}

/// Hashes names and contents of a folder's files, in order of their names.
fn hash(folder: &Path) -> Result<String> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    files.sort();
    let mut hasher = DefaultHasher::new();
    for file in files {
        file.file_name().hash(&mut hasher);
        fs::read(&file)?.hash(&mut hasher);
    }
    Ok(format!("{:016x}", hasher.finish()))
}

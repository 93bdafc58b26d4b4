//! What compiling and testing the workspace needs beside Rust.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::process::{self, is_installed};

/// Programs that the Kafka client's build calls, and the Debian packages that hold them.
const NEEDED: [(&str, &str); 4] =
    [("c++", "g++"), ("make", "make"), ("perl", "perl"), ("pkg-config", "pkg-config")];

/// The foreign clients that the interoperability tests call, by a file of theirs.
const FOREIGN_CLIENTS: [(&str, &str); 3] = [
    ("/usr/bin/kcat", "kcat"),
    ("/usr/bin/redis-cli", "redis-tools"),
    ("/usr/lib/python3/dist-packages/pika/__init__.py", "python3-pika"),
];

/// Installs the foreign clients that are missing, or says what to install.
pub(crate) fn ensure_foreign_clients() -> Result<()> {
    let missing = FOREIGN_CLIENTS.iter().filter(|(file, _)| !Path::new(file).exists());
    install(&missing.map(|(_, package)| *package).collect::<Vec<_>>())
}

/// Installs what is missing, or says what to install.
pub(crate) fn ensure() -> Result<()> {
    let missing: Vec<&str> =
        NEEDED.iter().filter(|(program, _)| !is_installed(program)).map(|(_, package)| *package).collect();
    install(&missing)
}

/// Installs Debian packages, or says that they are to be installed.
pub(crate) fn install(packages: &[&str]) -> Result<()> {
    install_with(&[], packages)
}

/// As [`install`], without what the packages only recommend.
pub(crate) fn install_bare(packages: &[&str]) -> Result<()> {
    install_with(&["--no-install-recommends"], packages)
}

fn install_with(options: &[&str], packages: &[&str]) -> Result<()> {
    if packages.is_empty() {
        return Ok(());
    }
    let names = packages.join(" ");
    if !is_installed("apt-get") || !process::is_root() {
        bail!("missing: {names}; install them, then run this again");
    }
    eprintln!("installing {names}");
    apt_get(&["update", "-qq"])?;
    let mut args = vec!["install", "-y", "-qq"];
    args.extend(options);
    args.extend(packages);
    apt_get(&args).with_context(|| format!("installing {names}"))
}

fn apt_get(args: &[&str]) -> Result<()> {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive").args(args);
    process::output(&mut command).map(drop)
}

//! The benchmarks: `mq` beside the native clients, or beside the `mq` of another commit.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

use crate::{brokers, process, run, setup};

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Compare with the mq of this commit in place of the native clients; goes before other arguments
    #[arg(long, value_name = "COMMIT")]
    against: Option<String>,
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

/// Builds what is compared, brings the brokers up and measures.
pub(crate) fn bench(options: &Options) -> Result<ExitCode> {
    setup()?;
    let before = options.against.as_deref().map(older).transpose()?;
    brokers::up()?;
    let _run = run::Run::begin()?;
    let mut bench = process::cargo(["run", "--release", "-p", "mq-benches", "--"]);
    for fixed in &brokers::FIXED {
        bench.args([format!("--{}", fixed.kind.name()), fixed.url()]);
    }
    if let Some(program) = before {
        bench.arg("--before").arg(program);
    }
    process::status(bench.args(&options.args))
}

/// Returns a commit's benchmarks, built unless they are there: the program appears when it is whole.
fn older(commit: &str) -> Result<PathBuf> {
    let mut parse = git(&process::root());
    let hash = process::output(parse.args(["rev-parse", "--verify", &format!("{commit}^{{commit}}")]))?;
    let against = process::target_directory()?.join("against");
    let folder = against.join(hash.trim());
    let program = folder.join("mq-benches");
    if program.exists() {
        return Ok(program);
    }
    let tree = folder.join("tree");
    check_out(hash.trim(), &tree)?;
    // A target folder of its own: cargo takes workspaces in one folder for the same, and what one
    // built for the other's. Commits may share it: each is checked out right before it is built.
    let target = against.join("build");
    let mut build = process::cargo(["build", "--release", "-p", "mq-benches", "--target-dir"]);
    process::check(build.arg(&target).current_dir(&tree))?;
    let unfinished = folder.join("unfinished");
    fs::copy(target.join("release/mq-benches"), &unfinished).context("copying the benchmarks")?;
    fs::rename(&unfinished, &program).context("renaming the benchmarks")?;
    Ok(program)
}

fn check_out(hash: &str, tree: &Path) -> Result<()> {
    if tree.exists() {
        fs::remove_dir_all(tree).with_context(|| format!("removing {}", tree.display()))?;
    }
    let mut clone = git(&process::root());
    process::check(clone.args(["clone", "--quiet", "--shared", "--no-checkout", "."]).arg(tree))?;
    process::check(git(tree).args(["checkout", "--quiet", "--detach", hash]))
}

fn git(folder: &Path) -> Command {
    let mut git = Command::new("git");
    git.current_dir(folder);
    git
}

//! `mq completions`.

use clap::CommandFactory as _;
use clap_complete::Shell;

use crate::args::Cli;
use crate::end::End;

/// Write the completion script of a shell to stdout
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  mq completions bash > ~/.local/share/bash-completion/completions/mq")]
pub(crate) struct Args {
    /// The shell
    shell: Shell,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<End> {
    clap_complete::generate(args.shell, &mut Cli::command(), "mq", &mut std::io::stdout());
    Ok(End::Done)
}

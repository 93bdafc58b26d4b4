//! How a command ends.

use std::fmt;
use std::process::ExitCode;

use mq::ErrorKind;

/// What a command that ran says to the shell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Everything asked for was done.
    Done,
    /// Something failed; it was reported where it happened.
    Failed,
    /// Stopped before `--count` was reached.
    Short,
    /// Stopped by a signal, after a clean close.
    Stopped,
}

/// The exit code of a command that was stopped by a signal.
pub(crate) const STOPPED: u8 = 130;

impl From<End> for ExitCode {
    fn from(end: End) -> Self {
        Self::from(match end {
            End::Done => 0,
            End::Failed => 1,
            End::Short => 3,
            End::Stopped => STOPPED,
        })
    }
}

/// Wrong usage that only shows after the command line was read.
#[derive(Debug)]
pub(crate) struct Usage(pub(crate) String);

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// Prints `error` for people and returns the exit code it stands for.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    eprintln!("error: {error:#}");
    code(error).into()
}

fn code(error: &anyhow::Error) -> u8 {
    let invalid = |error: &mq::Error| error.kind() == ErrorKind::InvalidInput;
    let usage = error.is::<Usage>() || error.downcast_ref::<mq::Error>().is_some_and(invalid);
    if usage { 2 } else { 1 }
}

/// Returns an error and what is underneath it in one line.
pub(crate) fn text(error: &mq::Error) -> String {
    format!("{error:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_input_is_wrong_usage() {
        let invalid = mq::TopicName::new("a b").unwrap_err();
        assert_eq!(code(&invalid.into()), 2);
        assert_eq!(code(&Usage("no --url".into()).into()), 2);
        assert_eq!(code(&mq::Error::new(ErrorKind::Unavailable, "away").into()), 1);
        assert_eq!(code(&std::io::Error::other("no").into()), 1);
    }
}

//! Runs a shell command for a message.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::process::{ExitStatus, Stdio};

use mq::{GroupName, Message, TopicName};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use crate::stop::Commands;

/// What stays the same from message to message.
#[derive(Clone, Debug)]
pub(crate) struct Template {
    /// The shell command.
    pub(crate) command: String,
    pub(crate) topic: TopicName,
    pub(crate) group: GroupName,
    /// Whether stdout is taken by JSON lines.
    pub(crate) json: bool,
}

/// What a command's end says about its message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Ack,
    Retry(String),
    DeadLetter(String),
}

/// EX_DATAERR of sysexits.h.
const DEAD_LETTER: i32 = 65;

impl From<ExitStatus> for Verdict {
    fn from(status: ExitStatus) -> Self {
        let said = format!("the command ended with {status}");
        match status.code() {
            Some(0) => Self::Ack,
            Some(DEAD_LETTER) => Self::DeadLetter(said),
            _ => Self::Retry(said),
        }
    }
}

/// Runs the command to its end.
///
/// # Errors
/// The command could not be started.
pub(crate) async fn run(
    template: &Template,
    message: &Message,
    attempt: u32,
    commands: &Commands,
) -> io::Result<Verdict> {
    let mut command = Command::new("sh");
    command.arg("-c").arg(&template.command).stdin(Stdio::piped()).process_group(0);
    if template.json {
        command.stdout(io::stderr());
    }
    environment(template, message, attempt, |name, value| {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    });
    let mut child = command.spawn()?;
    let _running = child.id().map(|process| commands.add(process));
    let mut stdin = child.stdin.take();
    let feed = async {
        if let Some(stdin) = &mut stdin {
            // A command that does not read its input is free to do so.
            let _ = stdin.write_all(&message.payload).await;
        }
        drop(stdin);
        std::future::pending().await
    };
    tokio::select! {
        status = child.wait() => Ok(Verdict::from(status?)),
        never = feed => never,
    }
}

/// Tells `set` which variables to set, and which to remove. Values with a NUL cannot be passed on and are left out; of
/// headers of one name the first counts.
fn environment(
    template: &Template,
    message: &Message,
    attempt: u32,
    mut set: impl FnMut(&OsStr, Option<&OsStr>),
) {
    let own = |name: &OsStr| name.as_bytes().starts_with(HEADER.as_bytes());
    for (name, _) in std::env::vars_os().filter(|(name, _)| own(name)) {
        set(&name, None);
    }
    let mut put = |name: &str, value: Option<&[u8]>| {
        let value = value.filter(|value| !value.contains(&0)).map(OsStr::from_bytes);
        set(OsStr::new(name), value);
    };
    put("MQ_ID", Some(message.id.to_string().as_bytes()));
    put("MQ_KEY", message.key.as_deref());
    put("MQ_SUBJECT", message.subject.as_deref().map(str::as_bytes));
    put("MQ_ATTEMPT", Some(attempt.to_string().as_bytes()));
    put("MQ_TOPIC", Some(template.topic.as_str().as_bytes()));
    put("MQ_GROUP", Some(template.group.as_str().as_bytes()));
    let headers: Vec<_> = message.headers.iter().collect();
    for (name, value) in headers.into_iter().rev() {
        put(&variable(name), Some(value));
    }
}

const HEADER: &str = "MQ_HEADER_";

/// Returns the variable of a header: upper case, with `_` for what a shell does not take in a name.
fn variable(header: &str) -> String {
    let tail = header.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' });
    HEADER.chars().chain(tail).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::ffi::OsString;

    use super::*;

    fn template(command: &str) -> Template {
        let (topic, group) = ("orders".try_into().unwrap(), "billing".try_into().unwrap());
        Template { command: command.into(), topic, group, json: true }
    }

    async fn verdict(command: &str, message: &Message) -> Verdict {
        run(&template(command), message, 2, &Commands::default()).await.unwrap()
    }

    #[test]
    fn a_message_in_the_environment() {
        let message = Message::with_id("x", "m-1").header("trace-id", "a").header("trace-id", "b");
        let message = message.header("raw", &b"\0"[..]);
        let mut seen = BTreeMap::<OsString, Option<OsString>>::new();
        environment(&template(""), &message, 2, |name, value| {
            seen.insert(name.to_owned(), value.map(OsStr::to_owned));
        });
        let get = |name: &str| seen[OsStr::new(name)].as_deref().and_then(OsStr::to_str);
        assert_eq!((get("MQ_ID"), get("MQ_ATTEMPT"), get("MQ_KEY")), (Some("m-1"), Some("2"), None));
        assert_eq!((get("MQ_TOPIC"), get("MQ_GROUP")), (Some("orders"), Some("billing")));
        assert_eq!((get("MQ_HEADER_TRACE_ID"), get("MQ_HEADER_RAW")), (Some("a"), None));
    }

    #[tokio::test]
    async fn exit_codes_decide() {
        let message = Message::new("body");
        assert_eq!(verdict("exit 0", &message).await, Verdict::Ack);
        assert!(matches!(verdict("exit 65", &message).await, Verdict::DeadLetter(_)));
        assert!(matches!(verdict("exit 75", &message).await, Verdict::Retry(_)));
        assert!(
            matches!(verdict("exit 1", &message).await, Verdict::Retry(said) if said.contains("exit status: 1"))
        );
        assert!(
            matches!(verdict("kill -9 $$", &message).await, Verdict::Retry(said) if said.contains("signal: 9"))
        );
    }

    #[tokio::test]
    async fn the_body_is_on_stdin() {
        let message = Message::new("body").key("k");
        assert_eq!(verdict("test \"$(cat)$MQ_KEY\" = bodyk", &message).await, Verdict::Ack);
        let large = Message::new(vec![b'x'; 1 << 20]);
        assert_eq!(verdict("test $(wc -c) -eq 1048576", &large).await, Verdict::Ack);
        assert_eq!(verdict("exit 0", &large).await, Verdict::Ack);
        assert_eq!(verdict("sleep 30 & exit 0", &large).await, Verdict::Ack);
    }

    #[tokio::test]
    async fn the_command_is_a_child_of_this_process() {
        let test = format!("test $PPID -eq {}", std::process::id());
        assert_eq!(verdict(&test, &Message::new("")).await, Verdict::Ack);
    }
}

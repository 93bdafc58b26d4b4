//! What every command starts from: the broker, the output, the wish to stop.

use std::future::Future;
use std::time::Duration;

use mq::driver::Context;
use mq::{Client, ClientOptions, Event};
use tokio::sync::broadcast::error::RecvError;

use crate::args::Global;
use crate::end::{End, Usage};
use crate::output::{Output, many};
use crate::stop::Stop;

/// How long a close may take.
pub(crate) const CLOSE: Duration = Duration::from_secs(10);

/// One run of the command.
#[derive(Debug)]
pub(crate) struct Session {
    url: Option<String>,
    pub(crate) output: Output,
    pub(crate) stop: Stop,
}

impl Session {
    pub(crate) fn new(global: Global, stop: Stop) -> Self {
        Self { url: global.url, output: Output::new(global.json), stop }
    }

    /// Connects to the broker that was named.
    pub(crate) async fn connect(&self) -> anyhow::Result<Client> {
        self.connect_with(ClientOptions::default()).await
    }

    pub(crate) async fn connect_with(&self, options: ClientOptions) -> anyhow::Result<Client> {
        let Some(url) = &self.url else {
            let text = "which broker? give --url or set MQ_URL, for example to redis://localhost:6379";
            return Err(Usage(text.into()).into());
        };
        Ok(mq::connect_with(url, options, Context::default()).await?)
    }

    /// Runs a command that has nothing to drain.
    pub(crate) async fn brief(
        &self,
        command: impl Future<Output = anyhow::Result<End>>,
    ) -> anyhow::Result<End> {
        self.stop.or(command).await.unwrap_or(Ok(End::Stopped))
    }
}

/// Closes `client` and says what it could not finish.
pub(crate) async fn close(client: &Client, deadline: Duration) -> anyhow::Result<()> {
    let report = client.close(deadline).await?;
    if report.given_back > 0 {
        eprintln!("given back: {}", many(report.given_back, "held message"));
    }
    if report.unanswered > 0 {
        eprintln!("not answered, outcome unknown: {}", many(report.unanswered, "send"));
    }
    Ok(())
}

/// Says on stderr what happens behind the handles, until the client is gone.
pub(crate) fn watch(client: &Client) {
    let mut events = client.events();
    tokio::spawn(async move {
        let mut lost = false;
        loop {
            match events.recv().await {
                Ok(event) => {
                    if let Some(words) = words(&event, &mut lost) {
                        eprintln!("{words}");
                    }
                }
                Err(RecvError::Lagged(missed)) => eprintln!("{missed} events were not shown"),
                Err(RecvError::Closed) => return,
            }
        }
    });
}

/// The first connection is no news; one after a loss is.
fn words(event: &Event, lost: &mut bool) -> Option<String> {
    match event {
        Event::Connected { what } => std::mem::take(lost).then(|| format!("connected again: {what}")),
        Event::Disconnected { what, reason } => {
            *lost = true;
            Some(format!("connection lost: {what}: {reason}; connecting again"))
        }
        Event::Rebuilt { what } => Some(format!("made again: {what}")),
        Event::LeaseExpired { id } => Some(format!("the lease of message {id} ran out")),
        Event::TakenOver { messages } => {
            Some(format!("taken over from a dead member: {}", many(*messages, "message")))
        }
        Event::Lost { what } => Some(format!("lost: {what}")),
        Event::Failed { what, reason } => Some(format!("{what} failed and will be tried again: {reason}")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_second_connection_is_news() {
        let mut lost = false;
        let connected = Event::Connected { what: "producer" };
        assert_eq!(words(&connected, &mut lost), None);
        let gone = Event::Disconnected { what: "producer", reason: "reset".into() };
        assert!(words(&gone, &mut lost).is_some());
        assert!(words(&connected, &mut lost).is_some());
        assert_eq!(words(&connected, &mut lost), None);
    }
}

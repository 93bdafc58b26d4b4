//! Sends batches until every message is confirmed.

use std::time::Duration;

use anyhow::{Context, Result};
use mq::{Message, Publisher};

/// The longest wait between two tries.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Sends a batch and returns when the broker confirmed all of it.
///
/// What was not confirmed is sent again: its outcome may be unknown, so it may arrive twice. A
/// batch must hold one message of a key at most; then a second try overtakes nothing.
pub(crate) async fn send_all(publisher: &Publisher, mut messages: Vec<Message>) -> Result<()> {
    let mut pause = Duration::from_millis(50);
    loop {
        let verdicts = publisher.send_batch(messages.clone()).await;
        let mut again = Vec::new();
        for (message, verdict) in messages.into_iter().zip(verdicts) {
            match verdict {
                Ok(_) => {}
                Err(error) if error.is_retryable() => again.push(message),
                Err(error) => return Err(error).with_context(|| format!("cannot send {}", message.id)),
            }
        }
        if again.is_empty() {
            return Ok(());
        }
        messages = again;
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

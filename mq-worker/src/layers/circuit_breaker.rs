//! No messages while what they need is down.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::context::{Context, stopped};
use crate::layer::{Layer, Next};
use crate::outcome::Outcome;

/// Pauses the handler's intake after too many failures in a row, then lets one message through as a
/// probe: if it is handled all flow again, if not the pause starts anew.
///
/// What is in hand meanwhile waits, its lease renewed; nothing is counted as an attempt but the failures
/// and the probes. Rejected and given back messages are not failures: they say nothing about what is down.
///
/// ```
/// use std::time::Duration;
/// use mq_worker::{Handler, layers::CircuitBreaker};
///
/// async fn charge() {}
/// let route = charge.layer(CircuitBreaker::after(5).pause(Duration::from_secs(10)));
/// ```
#[derive(Debug)]
pub struct CircuitBreaker {
    limit: u32,
    pause: Duration,
    state: watch::Sender<State>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Messages flow; so many failures in a row.
    Closed(u32),
    Open(Instant),
    /// One message is on its way.
    Probing,
}

/// Who lets a probe through, until it says what came of it. Dropped without, another one is due.
struct Probe<'a>(&'a CircuitBreaker);

impl Drop for Probe<'_> {
    fn drop(&mut self) {
        let now = Instant::now();
        self.0.state.send_if_modified(|state| {
            let cancelled = *state == State::Probing;
            if cancelled {
                *state = State::Open(now);
            }
            cancelled
        });
    }
}

impl CircuitBreaker {
    /// Opens after this many failures in a row, of all handlers that share it.
    #[must_use]
    pub fn after(failures: u32) -> Self {
        Self {
            limit: failures.max(1),
            pause: Duration::from_secs(30),
            state: watch::Sender::new(State::Closed(0)),
        }
    }

    /// Sets how long nothing is let through. Default 30 s.
    #[must_use]
    pub fn pause(mut self, pause: Duration) -> Self {
        self.pause = pause;
        self
    }

    /// Waits until a message may pass; returns whether it is the probe.
    async fn pass(&self, context: &Context<'_>) -> Result<Option<Probe<'_>>, crate::Failure> {
        let mut changes = self.state.subscribe();
        loop {
            let state = *changes.borrow_and_update();
            match state {
                State::Closed(_) => return Ok(None),
                State::Open(until) if until <= Instant::now() => {
                    let first = self.state.send_if_modified(|now| {
                        let first = *now == state;
                        if first {
                            *now = State::Probing;
                        }
                        first
                    });
                    if first {
                        return Ok(Some(Probe(self)));
                    }
                }
                State::Open(until) => {
                    context.pause_until(until);
                    tokio::select! {
                        () = tokio::time::sleep_until(until) => {}
                        _ = changes.changed() => {}
                        () = context.stopping() => return Err(stopped()),
                    }
                }
                State::Probing => tokio::select! {
                    _ = changes.changed() => {}
                    () = context.stopping() => return Err(stopped()),
                },
            }
        }
    }

    /// Takes note of an outcome.
    fn note(&self, probe: bool, outcome: &Outcome, context: &Context<'_>) {
        let fault = match outcome {
            Ok(_) => false,
            Err(failure) if failure.is_fault() => true,
            // It says nothing; a probe that says nothing is followed by another.
            Err(_) => return,
        };
        let until = Instant::now() + self.pause;
        let mut opened = false;
        self.state.send_modify(|state| {
            *state = match *state {
                State::Probing if probe && fault => State::Open(until),
                State::Probing if probe => State::Closed(0),
                State::Closed(_) if !fault => State::Closed(0),
                State::Closed(failures) if failures + 1 >= self.limit => State::Open(until),
                State::Closed(failures) => State::Closed(failures + 1),
                // Began before it opened.
                other => other,
            };
            opened = *state == State::Open(until);
        });
        if opened {
            tracing::warn!(target: "mq", topic = %context.topic(), pause = ?self.pause, "failures in a row: paused");
            context.pause_until(until);
        }
    }
}

impl Layer for CircuitBreaker {
    async fn call(&self, context: &mut Context<'_>, next: Next<'_>) -> Outcome {
        let probe = self.pass(context).await?;
        let outcome = next.run(context).await;
        self.note(probe.is_some(), &outcome, context);
        outcome
    }
}

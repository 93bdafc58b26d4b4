//! A message on its way through layers to its handler.

use std::time::Duration;

use bytes::Bytes;
use bytestring::ByteString;
use mq_core::{Delivery, GroupName, Message, TopicName};
use tokio::time::Instant;

use crate::control::Control;
use crate::extensions::Extensions;
use crate::failure::Failure;
use crate::outcome::Publish;
use crate::route::Route;
use crate::shared::Shared;

/// A message on its way through the layers to its handler, and what they may do about it.
#[derive(Debug)]
pub struct Context<'a> {
    /// What layers leave for each other and for [`Extension`](crate::Extension).
    pub extensions: Extensions,
    /// What a layer put in the place of the message.
    replaced: Option<Message>,
    /// Headers for what the handler returns.
    stamps: Vec<(ByteString, Bytes)>,
    delivery: &'a Delivery,
    route: &'a Route,
    control: &'a Control,
    shared: &'a Shared,
}

impl<'a> Context<'a> {
    pub(crate) fn new(
        delivery: &'a Delivery,
        route: &'a Route,
        control: &'a Control,
        shared: &'a Shared,
    ) -> Self {
        Self {
            extensions: Extensions::default(),
            replaced: None,
            stamps: Vec::new(),
            delivery,
            route,
            control,
            shared,
        }
    }

    /// Returns the message, as the layers outside made it.
    #[must_use]
    pub fn message(&self) -> &Message {
        self.replaced.as_ref().unwrap_or_else(|| self.delivery.message())
    }

    /// Puts another message in the place of this one, for the layers inside and the handler. What becomes a
    /// dead letter or is tried again is the message as it was delivered.
    pub fn replace(&mut self, message: Message) {
        self.replaced = Some(message);
    }

    /// Puts a header on every message that the handler returns, unless the handler gave it one of that name.
    /// The last value of a name counts.
    pub fn stamp(&mut self, name: impl Into<ByteString>, value: impl Into<Bytes>) {
        let name = name.into();
        self.stamps.retain(|(known, _)| *known != name);
        self.stamps.push((name, value.into()));
    }

    /// Returns the delivery; the worker settles it.
    pub fn delivery(&self) -> &'a Delivery {
        self.delivery
    }

    /// Returns the topic it came from.
    #[must_use]
    pub fn topic(&self) -> &'a TopicName {
        self.control.topic()
    }

    /// Returns the group whose share it is of.
    #[must_use]
    pub fn group(&self) -> &'a GroupName {
        self.control.group()
    }

    /// Returns what was given to the worker with [`state`](crate::Worker::state).
    #[must_use]
    pub fn state(&self) -> &'a Extensions {
        &self.shared.state
    }

    /// Receives nothing more for this handler before `until`. What is in hand goes on.
    pub fn pause_until(&self, until: Instant) {
        self.control.pause_until(until);
    }

    /// Stops the whole worker: it drains, and its run ends with an error that says `reason`.
    pub fn stop(&self, reason: impl Into<ByteString>) {
        self.shared.stop(reason.into());
    }

    /// Returns once the worker is stopping. A layer that waits for something waits for this, too, and gives
    /// the message back.
    pub async fn stopping(&self) {
        self.shared.stopping().await;
    }

    /// Waits until `deadline`.
    ///
    /// # Errors
    /// The worker stops meanwhile: a failure that gives the message back, uncounted.
    pub async fn wait_until(&self, deadline: Instant) -> Result<(), Failure> {
        tokio::select! {
            () = tokio::time::sleep_until(deadline) => Ok(()),
            () = self.stopping() => Err(stopped()),
        }
    }

    pub(crate) fn timeout(&self) -> Option<Duration> {
        self.route.timeout
    }

    /// Publishes what a handler returned: `Ok` when all is confirmed.
    pub(crate) async fn publish(&self, mut messages: Vec<Publish>) -> Result<(), Failure> {
        if messages.is_empty() {
            return Ok(());
        }
        for Publish { message, .. } in &mut messages {
            for (name, value) in &self.stamps {
                if message.headers.get(name).is_none() {
                    message.headers.push(name.clone(), value.clone());
                }
            }
        }
        // Whoever has the message now publishes instead.
        self.delivery.extend()?;
        self.shared.publish(messages).await
    }
}

pub(crate) fn stopped() -> Failure {
    Failure::defer(Duration::ZERO).because("the worker is stopping")
}

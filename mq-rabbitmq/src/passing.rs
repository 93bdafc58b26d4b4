//! A message on its way through the delay lanes.

use std::collections::BTreeMap;

use bytes::Bytes;
use bytestring::ByteString;
use lapin::BasicProperties;
use lapin::message::Delivery;
use mq_core::{Timestamp, envelope};

use crate::codec::{DELIVERY_COUNT, HIGH_PRIORITY, Publication, text};

/// What the delay lanes need to know of a message that is passing through.
#[derive(Debug)]
pub(crate) struct Passing {
    pub(crate) deliver_at: Timestamp,
    pub(crate) target: Option<ByteString>,
    pub(crate) subject: ByteString,
    properties: BasicProperties,
    payload: Bytes,
}

impl Passing {
    /// Reads a delivery as far as needed.
    pub(crate) fn read(delivery: Delivery) -> Self {
        let Delivery { properties, data, .. } = delivery;
        let find = |name| {
            let table = properties.headers().as_ref()?;
            text(table.inner().get(name)?)
        };
        let deliver_at = find(envelope::DELIVER_AT).and_then(|at| at.parse().ok()).unwrap_or(0);
        Self {
            deliver_at: Timestamp::from_millis(deliver_at),
            target: find(envelope::TARGET).map(Into::into),
            subject: find(envelope::SUBJECT).unwrap_or_default().into(),
            payload: data.into(),
            properties,
        }
    }

    /// Makes the publication that moves it on. With `arrives` it reaches its target and what was
    /// written for the way is left out.
    pub(crate) fn publication(&self, exchange: &str, routing_key: &str, arrives: bool) -> Publication {
        let on_way = |name: &str| {
            name == DELIVERY_COUNT
                || name == "x-death"
                || name.starts_with("x-first-death-")
                || name.starts_with("x-last-death-")
                || (arrives && name == envelope::TARGET)
                || (arrives && !exchange.is_empty() && name == envelope::SUBJECT && !self.subject.is_empty())
        };
        let table: BTreeMap<_, _> = self
            .properties
            .headers()
            .iter()
            .flatten()
            .filter(|(name, _)| !on_way(name.as_str()))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        Publication {
            exchange: exchange.into(),
            routing_key: routing_key.into(),
            mandatory: exchange.is_empty(),
            properties: self.properties.clone().with_headers(table.into()).with_priority(HIGH_PRIORITY),
            payload: self.payload.clone(),
        }
    }
}

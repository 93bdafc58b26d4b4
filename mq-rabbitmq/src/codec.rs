//! Messages to and from AMQP properties, headers and bodies; pure.
//!
//! An AMQP table is sorted and knows a name once. A name that repeats becomes an array of its
//! values, and where the order of the headers is not that of the table, `mq-header-order` keeps it.

use std::collections::BTreeMap;

use bytes::Bytes;
use bytestring::ByteString;
use lapin::BasicProperties;
use lapin::message::Delivery;
use lapin::types::{AMQPValue, FieldArray, FieldTable, ShortString};
use mq_core::driver::Outgoing;
use mq_core::envelope::{self, Decoder, Envelope, NativeFields};
use mq_core::{Error, ErrorKind, Headers, Message, MessageId, Result, SEPARATOR, Timestamp};

use crate::names::Hash128;

/// Keeps the order of the user's headers where the table's is another: positions in the table.
const HEADER_ORDER: &str = "mq-header-order";
/// How often the broker handed the message out before.
pub(crate) const DELIVERY_COUNT: &str = "x-delivery-count";
/// The longest name, id or subject that AMQP has a field for.
const SHORT: usize = u8::MAX as usize;
/// Overtakes a backlog: quorum queues serve what is above 4 first, or twice as often.
pub(crate) const HIGH_PRIORITY: u8 = 5;
const PERSISTENT: u8 = 2;

/// A message ready for the native client.
#[derive(Clone, Debug)]
pub(crate) struct Publication {
    pub(crate) exchange: ShortString,
    pub(crate) routing_key: ShortString,
    /// Whether a message that reaches no queue is an error.
    pub(crate) mandatory: bool,
    pub(crate) properties: BasicProperties,
    pub(crate) payload: Bytes,
}

/// Makes the publication of a message to its topic.
pub(crate) fn to_topic(outgoing: Outgoing) -> Result<Publication> {
    let Outgoing { topic, message, .. } = outgoing;
    let subject = message.subject.as_deref().unwrap_or_default();
    let routing_key = short("the subject", subject)?;
    let native = NativeFields { subject: !routing_key_hides(&message), ..NativeFields::default() };
    let properties = properties(&message, &Envelope::default(), native, None)?;
    Ok(Publication {
        exchange: topic.as_str().into(),
        routing_key,
        mandatory: false,
        properties,
        payload: message.payload,
    })
}

/// Makes the publication of a copy to one queue.
pub(crate) fn to_queue(queue: &str, message: Message, envelope: &Envelope) -> Result<Publication> {
    let properties = properties(&message, envelope, NativeFields::default(), Some(HIGH_PRIORITY))?;
    Ok(Publication {
        exchange: ShortString::default(),
        routing_key: queue.into(),
        mandatory: true,
        properties,
        payload: message.payload,
    })
}

/// An empty subject reads back as none from the routing key, so it needs its header.
fn routing_key_hides(message: &Message) -> bool {
    message.subject.as_ref().is_some_and(|subject| subject.is_empty())
}

fn short(what: &str, text: &str) -> Result<ShortString> {
    ShortString::try_new(text).map_err(|_| {
        Error::new(
            ErrorKind::InvalidInput,
            format!("{what} has {} bytes; AMQP has room for {SHORT}", text.len()),
        )
    })
}

fn properties(
    message: &Message,
    envelope: &Envelope,
    native: NativeFields,
    priority: Option<u8>,
) -> Result<BasicProperties> {
    let mut properties = BasicProperties::default().with_delivery_mode(PERSISTENT);
    let id = message.id.with_str(|id| ShortString::try_new(id)).ok();
    let content_type = message.content_type.as_deref().and_then(|kind| ShortString::try_new(kind).ok());
    let native = NativeFields { id: id.is_some(), content_type: content_type.is_some(), ..native };
    if let Some(id) = id {
        properties = properties.with_message_id(id);
    }
    if let Some(content_type) = content_type {
        properties = properties.with_content_type(content_type);
    }
    if let Some(at) = message.published_at {
        properties = properties.with_timestamp(at.as_millis() / 1000);
    }
    if let Some(priority) = priority {
        properties = properties.with_priority(priority);
    }
    let mut table = Table::default();
    envelope::encode(message, envelope, native, |name, value| table.own(name, value));
    table.user(&message.headers)?;
    Ok(properties.with_headers(table.finish()))
}

#[derive(Default)]
struct Table(BTreeMap<ShortString, AMQPValue>);

impl Table {
    fn own(&mut self, name: &str, value: &[u8]) {
        self.0.insert(name.into(), AMQPValue::LongString(value.into()));
    }

    fn user(&mut self, headers: &Headers) -> Result<()> {
        let mut before: Option<&ByteString> = None;
        let mut sorted = true;
        for (name, value) in headers.iter() {
            if matches!(name.as_ref(), "CC" | "BCC") {
                let text = format!("a header named {name} makes the broker send copies; use another name");
                return Err(Error::new(ErrorKind::InvalidInput, text));
            }
            sorted &= before.is_none_or(|before| before <= name);
            before = Some(name);
            self.add(short("a header's name", name)?, AMQPValue::LongString(value.as_ref().into()));
        }
        if !sorted {
            self.own(HEADER_ORDER, table_positions(headers).as_bytes());
        }
        Ok(())
    }

    /// Adds a value behind those of the same name.
    fn add(&mut self, name: ShortString, value: AMQPValue) {
        let Some(known) = self.0.get_mut(&name) else {
            self.0.insert(name, value);
            return;
        };
        if let AMQPValue::FieldArray(values) = known {
            values.push(value);
        } else {
            let first = std::mem::replace(known, AMQPValue::Void);
            *known = AMQPValue::FieldArray(FieldArray::from(vec![first, value]));
        }
    }

    fn finish(self) -> FieldTable {
        self.0.into()
    }
}

/// Lists where each header is when all are sorted by name.
fn table_positions(headers: &Headers) -> String {
    let names: Vec<&ByteString> = headers.iter().map(|(name, _)| name).collect();
    let mut sorted: Vec<usize> = (0..names.len()).collect();
    sorted.sort_by_key(|index| names[*index]);
    let mut position = vec![0; names.len()];
    for (place, index) in sorted.into_iter().enumerate() {
        position[index] = place;
    }
    position.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

/// Puts headers read from a table back in the order of `positions`, if that fits them.
fn reorder(headers: Headers, positions: &str) -> Headers {
    let order: Option<Vec<usize>> = positions.split(',').map(|place| place.parse().ok()).collect();
    let fits = |order: &Vec<usize>| {
        let mut seen = vec![false; headers.len()];
        order.len() == seen.len()
            && order
                .iter()
                .all(|place| seen.get_mut(*place).is_some_and(|seen| !std::mem::replace(seen, true)))
    };
    match order.filter(fits) {
        Some(order) => {
            let list: Vec<_> = headers.iter().collect();
            order.into_iter().map(|place| (list[place].0.clone(), list[place].1.clone())).collect()
        }
        None => headers,
    }
}

/// A message from the broker.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) message: Message,
    pub(crate) envelope: Envelope,
    /// How often it came back from a consumer that did not settle it.
    pub(crate) returned: u32,
}

/// Reads a delivery.
pub(crate) fn decode(delivery: Delivery) -> Received {
    let Delivery { exchange, routing_key, properties, data, .. } = delivery;
    let empty = FieldTable::default();
    let table = properties.headers().as_ref().unwrap_or(&empty);
    let payload = Bytes::from(data);
    let mut decoder = Decoder::new(table.inner().len().saturating_sub(1));
    decoder.id = properties.message_id().as_ref().map(|id| MessageId::from(id.as_str()));
    decoder.content_type = properties.content_type().as_ref().map(|kind| kind.as_str().into());
    decoder.published_at =
        properties.timestamp().map(|seconds| Timestamp::from_millis(seconds.saturating_mul(1000)));
    if from_topic(exchange.as_str()) && !routing_key.as_str().is_empty() {
        decoder.subject = Some(routing_key.as_str().into());
    }
    let mut returned = 0;
    let mut order = None;
    for (name, value) in table {
        match name.as_str() {
            DELIVERY_COUNT => {
                returned = integer(value).and_then(|count| u32::try_from(count).ok()).unwrap_or(0);
            }
            HEADER_ORDER => order = text(value),
            // As a header of a copy it would make the broker send copies again.
            "CC" => header(&mut decoder, "cc", value),
            name => header(&mut decoder, name, value),
        }
    }
    foreign_fields(&properties, &mut decoder);
    let (mut message, envelope) =
        decoder.finish(payload.clone(), || foreign_id(routing_key.as_str(), &properties, &payload));
    if let Some(order) = order {
        message.headers = reorder(std::mem::take(&mut message.headers), order);
    }
    Received { message, envelope, returned }
}

/// Whether a routing key is a subject: not on the default exchange, nor on one of our own.
fn from_topic(exchange: &str) -> bool {
    !exchange.is_empty() && !exchange.contains(SEPARATOR)
}

fn header(decoder: &mut Decoder, name: &str, value: &AMQPValue) {
    match value {
        AMQPValue::LongString(bytes) => decoder.header(name, bytes.as_bytes()),
        AMQPValue::FieldArray(values) if is_repeat(values) => {
            for value in values.as_slice() {
                header(decoder, name, value);
            }
        }
        value => decoder.header(name, &foreign_value(value)),
    }
}

fn is_repeat(values: &FieldArray) -> bool {
    let values = values.as_slice();
    !values.is_empty()
        && values.iter().all(|value| matches!(value, AMQPValue::LongString(_) | AMQPValue::ByteArray(_)))
}

/// Writes a value of another AMQP type as text: numbers in decimal, arrays and tables as JSON.
fn foreign_value(value: &AMQPValue) -> Vec<u8> {
    match value {
        AMQPValue::LongString(bytes) => bytes.as_bytes().to_vec(),
        AMQPValue::ByteArray(bytes) => bytes.as_slice().to_vec(),
        AMQPValue::ShortString(text) => text.as_str().as_bytes().to_vec(),
        AMQPValue::Void => Vec::new(),
        value => json(value).to_string().into_bytes(),
    }
}

fn json(value: &AMQPValue) -> serde_json::Value {
    match value {
        AMQPValue::Boolean(value) => (*value).into(),
        AMQPValue::Float(value) => (*value).into(),
        AMQPValue::Double(value) => (*value).into(),
        AMQPValue::DecimalValue(decimal) => {
            (f64::from(decimal.value) / 10f64.powi(i32::from(decimal.scale))).into()
        }
        AMQPValue::Timestamp(seconds) => (*seconds).into(),
        AMQPValue::FieldArray(values) => values.as_slice().iter().map(json).collect(),
        AMQPValue::FieldTable(table) => serde_json::Value::Object(
            table.into_iter().map(|(name, value)| (name.to_string(), json(value))).collect(),
        ),
        AMQPValue::Void => serde_json::Value::Null,
        AMQPValue::ShortString(_) | AMQPValue::LongString(_) | AMQPValue::ByteArray(_) => {
            String::from_utf8_lossy(&foreign_value(value)).into()
        }
        value => integer(value).into(),
    }
}

fn integer(value: &AMQPValue) -> Option<i64> {
    match value {
        AMQPValue::ShortShortInt(value) => Some((*value).into()),
        AMQPValue::ShortShortUInt(value) => Some((*value).into()),
        AMQPValue::ShortInt(value) => Some((*value).into()),
        AMQPValue::ShortUInt(value) => Some((*value).into()),
        AMQPValue::LongInt(value) => Some((*value).into()),
        AMQPValue::LongUInt(value) => Some((*value).into()),
        AMQPValue::LongLongInt(value) => Some(*value),
        _ => None,
    }
}

pub(crate) fn text(value: &AMQPValue) -> Option<&str> {
    value.as_long_string().and_then(|value| std::str::from_utf8(value.as_bytes()).ok())
}

/// Keeps what a foreign producer said in properties that a message has no field for.
fn foreign_fields(properties: &BasicProperties, decoder: &mut Decoder) {
    for (name, value) in [
        ("app-id", properties.app_id()),
        ("content-encoding", properties.content_encoding()),
        ("correlation-id", properties.correlation_id()),
        ("reply-to", properties.reply_to()),
        ("type", properties.kind()),
        ("user-id", properties.user_id()),
    ] {
        if let Some(value) = value {
            decoder.header(name, value.as_str().as_bytes());
        }
    }
}

/// Names a message whose producer gave no id, the same at each delivery: by what it says.
fn foreign_id(routing_key: &str, properties: &BasicProperties, payload: &[u8]) -> MessageId {
    let mut hash = Hash128::default();
    hash.update(routing_key.as_bytes());
    hash.update(&[0]);
    hash.update(&properties.timestamp().unwrap_or_default().to_be_bytes());
    for (name, value) in properties.headers().iter().flatten() {
        if name.as_str() != DELIVERY_COUNT {
            hash.update(name.as_str().as_bytes());
            hash.update(&foreign_value(value));
        }
    }
    hash.update(&[0]);
    hash.update(payload);
    format!("amqp-{:032x}", hash.finish()).into()
}

/// Returns about how many bytes the header frame of `properties` takes; a frame cannot be split.
pub(crate) fn header_bytes(properties: &BasicProperties) -> usize {
    let fields = 64
        + [properties.message_id(), properties.content_type()]
            .into_iter()
            .flatten()
            .map(|text| text.as_str().len() + 1)
            .sum::<usize>();
    let table: usize = properties
        .headers()
        .iter()
        .flatten()
        .map(|(name, value)| name.as_str().len() + 1 + value_bytes(value))
        .sum();
    fields + table
}

fn value_bytes(value: &AMQPValue) -> usize {
    match value {
        AMQPValue::LongString(bytes) => 5 + bytes.len(),
        AMQPValue::ByteArray(bytes) => 5 + bytes.len(),
        AMQPValue::ShortString(text) => 2 + text.as_str().len(),
        AMQPValue::FieldArray(values) => 5 + values.as_slice().iter().map(value_bytes).sum::<usize>(),
        AMQPValue::FieldTable(table) => {
            5 + table
                .into_iter()
                .map(|(name, value)| name.as_str().len() + 1 + value_bytes(value))
                .sum::<usize>()
        }
        _ => 16,
    }
}

#[cfg(test)]
#[path = "codec_tests.rs"]
mod tests;

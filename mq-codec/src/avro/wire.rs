//! What a schema looks like on the wire, to check bytes before anything is made of them.
//!
//! The reader of the library takes memory for as many items as a payload claims, goes as deep as it says, and makes nulls of
//! what is missing at its end.

use std::collections::HashMap;

use serde_json::{Map, Value};

use crate::error::{CodecError, CodecErrorKind};
use crate::limits::{Limits, too_deep};

/// The deepest, unless the limits say otherwise.
const DEPTH: usize = 16;

/// A type on the wire.
#[derive(Clone, Debug)]
enum Shape {
    /// So many bytes.
    Bytes(usize),
    /// A number of variable length.
    Number,
    /// A length, then so many bytes.
    Text,
    List(Box<Shape>),
    Map(Box<Shape>),
    Union(Vec<Shape>),
    /// The record of this number.
    Record(usize),
}

/// A whole schema.
#[derive(Debug)]
pub(super) struct Wire {
    root: Shape,
    records: Vec<Vec<Shape>>,
}

impl Wire {
    /// Reads a schema in canonical form; `None` if it is not.
    pub(super) fn parse(canonical: &str) -> Option<Self> {
        let schema = serde_json::from_str(canonical).ok()?;
        let mut parser = Parser::default();
        let root = parser.shape(&schema)?;
        Some(Self { root, records: parser.records })
    }

    /// Checks that the bytes are one value, all of them, and within the limits.
    pub(super) fn check(&self, bytes: &[u8], limits: &Limits) -> Result<(), CodecError> {
        let depth = limits.depth.unwrap_or(DEPTH);
        let mut walk = Walk { records: &self.records, rest: bytes, depth, items: limits.items };
        let malformed = |message: String| Err(CodecError::new(CodecErrorKind::Malformed, message));
        match walk.pass(&self.root) {
            Ok(()) if walk.rest.is_empty() => Ok(()),
            Ok(()) => malformed(format!("{} bytes follow the Avro value", walk.rest.len())),
            Err(Fault::Cut) => malformed("the payload ends in the middle of an Avro value".into()),
            Err(Fault::Wrong(what)) => malformed(format!("the payload is not Avro of this schema: {what}")),
            Err(Fault::TooDeep) => Err(too_deep(depth)),
            Err(Fault::TooMany) => {
                let message =
                    format!("the payload has more than {} items; raise the limit `items`", limits.items);
                Err(CodecError::new(CodecErrorKind::OverLimit, message))
            }
        }
    }
}

#[derive(Default)]
struct Parser {
    names: HashMap<String, Shape>,
    records: Vec<Vec<Shape>>,
}

impl Parser {
    fn shape(&mut self, schema: &Value) -> Option<Shape> {
        match schema {
            Value::String(name) => self.by_name(name),
            Value::Array(types) => {
                types.iter().map(|kind| self.shape(kind)).collect::<Option<_>>().map(Shape::Union)
            }
            Value::Object(object) => match object.get("type")? {
                Value::String(kind) => self.complex(kind, object),
                nested => self.shape(nested),
            },
            _ => None,
        }
    }

    fn by_name(&self, name: &str) -> Option<Shape> {
        Some(match name {
            "null" => Shape::Bytes(0),
            "boolean" => Shape::Bytes(1),
            "float" => Shape::Bytes(4),
            "double" => Shape::Bytes(8),
            "int" | "long" => Shape::Number,
            "bytes" | "string" => Shape::Text,
            name => self.names.get(name)?.clone(),
        })
    }

    fn complex(&mut self, kind: &str, object: &Map<String, Value>) -> Option<Shape> {
        let name = || object.get("name").and_then(Value::as_str).map(str::to_owned);
        match kind {
            "array" => Some(Shape::List(Box::new(self.shape(object.get("items")?)?))),
            "map" => Some(Shape::Map(Box::new(self.shape(object.get("values")?)?))),
            "enum" => {
                self.names.insert(name()?, Shape::Number);
                Some(Shape::Number)
            }
            "fixed" => {
                let size = object.get("size")?;
                let size = size.as_u64().or_else(|| size.as_str()?.parse().ok())?;
                let shape = Shape::Bytes(usize::try_from(size).ok()?);
                self.names.insert(name()?, shape.clone());
                Some(shape)
            }
            "record" | "error" => {
                let number = self.records.len();
                self.records.push(Vec::new());
                // Known before its fields, which may be of this type.
                self.names.insert(name()?, Shape::Record(number));
                let fields = object.get("fields")?.as_array()?;
                let fields =
                    fields.iter().map(|field| self.shape(field.get("type")?)).collect::<Option<_>>()?;
                self.records[number] = fields;
                Some(Shape::Record(number))
            }
            name => self.by_name(name),
        }
    }
}

/// Why bytes are not a value.
enum Fault {
    Cut,
    Wrong(&'static str),
    TooDeep,
    TooMany,
}

/// Goes over bytes.
struct Walk<'a> {
    records: &'a [Vec<Shape>],
    rest: &'a [u8],
    /// Levels left.
    depth: usize,
    /// Items left.
    items: usize,
}

impl Walk<'_> {
    fn pass(&mut self, shape: &Shape) -> Result<(), Fault> {
        match shape {
            Shape::Bytes(count) => self.skip(*count),
            Shape::Number => self.number().map(drop),
            Shape::Text => self.text(),
            Shape::Union(types) => {
                let chosen = usize::try_from(self.number()?).ok().and_then(|number| types.get(number));
                self.pass(chosen.ok_or(Fault::Wrong("a union has no such branch"))?)
            }
            Shape::List(item) => self.deeper(|walk| walk.blocks(|walk| walk.pass(item))),
            Shape::Map(value) => self.deeper(|walk| {
                walk.blocks(|walk| {
                    walk.text()?;
                    walk.pass(value)
                })
            }),
            Shape::Record(number) => {
                let fields = &self.records[*number];
                self.deeper(|walk| fields.iter().try_for_each(|field| walk.pass(field)))
            }
        }
    }

    fn deeper(&mut self, inside: impl FnOnce(&mut Self) -> Result<(), Fault>) -> Result<(), Fault> {
        self.depth = self.depth.checked_sub(1).ok_or(Fault::TooDeep)?;
        inside(self)?;
        self.depth += 1;
        Ok(())
    }

    /// Blocks of items, up to an empty one.
    fn blocks(&mut self, item: impl Fn(&mut Self) -> Result<(), Fault>) -> Result<(), Fault> {
        loop {
            let mut count = self.number()?;
            if count == 0 {
                return Ok(());
            }
            if count < 0 {
                // The size of the block in bytes comes between.
                self.number()?;
                count = count.checked_neg().ok_or(Fault::TooMany)?;
            }
            let left = usize::try_from(count).ok().and_then(|count| self.items.checked_sub(count));
            self.items = left.ok_or(Fault::TooMany)?;
            for _ in 0..count {
                item(self)?;
            }
        }
    }

    fn text(&mut self) -> Result<(), Fault> {
        let length = self.number()?;
        self.skip(usize::try_from(length).map_err(|_| Fault::Wrong("a length is negative"))?)
    }

    fn skip(&mut self, count: usize) -> Result<(), Fault> {
        self.rest = self.rest.get(count..).ok_or(Fault::Cut)?;
        Ok(())
    }

    /// A number in zigzag, seven bits a byte, the lowest first.
    fn number(&mut self) -> Result<i64, Fault> {
        let mut bits = 0_u64;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.rest.split_first().ok_or(Fault::Cut)?;
            self.rest = rest;
            bits |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok((bits >> 1).cast_signed() ^ -(bits & 1).cast_signed());
            }
        }
        Err(Fault::Wrong("a number has more than ten bytes"))
    }
}

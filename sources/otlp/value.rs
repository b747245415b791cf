//! Attribute values, ids and entities of OTLP.

use std::fmt::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use weir_pipeline::component::Rejected;
use weir_pipeline::entity::{Origin, Value};
use weir_pipeline::signal::Signal;

use super::flat::Attributes;
use crate::columns::{Cell, EntityBuilder, json_object};
use crate::json;

/// Longest dotted name under which a nested map is still taken apart, in bytes; below a longer
/// one it stays JSON. Each leaf repeats the name, which else could multiply the payload.
const PREFIX_BYTES_MAX: usize = 256;

/// Gives every attribute as a flat name and a value; maps become dotted names.
pub(super) fn flatten(attributes: &[KeyValue], set: &mut dyn FnMut(&str, Cell<'_>)) {
    for attribute in attributes {
        flatten_one(&attribute.key, attribute.value.as_ref(), set);
    }
}

fn flatten_one(name: &str, value: Option<&AnyValue>, set: &mut dyn FnMut(&str, Cell<'_>)) {
    match value.and_then(|v| v.value.as_ref()) {
        None | Some(Any::StringValueStrindex(_)) => {}
        Some(Any::StringValue(v)) => set(name, Cell::Text(v)),
        Some(Any::BoolValue(v)) => set(name, Cell::Bool(*v)),
        Some(Any::IntValue(v)) => set(name, Cell::Int(*v)),
        Some(Any::DoubleValue(v)) => set(name, Cell::Double(*v)),
        Some(Any::BytesValue(v)) => set(name, Cell::Text(&BASE64.encode(v))),
        Some(Any::KvlistValue(map)) if !map.values.is_empty() && name.len() <= PREFIX_BYTES_MAX => {
            for member in &map.values {
                flatten_one(&format!("{name}.{}", member.key), member.value.as_ref(), set);
            }
        }
        Some(any @ (Any::ArrayValue(_) | Any::KvlistValue(_))) => {
            let mut text = String::new();
            write_json(Some(any), &mut text);
            set(name, Cell::Json(&text));
        }
    }
}

/// A value as JSON text.
pub(super) fn write_json(value: Option<&Any>, out: &mut String) {
    match value {
        None | Some(Any::StringValueStrindex(_)) => out.push_str("null"),
        Some(Any::StringValue(v)) => json::text(v, out),
        Some(Any::BoolValue(v)) => out.push_str(if *v { "true" } else { "false" }),
        Some(Any::IntValue(v)) => {
            let _ = write!(out, "{v}");
        }
        Some(Any::DoubleValue(v)) => json::double(*v, out),
        Some(Any::BytesValue(v)) => json::text(&BASE64.encode(v), out),
        Some(Any::ArrayValue(array)) => {
            write_list(&array.values, out, |v, out| write_json(v.value.as_ref(), out));
        }
        Some(Any::KvlistValue(map)) => write_attributes(&map.values, out),
    }
}

/// Attributes as a JSON object.
fn write_attributes(attributes: &[KeyValue], out: &mut String) {
    out.push('{');
    for (i, attribute) in attributes.iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        json::text(&attribute.key, out);
        out.push(':');
        write_json(attribute.value.as_ref().and_then(|v| v.value.as_ref()), out);
    }
    out.push('}');
}

/// A JSON array.
pub(super) fn write_list<T>(items: &[T], out: &mut String, mut write: impl FnMut(&T, &mut String)) {
    out.push('[');
    for (i, item) in items.iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        write(item, out);
    }
    out.push(']');
}

/// Writes the members of one JSON object; those without a value are left out.
pub(super) struct Members<'a> {
    out: &'a mut String,
    first: bool,
}

impl<'a> Members<'a> {
    pub(super) fn open(out: &'a mut String) -> Self {
        out.push('{');
        Self { out, first: true }
    }

    fn name(&mut self, name: &str) -> &mut String {
        if !self.first {
            self.out.push(',');
        }
        self.first = false;
        json::text(name, self.out);
        self.out.push(':');
        self.out
    }

    /// A counter or time, where 0 says nothing.
    pub(super) fn int(&mut self, name: &str, value: impl Into<i128>) {
        let value: i128 = value.into();
        if value != 0 {
            let _ = write!(self.name(name), "{value}");
        }
    }

    /// An integer, also if it is 0.
    pub(super) fn number(&mut self, name: &str, value: i64) {
        let _ = write!(self.name(name), "{value}");
    }

    pub(super) fn double(&mut self, name: &str, value: f64) {
        json::double(value, self.name(name));
    }

    pub(super) fn text(&mut self, name: &str, value: &str) {
        if !value.is_empty() {
            json::text(value, self.name(name));
        }
    }

    pub(super) fn id(&mut self, name: &str, id: &[u8]) {
        if id.iter().any(|b| *b != 0) {
            json::text(&hex(id), self.name(name));
        }
    }

    pub(super) fn attributes(&mut self, attributes: Attributes<'_>) {
        match attributes {
            Attributes::Nested([]) | Attributes::Flat([]) => {}
            Attributes::Nested(list) => write_attributes(list, self.name("attributes")),
            Attributes::Flat(list) => json_object(list.iter().copied(), self.name("attributes")),
        }
    }

    pub(super) fn close(self) {
        self.out.push('}');
    }
}

/// Lower-case hex.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().flat_map(|b| digits(*b)).map(char::from).collect()
}

/// The two lower-case hex digits of a byte, without a table: so it is done for many at once.
#[inline]
fn digits(byte: u8) -> [u8; 2] {
    let digit = |half: u8| half + if half < 10 { b'0' } else { b'a' - 10 };
    [digit(byte >> 4), digit(byte & 15)]
}

/// A trace or span id as lower-case hex.
pub(super) struct Hex {
    digits: [u8; 32],
    len: usize,
}

impl Hex {
    /// Of at most 16 bytes.
    #[inline]
    fn new(id: &[u8]) -> Self {
        let mut bytes = [0; 16];
        bytes.iter_mut().zip(id).for_each(|(to, from)| *to = *from);
        let mut hex = [0; 32];
        for (to, byte) in hex.as_chunks_mut::<2>().0.iter_mut().zip(bytes) {
            *to = digits(byte);
        }
        Self { digits: hex, len: (2 * id.len()).min(32) }
    }

    pub(super) fn as_str(&self) -> &str {
        std::str::from_utf8(&self.digits[..self.len]).unwrap_or_default()
    }
}

/// A trace id (16 bytes) or span id (8): `None` if empty or all zero, which mean "no id".
///
/// # Errors
/// If it has another length.
#[inline]
pub(super) fn id(what: &str, bytes: &[u8], len: usize) -> Result<Option<Hex>, Bad> {
    if bytes.is_empty() || bytes.len() == len && bytes.iter().all(|b| *b == 0) {
        return Ok(None);
    }
    if bytes.len() != len {
        let message = format!("{what} has {} bytes, expected {len}", bytes.len());
        return Err(Bad { reason: "bad_id", message });
    }
    Ok(Some(Hex::new(bytes)))
}

/// A time, `None` if it is missing (0).
///
/// # Errors
/// If it lies past the year 2262, which signed nanoseconds cannot hold.
pub(super) fn time(what: &str, nanos: u64) -> Result<Option<i64>, Bad> {
    match i64::try_from(nanos) {
        Ok(0) => Ok(None),
        Ok(nanos) => Ok(Some(nanos)),
        Err(_) => Err(Bad {
            reason: "bad_time",
            message: format!("{what} {nanos} lies past the year 2262"),
        }),
    }
}

/// What rows of one scope have in common.
pub(super) fn entity(
    signal: &Signal,
    resource: &Resource,
    resource_schema: &str,
    scope: &InstrumentationScope,
    scope_schema: &str,
) -> EntityBuilder {
    let mut e = EntityBuilder::new(signal.clone());
    let text = |t: &str| Value::Text(t.into());
    e.field("scope.name", text(&scope.name), Origin::Scope);
    e.field("scope.version", text(&scope.version), Origin::Scope);
    e.field("resource.schema_url", text(resource_schema), Origin::Resource);
    e.field("scope.schema_url", text(scope_schema), Origin::Scope);
    for (name, dropped, origin) in [
        ("resource.dropped_attributes_count", resource.dropped_attributes_count, Origin::Resource),
        ("scope.dropped_attributes_count", scope.dropped_attributes_count, Origin::Scope),
    ] {
        if dropped > 0 {
            e.field(name, Value::Int(dropped.into()), origin);
        }
    }
    flatten(&resource.attributes, &mut |name, v| e.attribute(Origin::Resource, name, v));
    flatten(&scope.attributes, &mut |name, v| e.attribute(Origin::Scope, name, v));
    e
}

/// Why one record was left out.
#[derive(Debug)]
pub(super) struct Bad {
    pub reason: &'static str,
    pub message: String,
}

/// Records left out so far, with a sample per reason.
#[derive(Debug, Default)]
pub(super) struct Rejects(Vec<Rejected>);

impl Rejects {
    pub(super) fn add(&mut self, bad: Bad) {
        match self.0.iter_mut().find(|r| r.reason == bad.reason) {
            Some(known) => known.rows += 1,
            None => self.0.push(Rejected { rows: 1, reason: bad.reason, message: bad.message }),
        }
    }

    pub(super) fn into_inner(self) -> Vec<Rejected> {
        self.0
    }
}

/// Bytes as base64.
pub(super) fn base64(bytes: &[u8]) -> String {
    BASE64.encode(bytes)
}

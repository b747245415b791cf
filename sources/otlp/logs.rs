//! Log records to rows.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Builder};
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use weir_pipeline::component::{DecodeError, Decoded};
use weir_pipeline::entity::EntityTable;
use weir_pipeline::signal::Signal;

use super::flat::{self, Attributes, Flat, Odd, Seen};
use super::rows::{Rows, TextColumn, TimeColumn};
use super::value::{self, Bad, Hex, Rejects};
use super::wire::Request;
use crate::columns::{AttributeColumns, Cell, json_value};
use crate::protobuf::Reader;

/// Names of the severity numbers 1-4, 5-8, and so on (OpenTelemetry logs data model,
/// "Displaying Severity").
const SEVERITIES: [&str; 6] = ["TRACE", "DEBUG", "INFO", "WARN", "ERROR", "FATAL"];

/// A log record.
#[derive(Default)]
struct Log<'a> {
    time: u64,
    observed: u64,
    severity_number: i32,
    severity_text: &'a str,
    body: Body<'a>,
    dropped_attributes: u32,
    flags: u32,
    trace_id: &'a [u8],
    span_id: &'a [u8],
    event_name: &'a str,
}

enum Body<'a> {
    Flat(Flat<'a>),
    Nested(&'a Any),
}

impl Default for Body<'_> {
    fn default() -> Self {
        Self::Flat(Flat::None)
    }
}

impl<'a> Log<'a> {
    fn of(record: &'a LogRecord) -> Self {
        let body = record.body.as_ref().and_then(|b| b.value.as_ref());
        Self {
            time: record.time_unix_nano,
            observed: record.observed_time_unix_nano,
            severity_number: record.severity_number,
            severity_text: &record.severity_text,
            body: body.map_or_else(Body::default, Body::Nested),
            dropped_attributes: record.dropped_attributes_count,
            flags: record.flags,
            trace_id: &record.trace_id,
            span_id: &record.span_id,
            event_name: &record.event_name,
        }
    }

    /// Reads a `LogRecord`, its attributes into a list.
    fn read(message: &'a [u8], attributes: &mut Vec<flat::Attribute<'a>>) -> Result<Self, Odd> {
        let mut log = Log::default();
        let mut seen = Seen::default();
        let mut message = Reader(message);
        while let Some(tag) = message.tag()? {
            match tag {
                0x32 => {
                    if let Some(attribute) = flat::attribute(message.bytes()?)? {
                        attributes.push(attribute);
                    }
                    continue;
                }
                0x09 => log.time = message.fixed64()?,
                0x10 => log.severity_number = message.varint()? as i32,
                0x1a => log.severity_text = flat::text(&mut message)?,
                0x2a => log.body = Body::Flat(flat::any(message.bytes()?)?),
                0x38 => log.dropped_attributes = message.varint()? as u32,
                0x45 => log.flags = message.fixed32()?,
                0x4a => log.trace_id = message.bytes()?,
                0x52 => log.span_id = message.bytes()?,
                0x59 => log.observed = message.fixed64()?,
                0x62 => log.event_name = flat::text(&mut message)?,
                other => {
                    message.skip(other, 12)?;
                    continue;
                }
            }
            seen.first(tag)?;
        }
        Ok(log)
    }
}

struct Columns {
    timestamp: TimeColumn,
    observed: TimeColumn,
    severity: TextColumn,
    severity_number: Int64Builder,
    body: TextColumn,
    body_json: Option<bool>,
    trace_id: TextColumn,
    span_id: TextColumn,
    attributes: AttributeColumns,
}

pub(super) fn decode(
    request: Request<'_, LogRecord>,
    received: i64,
    table: &Arc<EntityTable>,
) -> Result<Decoded, DecodeError> {
    let Request { entities, records, bytes, .. } = request;
    let count = records.len();
    let text = |name| TextColumn::new(name, count, bytes);
    let mut c = Columns {
        timestamp: TimeColumn::with_capacity(count),
        observed: TimeColumn::with_capacity(count),
        severity: text("severity"),
        severity_number: Int64Builder::with_capacity(count),
        body: text("body"),
        body_json: None,
        trace_id: text("trace_id"),
        span_id: text("span_id"),
        attributes: AttributeColumns::new(Signal::Logs, (count, bytes), &entities),
    };
    let mut rejects = Rejects::default();
    let mut owner = Vec::with_capacity(count);
    let mut attributes = Vec::new();
    for (entity, record) in records {
        attributes.clear();
        let read = record.wire().ok_or(Odd).and_then(|bytes| Log::read(bytes, &mut attributes));
        let pushed = match read {
            Ok(log) => c.push(&log, Attributes::Flat(&attributes), received, owner.len()),
            Err(Odd) => {
                let record = record.decode()?;
                let attributes = Attributes::Nested(&record.attributes);
                c.push(&Log::of(&record), attributes, received, owner.len())
            }
        };
        match pushed {
            Ok(()) => owner.push(entity),
            Err(bad) => rejects.add(bad),
        }
    }
    let mut rows = Rows::new("logs", Signal::Logs);
    rows.times("timestamp", c.timestamp);
    rows.times("observed_timestamp", c.observed);
    rows.text(c.severity)?;
    rows.column("severity_number", Arc::new(c.severity_number.finish()) as ArrayRef);
    if c.body_json == Some(true) {
        rows.json(c.body)?;
    } else {
        rows.text(c.body)?;
    }
    rows.text(c.trace_id)?;
    rows.text(c.span_id)?;
    rows.finish(c.attributes, entities, owner, table, rejects)
}

impl Columns {
    /// Adds a record, or says what is wrong with it before anything was added.
    #[inline]
    fn push(
        &mut self,
        log: &Log<'_>,
        attributes: Attributes<'_>,
        received: i64,
        row: usize,
    ) -> Result<(), Bad> {
        let time = value::time("time_unix_nano", log.time)?;
        let observed = value::time("observed_time_unix_nano", log.observed)?;
        let trace_id = value::id("trace_id", log.trace_id, 16)?;
        let span_id = value::id("span_id", log.span_id, 8)?;
        self.timestamp.push(Some(time.or(observed).unwrap_or(received)));
        self.observed.push(observed);
        let (number, text) = (log.severity_number, log.severity_text);
        let severity = severity(number, text);
        self.severity.push(severity);
        self.severity_number.append_option((number != 0).then_some(i64::from(number)));
        if !text.is_empty() && severity != Some(text) {
            self.attributes.set(row, "severity_text", Cell::Text(text));
        }
        self.push_body(&log.body);
        self.trace_id.push(trace_id.as_ref().map(Hex::as_str));
        self.span_id.push(span_id.as_ref().map(Hex::as_str));
        if !log.event_name.is_empty() {
            self.attributes.set(row, "event_name", Cell::Text(log.event_name));
        }
        attributes.each(|name, value| self.attributes.set(row, name, value));
        for (name, n) in
            [("flags", log.flags), ("dropped_attributes_count", log.dropped_attributes)]
        {
            if n != 0 {
                self.attributes.set(row, name, Cell::Int(n.into()));
            }
        }
        Ok(())
    }

    /// The body: text as it is, bytes as base64, anything else as JSON. The column is marked as
    /// JSON where all its values are.
    fn push_body(&mut self, body: &Body<'_>) {
        let any;
        let body = match body {
            Body::Flat(flat) => *flat,
            Body::Nested(Any::StringValue(text)) => Flat::Cell(Cell::Text(text)),
            Body::Nested(Any::BytesValue(bytes)) => Flat::Bytes(bytes),
            Body::Nested(Any::StringValueStrindex(_)) => Flat::None,
            Body::Nested(other) => {
                let mut text = String::new();
                value::write_json(Some(other), &mut text);
                any = text;
                Flat::Cell(Cell::Json(&any))
            }
        };
        match body {
            Flat::None => self.body.push(None),
            Flat::Cell(Cell::Text(text)) => {
                self.body_json = Some(false);
                self.body.push(Some(text));
            }
            Flat::Bytes(bytes) => {
                self.body_json = Some(false);
                self.body.push(Some(&value::base64(bytes)));
            }
            Flat::Cell(cell) => {
                self.body_json.get_or_insert(true);
                let mut text = String::new();
                json_value(cell, &mut text);
                self.body.push(Some(&text));
            }
        }
    }
}

/// The canonical name of a severity number; without a number that of the text, where it is one of
/// the names that loggers use.
pub(crate) fn severity(number: i32, text: &str) -> Option<&'static str> {
    if number != 0 {
        let index = usize::try_from(number.checked_sub(1)?).ok()? / 4;
        return SEVERITIES.get(index).copied();
    }
    let names: [(&str, &[&str]); 6] = [
        ("TRACE", &["trace", "finest", "finer", "verbose"]),
        ("DEBUG", &["debug", "fine"]),
        ("INFO", &["info", "information", "informational", "notice"]),
        ("WARN", &["warn", "warning"]),
        ("ERROR", &["error", "err", "severe"]),
        ("FATAL", &["fatal", "critical", "crit", "alert", "emerg", "emergency", "panic"]),
    ];
    let known = |list: &&[&str]| list.iter().any(|name| name.eq_ignore_ascii_case(text));
    names.iter().find(|(_, list)| known(list)).map(|(name, _)| *name)
}

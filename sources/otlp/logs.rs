//! Log records to rows.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Builder};
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use weir_pipeline::component::{DecodeError, Decoded};
use weir_pipeline::entity::EntityTable;
use weir_pipeline::signal::Signal;

use super::rows::{Rows, TextColumn, TimeColumn};
use super::value::{self, Bad, Rejects};
use super::wire::Request;
use crate::columns::{AttributeColumns, Cell};

/// Names of the severity numbers 1-4, 5-8, and so on (OpenTelemetry logs data model,
/// "Displaying Severity").
const SEVERITIES: [&str; 6] = ["TRACE", "DEBUG", "INFO", "WARN", "ERROR", "FATAL"];

struct Columns {
    timestamp: TimeColumn,
    observed: TimeColumn,
    severity: TextColumn,
    severity_number: Int64Builder,
    body: TextColumn,
    body_json: Option<bool>,
    trace_id: TextColumn,
    span_id: TextColumn,
}

pub(super) fn decode(
    request: Request<'_, LogRecord>,
    received: i64,
    table: &Arc<EntityTable>,
) -> Result<Decoded, DecodeError> {
    let Request { entities, records } = request;
    let count = records.len();
    let mut attributes = AttributeColumns::new(Signal::Logs, count, &entities);
    let mut rejects = Rejects::default();
    let mut owner = Vec::with_capacity(count);
    let mut c = Columns {
        timestamp: TimeColumn::with_capacity(count),
        observed: TimeColumn::with_capacity(count),
        severity: TextColumn::new("severity", count),
        severity_number: Int64Builder::with_capacity(count),
        body: TextColumn::new("body", count),
        body_json: None,
        trace_id: TextColumn::new("trace_id", count),
        span_id: TextColumn::new("span_id", count),
    };
    for (entity, record) in records {
        let record = record.decode()?;
        match c.push(&record, received, owner.len(), &mut attributes)? {
            Ok(()) => owner.push(entity),
            Err(bad) => rejects.add(bad),
        }
    }
    let mut rows = Rows::new("logs", Signal::Logs);
    rows.times("timestamp", c.timestamp);
    rows.times("observed_timestamp", c.observed);
    rows.text(c.severity);
    rows.column("severity_number", Arc::new(c.severity_number.finish()) as ArrayRef);
    if c.body_json == Some(true) {
        rows.json(c.body);
    } else {
        rows.text(c.body);
    }
    rows.text(c.trace_id);
    rows.text(c.span_id);
    rows.finish(attributes, entities, owner, table, rejects)
}

impl Columns {
    /// Adds a record, or says what is wrong with it before anything was added.
    fn push(
        &mut self,
        record: &LogRecord,
        received: i64,
        row: usize,
        attributes: &mut AttributeColumns,
    ) -> Result<Result<(), Bad>, DecodeError> {
        let head = || {
            Ok((
                value::time("time_unix_nano", record.time_unix_nano)?,
                value::time("observed_time_unix_nano", record.observed_time_unix_nano)?,
                value::id("trace_id", &record.trace_id, 16)?,
                value::id("span_id", &record.span_id, 8)?,
            ))
        };
        let (time, observed, trace_id, span_id) = match head() {
            Ok(head) => head,
            Err(bad) => return Ok(Err(bad)),
        };
        self.timestamp.push(Some(time.or(observed).unwrap_or(received)));
        self.observed.push(observed);
        let number = record.severity_number;
        let text = record.severity_text.as_str();
        let severity = severity(number, text);
        self.severity.push(severity)?;
        self.severity_number.append_option((number != 0).then_some(i64::from(number)));
        if !text.is_empty() && severity != Some(text) {
            attributes.set(row, "severity_text", Cell::Text(text));
        }
        self.push_body(record)?;
        self.trace_id.push(trace_id.as_deref())?;
        self.span_id.push(span_id.as_deref())?;
        if !record.event_name.is_empty() {
            attributes.set(row, "event_name", Cell::Text(&record.event_name));
        }
        value::flatten(&record.attributes, &mut |name, v| attributes.set(row, name, v));
        for (name, n) in
            [("flags", record.flags), ("dropped_attributes_count", record.dropped_attributes_count)]
        {
            if n != 0 {
                attributes.set(row, name, Cell::Int(n.into()));
            }
        }
        Ok(Ok(()))
    }

    /// The body: text as it is, bytes as base64, anything else as JSON. The column is marked as
    /// JSON where all its values are.
    fn push_body(&mut self, record: &LogRecord) -> Result<(), DecodeError> {
        match record.body.as_ref().and_then(|b| b.value.as_ref()) {
            None | Some(Any::StringValueStrindex(_)) => self.body.push(None),
            Some(Any::StringValue(text)) => {
                self.body_json = Some(false);
                self.body.push(Some(text))
            }
            Some(Any::BytesValue(bytes)) => {
                self.body_json = Some(false);
                self.body.push(Some(&value::base64(bytes)))
            }
            body => {
                self.body_json.get_or_insert(true);
                let mut text = String::new();
                value::write_json(body, &mut text);
                self.body.push(Some(&text))
            }
        }
    }
}

/// The canonical name of a severity number; without a number that of the text, where it is one of
/// the names that loggers use.
fn severity(number: i32, text: &str) -> Option<&'static str> {
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

//! Spans to rows.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Builder};
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::{Event, Link};
use weir_pipeline::component::{DecodeError, Decoded};
use weir_pipeline::entity::EntityTable;
use weir_pipeline::signal::Signal;

use super::rows::{Rows, TextColumn, TimeColumn};
use super::value::{self, Bad, Members, Rejects};
use super::wire::Request;
use crate::columns::{AttributeColumns, Cell};

struct Columns {
    timestamp: TimeColumn,
    duration: Int64Builder,
    trace_id: TextColumn,
    span_id: TextColumn,
    parent_span_id: TextColumn,
    name: TextColumn,
    kind: TextColumn,
    status: TextColumn,
    status_message: TextColumn,
    events: TextColumn,
    links: TextColumn,
    /// Whether no span lacks a time.
    own_times: bool,
}

pub(super) fn decode(
    request: Request<'_, Span>,
    received: i64,
    table: &Arc<EntityTable>,
) -> Result<Decoded, DecodeError> {
    let Request { entities, records } = request;
    let count = records.len();
    let mut attributes = AttributeColumns::new(Signal::Spans, count, &entities);
    let mut rejects = Rejects::default();
    let mut owner = Vec::with_capacity(count);
    let text = |name| TextColumn::new(name, count);
    let mut c = Columns {
        timestamp: TimeColumn::with_capacity(count),
        duration: Int64Builder::with_capacity(count),
        trace_id: text("trace_id"),
        span_id: text("span_id"),
        parent_span_id: text("parent_span_id"),
        name: text("name"),
        kind: text("kind"),
        status: text("status"),
        status_message: text("status_message"),
        events: text("events"),
        links: text("links"),
        own_times: true,
    };
    for (entity, record) in records {
        let span = record.decode()?;
        match c.push(&span, received, owner.len(), &mut attributes)? {
            Ok(()) => owner.push(entity),
            Err(bad) => rejects.add(bad),
        }
    }
    let mut rows = Rows::new("spans", Signal::Spans);
    rows.times("timestamp", c.timestamp);
    rows.column("duration_ns", Arc::new(c.duration.finish()) as ArrayRef);
    for column in
        [c.trace_id, c.span_id, c.parent_span_id, c.name, c.kind, c.status, c.status_message]
    {
        rows.text(column);
    }
    rows.json(c.events);
    rows.json(c.links);
    let decoded = rows.finish(attributes, entities, owner, table, rejects)?;
    Ok(Decoded { idempotent: c.own_times, ..decoded })
}

impl Columns {
    /// Adds a span, or says what is wrong with it before anything was added.
    fn push(
        &mut self,
        span: &Span,
        received: i64,
        row: usize,
        attributes: &mut AttributeColumns,
    ) -> Result<Result<(), Bad>, DecodeError> {
        let head = || {
            Ok((
                value::time("start_time_unix_nano", span.start_time_unix_nano)?,
                value::time("end_time_unix_nano", span.end_time_unix_nano)?,
                value::id("trace_id", &span.trace_id, 16)?,
                value::id("span_id", &span.span_id, 8)?,
                value::id("parent_span_id", &span.parent_span_id, 8)?,
            ))
        };
        let (start, end, trace_id, span_id, parent) = match head() {
            Ok(head) => head,
            Err(bad) => return Ok(Err(bad)),
        };
        self.own_times &= start.or(end).is_some();
        self.timestamp.push(Some(start.or(end).unwrap_or(received)));
        self.duration.append_option(start.zip(end).map(|(start, end)| (end - start).max(0)));
        if let Some((start, end)) = start.zip(end)
            && end < start
        {
            attributes.set(row, "end_time_unix_nano", Cell::Int(end));
        }
        self.trace_id.push(trace_id.as_deref())?;
        self.span_id.push(span_id.as_deref())?;
        self.parent_span_id.push(parent.as_deref())?;
        self.name.push(Some(&span.name))?;
        self.kind.push(kind(span.kind))?;
        let status = span.status.as_ref();
        self.status.push(Some(match status.map_or(0, |s| s.code) {
            1 => "ok",
            2 => "error",
            _ => "unset",
        }))?;
        let message = status.map(|s| s.message.as_str()).filter(|m| !m.is_empty());
        self.status_message.push(message)?;
        self.events.push(list(&span.events, event).as_deref())?;
        self.links.push(list(&span.links, link).as_deref())?;
        if !span.trace_state.is_empty() {
            attributes.set(row, "trace_state", Cell::Text(&span.trace_state));
        }
        value::flatten(&span.attributes, &mut |name, v| attributes.set(row, name, v));
        for (name, n) in [
            ("flags", span.flags),
            ("dropped_attributes_count", span.dropped_attributes_count),
            ("dropped_events_count", span.dropped_events_count),
            ("dropped_links_count", span.dropped_links_count),
        ] {
            if n != 0 {
                attributes.set(row, name, Cell::Int(n.into()));
            }
        }
        Ok(Ok(()))
    }
}

fn kind(kind: i32) -> Option<&'static str> {
    match kind {
        1 => Some("internal"),
        2 => Some("server"),
        3 => Some("client"),
        4 => Some("producer"),
        5 => Some("consumer"),
        _ => None,
    }
}

fn list<T>(items: &[T], write: impl FnMut(&T, &mut String)) -> Option<String> {
    if items.is_empty() {
        return None;
    }
    let mut out = String::new();
    value::write_list(items, &mut out, write);
    Some(out)
}

fn event(event: &Event, out: &mut String) {
    let mut m = Members::open(out);
    m.int("timestamp", event.time_unix_nano);
    m.text("name", &event.name);
    m.attributes(&event.attributes);
    m.int("dropped_attributes_count", event.dropped_attributes_count);
    m.close();
}

fn link(link: &Link, out: &mut String) {
    let mut m = Members::open(out);
    m.id("trace_id", &link.trace_id);
    m.id("span_id", &link.span_id);
    m.text("trace_state", &link.trace_state);
    m.attributes(&link.attributes);
    m.int("flags", link.flags);
    m.int("dropped_attributes_count", link.dropped_attributes_count);
    m.close();
}

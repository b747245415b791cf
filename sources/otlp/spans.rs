//! Spans to rows.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Builder};
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::{Event, Link};
use weir_pipeline::component::{DecodeError, Decoded};
use weir_pipeline::entity::EntityTable;
use weir_pipeline::signal::Signal;

use super::flat::{self, Attributes, Odd, Seen};
use super::rows::{Rows, TextColumn, TimeColumn};
use super::value::{self, Bad, Hex, Members, Rejects};
use super::wire::Request;
use crate::columns::{AttributeColumns, Cell};
use crate::protobuf::Reader;

/// A span.
#[derive(Default)]
struct View<'a> {
    trace_id: &'a [u8],
    span_id: &'a [u8],
    parent_span_id: &'a [u8],
    trace_state: &'a str,
    name: &'a str,
    kind: i32,
    start: u64,
    end: u64,
    status: i32,
    status_message: &'a str,
    /// JSON, if there are any.
    events: Option<String>,
    links: Option<String>,
    flags: u32,
    dropped_attributes: u32,
    dropped_events: u32,
    dropped_links: u32,
}

impl<'a> View<'a> {
    fn of(span: &'a Span) -> Self {
        let status = span.status.as_ref();
        Self {
            trace_id: &span.trace_id,
            span_id: &span.span_id,
            parent_span_id: &span.parent_span_id,
            trace_state: &span.trace_state,
            name: &span.name,
            kind: span.kind,
            start: span.start_time_unix_nano,
            end: span.end_time_unix_nano,
            status: status.map_or(0, |s| s.code),
            status_message: status.map_or("", |s| &s.message),
            events: list(&span.events, event),
            links: list(&span.links, link),
            flags: span.flags,
            dropped_attributes: span.dropped_attributes_count,
            dropped_events: span.dropped_events_count,
            dropped_links: span.dropped_links_count,
        }
    }

    /// Reads a `Span` without links, its attributes into a list.
    fn read(message: &'a [u8], attributes: &mut Vec<flat::Attribute<'a>>) -> Result<Self, Odd> {
        let mut span = Self::default();
        let mut seen = Seen::default();
        let mut message = Reader(message);
        while let Some(tag) = message.tag()? {
            match tag {
                0x4a => {
                    if let Some(attribute) = flat::attribute(message.bytes()?)? {
                        attributes.push(attribute);
                    }
                    continue;
                }
                0x5a => {
                    read_event(message.bytes()?, span.events.get_or_insert_default())?;
                    continue;
                }
                0x0a => span.trace_id = message.bytes()?,
                0x12 => span.span_id = message.bytes()?,
                0x1a => span.trace_state = flat::text(&mut message)?,
                0x22 => span.parent_span_id = message.bytes()?,
                0x2a => span.name = flat::text(&mut message)?,
                0x30 => span.kind = message.varint()? as i32,
                0x39 => span.start = message.fixed64()?,
                0x41 => span.end = message.fixed64()?,
                0x50 => span.dropped_attributes = message.varint()? as u32,
                0x60 => span.dropped_events = message.varint()? as u32,
                0x70 => span.dropped_links = message.varint()? as u32,
                0x7a => span.read_status(message.bytes()?)?,
                0x85 => span.flags = message.fixed32()?,
                // Also links.
                other => {
                    message.skip(other, 16)?;
                    continue;
                }
            }
            seen.first(tag)?;
        }
        if let Some(events) = &mut span.events {
            events.push(']');
        }
        Ok(span)
    }

    fn read_status(&mut self, message: &'a [u8]) -> Result<(), Odd> {
        let mut seen = Seen::default();
        let mut message = Reader(message);
        while let Some(tag) = message.tag()? {
            match tag {
                0x12 => self.status_message = flat::text(&mut message)?,
                0x18 => self.status = message.varint()? as i32,
                other => {
                    message.skip(other, 3)?;
                    continue;
                }
            }
            seen.first(tag)?;
        }
        Ok(())
    }
}

/// Adds an `Event` to a list whose end is yet to be written.
fn read_event(message: &[u8], list: &mut String) -> Result<(), Odd> {
    let mut seen = Seen::default();
    let (mut time, mut name, mut dropped, mut attributes) = (0, "", 0, Vec::new());
    let mut message = Reader(message);
    while let Some(tag) = message.tag()? {
        match tag {
            0x1a => {
                attributes.push(flat::attribute(message.bytes()?)?.ok_or(Odd)?);
                continue;
            }
            0x09 => time = message.fixed64()?,
            0x12 => name = flat::text(&mut message)?,
            0x20 => dropped = message.varint()? as u32,
            other => {
                message.skip(other, 4)?;
                continue;
            }
        }
        seen.first(tag)?;
    }
    list.push(if list.is_empty() { '[' } else { ',' });
    write_event((time, name, dropped), Attributes::Flat(&attributes), list);
    Ok(())
}

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
    attributes: AttributeColumns,
    /// Whether no span lacks a time.
    own_times: bool,
}

pub(super) fn decode(
    request: Request<'_, Span>,
    received: i64,
    table: &Arc<EntityTable>,
) -> Result<Decoded, DecodeError> {
    let Request { entities, records, bytes, .. } = request;
    let count = records.len();
    let text = |name| TextColumn::new(name, count, bytes);
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
        attributes: AttributeColumns::new(Signal::Spans, (count, bytes), &entities),
        own_times: true,
    };
    let mut rejects = Rejects::default();
    let mut owner = Vec::with_capacity(count);
    let mut attributes = Vec::new();
    for (entity, record) in records {
        attributes.clear();
        let read = record.wire().ok_or(Odd).and_then(|bytes| View::read(bytes, &mut attributes));
        let pushed = match read {
            Ok(span) => c.push(&span, Attributes::Flat(&attributes), received, owner.len()),
            Err(Odd) => {
                let span = record.decode()?;
                let attributes = Attributes::Nested(&span.attributes);
                c.push(&View::of(&span), attributes, received, owner.len())
            }
        };
        match pushed {
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
        rows.text(column)?;
    }
    rows.json(c.events)?;
    rows.json(c.links)?;
    let decoded = rows.finish(c.attributes, entities, owner, table, rejects)?;
    Ok(Decoded { idempotent: c.own_times, ..decoded })
}

impl Columns {
    /// Adds a span, or says what is wrong with it before anything was added.
    #[inline]
    fn push(
        &mut self,
        span: &View<'_>,
        attributes: Attributes<'_>,
        received: i64,
        row: usize,
    ) -> Result<(), Bad> {
        let start = value::time("start_time_unix_nano", span.start)?;
        let end = value::time("end_time_unix_nano", span.end)?;
        let trace_id = value::id("trace_id", span.trace_id, 16)?;
        let span_id = value::id("span_id", span.span_id, 8)?;
        let parent = value::id("parent_span_id", span.parent_span_id, 8)?;
        self.own_times &= start.or(end).is_some();
        self.timestamp.push(Some(start.or(end).unwrap_or(received)));
        self.duration.append_option(start.zip(end).map(|(start, end)| (end - start).max(0)));
        if let Some((start, end)) = start.zip(end)
            && end < start
        {
            self.attributes.set(row, "end_time_unix_nano", Cell::Int(end));
        }
        self.trace_id.push(trace_id.as_ref().map(Hex::as_str));
        self.span_id.push(span_id.as_ref().map(Hex::as_str));
        self.parent_span_id.push(parent.as_ref().map(Hex::as_str));
        self.name.push(Some(span.name));
        self.kind.push(kind(span.kind));
        self.status.push(Some(match span.status {
            1 => "ok",
            2 => "error",
            _ => "unset",
        }));
        self.status_message.push(Some(span.status_message).filter(|m| !m.is_empty()));
        self.events.push(span.events.as_deref());
        self.links.push(span.links.as_deref());
        if !span.trace_state.is_empty() {
            self.attributes.set(row, "trace_state", Cell::Text(span.trace_state));
        }
        attributes.each(|name, value| self.attributes.set(row, name, value));
        for (name, n) in [
            ("flags", span.flags),
            ("dropped_attributes_count", span.dropped_attributes),
            ("dropped_events_count", span.dropped_events),
            ("dropped_links_count", span.dropped_links),
        ] {
            if n != 0 {
                self.attributes.set(row, name, Cell::Int(n.into()));
            }
        }
        Ok(())
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
    let head = (event.time_unix_nano, event.name.as_str(), event.dropped_attributes_count);
    write_event(head, Attributes::Nested(&event.attributes), out);
}

fn write_event(
    (time, name, dropped): (u64, &str, u32),
    attributes: Attributes<'_>,
    out: &mut String,
) {
    let mut m = Members::open(out);
    m.int("timestamp", time);
    m.text("name", name);
    m.attributes(attributes);
    m.int("dropped_attributes_count", dropped);
    m.close();
}

fn link(link: &Link, out: &mut String) {
    let mut m = Members::open(out);
    m.id("trace_id", &link.trace_id);
    m.id("span_id", &link.span_id);
    m.text("trace_state", &link.trace_state);
    m.attributes(Attributes::Nested(&link.attributes));
    m.int("flags", link.flags);
    m.int("dropped_attributes_count", link.dropped_attributes_count);
    m.close();
}

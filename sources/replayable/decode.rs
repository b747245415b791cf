//! The records of an entry to rows.

use std::borrow::Cow;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, TimestampNanosecondArray, UInt32Array};
use arrow::datatypes::{Field, Schema};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::{Bytes, BytesMut};
use hashbrown::HashMap;
use serde_json::Value;
use weir_pipeline::batch::Keys;
use weir_pipeline::component::{DecodeError, Decoded, DecodedBatch, Decoder, EntryHead, Rejected};
use weir_pipeline::entity::{EntitySpace, EntityTable, Origin};
use weir_pipeline::journal::Envelope;
use weir_pipeline::signal::Signal;

use super::frames::{self, Frame};
use super::{DESTINATION, ERROR, Format, HEADER, PARTITION, RAW, SYSTEM, System, json};
use crate::columns::{AttributeColumns, Cell, EntityBuilder, TextBuilder};
use crate::otlp::{OtlpDecoder, severity};

/// Decodes entries of a source that reads a log.
#[derive(Debug)]
pub(crate) struct RecordDecoder {
    system: &'static System,
    format: Format,
    otlp: OtlpDecoder,
}

/// A record as a log record.
#[derive(Debug, Default)]
pub(super) struct Parsed<'a> {
    pub(super) time: Option<i64>,
    pub(super) observed: Option<i64>,
    pub(super) severity: Option<Cow<'static, str>>,
    pub(super) severity_number: Option<i64>,
    pub(super) body: Option<Cow<'a, str>>,
    pub(super) trace_id: Option<String>,
    pub(super) span_id: Option<String>,
    pub(super) resource: Vec<(String, String)>,
    pub(super) attributes: Vec<(String, Value)>,
    error: Option<String>,
    raw: Option<String>,
}

impl<'a> Parsed<'a> {
    /// Sets the severity by its text: the canonical name, and its number unless that is known.
    pub(super) fn severity(&mut self, text: &str) {
        let name = severity(0, text);
        let number = name.and_then(|name| {
            let names = ["TRACE", "DEBUG", "INFO", "WARN", "ERROR", "FATAL"];
            names.iter().position(|n| *n == name).map(|at| 4 * at as i64 + 1)
        });
        self.severity = Some(name.map_or_else(|| text.to_owned().into(), Cow::Borrowed));
        self.severity_number = self.severity_number.or(number);
    }

    /// A record as text; what is not UTF-8 beside it as it was.
    fn text(value: Option<&'a [u8]>) -> Self {
        let body = value.map(String::from_utf8_lossy);
        let raw = match (&body, value) {
            (Some(Cow::Owned(_)), Some(value)) => Some(BASE64.encode(value)),
            _ => None,
        };
        Self { body, raw, ..Self::default() }
    }

    fn of(format: Format, frame: &Frame<'a>) -> Self {
        if let Some(length) = frame.omitted {
            let error = Some(format!("left out: {length} bytes are more than `max_record_bytes`"));
            return Self { error, ..Self::default() };
        }
        match (format, frame.value) {
            (Format::Json, Some(value)) => match json::read(value) {
                Ok(parsed) => parsed,
                Err(error) => Self { error: Some(error), ..Self::text(frame.value) },
            },
            _ => Self::text(frame.value),
        }
    }
}

impl RecordDecoder {
    /// For records of `format`, of at most `record_bytes_max`.
    pub(crate) fn new(system: &'static System, format: Format) -> Self {
        // The requests of one entry are decoded as one, and each is at most as long as a record.
        Self { system, format, otlp: OtlpDecoder::new(usize::MAX) }
    }

    /// The requests of all records as one: in protobuf messages that stand behind each other are
    /// one message with the fields of all. If that does not decode, the bad ones are looked for.
    fn requests(
        &self,
        (head, entities): (&EntryHead<'_>, &EntitySpace),
        path: &str,
        frames: &[Frame<'_>],
    ) -> Result<Decoded, DecodeError> {
        let envelope = Envelope {
            content_type: "application/x-protobuf".to_owned(),
            path: path.to_owned(),
            ..Envelope::default()
        };
        let head = EntryHead { received: head.received, envelope: &envelope };
        let decode = |request: &Bytes| self.otlp.decode(&head, request, entities);
        let whole = joined(frames.iter().filter_map(|f| f.value));
        let mut bad = Bad::default();
        for frame in frames {
            if let Some(length) = frame.omitted {
                bad.add("too_large", frame, &format!("{length} bytes"));
            }
        }
        let mut decoded = match decode(&whole) {
            Ok(decoded) => decoded,
            Err(_) => {
                let is_good = |frame: &&Frame<'_>| {
                    let Some(value) = frame.value else { return false };
                    match decode(&Bytes::copy_from_slice(value)) {
                        Ok(_) => true,
                        Err(error) => {
                            bad.add("malformed", frame, &error.message);
                            false
                        }
                    }
                };
                let good: Vec<_> = frames.iter().filter(is_good).filter_map(|f| f.value).collect();
                decode(&joined(good.into_iter()))?
            }
        };
        decoded.rejected.extend(bad.finish("left out"));
        // Each entry counts, with the position that it carries.
        decoded.idempotent = false;
        Ok(decoded)
    }
}

fn joined<'a>(requests: impl Iterator<Item = &'a [u8]>) -> Bytes {
    let mut whole = BytesMut::new();
    requests.for_each(|request| whole.extend_from_slice(request));
    whole.freeze()
}

impl Decoder for RecordDecoder {
    fn decode(
        &self,
        head: &EntryHead<'_>,
        payload: &Bytes,
        entities: &EntitySpace,
    ) -> Result<Decoded, DecodeError> {
        let frames = frames::read(payload)
            .ok_or_else(|| DecodeError::new("malformed", "not a payload of records"))?;
        if frames.is_empty() {
            return Ok(Decoded::default());
        }
        let path = match self.format {
            Format::Json | Format::Text => return self.logs(head, &frames, entities),
            Format::OtlpLogs => "/v1/logs",
            Format::OtlpMetrics => "/v1/metrics",
            Format::OtlpSpans => "/v1/traces",
        };
        self.requests((head, entities), path, &frames)
    }
}

impl RecordDecoder {
    fn logs(
        &self,
        head: &EntryHead<'_>,
        frames: &[Frame<'_>],
        entities: &EntitySpace,
    ) -> Result<Decoded, DecodeError> {
        let mut bad = Bad::default();
        let mut owners = Owners { system: self.system, known: HashMap::new(), all: Vec::new() };
        let mut owner = Vec::with_capacity(frames.len());
        let mut parsed = Vec::with_capacity(frames.len());
        let mut bytes = 0;
        for frame in frames {
            let record = Parsed::of(self.format, frame);
            if let Some(error) = &record.error {
                let reason = if frame.omitted.is_some() { "too_large" } else { "malformed" };
                bad.add(reason, frame, error);
            }
            owner.push(owners.of(frame.topic, &record.resource));
            bytes += frame.value.map_or(0, <[u8]>::len);
            parsed.push(record);
        }
        let rows = frames.len();
        let size = (rows, bytes);
        let mut attributes = AttributeColumns::new(Signal::Logs, size, &owners.all);
        for (row, (frame, record)) in frames.iter().zip(&parsed).enumerate() {
            self.attributes(row, frame, record, &mut attributes);
        }
        attributes.share(&owners.all, &owner)?;
        let table = entities.table();
        let keys = owners.keys(&owner, &attributes, &table)?;
        let mut fields = Vec::new();
        let mut arrays = Vec::new();
        for (name, array) in columns(head.received, frames, &parsed, bytes)? {
            if name == "timestamp" || array.null_count() < rows {
                fields.push(Field::new(name, array.data_type().clone(), true));
                arrays.push(array);
            }
        }
        for (field, array) in attributes.finish()? {
            fields.push(field);
            arrays.push(array);
        }
        let rows = RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays)
            .map_err(|e| DecodeError::new("internal", e.to_string()))?;
        let batch = DecodedBatch {
            output: self.format.output(),
            signal: Signal::Logs,
            rows,
            entities: Some(Keys { keys, table }),
        };
        let rejected = bad.finish("kept as text").collect();
        Ok(Decoded { batches: vec![batch], rejected, idempotent: false })
    }

    /// What is no column of its own.
    fn attributes(
        &self,
        row: usize,
        frame: &Frame<'_>,
        record: &Parsed<'_>,
        out: &mut AttributeColumns,
    ) {
        let system = self.system;
        if let Some(name) = frame.name {
            out.set(row, DESTINATION, Cell::Text(name));
        }
        if system.partitions {
            let id = frame.partition.to_string();
            out.set(row, PARTITION, Cell::Text(&id));
        }
        let offset = i64::try_from(frame.offset).unwrap_or(i64::MAX);
        out.set(row, system.offset, Cell::Int(offset));
        if let Some(key) = frame.key {
            out.set(row, system.key, Cell::Text(&String::from_utf8_lossy(key)));
        }
        for (name, value) in [(ERROR, &record.error), (RAW, &record.raw)] {
            if let Some(value) = value {
                out.set(row, name, Cell::Text(value));
            }
        }
        let mut header = String::from(HEADER);
        for (name, value) in &frame.headers {
            header.truncate(HEADER.len());
            header.push_str(name);
            out.set(row, &header, Cell::Text(&String::from_utf8_lossy(value)));
        }
        for (name, value) in &record.attributes {
            let mut text = String::new();
            let Some(cell) = json::cell(value, &mut text) else { continue };
            match system.is_own(name) {
                true => out.set(row, &format!("attr.{name}"), cell),
                false => out.set(row, name, cell),
            }
        }
    }
}

/// The canonical columns.
fn columns(
    received: i64,
    frames: &[Frame<'_>],
    parsed: &[Parsed<'_>],
    bytes: usize,
) -> Result<[(&'static str, ArrayRef); 7], DecodeError> {
    let rows = frames.len();
    let times = |values: Vec<i64>| -> ArrayRef {
        Arc::new(TimestampNanosecondArray::from(values).with_timezone("UTC"))
    };
    let of =
        |(frame, record): (&Frame<'_>, &Parsed<'_>)| record.time.or(frame.time).unwrap_or(received);
    let text = |name, bytes, value: for<'a> fn(&'a Parsed<'_>) -> Option<&'a str>| {
        let mut column = TextBuilder::new(rows, bytes);
        parsed.iter().for_each(|record| column.push_option(value(record)));
        column.finish(name)
    };
    let numbers = parsed.iter().map(|r| r.severity_number).collect::<Int64Array>();
    Ok([
        ("timestamp", times(frames.iter().zip(parsed).map(of).collect())),
        (
            "observed_timestamp",
            times(parsed.iter().map(|r| r.observed.unwrap_or(received)).collect()),
        ),
        ("severity", text("severity", 0, |r| r.severity.as_deref())?),
        ("severity_number", Arc::new(numbers)),
        ("body", text("body", bytes, |r| r.body.as_deref())?),
        ("trace_id", text("trace_id", 0, |r| r.trace_id.as_deref())?),
        ("span_id", text("span_id", 0, |r| r.span_id.as_deref())?),
    ])
}

/// What rows have in common, by topic and resource.
struct Owners {
    system: &'static System,
    known: HashMap<String, u32>,
    all: Vec<EntityBuilder>,
}

impl Owners {
    fn of(&mut self, topic: &str, resource: &[(String, String)]) -> u32 {
        let mut id = topic.to_owned();
        for (name, value) in resource {
            // Lengths, so that no value can look like two.
            id.push_str(&format!("\n{}:{name}{}:{value}", name.len(), value.len()));
        }
        if let Some(&known) = self.known.get(&id) {
            return known;
        }
        let mut entity = EntityBuilder::new(Signal::Logs);
        let system = self.system;
        let shared = [(SYSTEM, system.name), (system.log, topic)];
        let own = resource.iter().map(|(n, v)| (n.as_str(), v.as_str()));
        for (name, value) in own.chain(shared) {
            entity.attribute(Origin::Resource, name, Cell::Text(value));
        }
        let index = self.all.len() as u32;
        self.all.push(entity);
        self.known.insert(id, index);
        index
    }

    /// The key of each row.
    fn keys(
        self,
        owner: &[u32],
        attributes: &AttributeColumns,
        table: &EntityTable,
    ) -> Result<UInt32Array, DecodeError> {
        let names = attributes.names();
        let mut keys = Vec::with_capacity(self.all.len());
        for entity in self.all {
            let key = table.intern(entity.build(&names));
            keys.push(key.map_err(|e| DecodeError::new("collision", e.to_string()))?);
        }
        Ok(owner.iter().map(|o| keys[*o as usize]).collect())
    }
}

/// Records that could not be read, by reason, with the first as a sample.
#[derive(Default)]
struct Bad(Vec<(&'static str, u64, String)>);

impl Bad {
    fn add(&mut self, reason: &'static str, frame: &Frame<'_>, why: &str) {
        match self.0.iter_mut().find(|(r, ..)| *r == reason) {
            Some((_, rows, _)) => *rows += 1,
            None => {
                let (topic, partition, offset) = (frame.topic, frame.partition, frame.offset);
                let sample = format!("{topic}, partition {partition}, offset {offset}: {why}");
                self.0.push((reason, 1, sample));
            }
        }
    }

    fn finish(self, what: &str) -> impl Iterator<Item = Rejected> {
        let what = what.to_owned();
        self.0.into_iter().map(move |(reason, rows, sample)| Rejected {
            rows,
            reason,
            message: format!("{sample}; {what}"),
        })
    }
}

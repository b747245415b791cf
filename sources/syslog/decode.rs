//! Syslog messages as rows of logs.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use arrow::array::{
    ArrayRef, Int64Array, RecordBatch, StringBuilder, TimestampNanosecondArray, UInt32Array,
};
use arrow::datatypes::{Field, Schema};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use hashbrown::{HashMap, HashSet};
use jiff::tz::TimeZone;
use weir_pipeline::batch::Keys;
use weir_pipeline::component::{DecodeError, Decoded, DecodedBatch, Decoder, EntryHead};
use weir_pipeline::entity::{EntitySpace, EntityTable, Origin};
use weir_pipeline::signal::Signal;

use super::frames::{self, Frame};
use super::parse::{Message, parse};
use crate::columns::{AttributeColumns, Cell, EntityBuilder};
use crate::json;

/// Prefix of the names of structured data.
const DATA: &str = "syslog.structured_data.";

/// Severity numbers of OpenTelemetry by syslog severity, and the text of each: the mapping of the
/// OpenTelemetry log data model, appendix B.
const SEVERITIES: [(i64, &str); 8] = [
    (21, "FATAL"),
    (19, "ERROR"),
    (18, "ERROR"),
    (17, "ERROR"),
    (13, "WARN"),
    (10, "INFO"),
    (9, "INFO"),
    (5, "DEBUG"),
];

/// Keywords of the facilities (RFC 5427; those without one as commonly written).
const FACILITIES: [&str; 24] = [
    "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv",
    "ftp", "ntp", "audit", "alert", "clock", "local0", "local1", "local2", "local3", "local4",
    "local5", "local6", "local7",
];

/// See [`super`].
#[derive(Debug)]
pub(super) struct SyslogDecoder {
    /// Zone of times that name none.
    pub(super) zone: TimeZone,
}

impl Decoder for SyslogDecoder {
    fn decode(
        &self,
        head: &EntryHead<'_>,
        payload: &Bytes,
        entities: &EntitySpace,
    ) -> Result<Decoded, DecodeError> {
        let frames = frames::read(payload)
            .ok_or_else(|| DecodeError::new("malformed", "not a payload of syslog messages"))?;
        let peer = &head.envelope.peer;
        let peer = peer.parse::<SocketAddr>().map_or(peer.clone(), |a| ip_text(a.ip()));
        let mut rows = Rows::new(frames.len(), entities.table());
        for (row, frame) in frames.iter().enumerate() {
            rows.add(row, frame, &peer, head.received, &self.zone)?;
        }
        Ok(Decoded { batches: vec![rows.finish(head.received)?], ..Decoded::default() })
    }
}

/// An address as `network.peer.address` has it: IPv4 also where it came over an IPv6 socket.
pub(super) fn ip_text(ip: IpAddr) -> String {
    ip.to_canonical().to_string()
}

struct Rows {
    table: Arc<EntityTable>,
    keys: Vec<u32>,
    /// Keys of the resources of this entry, by host and application.
    resources: HashMap<(String, String), u32>,
    timestamp: Vec<i64>,
    severity: StringBuilder,
    severity_number: Vec<Option<i64>>,
    body: StringBuilder,
    attributes: AttributeColumns,
    name: String,
}

impl Rows {
    fn new(rows: usize, table: Arc<EntityTable>) -> Self {
        Self {
            table,
            keys: Vec::with_capacity(rows),
            resources: HashMap::new(),
            timestamp: Vec::with_capacity(rows),
            severity: StringBuilder::new(),
            severity_number: Vec::with_capacity(rows),
            body: StringBuilder::new(),
            attributes: AttributeColumns::new(Signal::Logs, (rows, 0), &[]),
            name: String::new(),
        }
    }

    fn add(
        &mut self,
        row: usize,
        frame: &Frame<'_>,
        peer: &str,
        received: i64,
        zone: &TimeZone,
    ) -> Result<(), DecodeError> {
        let text = String::from_utf8_lossy(frame.message);
        let message = parse(&text);
        let key = self.resource(message.hostname, message.app)?;
        self.keys.push(key);
        let time = message.time.and_then(|t| t.resolve(zone, received));
        self.timestamp.push(time.unwrap_or(received));
        let severity = message.pri.map(|pri| SEVERITIES[usize::from(pri % 8)]);
        self.severity.append_option(severity.map(|s| s.1));
        self.severity_number.push(severity.map(|s| s.0));
        self.body.append_option(message.body);
        if time.is_none() && !message.time_text.is_empty() {
            self.attributes.set(row, "syslog.timestamp", Cell::Text(message.time_text));
        }
        if matches!(text, std::borrow::Cow::Owned(_)) {
            let raw = BASE64.encode(frame.message);
            self.attributes.set(row, "syslog.raw", Cell::Text(&raw));
        }
        if frame.cut {
            self.attributes.set(row, "syslog.truncated", Cell::Bool(true));
        }
        let peer = match frame.peer {
            [] => Some(peer),
            own => std::str::from_utf8(own).ok(),
        };
        if let Some(peer) = peer.filter(|p| !p.is_empty()) {
            self.attributes.set(row, "network.peer.address", Cell::Text(peer));
        }
        self.header(row, &message);
        self.data(row, &message);
        Ok(())
    }

    /// The entity of a host and application.
    fn resource(&mut self, host: Option<&str>, app: Option<&str>) -> Result<u32, DecodeError> {
        let id = (host.unwrap_or_default().to_owned(), app.unwrap_or_default().to_owned());
        if let Some(&key) = self.resources.get(&id) {
            return Ok(key);
        }
        let mut entity = EntityBuilder::new(Signal::Logs);
        for (name, value) in [("host.name", host), ("service.name", app)] {
            if let Some(value) = value {
                entity.attribute(Origin::Resource, name, Cell::Text(value));
            }
        }
        let key = self
            .table
            .intern(entity.build(&HashSet::new()))
            .map_err(|e| DecodeError::new("collision", e.to_string()))?;
        self.resources.insert(id, key);
        Ok(key)
    }

    fn header(&mut self, row: usize, message: &Message<'_>) {
        let mut set = |name: &str, value: Option<Cell<'_>>| {
            if let Some(value) = value {
                self.attributes.set(row, name, value);
            }
        };
        let facility = message.pri.map(|pri| FACILITIES[usize::from(pri / 8)]);
        set("syslog.facility", facility.map(Cell::Text));
        let version = message.version.filter(|v| *v != 1);
        set("syslog.version", version.map(|v| Cell::Int(v.into())));
        // A number is the process id; Weir's text for one is the text that came.
        let pid = message.procid.and_then(|text| {
            let pid: i64 = text.parse().ok()?;
            (pid >= 0 && pid.to_string() == text).then_some(pid)
        });
        set("process.pid", pid.map(Cell::Int));
        set("syslog.procid", message.procid.filter(|_| pid.is_none()).map(Cell::Text));
        set("syslog.msgid", message.msgid.map(Cell::Text));
        set("syslog.sequence", message.sequence.map(Cell::Text));
    }

    fn data(&mut self, row: usize, message: &Message<'_>) {
        if message.data.is_empty() {
            return;
        }
        // An id must not come twice, but a parameter may; then its values are a list.
        let mut values: HashMap<(&str, &str), Vec<&str>> = HashMap::new();
        for element in &message.data {
            for (name, value) in &element.params {
                values.entry((element.id, name)).or_default().push(value);
            }
        }
        for element in &message.data {
            self.name.clear();
            self.name.push_str(DATA);
            self.name.push_str(element.id);
            if element.params.is_empty() {
                self.attributes.set(row, &self.name, Cell::Bool(true));
            }
            let prefix = self.name.len();
            for (name, _) in &element.params {
                let Some(values) = values.remove(&(element.id, *name)) else { continue };
                self.name.truncate(prefix);
                self.name.push('.');
                self.name.push_str(name);
                if let [one] = values.as_slice() {
                    self.attributes.set(row, &self.name, Cell::Text(one));
                    continue;
                }
                let mut list = String::new();
                for value in values {
                    list.push(if list.is_empty() { '[' } else { ',' });
                    json::text(value, &mut list);
                }
                list.push(']');
                self.attributes.set(row, &self.name, Cell::Json(&list));
            }
        }
    }

    fn finish(mut self, received: i64) -> Result<DecodedBatch, DecodeError> {
        let rows = self.keys.len();
        let time = |values: Vec<i64>| -> ArrayRef {
            Arc::new(TimestampNanosecondArray::from(values).with_timezone("UTC"))
        };
        let columns: [(&str, ArrayRef); 5] = [
            ("timestamp", time(self.timestamp)),
            ("observed_timestamp", time(vec![received; rows])),
            ("severity", Arc::new(self.severity.finish())),
            ("severity_number", Arc::new(Int64Array::from(self.severity_number))),
            ("body", Arc::new(self.body.finish())),
        ];
        let field =
            |(name, array): &(&str, ArrayRef)| Field::new(*name, array.data_type().clone(), true);
        let mut fields: Vec<Field> = columns.iter().map(field).collect();
        let mut arrays: Vec<ArrayRef> = columns.into_iter().map(|(_, array)| array).collect();
        for (field, array) in self.attributes.finish()? {
            fields.push(field);
            arrays.push(array);
        }
        let rows = RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays)
            .map_err(|e| DecodeError::new("internal", e.to_string()))?;
        let entities = Some(Keys { keys: UInt32Array::from(self.keys), table: self.table });
        Ok(DecodedBatch { output: super::OUTPUT, signal: Signal::Logs, rows, entities })
    }
}

#[cfg(test)]
mod tests;

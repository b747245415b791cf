//! OTLP/JSON to the same records as protobuf.
//!
//! Rules: protobuf's JSON mapping with the exceptions of the OTLP specification ("JSON Protobuf
//! Encoding"): ids are hex, enums are numbers (names are taken too), unknown members are ignored.

use base64::Engine;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::common::v1::{
    AnyValue, ArrayValue, InstrumentationScope, KeyValue, KeyValueList,
};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, SeverityNumber};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{Span, Status, span, status};
use weir_pipeline::component::DecodeError;
use weir_pipeline::signal::Signal;

use super::text::{self, Json};
use super::value;
use super::wire::{Record, Request};

/// What is wrong with a value, and where it stands.
#[derive(Debug)]
pub(super) struct Wrong {
    /// Innermost part last.
    path: String,
    expected: String,
}

type Read<T> = Result<T, Wrong>;

fn wrong<T>(expected: &str, found: &Json<'_>) -> Read<T> {
    let found = match found {
        Json::Null => "null".to_owned(),
        Json::Bool(b) => format!("`{b}`"),
        Json::Number(n) => format!("`{}`", n.chars().take(40).collect::<String>()),
        Json::Text(t) => format!("`{}`", t.chars().take(40).collect::<String>()),
        Json::Array(_) => "an array".to_owned(),
        Json::Object(_) => "an object".to_owned(),
    };
    let expected = format!("expected {expected}, found {found}");
    Err(Wrong { path: String::new(), expected })
}

/// The members of an object, by their camel-case or their proto name.
pub(super) struct Object<'j, 'a>(&'j [(std::borrow::Cow<'a, str>, Json<'a>)]);

impl<'j, 'a> Object<'j, 'a> {
    pub(super) fn of(value: &'j Json<'a>) -> Read<Self> {
        match value {
            Json::Object(members) => Ok(Self(members)),
            other => wrong("an object", other),
        }
    }

    /// The member `name`, read by `read`; `None` if it is not there or null.
    pub(super) fn get<T>(
        &self,
        name: &str,
        read: impl FnOnce(&'j Json<'a>) -> Read<T>,
    ) -> Read<Option<T>> {
        let found = self.0.iter().rev().find(|(n, _)| n == name || is_proto_name(n, name));
        match found {
            None | Some((_, Json::Null)) => Ok(None),
            Some((_, value)) => read(value).map(Some).map_err(|e| e.under(name)),
        }
    }

    /// The member, or its default.
    pub(super) fn or<T: Default>(
        &self,
        name: &str,
        read: impl FnOnce(&'j Json<'a>) -> Read<T>,
    ) -> Read<T> {
        Ok(self.get(name, read)?.unwrap_or_default())
    }

    /// The items of an array member.
    pub(super) fn list<T>(
        &self,
        name: &str,
        read: impl Fn(&'j Json<'a>) -> Read<T>,
    ) -> Read<Vec<T>> {
        self.or(name, |value| items(value, read))
    }
}

fn items<'j, 'a, T>(value: &'j Json<'a>, read: impl Fn(&'j Json<'a>) -> Read<T>) -> Read<Vec<T>> {
    let Json::Array(items) = value else { return wrong("an array", value) };
    let numbered = items.iter().enumerate();
    numbered.map(|(i, v)| read(v).map_err(|e| e.under(&format!("[{i}]")))).collect()
}

/// Whether `proto` is the snake-case form of `camel`.
fn is_proto_name(proto: &str, camel: &str) -> bool {
    let mut letters = proto.bytes();
    proto.contains('_')
        && camel.bytes().all(|c| {
            if c.is_ascii_uppercase() {
                letters.next() == Some(b'_') && letters.next() == Some(c.to_ascii_lowercase())
            } else {
                letters.next() == Some(c)
            }
        })
        && letters.next().is_none()
}

impl Wrong {
    fn under(mut self, name: &str) -> Self {
        let dot = if self.path.is_empty() || self.path.starts_with('[') { "" } else { "." };
        self.path = format!("{name}{dot}{}", self.path);
        self
    }
}

impl From<Wrong> for DecodeError {
    fn from(e: Wrong) -> Self {
        let place = if e.path.is_empty() { "body" } else { &e.path };
        Self::new("malformed", format!("{place}: {}", e.expected))
    }
}

/// Walks a JSON request whose outer levels are called `resource<Name>`, `scope<Name>`,
/// `records`; `read` reads one record.
pub(super) fn request<T>(
    signal: &Signal,
    body: &[u8],
    name: &str,
    records: &str,
    read: fn(&Json<'_>) -> Read<T>,
) -> Result<Request<'static, T>, DecodeError> {
    let body = std::str::from_utf8(body)
        .map_err(|e| DecodeError::new("malformed", format!("the body is not UTF-8: {e}")))?;
    let json = text::parse(body).map_err(|e| DecodeError::new("malformed", e))?;
    let mut request = Request::new(body.len());
    let (resources, scopes) = (format!("resource{name}"), format!("scope{name}"));
    // Errors of the limits pass through the readers untouched.
    let mut limit = Ok(());
    Object::of(&json)?
        .list(&resources, |group| {
            let group = Object::of(group)?;
            let resource = group.or("resource", resource)?;
            let resource_schema = group.or("schemaUrl", string)?;
            group
                .list(&scopes, |group| {
                    let group = Object::of(group)?;
                    let scope = group.or("scope", scope)?;
                    let scope_schema = group.or("schemaUrl", string)?;
                    Ok((scope, scope_schema, group.list(records, read)?))
                })
                .map(|scopes| (resource, resource_schema, scopes))
        })
        .map_err(DecodeError::from)?
        .into_iter()
        .for_each(|(resource, resource_schema, scopes)| {
            for (scope, scope_schema, records) in scopes {
                if limit.is_err() {
                    return;
                }
                let entity =
                    value::entity(signal, &resource, &resource_schema, &scope, &scope_schema);
                let index = request.entities.len() as u32;
                limit = request.entity(entity).and_then(|()| {
                    let mut records = records.into_iter();
                    records.try_for_each(|r| request.record(index, Record::Owned(Box::new(r))))
                });
            }
        });
    limit.map(|()| request)
}

pub(super) fn string(value: &Json<'_>) -> Read<String> {
    match value {
        Json::Text(text) => Ok(text.to_string()),
        other => wrong("a string", other),
    }
}

fn boolean(value: &Json<'_>) -> Read<bool> {
    match value {
        Json::Bool(v) => Ok(*v),
        other => wrong("true or false", other),
    }
}

/// An integer as a number or a string.
pub(super) fn integer<T: TryFrom<i128>>(value: &Json<'_>) -> Read<T> {
    let text = match value {
        Json::Number(n) => *n,
        Json::Text(t) => t,
        other => return wrong("an integer", other),
    };
    let whole = text.parse::<i128>().ok().or_else(|| {
        // `1e3` and `1.0` are integers too.
        let v = text.parse::<f64>().ok()?;
        (v.fract() == 0.0 && v.abs() < 1e18).then_some(v as i128)
    });
    match whole.and_then(|v| T::try_from(v).ok()) {
        Some(v) => Ok(v),
        None => wrong(&format!("a {}-bit integer", size_of::<T>() * 8), value),
    }
}

/// A double as a number or a string (`NaN`, `Infinity`, `-Infinity`).
pub(super) fn double(value: &Json<'_>) -> Read<f64> {
    let number = match value {
        Json::Number(n) => n.parse().ok(),
        Json::Text(t) => match &**t {
            "NaN" => Some(f64::NAN),
            "Infinity" => Some(f64::INFINITY),
            "-Infinity" => Some(f64::NEG_INFINITY),
            other => other.parse().ok().filter(|v: &f64| v.is_finite()),
        },
        _ => None,
    };
    number.map_or_else(|| wrong("a number", value), Ok)
}

/// An enum as a number or by name.
pub(super) fn number_or_name(
    value: &Json<'_>,
    by_name: impl FnOnce(&str) -> Option<i32>,
) -> Read<i32> {
    if let Json::Text(name) = value
        && let Some(number) = by_name(name)
    {
        return Ok(number);
    }
    integer(value)
}

/// Hex in any case. What is not hex becomes an id of a wrong length, so that its record is left
/// out like any other with a bad id.
pub(super) fn hex(value: &Json<'_>) -> Read<Vec<u8>> {
    let Json::Text(text) = value else { return wrong("a string of hex digits", value) };
    let digit = |b: u8| (b as char).to_digit(16).map(|d| d as u8);
    let pairs = text.as_bytes().chunks(2);
    let bytes = pairs.map(|pair| match pair {
        [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
        _ => None,
    });
    Ok(bytes.collect::<Option<Vec<u8>>>().unwrap_or_else(|| vec![0]))
}

fn bytes(value: &Json<'_>) -> Read<Vec<u8>> {
    const ANY_PADDING: GeneralPurposeConfig = GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true);
    const STANDARD: GeneralPurpose = GeneralPurpose::new(&base64::alphabet::STANDARD, ANY_PADDING);
    const URL: GeneralPurpose = GeneralPurpose::new(&base64::alphabet::URL_SAFE, ANY_PADDING);
    let Json::Text(text) = value else { return wrong("base64 text", value) };
    let decoded = STANDARD.decode(text.as_bytes()).or_else(|_| URL.decode(text.as_bytes()));
    decoded.or_else(|_| wrong("base64 text", value))
}

fn any(value: &Json<'_>) -> Read<AnyValue> {
    let o = Object::of(value)?;
    let value = if let Some(v) = o.get("stringValue", string)? {
        Some(Any::StringValue(v))
    } else if let Some(v) = o.get("boolValue", boolean)? {
        Some(Any::BoolValue(v))
    } else if let Some(v) = o.get("intValue", integer)? {
        Some(Any::IntValue(v))
    } else if let Some(v) = o.get("doubleValue", double)? {
        Some(Any::DoubleValue(v))
    } else if let Some(v) = o.get("bytesValue", bytes)? {
        Some(Any::BytesValue(v))
    } else if let Some(values) = o.get("arrayValue", |v| Object::of(v)?.list("values", any))? {
        Some(Any::ArrayValue(ArrayValue { values }))
    } else {
        let values = o.get("kvlistValue", |v| Object::of(v)?.list("values", key_value))?;
        values.map(|values| Any::KvlistValue(KeyValueList { values }))
    };
    Ok(AnyValue { value })
}

fn key_value(value: &Json<'_>) -> Read<KeyValue> {
    let o = Object::of(value)?;
    Ok(KeyValue { key: o.or("key", string)?, value: o.get("value", any)?, ..KeyValue::default() })
}

pub(super) fn attributes(o: &Object<'_, '_>, name: &str) -> Read<Vec<KeyValue>> {
    o.list(name, key_value)
}

fn resource(value: &Json<'_>) -> Read<Resource> {
    let o = Object::of(value)?;
    Ok(Resource {
        attributes: attributes(&o, "attributes")?,
        dropped_attributes_count: o.or("droppedAttributesCount", integer)?,
        ..Resource::default()
    })
}

fn scope(value: &Json<'_>) -> Read<InstrumentationScope> {
    let o = Object::of(value)?;
    Ok(InstrumentationScope {
        name: o.or("name", string)?,
        version: o.or("version", string)?,
        attributes: attributes(&o, "attributes")?,
        dropped_attributes_count: o.or("droppedAttributesCount", integer)?,
    })
}

pub(super) fn log_record(value: &Json<'_>) -> Read<LogRecord> {
    let o = Object::of(value)?;
    Ok(LogRecord {
        time_unix_nano: o.or("timeUnixNano", integer)?,
        observed_time_unix_nano: o.or("observedTimeUnixNano", integer)?,
        severity_number: o.or("severityNumber", |v| {
            number_or_name(v, |n| SeverityNumber::from_str_name(n).map(|n| n as i32))
        })?,
        severity_text: o.or("severityText", string)?,
        body: o.get("body", any)?,
        attributes: attributes(&o, "attributes")?,
        dropped_attributes_count: o.or("droppedAttributesCount", integer)?,
        flags: o.or("flags", integer)?,
        trace_id: o.or("traceId", hex)?,
        span_id: o.or("spanId", hex)?,
        event_name: o.or("eventName", string)?,
    })
}

pub(super) fn span(value: &Json<'_>) -> Read<Span> {
    let o = Object::of(value)?;
    Ok(Span {
        trace_id: o.or("traceId", hex)?,
        span_id: o.or("spanId", hex)?,
        trace_state: o.or("traceState", string)?,
        parent_span_id: o.or("parentSpanId", hex)?,
        flags: o.or("flags", integer)?,
        name: o.or("name", string)?,
        kind: o.or("kind", |v| {
            number_or_name(v, |n| span::SpanKind::from_str_name(n).map(|n| n as i32))
        })?,
        start_time_unix_nano: o.or("startTimeUnixNano", integer)?,
        end_time_unix_nano: o.or("endTimeUnixNano", integer)?,
        attributes: attributes(&o, "attributes")?,
        dropped_attributes_count: o.or("droppedAttributesCount", integer)?,
        events: o.list("events", event)?,
        dropped_events_count: o.or("droppedEventsCount", integer)?,
        links: o.list("links", link)?,
        dropped_links_count: o.or("droppedLinksCount", integer)?,
        status: o.get("status", |v| {
            let o = Object::of(v)?;
            let code = o.or("code", |v| {
                number_or_name(v, |n| status::StatusCode::from_str_name(n).map(|n| n as i32))
            })?;
            Ok(Status { message: o.or("message", string)?, code })
        })?,
    })
}

fn event(value: &Json<'_>) -> Read<span::Event> {
    let o = Object::of(value)?;
    Ok(span::Event {
        time_unix_nano: o.or("timeUnixNano", integer)?,
        name: o.or("name", string)?,
        attributes: attributes(&o, "attributes")?,
        dropped_attributes_count: o.or("droppedAttributesCount", integer)?,
    })
}

fn link(value: &Json<'_>) -> Read<span::Link> {
    let o = Object::of(value)?;
    Ok(span::Link {
        trace_id: o.or("traceId", hex)?,
        span_id: o.or("spanId", hex)?,
        trace_state: o.or("traceState", string)?,
        attributes: attributes(&o, "attributes")?,
        dropped_attributes_count: o.or("droppedAttributesCount", integer)?,
        flags: o.or("flags", integer)?,
    })
}

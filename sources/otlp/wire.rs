//! The outer levels of an OTLP request, walked on the protobuf wire format itself.
//!
//! The three export requests have one shape: resources hold scopes hold records. Records are
//! decoded one at a time, so the memory that a request takes does not grow with how small its
//! records are. Reference: protobuf encoding, "Wire types".

use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message;
use weir_pipeline::component::DecodeError;
use weir_pipeline::signal::Signal;

use super::value;
use crate::columns::EntityBuilder;

/// Most rows of one request. A request of empty records could otherwise make 32 million rows out
/// of 64 MiB.
pub(super) const ROWS_MAX: usize = 1_000_000;

/// Most resources and scopes of one request, for the same reason.
const ENTITIES_MAX: usize = 100_000;

/// Longest message that is decoded as a whole (a record, a metric, a resource), in bytes: decoded
/// it may take forty times as much memory.
const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// A request with its outer levels resolved.
pub(super) struct Request<'a, T> {
    /// One per scope of each resource.
    pub entities: Vec<EntityBuilder>,
    /// The records, with the index of their entity.
    pub records: Vec<(u32, Record<'a, T>)>,
}

/// A record that is yet to be decoded, or came as JSON.
pub(super) enum Record<'a, T> {
    /// Its protobuf message.
    Wire(&'a [u8]),
    /// As decoded.
    Owned(Box<T>),
}

impl<T: Message + Default> Record<'_, T> {
    pub(super) fn decode(self) -> Result<T, DecodeError> {
        match self {
            Self::Wire(bytes) => T::decode(limited(bytes)?).map_err(|e| malformed(&e)),
            Self::Owned(record) => Ok(*record),
        }
    }
}

impl<'a, T> Request<'a, T> {
    pub(super) fn new() -> Self {
        Self { entities: Vec::new(), records: Vec::new() }
    }

    /// Adds an entity, whose records follow.
    pub(super) fn entity(&mut self, entity: EntityBuilder) -> Result<(), DecodeError> {
        if self.entities.len() >= ENTITIES_MAX {
            return Err(too_many("scopes", ENTITIES_MAX));
        }
        self.entities.push(entity);
        Ok(())
    }

    /// Adds a record of the last entity.
    pub(super) fn record(&mut self, record: Record<'a, T>) -> Result<(), DecodeError> {
        if self.records.len() >= ROWS_MAX {
            return Err(too_many("records", ROWS_MAX));
        }
        self.records.push((self.entities.len().saturating_sub(1) as u32, record));
        Ok(())
    }

    /// Walks the outer levels of a protobuf request.
    pub(super) fn parse(signal: &Signal, body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut request = Self::new();
        for resource_group in messages(body, 1) {
            let resource_group = resource_group?;
            let mut resource = Resource::default();
            merge(&mut resource, resource_group, 1)?;
            let resource_schema = text(resource_group, 3)?;
            for scope_group in messages(resource_group, 2) {
                let scope_group = scope_group?;
                let mut scope = InstrumentationScope::default();
                merge(&mut scope, scope_group, 1)?;
                let scope_schema = text(scope_group, 3)?;
                let entity =
                    value::entity(signal, &resource, resource_schema, &scope, scope_schema);
                request.entity(entity)?;
                for record in messages(scope_group, 2) {
                    request.record(Record::Wire(record?))?;
                }
            }
        }
        Ok(request)
    }
}

/// Number of data points of a `Metric` message.
pub(super) fn points(metric: &[u8]) -> Result<usize, DecodeError> {
    let mut count = 0;
    for field in Fields(metric) {
        if let (5 | 7 | 9..=11, Some(data)) = field? {
            for point in messages(data, 1) {
                point?;
                count += 1;
            }
        }
    }
    Ok(count)
}

pub(super) fn too_many(what: &str, limit: usize) -> DecodeError {
    DecodeError::new("too_large", format!("more than {limit} {what} in one request"))
}

fn malformed(error: &prost::DecodeError) -> DecodeError {
    DecodeError::new("malformed", error.to_string())
}

/// Every occurrence of the length-delimited field `number`.
fn messages(body: &[u8], number: u32) -> impl Iterator<Item = Result<&[u8], DecodeError>> {
    Fields(body).filter_map(move |field| match field {
        Ok((n, Some(bytes))) if n == number => Some(Ok(bytes)),
        Ok(_) => None,
        Err(e) => Some(Err(e)),
    })
}

/// Merges every occurrence of a message field, as the protobuf specification asks.
fn merge<M: Message>(into: &mut M, body: &[u8], number: u32) -> Result<(), DecodeError> {
    messages(body, number).try_for_each(|m| into.merge(limited(m?)?).map_err(|e| malformed(&e)))
}

fn limited(message: &[u8]) -> Result<&[u8], DecodeError> {
    if message.len() > MESSAGE_BYTES_MAX {
        let message = format!("a record or resource is larger than {MESSAGE_BYTES_MAX} bytes");
        return Err(DecodeError::new("too_large", message));
    }
    Ok(message)
}

/// The last occurrence of a string field.
fn text(body: &[u8], number: u32) -> Result<&str, DecodeError> {
    let last = messages(body, number).try_fold(&[][..], |_, m| m)?;
    std::str::from_utf8(last)
        .map_err(|e| DecodeError::new("malformed", format!("schema_url is not UTF-8: {e}")))
}

/// The fields of a message: number, and the bytes of length-delimited ones.
struct Fields<'a>(&'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u32, Option<&'a [u8]>), DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_none() {
            self.0 = &[];
        }
        Some(field.ok_or_else(|| {
            DecodeError::new("malformed", "the body is not a protobuf message, or it is cut short")
        }))
    }
}

impl<'a> Fields<'a> {
    fn field(&mut self) -> Option<(u32, Option<&'a [u8]>)> {
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3).ok().filter(|n| *n > 0)?;
        let bytes = match tag & 7 {
            0 => {
                self.varint()?;
                None
            }
            1 => self.take(8).map(|_| None)?,
            2 => {
                let len = usize::try_from(self.varint()?).ok()?;
                Some(self.take(len)?)
            }
            5 => self.take(4).map(|_| None)?,
            _ => return None,
        };
        Some((number, bytes))
    }

    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(bytes)
    }

    fn varint(&mut self) -> Option<u64> {
        prost::encoding::decode_varint(&mut self.0).ok()
    }
}

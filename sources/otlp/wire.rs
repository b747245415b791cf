//! The outer levels of an OTLP request, walked on the protobuf wire format itself.
//!
//! The three export requests have one shape: resources hold scopes hold records. Records are
//! decoded one at a time, so the memory that a request takes does not grow with how small its
//! records are: in place where they are as senders mostly write them (see [`super::flat`]), else
//! by `prost`.

use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message;
use weir_pipeline::component::DecodeError;
use weir_pipeline::signal::Signal;

use super::value;
use crate::columns::EntityBuilder;
use crate::protobuf::{Fields, Malformed, Value};

/// Most rows of one request. A request of empty records could otherwise make 32 million rows out
/// of 64 MiB.
pub(super) const ROWS_MAX: usize = 1_000_000;

/// Most resources and scopes of one request, for the same reason.
const ENTITIES_MAX: usize = 100_000;

/// Most bytes that resources and scopes of one request take together. Each scope has all attributes
/// of its resource, which few bytes of a request could otherwise make gigabytes of.
const ENTITIES_BYTES_MAX: usize = 256 << 20;

/// Longest message that is decoded as a whole (a record, a metric, a resource), in bytes: decoded
/// it may take forty times as much memory.
const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// Bytes of a large record, for the first guess at how many there are.
const RECORD_BYTES: usize = 512;

/// A request with its outer levels resolved.
pub(super) struct Request<'a, T> {
    /// One per scope of each resource.
    pub entities: Vec<EntityBuilder>,
    /// The bytes of each of them on the wire; none if it came as JSON.
    pub names: Vec<Vec<u8>>,
    /// The records, with the index of their entity.
    pub records: Vec<(u32, Record<'a, T>)>,
    /// Length of the body.
    pub bytes: usize,
    /// What the entities take, with their names.
    pub entities_bytes: usize,
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

impl<'a, T> Record<'a, T> {
    /// The message, unless it is to be left to [`Record::decode`].
    pub(super) fn wire(&self) -> Option<&'a [u8]> {
        match self {
            Self::Wire(bytes) if bytes.len() <= MESSAGE_BYTES_MAX => Some(bytes),
            _ => None,
        }
    }
}

impl<'a, T> Request<'a, T> {
    /// A request of `bytes`, yet without its entities and records.
    pub(super) fn new(bytes: usize) -> Self {
        let (entities, names, records) = (Vec::new(), Vec::new(), Vec::new());
        Self { entities, names, records, bytes, entities_bytes: 0 }
    }

    /// Adds the entity with the next index.
    pub(super) fn entity(&mut self, entity: EntityBuilder) -> Result<(), DecodeError> {
        if self.entities.len() >= ENTITIES_MAX {
            return Err(too_many("scopes", ENTITIES_MAX));
        }
        // The name is about as long as what it is of.
        self.entities_bytes += 2 * entity.bytes();
        if self.entities_bytes > ENTITIES_BYTES_MAX {
            let message = format!(
                "the attributes of resources, which each of their scopes has, take more than \
                 {ENTITIES_BYTES_MAX} bytes; send fewer scopes at once"
            );
            return Err(DecodeError::new("too_wide", message));
        }
        self.entities.push(entity);
        Ok(())
    }

    /// Adds a record of the entity with this index.
    pub(super) fn record(&mut self, entity: u32, record: Record<'a, T>) -> Result<(), DecodeError> {
        if self.records.len() >= ROWS_MAX {
            return Err(too_many("records", ROWS_MAX));
        }
        self.records.push((entity, record));
        Ok(())
    }

    /// Walks the outer levels of a protobuf request.
    pub(super) fn parse(signal: &Signal, body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut request = Self::new(body.len());
        let (mut scopes, mut name) = (Vec::new(), Vec::new());
        for resource_group in messages(body, 1) {
            let (mut resource, mut schema): (_, &[u8]) = (Resource::default(), &[]);
            scopes.clear();
            name.clear();
            for field in Fields(resource_group?) {
                match parts(field)? {
                    (1, Some(bytes)) => {
                        merge(&mut resource, bytes)?;
                        part(&mut name, 1, bytes);
                    }
                    (2, Some(bytes)) => scopes.push(bytes),
                    (3, Some(bytes)) => schema = bytes,
                    _ => {}
                }
            }
            part(&mut name, 2, schema);
            let schema = text(schema)?;
            for scope_group in &scopes {
                request.scope(signal, (&resource, schema), name.clone(), scope_group)?;
            }
        }
        Ok(request)
    }

    fn scope(
        &mut self,
        signal: &Signal,
        (resource, resource_schema): (&Resource, &str),
        mut name: Vec<u8>,
        scope_group: &'a [u8],
    ) -> Result<(), DecodeError> {
        let (mut scope, mut schema): (_, &[u8]) = (InstrumentationScope::default(), &[]);
        let entity = self.entities.len() as u32;
        self.records.reserve(scope_group.len() / RECORD_BYTES);
        for field in Fields(scope_group) {
            match parts(field)? {
                (1, Some(bytes)) => {
                    merge(&mut scope, bytes)?;
                    part(&mut name, 3, bytes);
                }
                (2, Some(bytes)) => self.record(entity, Record::Wire(bytes))?,
                (3, Some(bytes)) => schema = bytes,
                _ => {}
            }
        }
        part(&mut name, 4, schema);
        self.names.push(name);
        let schema = text(schema)?;
        self.entity(value::entity(signal, resource, resource_schema, &scope, schema))
    }
}

/// Number of data points of a `Metric` message.
pub(super) fn points(metric: &[u8]) -> Result<usize, DecodeError> {
    let mut count = 0;
    for field in Fields(metric) {
        if let (5 | 7 | 9..=11, Some(data)) = parts(field)? {
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

/// Adds a part of a name, so that no two lists of parts are alike.
fn part(name: &mut Vec<u8>, number: u8, bytes: &[u8]) {
    name.push(number);
    name.extend((bytes.len() as u64).to_le_bytes());
    name.extend(bytes);
}

/// Number of a field and, if it is length-delimited, its bytes.
fn parts(
    field: Result<crate::protobuf::Field<'_>, Malformed>,
) -> Result<(u32, Option<&[u8]>), DecodeError> {
    let field = field.map_err(|_| {
        DecodeError::new("malformed", "the body is not a protobuf message, or it is cut short")
    })?;
    Ok((field.number, if let Value::Bytes(bytes) = field.value { Some(bytes) } else { None }))
}

/// Every occurrence of the length-delimited field `number`.
fn messages(body: &[u8], number: u32) -> impl Iterator<Item = Result<&[u8], DecodeError>> {
    Fields(body).filter_map(move |field| match parts(field) {
        Ok((n, Some(bytes))) if n == number => Some(Ok(bytes)),
        Ok(_) => None,
        Err(e) => Some(Err(e)),
    })
}

/// Merges one of the occurrences of a message field, as the protobuf specification asks.
fn merge<M: Message>(into: &mut M, message: &[u8]) -> Result<(), DecodeError> {
    into.merge(limited(message)?).map_err(|e| malformed(&e))
}

fn limited(message: &[u8]) -> Result<&[u8], DecodeError> {
    if message.len() > MESSAGE_BYTES_MAX {
        let message = format!("a record or resource is larger than {MESSAGE_BYTES_MAX} bytes");
        return Err(DecodeError::new("too_large", message));
    }
    Ok(message)
}

/// A schema URL.
fn text(bytes: &[u8]) -> Result<&str, DecodeError> {
    std::str::from_utf8(bytes)
        .map_err(|e| DecodeError::new("malformed", format!("schema_url is not UTF-8: {e}")))
}

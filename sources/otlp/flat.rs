//! Messages read in place, as senders mostly write them: each field once, attributes whose values
//! are text or numbers.
//!
//! Anything else is [`Odd`] and left to `prost`, also what is malformed: so these readers have to be
//! right only about what they take, and what a record means or why it is refused does not depend on
//! which of the two has read it. Tests compare them over made-up and broken messages.

use opentelemetry_proto::tonic::common::v1::KeyValue;

use super::value;
use crate::columns::Cell;
use crate::protobuf::{Malformed, Reader};

/// A message that is not as senders mostly write them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Odd;

impl From<Malformed> for Odd {
    fn from(_: Malformed) -> Self {
        Self
    }
}

/// Fields that a message had so far, all with numbers below 32.
#[derive(Default)]
pub(super) struct Seen(u32);

impl Seen {
    /// # Errors
    /// If the field with this tag comes again.
    #[inline]
    pub(super) fn first(&mut self, tag: u32) -> Result<(), Odd> {
        let bit = 1 << (tag >> 3 & 31);
        if self.0 & bit != 0 {
            return Err(Odd);
        }
        self.0 |= bit;
        Ok(())
    }
}

/// A text field.
#[inline]
pub(super) fn text<'a>(message: &mut Reader<'a>) -> Result<&'a str, Odd> {
    std::str::from_utf8(message.bytes()?).map_err(|_| Odd)
}

/// An `AnyValue` that holds no others.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Flat<'a> {
    None,
    Cell(Cell<'a>),
    Bytes(&'a [u8]),
}

/// Reads an `AnyValue`.
#[inline]
pub(super) fn any(message: &[u8]) -> Result<Flat<'_>, Odd> {
    let mut message = Reader(message);
    let Some(tag) = message.tag()? else { return Ok(Flat::None) };
    let value = match tag {
        0x0a => Flat::Cell(Cell::Text(text(&mut message)?)),
        0x10 => Flat::Cell(Cell::Bool(message.varint()? != 0)),
        0x18 => Flat::Cell(Cell::Int(message.varint()? as i64)),
        0x21 => Flat::Cell(Cell::Double(f64::from_bits(message.fixed64()?))),
        0x3a => Flat::Bytes(message.bytes()?),
        _ => return Err(Odd),
    };
    if message.0.is_empty() { Ok(value) } else { Err(Odd) }
}

/// An attribute read in place.
pub(super) type Attribute<'a> = (&'a str, Cell<'a>);

/// Reads a `KeyValue`; `None` if it has no value.
#[inline]
pub(super) fn attribute(message: &[u8]) -> Result<Option<Attribute<'_>>, Odd> {
    let mut message = Reader(message);
    let (mut key, mut value) = ("", Flat::None);
    let mut seen = Seen::default();
    while let Some(tag) = message.tag()? {
        match tag {
            0x0a => key = text(&mut message)?,
            0x12 => value = any(message.bytes()?)?,
            // 3 is an index into a table that these signals do not have.
            _ => return Err(Odd),
        }
        seen.first(tag)?;
    }
    match value {
        Flat::None => Ok(None),
        Flat::Cell(cell) => Ok(Some((key, cell))),
        Flat::Bytes(_) => Err(Odd),
    }
}

/// The attributes of a record.
#[derive(Clone, Copy)]
pub(super) enum Attributes<'a> {
    /// Read in place.
    Flat(&'a [Attribute<'a>]),
    /// As `prost` decodes them.
    Nested(&'a [KeyValue]),
}

impl Attributes<'_> {
    /// Gives each as a flat name and a value.
    #[inline]
    pub(super) fn each(self, mut set: impl FnMut(&str, Cell<'_>)) {
        match self {
            Self::Flat(list) => list.iter().for_each(|(name, value)| set(name, *value)),
            Self::Nested(list) => value::flatten(list, &mut set),
        }
    }
}

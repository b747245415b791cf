//! Walks protobuf messages in place: nothing is copied or allocated.
//!
//! Encoding: <https://protobuf.dev/programming-guides/encoding/>. Groups, which are deprecated
//! and not in the messages that are read here, are malformed. Anything else is as `prost` has it.

/// The value of a field.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Value<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    Fixed32(u32),
}

/// Bytes that are not a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

/// One field of a message.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Field<'a> {
    pub(crate) number: u32,
    pub(crate) value: Value<'a>,
    /// The field as it stands, with its tag and length.
    pub(crate) raw: &'a [u8],
}

/// The fields of a message, one by one.
pub(crate) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = Result<Field<'a>, Malformed>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let start = self.0;
        let field = self.field().map(|(number, value)| Field {
            number,
            value,
            raw: &start[..start.len() - self.0.len()],
        });
        if field.is_none() {
            self.0 = &[];
        }
        Some(field.ok_or(Malformed))
    }
}

impl<'a> Fields<'a> {
    #[inline]
    fn field(&mut self) -> Option<(u32, Value<'a>)> {
        let tag = u32::try_from(varint(&mut self.0)?).ok()?;
        let number = Some(tag >> 3).filter(|n| *n > 0)?;
        let value = match tag & 7 {
            0 => Value::Varint(varint(&mut self.0)?),
            1 => Value::Fixed64(u64::from_le_bytes(self.array()?)),
            2 => {
                let length = usize::try_from(varint(&mut self.0)?).ok()?;
                let (bytes, rest) = self.0.split_at_checked(length)?;
                self.0 = rest;
                Value::Bytes(bytes)
            }
            5 => Value::Fixed32(u32::from_le_bytes(self.array()?)),
            _ => return None,
        };
        Some((number, value))
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*array)
    }
}

/// Reads a message whose fields are known by their tags: number and wire type together, as
/// [`Reader::tag`] gives them.
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    /// The next tag, `None` at the end.
    #[inline]
    pub(crate) fn tag(&mut self) -> Result<Option<u32>, Malformed> {
        match self.0 {
            [] => Ok(None),
            [first @ 1..0x80, rest @ ..] => {
                self.0 = rest;
                Ok(Some((*first).into()))
            }
            _ => match u32::try_from(self.varint()?) {
                Ok(tag) => Ok(Some(tag)),
                Err(_) => Err(Malformed),
            },
        }
    }

    #[inline]
    pub(crate) fn varint(&mut self) -> Result<u64, Malformed> {
        varint(&mut self.0).ok_or(Malformed)
    }

    #[inline]
    pub(crate) fn fixed64(&mut self) -> Result<u64, Malformed> {
        let (value, rest) = self.0.split_first_chunk().ok_or(Malformed)?;
        self.0 = rest;
        Ok(u64::from_le_bytes(*value))
    }

    #[inline]
    pub(crate) fn fixed32(&mut self) -> Result<u32, Malformed> {
        let (value, rest) = self.0.split_first_chunk().ok_or(Malformed)?;
        self.0 = rest;
        Ok(u32::from_le_bytes(*value))
    }

    /// A message, or bytes that may be text.
    #[inline]
    pub(crate) fn bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let length = usize::try_from(self.varint()?).map_err(|_| Malformed)?;
        let (bytes, rest) = self.0.split_at_checked(length).ok_or(Malformed)?;
        self.0 = rest;
        Ok(bytes)
    }

    /// Leaves out the value of a field whose number is above `known`: one up to that came with
    /// another wire type than it has.
    #[cold]
    pub(crate) fn skip(&mut self, tag: u32, known: u32) -> Result<(), Malformed> {
        if tag >> 3 <= known {
            return Err(Malformed);
        }
        match tag & 7 {
            0 => self.varint().map(|_| ()),
            1 => self.fixed64().map(|_| ()),
            2 => self.bytes().map(|_| ()),
            5 => self.fixed32().map(|_| ()),
            _ => Err(Malformed),
        }
    }
}

/// The fields `number` (bytes, below 16) that a message begins with, as they stand, and what follows
/// them. A field that is cut short is left to what follows.
pub(crate) fn leading(message: &[u8], number: u8) -> (&[u8], &[u8]) {
    let mut rest = message;
    while let Some((tag, mut body)) = rest.split_first()
        && *tag == number << 3 | 2
        && let Some(length) = varint(&mut body)
        && let Some(after) = usize::try_from(length).ok().and_then(|n| body.get(n..))
    {
        rest = after;
    }
    message.split_at(message.len() - rest.len())
}

/// Takes a varint of at most ten bytes off the front.
#[inline]
pub(crate) fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let (&first, rest) = bytes.split_first()?;
    if first < 0x80 {
        *bytes = rest;
        return Some(first.into());
    }
    let mut value = 0_u64;
    for (i, &byte) in bytes.iter().take(10).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * i);
        if byte < 0x80 {
            *bytes = &bytes[i + 1..];
            // The tenth holds one bit.
            return (i < 9 || byte < 2).then_some(value);
        }
    }
    None
}

/// A `sint32` or `sint64`.
pub(crate) fn zigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

impl<'a> Value<'a> {
    /// A `double`.
    pub(crate) fn double(self) -> Result<f64, Malformed> {
        match self {
            Self::Fixed64(bits) => Ok(f64::from_bits(bits)),
            _ => Err(Malformed),
        }
    }

    /// An `int64`, `uint64` or enumeration.
    pub(crate) fn varint(self) -> Result<u64, Malformed> {
        match self {
            Self::Varint(value) => Ok(value),
            _ => Err(Malformed),
        }
    }

    /// A message, text or packed list.
    pub(crate) fn bytes(self) -> Result<&'a [u8], Malformed> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            _ => Err(Malformed),
        }
    }

    /// Adds a repeated varint, packed or not.
    pub(crate) fn varints(self, out: &mut Vec<u64>) -> Result<(), Malformed> {
        match self {
            Self::Varint(value) => out.push(value),
            Self::Bytes(mut bytes) => {
                while !bytes.is_empty() {
                    out.push(varint(&mut bytes).ok_or(Malformed)?);
                }
            }
            _ => return Err(Malformed),
        }
        Ok(())
    }

    /// Adds a repeated double, packed or not.
    pub(crate) fn doubles(self, out: &mut Vec<f64>) -> Result<(), Malformed> {
        match self {
            Self::Fixed64(bits) => out.push(f64::from_bits(bits)),
            Self::Bytes(bytes) => {
                let (doubles, rest) = bytes.as_chunks::<8>();
                if !rest.is_empty() {
                    return Err(Malformed);
                }
                out.extend(doubles.iter().map(|b| f64::from_le_bytes(*b)));
            }
            _ => return Err(Malformed),
        }
        Ok(())
    }
}

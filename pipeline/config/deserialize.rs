//! From the tree to the types that components declare, keeping places.

use std::fmt;
use std::ops::Range;

use serde::de::value::{MapAccessDeserializer, StringDeserializer};
use serde::de::{self, Deserialize, Deserializer, IntoDeserializer, MapAccess, SeqAccess, Visitor};
use serde::forward_to_deserialize_any;

use super::section::Spanned;
use super::tree::{Entry, Node, Table, Value};

const SPANNED: &str = "$weir_spanned";
const SPANNED_FIELDS: &[&str] = &["start", "end", "value"];

/// Why a tree is not what the type wants; at most the first mistake.
#[derive(Clone, Debug)]
pub(crate) struct ReadError {
    pub(crate) message: String,
    pub(crate) range: Option<Range<usize>>,
}

impl ReadError {
    fn at(mut self, range: &Range<usize>) -> Self {
        self.range.get_or_insert_with(|| range.clone());
        self
    }
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ReadError {}

impl de::Error for ReadError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self { message: message.to_string(), range: None }
    }
}

/// Reads a whole table as `T`.
pub(crate) fn from_table<T: de::DeserializeOwned>(
    table: Table,
    range: Range<usize>,
) -> Result<T, ReadError> {
    T::deserialize(Node { value: Value::Table(table), range })
}

impl<'de> IntoDeserializer<'de, ReadError> for Node {
    type Deserializer = Self;
    fn into_deserializer(self) -> Self {
        self
    }
}

/// A key as a deserializer, so that keys can be [`Spanned`] too.
struct Key(String, Range<usize>);

impl<'de> IntoDeserializer<'de, ReadError> for Key {
    type Deserializer = Self;
    fn into_deserializer(self) -> Self {
        self
    }
}

impl<'de> Deserializer<'de> for Key {
    type Error = ReadError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        visitor.visit_string(self.0).map_err(|e: ReadError| e.at(&self.1))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        if name == SPANNED {
            let range = self.1.clone();
            let node = Node { value: Value::String(self.0), range: self.1 };
            return visitor.visit_map(Parts { range, next: 0, node: Some(node) });
        }
        self.deserialize_any(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        Node { value: Value::String(self.0), range: self.1 }
            .deserialize_enum(name, variants, visitor)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string
        bytes byte_buf option unit unit_struct seq tuple
        tuple_struct map identifier ignored_any
    }
}

impl<'de> Deserializer<'de> for Node {
    type Error = ReadError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        let range = self.range;
        match self.value {
            Value::String(s) | Value::Datetime(s) => visitor.visit_string(s),
            Value::Integer(i) => visitor.visit_i64(i),
            Value::Float(f) => visitor.visit_f64(f),
            Value::Boolean(b) => visitor.visit_bool(b),
            Value::Array(items) => visitor.visit_seq(Items(items.into_iter())),
            Value::Table(table) => visitor.visit_map(Entries::new(table)),
        }
        .map_err(|e: ReadError| e.at(&range))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        let range = self.range.clone();
        visitor.visit_newtype_struct(self).map_err(|e: ReadError| e.at(&range))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        if name == SPANNED {
            let range = self.range.clone();
            return visitor
                .visit_map(Parts { range: range.clone(), next: 0, node: Some(self) })
                .map_err(|e: ReadError| e.at(&range));
        }
        self.deserialize_any(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        let range = self.range;
        match self.value {
            Value::String(s) => {
                visitor.visit_enum(IntoDeserializer::<ReadError>::into_deserializer(s))
            }
            Value::Table(table) => {
                visitor.visit_enum(MapAccessDeserializer::new(Entries::new(table)))
            }
            other => Err(ReadError {
                message: format!("expected text or a table, found {}", other.what()),
                range: None,
            }),
        }
        .map_err(|e: ReadError| e.at(&range))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string
        bytes byte_buf unit unit_struct seq tuple
        tuple_struct map identifier ignored_any
    }
}

/// The entries of a table. A type with a parser of its own fails without a place; it gets that of
/// the value.
struct Entries {
    rest: std::vec::IntoIter<Entry>,
    next: Option<Node>,
}

impl Entries {
    fn new(table: Table) -> Self {
        Self { rest: table.0.into_iter(), next: None }
    }
}

impl<'de> MapAccess<'de> for Entries {
    type Error = ReadError;

    fn next_key_seed<K: de::DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, ReadError> {
        let Some(entry) = self.rest.next() else { return Ok(None) };
        self.next = Some(entry.node);
        let at = entry.at.clone();
        seed.deserialize(Key(entry.key, entry.at)).map(Some).map_err(|e| e.at(&at))
    }

    fn next_value_seed<S: de::DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<S::Value, ReadError> {
        let node = self.next.take().ok_or_else(|| de::Error::custom("value read twice"))?;
        let range = node.range.clone();
        seed.deserialize(node).map_err(|e: ReadError| e.at(&range))
    }
}

/// The items of a list, likewise.
struct Items(std::vec::IntoIter<Node>);

impl<'de> SeqAccess<'de> for Items {
    type Error = ReadError;

    fn next_element_seed<S: de::DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, ReadError> {
        let Some(node) = self.0.next() else { return Ok(None) };
        let range = node.range.clone();
        seed.deserialize(node).map(Some).map_err(|e: ReadError| e.at(&range))
    }
}

/// A value as the three fields of [`Spanned`].
struct Parts {
    range: Range<usize>,
    next: usize,
    node: Option<Node>,
}

impl<'de> MapAccess<'de> for Parts {
    type Error = ReadError;

    fn next_key_seed<K: de::DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, ReadError> {
        let Some(name) = SPANNED_FIELDS.get(self.next) else { return Ok(None) };
        let key: StringDeserializer<ReadError> = (*name).to_owned().into_deserializer();
        seed.deserialize(key).map(Some)
    }

    fn next_value_seed<S: de::DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<S::Value, ReadError> {
        self.next += 1;
        let number = |n: usize| IntoDeserializer::<ReadError>::into_deserializer(n as u64);
        match (self.next, self.node.take()) {
            (1, node) => {
                self.node = node;
                seed.deserialize(number(self.range.start))
            }
            (2, node) => {
                self.node = node;
                seed.deserialize(number(self.range.end))
            }
            (_, Some(node)) => seed.deserialize(node),
            (_, None) => Err(de::Error::custom("value read twice")),
        }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Spanned<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PartsVisitor<T>(std::marker::PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for PartsVisitor<T> {
            type Value = Spanned<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value with its place")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut next = || {
                    let _: Option<String> = map.next_key()?;
                    map.next_value::<usize>()
                };
                let range = next()?..next()?;
                let _: Option<String> = map.next_key()?;
                Ok(Spanned { value: map.next_value()?, range })
            }
        }

        deserializer.deserialize_struct(
            SPANNED,
            SPANNED_FIELDS,
            PartsVisitor(std::marker::PhantomData),
        )
    }
}

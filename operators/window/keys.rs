//! Group keys: values of the group columns as bytes that compare as the values do.
//!
//! The order is NULL, booleans, numbers, times, text; a whole number and a double of one value are
//! one key. Keys stand in the state as these bytes.

use std::borrow::Cow;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Float64Array, Int64Array, StringArray, StringBuilder,
    TimestampNanosecondArray, new_null_array,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, Int64Type, TimestampNanosecondType};
use hashbrown::HashMap;
use weir_pipeline::batch::{Batch, Keys};
use weir_pipeline::component::OperatorError;
use weir_pipeline::entity::{Attribute, Entity, EntityTable, Origin, Value, double_text};
use weir_pipeline::expression::Expression;
use weir_pipeline::signal;

/// Values of all group columns of one group.
pub(crate) type Key = Arc<[u8]>;

const NULL: u8 = 0;
const BOOL: u8 = 1;
const NUMBER: u8 = 2;
const TIME: u8 = 3;
const TEXT: u8 = 4;
/// What ends a text; a zero byte within is followed by 0xff.
const END: [u8; 2] = [0, 0];

/// One decoded value.
#[derive(Clone, Debug, PartialEq)]
enum Part {
    Null,
    Bool(bool),
    /// A double, and what a whole number is more than it.
    Number(f64, i16),
    Time(i64),
    Text(String),
}

fn put_number(out: &mut Vec<u8>, double: f64, rest: i16) {
    // One zero, one NaN (the largest).
    let double = if double.is_nan() { f64::NAN.abs() } else { double + 0.0 };
    let bits = double.to_bits();
    let ordered = if bits >> 63 == 1 { !bits } else { bits | 1 << 63 };
    out.push(NUMBER);
    out.extend(ordered.to_be_bytes());
    out.extend(((rest as u16) ^ 0x8000).to_be_bytes());
}

fn put_int(out: &mut Vec<u8>, i: i64) {
    let double = i as f64;
    // At most half the distance of neighbouring doubles below 2^63, which is 512.
    let rest = i128::from(i) - double as i128;
    put_number(out, double, rest as i16);
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.push(TEXT);
    for &byte in text.as_bytes() {
        out.push(byte);
        if byte == 0 {
            out.push(0xff);
        }
    }
    out.extend(END);
}

fn put_value(out: &mut Vec<u8>, value: Option<&Value>) {
    match value {
        None => out.push(NULL),
        Some(Value::Bool(v)) => out.extend([BOOL, u8::from(*v)]),
        Some(Value::Int(v)) => put_int(out, *v),
        Some(Value::Double(v)) => put_number(out, *v, 0),
        Some(Value::Text(v) | Value::Json(v)) => put_text(out, v),
    }
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (first, rest) = bytes.split_first_chunk::<N>()?;
    *bytes = rest;
    Some(*first)
}

/// The next value of a key; `None` if the bytes are no key.
fn part(bytes: &mut &[u8]) -> Option<Part> {
    let [tag] = take::<1>(bytes)?;
    Some(match tag {
        NULL => Part::Null,
        BOOL => Part::Bool(take::<1>(bytes)? == [1]),
        NUMBER => {
            let ordered = u64::from_be_bytes(take(bytes)?);
            let bits = if ordered >> 63 == 1 { ordered & !(1 << 63) } else { !ordered };
            let rest = (u16::from_be_bytes(take(bytes)?) ^ 0x8000) as i16;
            Part::Number(f64::from_bits(bits), rest)
        }
        TIME => Part::Time((u64::from_be_bytes(take(bytes)?) ^ (1 << 63)) as i64),
        TEXT => {
            let mut text = Vec::new();
            loop {
                match take::<1>(bytes)? {
                    [0] => match take::<1>(bytes)? {
                        [0] => break,
                        _ => text.push(0),
                    },
                    [byte] => text.push(byte),
                }
            }
            Part::Text(String::from_utf8(text).ok()?)
        }
        _ => return None,
    })
}

/// Leaves out the next value of a key; `None` if the bytes are no key.
fn skip(bytes: &mut &[u8]) -> Option<()> {
    let rest = bytes.get(1..)?;
    let len = match bytes[0] {
        NULL => 0,
        BOOL => 1,
        NUMBER => size_of::<f64>() + size_of::<i16>(),
        TIME => size_of::<i64>(),
        TEXT => text_end(rest)? + END.len(),
        _ => return None,
    };
    *bytes = rest.get(len..)?;
    Some(())
}

/// Where a text ends, before what ends it.
fn text_end(bytes: &[u8]) -> Option<usize> {
    let mut from = 0;
    loop {
        let zero = from + bytes.get(from..)?.iter().position(|b| *b == 0)?;
        match bytes.get(zero + 1)? {
            0 => return Some(zero),
            _ => from = zero + 2,
        }
    }
}

/// A column of values that are all text or NULL.
fn all_texts<'a>(values: impl Iterator<Item = &'a [u8]>) -> Option<ArrayRef> {
    let mut texts = StringBuilder::new();
    for value in values {
        let (tag, mut rest) = value.split_first()?;
        if *tag == NULL {
            texts.append_null();
            continue;
        }
        let end = text_end(rest)?;
        rest = &rest[..end];
        match rest.contains(&0) {
            false => texts.append_value(std::str::from_utf8(rest).ok()?),
            true => match part(&mut &value[..])? {
                Part::Text(text) => texts.append_value(text),
                _ => return None,
            },
        }
    }
    Some(Arc::new(texts.finish()))
}

/// The whole number that a number is, if it is one of 64 bits.
fn whole(double: f64, rest: i16) -> Option<i64> {
    if double.fract() != 0.0 || double.abs() > 1e19 {
        return None;
    }
    i64::try_from(double as i128 + i128::from(rest)).ok()
}

/// The places of `keys` in their order.
pub(super) fn order(keys: &[Key]) -> Vec<u32> {
    const HEAD: usize = size_of::<u128>();
    // Most differ within what is compared at once, without a look at where they are.
    let head = |key: &Key| {
        let mut head = [0; HEAD];
        let len = key.len().min(HEAD);
        head[..len].copy_from_slice(&key[..len]);
        u128::from_be_bytes(head)
    };
    let mut order: Vec<(u128, u32)> =
        keys.iter().enumerate().map(|(i, key)| (head(key), i as u32)).collect();
    order.sort_unstable_by(|a, b| {
        a.0.cmp(&b.0).then_with(|| keys[a.1 as usize].cmp(&keys[b.1 as usize]))
    });
    order.into_iter().map(|(_, i)| i).collect()
}

/// The column at `index` of the group columns of `keys`: as `known`, else the narrowest of bool,
/// int, double, time and text that holds all of its values.
pub(super) fn column(
    keys: &[Key],
    index: usize,
    known: Option<&DataType>,
) -> Result<ArrayRef, OperatorError> {
    let malformed = || OperatorError::new("malformed group key");
    let at = |key: &'_ Key| -> Option<usize> {
        let mut bytes = &key[..];
        (0..index).try_for_each(|_| skip(&mut bytes))?;
        Some(key.len() - bytes.len())
    };
    let starts: Vec<usize> = keys.iter().map(at).collect::<Option<_>>().ok_or_else(malformed)?;
    let values = || keys.iter().zip(&starts).map(|(key, start)| &key[*start..]);
    let texts = values().all(|v| matches!(v.first(), Some(&(NULL | TEXT))));
    if texts && matches!(known, None | Some(DataType::Utf8)) {
        return all_texts(values()).ok_or_else(malformed);
    }
    let parts: Option<Vec<Part>> = values().map(|mut v| part(&mut v)).collect();
    let parts = parts.ok_or_else(malformed)?;
    let all = |f: fn(&Part) -> bool| parts.iter().all(|p| *p == Part::Null || f(p));
    let data_type = match known {
        Some(
            t @ (DataType::Boolean
            | DataType::Int64
            | DataType::Float64
            | DataType::Utf8
            | DataType::Timestamp(..)),
        ) => t.clone(),
        Some(_) => DataType::Utf8,
        None if all(|_| false) => return Ok(new_null_array(&DataType::Utf8, keys.len())),
        None if all(|p| matches!(p, Part::Bool(_))) => DataType::Boolean,
        None if all(|p| matches!(p, Part::Number(d, r) if whole(*d, *r).is_some())) => {
            DataType::Int64
        }
        None if all(|p| matches!(p, Part::Number(..))) => DataType::Float64,
        None if all(|p| matches!(p, Part::Time(_))) => signal::timestamp(),
        None => DataType::Utf8,
    };
    Ok(match data_type {
        DataType::Boolean => Arc::new(BooleanArray::from_iter(parts.iter().map(|p| match p {
            Part::Bool(v) => Some(*v),
            _ => None,
        }))),
        DataType::Int64 => Arc::new(Int64Array::from_iter(parts.iter().map(|p| match p {
            Part::Number(d, r) => whole(*d, *r),
            _ => None,
        }))),
        DataType::Float64 => Arc::new(Float64Array::from_iter(parts.iter().map(|p| match p {
            Part::Number(d, _) => Some(*d),
            _ => None,
        }))),
        DataType::Timestamp(..) => {
            let times = parts.iter().map(|p| match p {
                Part::Time(t) => Some(*t),
                _ => None,
            });
            Arc::new(TimestampNanosecondArray::from_iter(times).with_timezone("UTC"))
        }
        _ => Arc::new(StringArray::from_iter(parts.into_iter().map(text))),
    })
}

/// The values of a key under the names of its columns, as the attributes of an entity. NULLs are
/// left out; of bytes that are no key it is what stands before the fault.
pub(crate) fn entity<'a>(key: &[u8], names: impl Iterator<Item = &'a str>) -> Entity {
    let mut bytes = key;
    let mut attributes = Vec::new();
    for name in names {
        let Some(part) = part(&mut bytes) else { break };
        let value = match part {
            Part::Null => continue,
            Part::Bool(v) => Value::Bool(v),
            Part::Number(d, r) => whole(d, r).map_or(Value::Double(d), Value::Int),
            other => Value::Text(text(other).unwrap_or_default().into()),
        };
        attributes.push(Attribute { name: name.into(), value, origin: Origin::Label });
    }
    Entity::new(attributes)
}

fn text(part: Part) -> Option<String> {
    Some(match part {
        Part::Null => return None,
        Part::Bool(v) => v.to_string(),
        Part::Number(d, r) => whole(d, r).map_or_else(|| double_text(d), |i| i.to_string()),
        Part::Time(t) => t.to_string(),
        Part::Text(t) => t,
    })
}

/// The groups of the rows of one batch.
pub(crate) struct Groups<'a> {
    /// Index into `keys` of each row.
    pub(crate) rows: Vec<u32>,
    /// The keys of groups of the batch, and of others of the table.
    pub(crate) keys: Cow<'a, [Key]>,
    /// The entity table by whose groups rows are numbered: always alike.
    pub(crate) table: Option<u64>,
}

/// Finds the groups of batches, remembering those of entities.
#[derive(Debug, Default)]
pub(crate) struct Grouper {
    /// Most recently used first.
    tables: Vec<OfTable>,
}

/// The groups of the entities of one table.
#[derive(Debug, Default)]
struct OfTable {
    table: u64,
    /// By entity: index into `keys`.
    groups: Vec<u32>,
    keys: Vec<Key>,
    known: HashMap<Key, u32>,
}

/// Entity tables whose keys are remembered.
const TABLES_MAX: usize = 8;

impl Grouper {
    /// The groups of `batch` by `expressions`; also the rows for which one fails (their group is
    /// meaningless).
    pub(crate) fn groups(
        &mut self,
        expressions: &[Expression],
        batch: &Batch,
    ) -> Result<(Groups<'_>, Vec<(usize, OperatorError)>), OperatorError> {
        let rows = batch.num_rows();
        if expressions.is_empty() {
            let key: Key = Arc::from([]);
            let groups = Groups { rows: vec![0; rows], keys: vec![key].into(), table: None };
            return Ok((groups, Vec::new()));
        }
        if let Some((names, entities)) = by_entity(expressions, batch) {
            let groups = self.of_table(&entities.table, &names).groups(entities.keys.values());
            return Ok((groups, Vec::new()));
        }
        let mut errors = Vec::new();
        let mut arrays = Vec::new();
        for expression in expressions {
            let evaluated = expression.evaluate_each(batch)?;
            errors.extend(evaluated.errors);
            arrays.push(Plain::new(&evaluated.values)?);
        }
        let mut known: HashMap<Key, u32> = HashMap::new();
        let mut keys: Vec<Key> = Vec::new();
        let mut bytes = Vec::new();
        let rows = (0..rows)
            .map(|row| {
                bytes.clear();
                arrays.iter().for_each(|a| a.put(&mut bytes, row));
                if let Some(&group) = known.get(&bytes[..]) {
                    return group;
                }
                let key: Key = Arc::from(&bytes[..]);
                let group = keys.len() as u32;
                keys.push(key.clone());
                known.insert(key, group);
                group
            })
            .collect();
        Ok((Groups { rows, keys: keys.into(), table: None }, errors))
    }

    fn of_table(&mut self, table: &EntityTable, names: &[&str]) -> &mut OfTable {
        let place = self.tables.iter().position(|t| t.table == table.id());
        let mut of = match place {
            Some(place) => self.tables.remove(place),
            None => OfTable { table: table.id(), ..OfTable::default() },
        };
        of.extend(table, names);
        self.tables.insert(0, of);
        self.tables.truncate(TABLES_MAX);
        &mut self.tables[0]
    }
}

/// The names of the group columns, if all are plain columns of the batch's entities: then keys are
/// made once per entity, from its own values.
fn by_entity<'a>(
    expressions: &'a [Expression],
    batch: &'a Batch,
) -> Option<(Vec<&'a str>, &'a Keys)> {
    let names: Vec<&str> = expressions.iter().map(Expression::as_column).collect::<Option<_>>()?;
    let alike = expressions.iter().all(|e| e.by_entity(batch));
    batch.entities().filter(|_| alike).map(|entities| (names, entities))
}

impl OfTable {
    /// Takes in the entities that are new.
    fn extend(&mut self, table: &EntityTable, names: &[&str]) {
        let mut bytes = Vec::new();
        for entity in table.since(self.groups.len()) {
            bytes.clear();
            names.iter().for_each(|name| put_value(&mut bytes, entity.get(name)));
            let group = match self.known.get(&bytes[..]) {
                Some(group) => *group,
                None => {
                    let (key, group): (Key, _) = (Arc::from(&bytes[..]), self.keys.len() as u32);
                    self.known.insert(key.clone(), group);
                    self.keys.push(key);
                    group
                }
            };
            self.groups.push(group);
        }
    }

    /// The groups of rows with these entities.
    fn groups(&self, entities: &[u32]) -> Groups<'_> {
        let rows = entities.iter().map(|entity| self.groups[*entity as usize]).collect();
        Groups { rows, keys: Cow::Borrowed(&self.keys), table: Some(self.table) }
    }
}

/// An array of one of the types that keys are made of.
enum Plain {
    Bool(BooleanArray),
    Int(Int64Array),
    Double(Float64Array),
    Time(TimestampNanosecondArray),
    Text(StringArray),
}

impl Plain {
    fn new(values: &ArrayRef) -> Result<Self, OperatorError> {
        Ok(match values.data_type() {
            DataType::Boolean => Self::Bool(values.as_boolean().clone()),
            DataType::Int64 => Self::Int(values.as_primitive::<Int64Type>().clone()),
            DataType::Float64 => Self::Double(values.as_primitive::<Float64Type>().clone()),
            t if *t == signal::timestamp() => {
                Self::Time(values.as_primitive::<TimestampNanosecondType>().clone())
            }
            DataType::Utf8 => Self::Text(values.as_string::<i32>().clone()),
            _ => Self::Text(cast(values, &DataType::Utf8)?.as_string::<i32>().clone()),
        })
    }

    fn put(&self, out: &mut Vec<u8>, row: usize) {
        match self {
            Self::Bool(a) if a.is_valid(row) => out.extend([BOOL, u8::from(a.value(row))]),
            Self::Int(a) if a.is_valid(row) => put_int(out, a.value(row)),
            Self::Double(a) if a.is_valid(row) => put_number(out, a.value(row), 0),
            Self::Time(a) if a.is_valid(row) => {
                out.push(TIME);
                out.extend((a.value(row) as u64 ^ (1 << 63)).to_be_bytes());
            }
            Self::Text(a) if a.is_valid(row) => put_text(out, a.value(row)),
            _ => out.push(NULL),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use proptest::prelude::*;

    use super::*;

    fn bytes(value: &Option<Value>) -> Key {
        let mut out = Vec::new();
        put_value(&mut out, value.as_ref());
        out.into()
    }

    #[test]
    fn order() {
        let texts = ["", "\0", "\0\0", "\0a", "a", "a\0", "ab", "b"];
        let numbers = [f64::NEG_INFINITY, -1e300, -1.5, -1.0];
        let mut values = vec![None, Some(Value::Bool(false)), Some(Value::Bool(true))];
        values.extend(numbers.map(|d| Some(Value::Double(d))));
        values.extend([0, 1, (1 << 53) - 1, 1 << 53, (1 << 53) + 1].map(|i| Some(Value::Int(i))));
        values.extend([i64::MAX - 1, i64::MAX].map(|i| Some(Value::Int(i))));
        values.extend([1e30, f64::INFINITY, f64::NAN].map(|d| Some(Value::Double(d))));
        values.extend(texts.map(|t| Some(Value::Text(t.into()))));
        for pair in values.windows(2) {
            assert!(bytes(&pair[0]) < bytes(&pair[1]), "{pair:?}");
        }
        assert_eq!(bytes(&Some(Value::Int(1))), bytes(&Some(Value::Double(1.0))));
        assert_eq!(bytes(&Some(Value::Double(0.0))), bytes(&Some(Value::Double(-0.0))));
    }

    proptest! {
        #[test]
        fn ints_and_texts_come_back(ints in proptest::collection::vec(any::<i64>(), 1..9),
                                    text in "\\PC{0,9}\0?\\PC{0,3}") {
            let keys: Vec<Key> = ints.iter().map(|i| {
                let mut out = Vec::new();
                put_text(&mut out, &text);
                put_int(&mut out, *i);
                out.into()
            }).collect();
            let back = column(&keys, 1, None).unwrap();
            prop_assert_eq!(back.as_primitive::<Int64Type>().values().to_vec(), ints);
            let back = column(&keys, 0, None).unwrap();
            prop_assert!(back.as_string::<i32>().iter().all(|t| t == Some(text.as_str())));
        }

        #[test]
        fn any_bytes(bytes in proptest::collection::vec(0u8..8, 0..30)) {
            let _ = column(&[bytes.into()], 1, None);
        }
    }
}

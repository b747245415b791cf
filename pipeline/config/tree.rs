//! A TOML document as a tree of owned values, each with its place.

use std::ops::Range;
use std::sync::Arc;

use toml::de::{DeTable, DeValue};

use crate::diagnostic::{Diagnostic, Diagnostics, SourceText, Span};

/// A value and its bytes in the file.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Node {
    pub(crate) value: Value,
    pub(crate) range: Range<usize>,
}

/// What can stand in TOML.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    String(String),
    Integer(i64),
    Float(f64),
    Boolean(bool),
    /// As written.
    Datetime(String),
    Array(Vec<Node>),
    Table(Table),
}

/// Keys in the order of the file.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Table(pub(crate) Vec<Entry>);

/// One `key = value`, or `[key]`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    pub(crate) key: String,
    /// Bytes of the key.
    pub(crate) at: Range<usize>,
    pub(crate) node: Node,
}

impl Table {
    pub(crate) fn get(&self, key: &str) -> Option<&Entry> {
        self.0.iter().find(|e| e.key == key)
    }

    pub(crate) fn take(&mut self, key: &str) -> Option<Entry> {
        let i = self.0.iter().position(|e| e.key == key)?;
        Some(self.0.remove(i))
    }
}

impl Value {
    /// What it is, with its article.
    pub(crate) fn what(&self) -> &'static str {
        match self {
            Self::String(_) => "text",
            Self::Integer(_) => "an integer",
            Self::Float(_) => "a number",
            Self::Boolean(_) => "a boolean",
            Self::Datetime(_) => "a date",
            Self::Array(_) => "a list",
            Self::Table(_) => "a table",
        }
    }

    /// The same in JSON; the places are lost.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        match self {
            Self::String(s) | Self::Datetime(s) => s.as_str().into(),
            Self::Integer(i) => (*i).into(),
            Self::Float(f) => {
                serde_json::Number::from_f64(*f).map_or_else(|| f.to_string().into(), Into::into)
            }
            Self::Boolean(b) => (*b).into(),
            Self::Array(items) => items.iter().map(|n| n.value.to_json()).collect(),
            Self::Table(table) => serde_json::Value::Object(table.to_json()),
        }
    }
}

impl Table {
    /// The same as a JSON object; the places are lost.
    pub(crate) fn to_json(&self) -> serde_json::Map<String, serde_json::Value> {
        self.0.iter().map(|e| (e.key.clone(), e.node.value.to_json())).collect()
    }
}

/// The tree of a file, as far as it parses, and every syntax error.
pub(crate) fn parse(file: &Arc<SourceText>) -> (Table, Diagnostics) {
    let mut wrong = Diagnostics::default();
    let (root, errors) = DeTable::parse_recoverable(&file.text);
    for error in errors {
        let range = error.span().unwrap_or(0..0);
        let span = Span { file: file.clone(), range };
        wrong.push(Diagnostic::error("W001", syntax(error.message())).at(&span));
    }
    let table = own_table(root.into_inner(), file, &mut wrong);
    (table, wrong)
}

/// The parser's words in our style: lower case, one line.
fn syntax(message: &str) -> String {
    let line = message.lines().collect::<Vec<_>>().join(", ");
    let mut chars = line.chars();
    match chars.next() {
        Some(first) => format!("not TOML: {}{}", first.to_lowercase(), chars.as_str()),
        None => "not TOML".into(),
    }
}

fn own_table(table: DeTable<'_>, file: &Arc<SourceText>, wrong: &mut Diagnostics) -> Table {
    let own = |(key, value): (toml::Spanned<_>, toml::Spanned<DeValue<'_>>)| {
        let (at, range) = (key.span(), value.span());
        let key: std::borrow::Cow<'_, str> = key.into_inner();
        let node = Node { value: own(value.into_inner(), &range, file, wrong), range };
        Entry { key: key.into_owned(), at, node }
    };
    Table(table.into_iter().map(own).collect())
}

fn own(
    value: DeValue<'_>,
    range: &Range<usize>,
    file: &Arc<SourceText>,
    wrong: &mut Diagnostics,
) -> Value {
    let mut too_large = |text: &str| {
        let span = Span { file: file.clone(), range: range.clone() };
        wrong.push(Diagnostic::error("W012", format!("number `{text}` is out of range")).at(&span));
    };
    match value {
        DeValue::String(s) => Value::String(s.into_owned()),
        DeValue::Integer(i) => {
            Value::Integer(i64::from_str_radix(i.as_str(), i.radix()).unwrap_or_else(|_| {
                too_large(i.as_str());
                0
            }))
        }
        DeValue::Float(f) => Value::Float(f.as_str().parse().unwrap_or_else(|_| {
            too_large(f.as_str());
            0.0
        })),
        DeValue::Boolean(b) => Value::Boolean(b),
        DeValue::Datetime(d) => Value::Datetime(d.to_string()),
        DeValue::Array(items) => {
            let own_item = |item: toml::Spanned<DeValue<'_>>| {
                let range = item.span();
                Node { value: own(item.into_inner(), &range, file, wrong), range }
            };
            Value::Array(items.into_iter().map(own_item).collect())
        }
        DeValue::Table(table) => Value::Table(own_table(table, file, wrong)),
    }
}

//! Functions that ask lookup tables, under the names that Vector gave them:
//! `get_enrichment_table_record` gives the one record that meets the condition,
//! `find_enrichment_table_records` all of them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use vrl::compiler::expression::{Expr, Variant};
use vrl::compiler::prelude::*;
use vrl::value::KeyString;
use weir_pipeline::config::Lookups;
use weir_pipeline::entity;
use weir_pipeline::lookup::{Canonical, Index, IndexKeys, Lookup, instant};

/// Both functions.
pub(super) const ALL: [Asked; 2] = [Asked::One, Asked::All];

/// How many records are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    One,
    All,
}

impl Function for Asked {
    fn identifier(&self) -> &'static str {
        match self {
            Self::One => "get_enrichment_table_record",
            Self::All => "find_enrichment_table_records",
        }
    }

    fn usage(&self) -> &'static str {
        match self {
            Self::One => "Returns the one record of a lookup table that meets the condition.",
            Self::All => "Returns all records of a lookup table that meet the condition.",
        }
    }

    fn category(&self) -> &'static str {
        Category::Map.as_ref()
    }

    fn return_kind(&self) -> u16 {
        match self {
            Self::One => kind::OBJECT,
            Self::All => kind::ARRAY,
        }
    }

    fn parameters(&self) -> &'static [Parameter] {
        const ALL: &[Parameter] = &[
            Parameter::required("table", kind::BYTES, "Id of the lookup table."),
            Parameter::required(
                "condition",
                kind::OBJECT,
                "Column and value; a value with `from` and `to` is a span of time.",
            ),
            Parameter::optional("select", kind::ARRAY, "Columns to return; default all."),
            Parameter::optional(
                "case_sensitive",
                kind::BOOLEAN,
                "Whether capitals make a difference; default true.",
            ),
        ];
        ALL
    }

    fn examples(&self) -> &'static [Example] {
        &[]
    }

    fn compile(
        &self,
        state: &TypeState,
        ctx: &mut FunctionCompileContext,
        arguments: ArgumentList,
    ) -> Compiled {
        let wrong =
            |why: String| Box::new(ExpressionError::from(why)) as Box<dyn DiagnosticMessage>;
        let id = arguments.required_literal("table", state)?;
        let id = id.try_bytes_utf8_lossy().map_err(|e| wrong(e.to_string()))?.into_owned();
        let lookups = ctx.get_external_context::<Lookups>();
        let table = lookups.and_then(|l| l.get(&id)).cloned().ok_or_else(|| {
            let known: Vec<&str> =
                lookups.iter().flat_map(|l| l.keys().map(String::as_str)).collect();
            wrong(match known.as_slice() {
                [] => format!("there is no lookup `{id}`: the file has no `[lookups.*]`"),
                known => format!("there is no lookup `{id}`, there are `{}`", known.join("`, `")),
            })
        })?;
        let condition = arguments.required_object("condition")?;
        let (spans, equals): (Vec<_>, Vec<_>) = condition.into_iter().partition(|(_, value)| {
            matches!(value, Expr::Container(c)
                if matches!(c.variant, Variant::Object(_)))
        });
        let ignore_case = match arguments.optional_literal("case_sensitive", state)? {
            Some(value) => !value.try_boolean().map_err(|e| wrong(e.to_string()))?,
            None => false,
        };
        let exact: Vec<String> = equals.iter().map(|(name, _)| name.to_string()).collect();
        let index = if table.is_maxmind() {
            if exact.len() != 1 || !spans.is_empty() {
                return Err(wrong("a MaxMind database is asked with `{ \"ip\": ... }`".to_owned()));
            }
            Arc::new(Index::default())
        } else {
            let keys = IndexKeys { exact, ignore_case, ..IndexKeys::default() };
            table.index(&keys).map_err(|why| wrong(format!("lookup `{id}`: {why}")))?
        };
        let spans = spans.into_iter().map(|(name, span)| Span::new(&table, &name, span));
        let spans = spans.collect::<std::result::Result<_, String>>().map_err(wrong)?;
        Ok(LookupFn {
            asked: *self,
            id,
            table,
            index,
            equals: equals.into_iter().map(|(_, value)| value).collect(),
            spans,
            select: arguments.optional("select"),
        }
        .as_expr())
    }
}

/// A column of times, and between which two its value has to be.
#[derive(Clone, Debug)]
struct Span {
    times: Arc<Vec<Option<i64>>>,
    bounds: Expr,
}

impl Span {
    fn new(table: &Lookup, name: &str, bounds: Expr) -> std::result::Result<Self, String> {
        let times = match table.table() {
            None => Vec::new(),
            Some(rows) => {
                let column = rows
                    .column_by_name(name)
                    .ok_or_else(|| format!("the lookup has no column `{name}`"))?;
                let text = Canonical::of(column)?;
                let time = |row| text.get(row).and_then(|t| t.parse().ok().or_else(|| instant(t)));
                (0..column.len()).map(time).collect()
            }
        };
        Ok(Self { times: Arc::new(times), bounds })
    }

    /// The bounds, both included; one that is missing is open.
    fn bounds(&self, ctx: &mut Context) -> std::result::Result<(i64, i64), ExpressionError> {
        let bounds = self.bounds.resolve(ctx)?;
        let bound = |key: &str, open: i64| match bounds.as_object().and_then(|o| o.get(key)) {
            None | Some(Value::Null) => Ok::<i64, ExpressionError>(open),
            Some(value) => time(value).ok_or_else(|| format!("`{key}` is no time").into()),
        };
        Ok((bound("from", i64::MIN)?, bound("to", i64::MAX)?))
    }
}

fn time(value: &Value) -> Option<i64> {
    match value {
        Value::Timestamp(time) => time.timestamp_nanos_opt(),
        Value::Bytes(_) | Value::String(_) => instant(&value.to_string_lossy()),
        _ => None,
    }
}

#[derive(Clone, Debug)]
struct LookupFn {
    asked: Asked,
    id: String,
    table: Arc<Lookup>,
    index: Arc<Index>,
    /// Values of the exact columns of the index.
    equals: Vec<Expr>,
    spans: Vec<Span>,
    select: Option<Box<dyn Expression>>,
}

impl LookupFn {
    /// The rows that meet the condition.
    fn rows(&self, ctx: &mut Context) -> std::result::Result<Vec<u32>, ExpressionError> {
        let mut texts = Vec::with_capacity(self.equals.len());
        for value in &self.equals {
            match text(&value.resolve(ctx)?) {
                Some(text) => texts.push(text),
                None => return Ok(Vec::new()),
            }
        }
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let mut rows = self.index.all(&texts).to_vec();
        for span in &self.spans {
            let (from, to) = span.bounds(ctx)?;
            rows.retain(|row| {
                span.times
                    .get(*row as usize)
                    .copied()
                    .flatten()
                    .is_some_and(|t| (from..=to).contains(&t))
            });
        }
        Ok(rows)
    }

    /// The record of an address.
    fn record(&self, ctx: &mut Context) -> std::result::Result<Option<Value>, ExpressionError> {
        let Some(address) = self.equals.first() else { return Ok(None) };
        let address = address.resolve(ctx)?;
        let address: Option<IpAddr> = text(&address).and_then(|t| t.trim().parse().ok());
        let Some(address) = address else { return Ok(None) };
        let record = self.table.record(address)?;
        Ok(record.map(Value::from))
    }

    fn object(&self, row: u32, select: Option<&[String]>) -> Value {
        let mut object = BTreeMap::<KeyString, Value>::new();
        let Some(table) = self.table.table() else { return object.into() };
        for (field, column) in table.schema_ref().fields().iter().zip(table.columns()) {
            if select.is_none_or(|names| names.contains(field.name())) {
                let value = match column.data_type() {
                    arrow::datatypes::DataType::Timestamp(..) => cell_time(column, row as usize),
                    _ => entity::Value::of_array(column, row as usize).map(from_entity),
                };
                object.insert(field.name().as_str().into(), value.unwrap_or(Value::Null));
            }
        }
        object.into()
    }
}

fn cell_time(column: &arrow::array::ArrayRef, row: usize) -> Option<Value> {
    use arrow::array::{Array, AsArray};
    let times = column.as_primitive_opt::<arrow::datatypes::TimestampNanosecondType>()?;
    times.is_valid(row).then(|| Value::Timestamp(super::functions::time(times.value(row))))
}

fn from_entity(value: entity::Value) -> Value {
    match value {
        entity::Value::Bool(v) => v.into(),
        entity::Value::Int(v) => v.into(),
        entity::Value::Double(v) => Value::from_f64_or_zero(v),
        entity::Value::Text(v) | entity::Value::Json(v) => Value::from(&*v),
    }
}

/// A value as keys are compared.
fn text(value: &Value) -> Option<String> {
    Some(match value {
        Value::Bytes(_) | Value::String(_) => value.to_string_lossy().into_owned(),
        Value::Integer(v) => v.to_string(),
        Value::Float(v) => entity::double_text(v.into_inner()),
        Value::Boolean(v) => v.to_string(),
        Value::Timestamp(v) => v.timestamp_nanos_opt()?.to_string(),
        _ => return None,
    })
}

impl FunctionExpression for LookupFn {
    fn resolve(&self, ctx: &mut Context) -> Resolved {
        let select = match &self.select {
            None => None,
            Some(names) => {
                let names = names.resolve(ctx)?.try_array()?;
                Some(names.iter().filter_map(text).collect::<Vec<String>>())
            }
        };
        if self.table.is_maxmind() {
            let record = self.record(ctx)?;
            return match (self.asked, record) {
                (Asked::All, record) => Ok(Value::Array(record.into_iter().collect())),
                (Asked::One, Some(record)) => Ok(record),
                (Asked::One, None) => Err(format!("lookup `{}` has no record", self.id).into()),
            };
        }
        let rows = self.rows(ctx)?;
        match (self.asked, rows.as_slice()) {
            (Asked::All, rows) => {
                let objects = rows.iter().map(|row| self.object(*row, select.as_deref()));
                Ok(Value::Array(objects.collect()))
            }
            (Asked::One, [row]) => Ok(self.object(*row, select.as_deref())),
            (Asked::One, []) => Err(format!("lookup `{}` has no such row", self.id).into()),
            (Asked::One, rows) => {
                Err(format!("lookup `{}` has {} such rows", self.id, rows.len()).into())
            }
        }
    }

    fn type_def(&self, _: &TypeState) -> TypeDef {
        match self.asked {
            Asked::One => TypeDef::object(Collection::any()).fallible(),
            Asked::All => {
                let object = Kind::object(Collection::any());
                TypeDef::array(Collection::from_unknown(object)).fallible()
            }
        }
    }
}

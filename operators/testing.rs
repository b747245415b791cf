//! Rows for the tests of operators.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, TimestampNanosecondArray, UInt32Array};
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use arrow::util::display::array_value_to_string;
use weir_pipeline::batch::{Batch, Keys, Run, TENANT};
use weir_pipeline::component::{Operator, OperatorKind, OperatorPlan, Output, Tick};
use weir_pipeline::config::{Input, Scope, Section};
use weir_pipeline::diagnostic::Diagnostics;
use weir_pipeline::edge::Edge;
use weir_pipeline::entity::{Attribute, Entity, EntityTable, Origin, Value, build_column};
use weir_pipeline::lookup::Lookup;
use weir_pipeline::signal::Signal;

#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) time: Option<i64>,
    pub(crate) received: i64,
    pub(crate) columns: BTreeMap<&'static str, Value>,
    pub(crate) entity: Vec<(&'static str, Value)>,
}

pub(crate) trait IntoValue {
    fn value(self) -> Value;
}
impl IntoValue for i64 {
    fn value(self) -> Value {
        Value::Int(self)
    }
}
impl IntoValue for i32 {
    fn value(self) -> Value {
        Value::Int(self.into())
    }
}
impl IntoValue for f64 {
    fn value(self) -> Value {
        Value::Double(self)
    }
}
impl IntoValue for &str {
    fn value(self) -> Value {
        Value::Text(self.into())
    }
}
impl IntoValue for bool {
    fn value(self) -> Value {
        Value::Bool(self)
    }
}
impl IntoValue for Value {
    fn value(self) -> Value {
        self
    }
}

/// A row stamped at `time` (nanoseconds) and received then.
pub(crate) fn row(time: i64) -> Row {
    Row { time: Some(time), received: time, columns: BTreeMap::new(), entity: Vec::new() }
}

impl Row {
    pub(crate) fn set(mut self, name: &'static str, value: impl IntoValue) -> Self {
        self.columns.insert(name, value.value());
        self
    }
    pub(crate) fn entity(mut self, name: &'static str, value: impl IntoValue) -> Self {
        self.entity.push((name, value.value()));
        self
    }
}

pub(crate) fn scope(signal: Signal) -> Scope {
    let input = Input { name: "in.rows".into(), edge: Edge::open(signal) };
    Scope::new(vec![input], std::path::PathBuf::new())
}

pub(crate) fn plan(kind: &OperatorKind, toml: &str) -> Result<Box<dyn OperatorPlan>, Diagnostics> {
    (kind.plan)(&Section::parse_for_tests("t", toml), &scope(Signal::Logs))
}

/// One batch of rows, one run per row so that each has its own receive time.
pub(crate) fn batch(rows: &[Row]) -> Batch {
    batch_in(rows, &Arc::new(EntityTable::default()), Signal::Logs)
}

pub(crate) fn batch_in(rows: &[Row], table: &Arc<EntityTable>, signal: Signal) -> Batch {
    let times = TimestampNanosecondArray::from(rows.iter().map(|r| r.time).collect::<Vec<_>>());
    let times: ArrayRef = Arc::new(times.with_timezone("UTC"));
    let mut columns = vec![("timestamp", times)];
    let mut names: Vec<&str> = rows.iter().flat_map(|r| r.columns.keys().copied()).collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        columns.push((name, build_column(rows.iter().map(|r| r.columns.get(name))).values));
    }
    let fields: Vec<Field> =
        columns.iter().map(|(n, a)| Field::new(*n, a.data_type().clone(), true)).collect();
    let arrays = columns.into_iter().map(|c| c.1).collect();
    let record = RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).unwrap();
    let keys = rows.iter().map(|r| {
        let attributes = r.entity.iter().map(|(name, value)| Attribute {
            name: (*name).into(),
            value: value.clone(),
            origin: Origin::Resource,
        });
        table.intern(Entity::new(attributes.collect())).unwrap()
    });
    let keys = Keys { keys: UInt32Array::from_iter_values(keys), table: table.clone() };
    let runs: Vec<Run> = rows
        .iter()
        .map(|r| Run { offset: 1, received: r.received, source: "in".into(), rows: 1 })
        .collect();
    Batch::new(signal, TENANT.into(), record, Some(keys), runs.into()).unwrap()
}

pub(crate) fn run(
    operator: &mut dyn Operator,
    f: impl FnOnce(&mut dyn Operator, &mut Output),
) -> Output {
    let mut out = Output::default();
    f(operator, &mut out);
    out
}

pub(crate) fn tick(time: i64) -> Tick {
    Tick { time, elapsed: time, offset: 7, watermark: time, step: 0 }
}

pub(crate) fn ints(batches: &[(&'static str, Batch)], name: &str) -> Vec<i64> {
    let mut all = Vec::new();
    for (_, b) in batches {
        let array = b.array(name).unwrap();
        assert_eq!(*array.data_type(), DataType::Int64);
        all.extend(array.as_primitive::<Int64Type>().iter().flatten());
    }
    all
}

/// Every row of the batches of one output as `name=value` texts, NULLs left out.
pub(crate) fn show(batches: &[(&'static str, Batch)], output: &str) -> Vec<String> {
    let mut rows = Vec::new();
    for (_, b) in batches.iter().filter(|(o, _)| *o == output) {
        let wide = b.wide().unwrap();
        for i in 0..wide.num_rows() {
            let schema = wide.schema();
            let cells = schema.fields().iter().zip(wide.columns()).filter(|(_, a)| a.is_valid(i));
            let cells: Vec<String> = cells
                .map(|(f, a)| format!("{}={}", f.name(), array_value_to_string(a, i).unwrap()))
                .collect();
            rows.push(cells.join(" "));
        }
    }
    rows
}

/// What the reference pages show can be written: each TOML block plans.
#[test]
fn every_documented_example_plans() {
    for kind in crate::ALL {
        let doc = kind.doc();
        let blocks: Vec<&str> = doc.split("```toml\n").skip(1).collect();
        assert!(!blocks.is_empty(), "{} has no example", kind.name);
        for block in blocks {
            let block = block.split("```").next().unwrap();
            // What stands below the header of the operator; others are beside it in some.
            let mut sections: Vec<String> = vec![String::new()];
            for line in block.lines() {
                let header = line.strip_prefix('[').and_then(|l| l.strip_suffix(']'));
                match header.map(|h| h.split('.').collect::<Vec<_>>()).as_deref() {
                    Some(["operators", _, key]) => {
                        *sections.last_mut().unwrap() += &format!("[{key}]\n");
                    }
                    Some(_) => sections.push(String::new()),
                    None => *sections.last_mut().unwrap() += &format!("{line}\n"),
                }
            }
            let own = format!("type = \"{}\"\n", kind.name);
            let own = sections.iter().position(|s| s.starts_with(&own)).unwrap_or_default();
            let fragment = &sections[own];
            let tables =
                block.lines().filter_map(|l| l.strip_prefix("[lookups.")?.strip_suffix(']'));
            let tables = tables.map(|id| (id.to_owned(), Arc::new(Lookup::unknown())));
            let scope = scope(Signal::Logs).with_lookups(Arc::new(tables.collect()));
            let planned = (kind.plan)(&Section::parse_for_tests("op", fragment), &scope);
            assert!(planned.is_ok(), "{}: {}", kind.name, planned.unwrap_err());
        }
    }
}

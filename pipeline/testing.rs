//! Runs the `[[tests]]` of a pipeline: rows in, ticks of a virtual clock, rows out. No journal, no
//! sinks, no time passes.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, TimestampNanosecondArray};
use arrow::datatypes::{DataType, Field, Schema};
use arrow::error::ArrowError;
use serde_json::{Map, Value};

use crate::batch::{Batch, Run, TENANT};
use crate::component::Tick;
use crate::diagnostic::{Diagnostic, Diagnostics, Span};
use crate::entity::{self, build_column};
use crate::graph::Graph;
use crate::plan::{PipelinePlan, TestPlan, TestStep};
use crate::signal::{META_JSON, Signal};
use crate::tap::Taps;
use crate::telemetry::Telemetry;

type Row = Map<String, Value>;

/// Runs every test of `plan`; empty if all pass.
pub fn run(plan: &PipelinePlan) -> Diagnostics {
    Diagnostics(plan.tests.iter().flat_map(|test| run_one(plan, test)).collect())
}

fn run_one(plan: &PipelinePlan, test: &TestPlan) -> Vec<Diagnostic> {
    let telemetry = Telemetry::default();
    let nodes = plan.test_nodes.as_ref().unwrap_or(&plan.nodes);
    let plan = &PipelinePlan { nodes: nodes.clone(), tests: Vec::new(), ..plan.clone() };
    let mut graph = Graph::build(plan, &telemetry, Arc::new(Taps::default()));
    graph.capture();
    let mut seen = Vec::new();
    let mut clock = Clock::default();
    for (offset, step) in (1..).zip(&test.steps) {
        let mut sinks = Vec::new();
        match step {
            TestStep::Rows { output, at, rows } => {
                let (id, port) = split(output);
                let batch = match to_batch(port, id, offset, *at, rows) {
                    Ok(batch) => batch,
                    Err(e) => {
                        let message = format!("test `{}`: rows of `{output}`: {e}", test.name);
                        return vec![Diagnostic::error("W070", message).at(&test.header)];
                    }
                };
                match plan.nodes.iter().position(|n| *n.id == *id) {
                    Some(node) => graph.inject(node, port, &batch, &mut sinks),
                    None => graph.push(id, port, &batch, &mut sinks),
                }
                // What was put in is not what came out.
                seen.extend(graph.captured().into_iter().skip(1));
            }
            TestStep::Tick(time) => {
                graph.tick(clock.tick(*time, offset), &mut sinks);
                seen.extend(graph.captured());
            }
        }
    }
    let came_out = |output: &str| -> Vec<Row> {
        let (id, port) = split(output);
        let of = seen.iter().filter(|c| c.id == id && c.output == port);
        of.flat_map(|c| to_rows(&c.batch)).collect()
    };
    let check = |(output, span, expected): &(String, Span, Vec<Row>)| {
        compare(&test.name, output, span, expected, &came_out(output))
    };
    test.expect.iter().filter_map(check).collect()
}

/// Elapsed time of a virtual clock: it counts from the first tick.
#[derive(Default)]
struct Clock {
    first: Option<i64>,
    elapsed: i64,
    watermark: Option<i64>,
}

impl Clock {
    fn tick(&mut self, time: i64, offset: u64) -> Tick {
        let first = *self.first.get_or_insert(time);
        self.elapsed = self.elapsed.max(time - first);
        let watermark = self.watermark.map_or(time, |w| w.max(time));
        self.watermark = Some(watermark);
        Tick { time, elapsed: self.elapsed, offset, watermark, step: 0 }
    }
}

fn split(output: &str) -> (&str, &str) {
    output.split_once('.').unwrap_or((output, ""))
}

fn compare(
    test: &str,
    output: &str,
    span: &Span,
    expected: &[Row],
    got: &[Row],
) -> Option<Diagnostic> {
    let error = |message: String| Diagnostic::error("W071", message).at(span);
    let show = |row: &Row| Value::Object(row.clone()).to_string();
    for (i, want) in expected.iter().enumerate() {
        let Some(row) = got.get(i) else {
            let message = format!("test `{test}`: row {} of `{output}` did not come", i + 1);
            return Some(error(message).label(format!("{} came in all", got.len())));
        };
        if let Some((name, value)) = want.iter().find(|(n, v)| !same(v, row.get(*n))) {
            let came = row.get(name).map_or("nothing".to_owned(), ToString::to_string);
            let message = format!(
                "test `{test}`: row {} of `{output}`: `{name}` is {came}, expected {value}",
                i + 1
            );
            return Some(error(message).hint(format!("the row that came: {}", show(row))));
        }
    }
    let extra = got.get(expected.len())?;
    let message = format!("test `{test}`: `{output}` has {} rows more", got.len() - expected.len());
    Some(error(message).hint(format!("the first of them: {}", show(extra))))
}

/// Whether a value is the expected one: numbers by value, times by instant, null as missing.
fn same(expected: &Value, got: Option<&Value>) -> bool {
    let Some(got) = got else { return expected.is_null() };
    match (expected, got) {
        (Value::Number(a), Value::Number(b)) => {
            a.as_i64().zip(b.as_i64()).map_or_else(|| a.as_f64() == b.as_f64(), |(a, b)| a == b)
        }
        (Value::String(a), Value::String(b)) if a != b => {
            let time = |s: &str| s.parse::<jiff::Timestamp>().ok();
            time(a).is_some_and(|a| Some(a) == time(b))
        }
        _ => expected == got,
    }
}

/// A batch of test rows, all columns at the row level: canonical columns have their types, others
/// the narrowest that holds their values. A missing `timestamp` is the receive time.
///
/// # Errors
/// If a canonical column has a value that is not of its type.
pub fn to_batch(
    output: &str,
    source: &str,
    offset: u64,
    received: i64,
    rows: &[Row],
) -> Result<Batch, ArrowError> {
    let signal = signal_of(output, rows);
    let mut names: Vec<&str> = vec!["timestamp"];
    for name in rows.iter().flat_map(|r| r.keys()) {
        if !names.contains(&name.as_str()) {
            names.push(name);
        }
    }
    let mut fields = Vec::new();
    let mut arrays = Vec::new();
    for name in names {
        let (field, array) = column(&signal, name, received, rows)?;
        fields.push(field);
        arrays.push(array);
    }
    let n = rows.len();
    let rows = RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays)?;
    let run = Run { offset, received, source: source.into(), rows: n };
    Batch::new(signal, TENANT.into(), rows, None, [run].into())
}

fn signal_of(output: &str, rows: &[Row]) -> Signal {
    let has = |name: &str| rows.iter().any(|r| r.contains_key(name));
    match Signal::from_name(output) {
        Signal::Named(_) if has("metric.name") => Signal::Metrics,
        Signal::Named(_) if has("duration_ns") => Signal::Spans,
        Signal::Named(_) => Signal::Logs,
        signal => signal,
    }
}

fn column(
    signal: &Signal,
    name: &str,
    received: i64,
    rows: &[Row],
) -> Result<(Field, ArrayRef), ArrowError> {
    let kind = signal.canonical_type(name);
    if let Some(DataType::Timestamp(..)) = kind {
        let default = (name == "timestamp").then_some(received);
        let times = rows.iter().map(|r| time(name, r.get(name), default));
        let times: Vec<Option<i64>> = times.collect::<Result<_, _>>()?;
        let array = TimestampNanosecondArray::from(times).with_timezone("UTC");
        return Ok((Field::new(name, array.data_type().clone(), true), Arc::new(array)));
    }
    let mut json = false;
    let values: Vec<Option<entity::Value>> = rows
        .iter()
        .map(|r| {
            let value = r.get(name)?;
            json |= value.is_array() || value.is_object();
            entity::Value::of_json(value)
        })
        .collect();
    let array = build_column(values.iter().map(Option::as_ref)).values;
    let array = match kind {
        Some(kind) if kind != *array.data_type() => arrow::compute::cast(&array, &kind)?,
        _ => array,
    };
    let mut field = Field::new(name, array.data_type().clone(), true);
    if json {
        field = field.with_metadata([(META_JSON.to_owned(), "true".to_owned())].into());
    }
    Ok((field, array))
}

fn time(
    name: &str,
    value: Option<&Value>,
    default: Option<i64>,
) -> Result<Option<i64>, ArrowError> {
    let bad = |v: &Value| ArrowError::ParseError(format!("`{name}` is not a time: {v}"));
    match value {
        None | Some(Value::Null) => Ok(default),
        Some(v @ Value::String(s)) => {
            let time = s.parse::<jiff::Timestamp>().map_err(|_| bad(v))?;
            Ok(i64::try_from(time.as_nanosecond()).ok())
        }
        Some(v) => v.as_i64().map(Some).ok_or_else(|| bad(v)),
    }
}

/// The rows of a batch as JSON objects, both levels, without nulls; times as RFC 3339.
pub fn to_rows(batch: &Batch) -> Vec<Row> {
    let mut bytes = Vec::new();
    let Ok(wide) = batch.wide() else { return Vec::new() };
    let mut writer = arrow::json::LineDelimitedWriter::new(&mut bytes);
    if writer.write(&wide).and_then(|()| writer.finish()).is_err() {
        return Vec::new();
    }
    serde_json::Deserializer::from_slice(&bytes).into_iter::<Row>().filter_map(Result::ok).collect()
}

//! The `vrl` operator beside the plain run: of each row the whole event is made and the program runs
//! on it. That no columns are made of the events again is in favour of the plain run.
//! `cargo bench -p weir-operators`.
//!
//! Prints rows per second of a core, and ratios to the run on whole events and to the operator's own
//! run row by row; nothing is asserted about time.

#![allow(clippy::expect_used, clippy::print_stdout, clippy::unwrap_used)]
#![allow(clippy::disallowed_methods, reason = "a bench reads the clock")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::TimestampNanosecondArray;
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringArray, UInt32Array};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, TimestampNanosecondType};
use vrl::compiler::state::RuntimeState;
use vrl::compiler::{Context, TargetValue, TimeZone, compile};
use vrl::value::{KeyString, ObjectMap, Secrets, Value};
use weir_pipeline::batch::{Batch, Keys, Run};
use weir_pipeline::component::Output;
use weir_pipeline::config::{Input, Scope, Section};
use weir_pipeline::edge::Edge;
use weir_pipeline::entity::{self, Attribute, Entity, EntityTable, Origin};
use weir_pipeline::signal::{Signal, timestamp};

/// About what a source hands on at once.
const ROWS: usize = 8192;
/// Resources that send.
const ENTITIES: usize = 50;
/// Columns of attributes, beside those of every log.
const WIDE: usize = 24;
/// How long each way runs.
const TIME: Duration = Duration::from_secs(1);

const PROGRAMS: [(&str, &str); 7] = [
    ("rename a column", ".path = del(.a.c3)"),
    ("upcase one column", ".severity = upcase!(.severity)"),
    (
        "condition on four columns",
        "if (to_int(.http.status) ?? 0) >= 500 { .severity = \"ERROR\" }\n.http.method = downcase!(.http.method)\n\
         .class = .a.c1",
    ),
    ("parse_json, all bodies differ", ".parsed = parse_json!(.body)"),
    (
        "parse_regex, all bodies differ",
        ".m = parse_regex!(.body, r'\"user\":\"(?P<user>\\w+)\",\"took\":(?P<took>\\d+)')",
    ),
    ("entity column", ".service.name = upcase!(.service.name)"),
    ("new entity column of another", ".service = downcase!(.host.name)"),
];

fn main() {
    let batch = batch();
    println!("{ROWS} rows of {} columns, {ENTITIES} entities\n", batch.names().len());
    println!("| program | whole events | rows | columns | to events | to rows |");
    println!("|---|---|---|---|---|---|");
    for (name, program) in PROGRAMS {
        let events = plain(program, &batch);
        // One that can touch the row as a whole runs on one row after the other.
        let rows = operator(&format!("{program}\nif false {{ . = . }}"), &batch);
        let columns = operator(program, &batch);
        let (a, b) = (columns / events, columns / rows);
        println!("| {name} | {events:.0} | {rows:.0} | {columns:.0} | {a:.1} | {b:.1} |");
    }
}

/// Rows per second of time on a core, which others that run meanwhile do not change.
fn timed(mut once: impl FnMut()) -> f64 {
    once();
    let (start, mut rows) = (on_core(), 0);
    while on_core() - start < TIME {
        once();
        rows += ROWS;
    }
    rows as f64 / (on_core() - start).as_secs_f64()
}

/// How long this thread has run.
fn on_core() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(stat.split(' ').next().unwrap().parse().unwrap())
}

fn operator(program: &str, batch: &Batch) -> f64 {
    let kind = weir_operators::ALL.iter().find(|kind| kind.name == "vrl").unwrap();
    let section = Section::parse_for_tests("t", &format!("source = '''\n{program}\n'''\n"));
    let input = Input { name: "in".into(), edge: Edge::open(Signal::Logs) };
    let plan = (kind.plan)(&section, &Scope::new(vec![input], ".".into())).unwrap();
    let mut running = plan.build();
    timed(|| {
        let mut out = Output::default();
        running.process(0, batch.clone(), &mut out).unwrap();
        assert_eq!(out.emitted[0].1.num_rows(), ROWS);
        black_box(out);
    })
}

fn plain(program: &str, batch: &Batch) -> f64 {
    let program = compile(program, &vrl::stdlib::all()).unwrap().program;
    let timezone = TimeZone::parse("UTC").unwrap();
    timed(|| {
        let wide = batch.wide().unwrap();
        let mut state = RuntimeState::default();
        for row in 0..ROWS {
            let value = event(&wide, row);
            let mut target =
                TargetValue { value, metadata: Value::Null, secrets: Secrets::default() };
            state.clear();
            program.resolve(&mut Context::new(&mut target, &mut state, &timezone)).unwrap();
            black_box(target);
        }
    })
}

/// The row `row` as an event with nested objects.
fn event(wide: &RecordBatch, row: usize) -> Value {
    let mut event = Value::Object(ObjectMap::new());
    for (field, array) in wide.schema_ref().fields().iter().zip(wide.columns()) {
        if array.is_null(row) {
            continue;
        }
        let value = match array.data_type() {
            DataType::Int64 => Value::Integer(array.as_primitive::<Int64Type>().value(row)),
            DataType::Utf8 => Value::from(array.as_string::<i32>().value(row)),
            _ => Value::Integer(array.as_primitive::<TimestampNanosecondType>().value(row)),
        };
        let mut at = &mut event;
        for part in field.name().split('.') {
            let Value::Object(object) = at else { break };
            let empty = || Value::Object(ObjectMap::new());
            at = object.entry(KeyString::from(part)).or_insert_with(empty);
        }
        *at = value;
    }
    event
}

fn batch() -> Batch {
    let table = Arc::new(EntityTable::default());
    for i in 0..ENTITIES {
        let attribute = |name: &str, value: String| Attribute {
            name: name.into(),
            value: entity::Value::Text(value.into()),
            origin: Origin::Resource,
        };
        let attributes = vec![
            attribute("service.name", format!("checkout-{}", i % 10)),
            attribute("host.name", format!("Node-{i}.example")),
        ];
        table.intern(Entity::new(attributes)).unwrap();
    }
    let keys = UInt32Array::from_iter_values((0..ROWS).map(|i| (i * 7 % ENTITIES) as u32));
    let texts = |of: &dyn Fn(usize) -> String| -> ArrayRef {
        Arc::new(StringArray::from_iter_values((0..ROWS).map(of)))
    };
    let times = TimestampNanosecondArray::from_iter_values(0..ROWS as i64).with_timezone("UTC");
    let statuses = (0..ROWS).map(|i| [200, 200, 404, 500][i % 4]);
    let mut columns: Vec<(String, ArrayRef)> = vec![
        ("timestamp".into(), Arc::new(times)),
        ("severity".into(), texts(&|i| ["info", "warn", "error"][i % 3].into())),
        (
            "body".into(),
            texts(&|i| {
                format!(r#"{{"user":"u{i}","took":{},"path":"/cart/{i}","ok":true}}"#, i % 900)
            }),
        ),
        ("http.method".into(), texts(&|i| ["GET", "POST", "PUT"][i % 3].into())),
        ("http.status".into(), Arc::new(arrow::array::Int64Array::from_iter_values(statuses))),
    ];
    for c in 0..WIDE {
        columns.push((format!("a.c{c}"), texts(&|i| format!("value-{c}-{}", i % (c + 2)))));
    }
    let field = |(name, array): &(String, ArrayRef)| {
        let kind = if name == "timestamp" { timestamp() } else { array.data_type().clone() };
        Field::new(name, kind, true)
    };
    let schema = Schema::new(columns.iter().map(field).collect::<Vec<_>>());
    let arrays = columns.into_iter().map(|(_, array)| array).collect();
    let rows = RecordBatch::try_new(Arc::new(schema), arrays).unwrap();
    let run = Run { offset: 1, received: 0, source: "otlp".into(), rows: ROWS };
    let keys = Keys { keys, table };
    Batch::new(Signal::Logs, "default".into(), rows, Some(keys), [run].into()).unwrap()
}

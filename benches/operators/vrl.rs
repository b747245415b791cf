//! The `vrl` operator beside the plain run: of each row the whole event is made and the program runs
//! on it. That no columns are made of the events again is in favour of the plain run.

use std::fmt::Write;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use arrow::array::TimestampNanosecondArray;
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringArray, UInt32Array};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, TimestampNanosecondType};
use vrl::compiler::state::RuntimeState;
use vrl::compiler::{Context, TargetValue, TimeZone, compile};
use vrl::value::{KeyString, ObjectMap, Secrets, Value};
use weir_pipeline::batch::{Batch, Keys, Run};
use weir_pipeline::component::Output;
use weir_pipeline::entity::{self, Attribute, Entity, EntityTable, Origin};
use weir_pipeline::signal::{Signal, timestamp};

use crate::{built, short, timed};

/// About what a source hands on at once.
const ROWS: usize = 8192;
/// Resources that send.
const ENTITIES: usize = 50;
/// Columns of attributes, beside those of every log.
const WIDE: usize = 24;
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

/// The part of the page about it.
pub(super) fn page() -> String {
    let batch = batch();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut page = format!(
        "## vrl\n\n{ROWS} rows of {} columns from {ENTITIES} entities at a time. *Events*: of each row \
         the whole event is made and the program runs on it; *rows*: the operator where the program \
         touches the row as a whole. Rows per second of a core; *together*: cores that work on one \
         batch, of {cores}.\n\n| program | events | rows | columns | to events | to rows | together \
         |\n|---|---|---|---|---|---|---|\n",
        batch.names().len()
    );
    for (name, program) in PROGRAMS {
        let events = plain(program, &batch);
        // One that can touch the row as a whole runs on one row after the other.
        let (rows, _) = operator(&format!("{program}\nif false {{ . = . }}"), &batch);
        let (columns, together) = operator(program, &batch);
        let (a, b) = (columns / events, columns / rows);
        let [events, rows, columns] = [events, rows, columns].map(short);
        let _ = writeln!(
            page,
            "| {name} | {events} | {rows} | {columns} | {a:.1} | {b:.1} | {together:.1} |"
        );
    }
    page
}

/// Rows per second of a core, and how many cores worked at once.
fn operator(program: &str, batch: &Batch) -> (f64, f64) {
    let mut running = built("vrl", Signal::Logs, &format!("source = '''\n{program}\n'''\n"));
    let (start, mut batches) = (Instant::now(), 0);
    let on_core = timed(ROWS, || {
        let mut out = Output::default();
        running.process(0, batch.clone(), &mut out).unwrap();
        assert_eq!(out.emitted[0].1.num_rows(), ROWS);
        black_box(out);
        batches += 1;
    });
    let by_the_clock = (batches * ROWS) as f64 / start.elapsed().as_secs_f64();
    (on_core, by_the_clock / on_core)
}

fn plain(program: &str, batch: &Batch) -> f64 {
    let program = compile(program, &vrl::stdlib::all()).unwrap().program;
    let timezone = TimeZone::parse("UTC").unwrap();
    timed(ROWS, || {
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

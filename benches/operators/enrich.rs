//! The `enrich` operator over a table of a million rows, by where its keys stand.

use std::fmt::Write;
use std::hint::black_box;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, Int64Array, RecordBatch, StringArray, TimestampNanosecondArray, UInt32Array,
};
use weir_pipeline::batch::{Batch, Keys, Run, TENANT};
use weir_pipeline::component::Output;
use weir_pipeline::config::{Input, Scope, Section};
use weir_pipeline::edge::Edge;
use weir_pipeline::entity::{Attribute, Entity, EntityTable, Origin, Value};
use weir_pipeline::lookup::{Content, Lookup};
use weir_pipeline::signal::Signal;

use crate::{short, timed};

/// Rows of the table.
const TABLE: usize = 1_000_000;
/// Rows of a batch, and batches that differ.
const ROWS: usize = 8_192;
const BATCHES: usize = 32;
/// Resources that the rows of a batch are of.
const ENTITIES: usize = 50;

/// The part of the page about it.
pub(super) fn page() -> String {
    let table = table();
    let mut page = format!(
        "## enrich\n\nA table of {TABLE} rows, two columns of which are added; {ROWS} rows at a time, \
         each with another key. Rows per second of a core.\n\n| key | rows |\n|---|---|\n"
    );
    let ways = [
        ("text of the row", "on = { user = \"name\" }", false),
        ("number of the row", "on = { id = \"id\" }", false),
        ("text and number", "on = { user = \"name\", id = \"id\" }", false),
        (
            "text, capitals make no difference",
            "on = { user = \"name\" }\nignore_case = true",
            false,
        ),
        ("address of the row in a network", "network = { address = \"network\" }", false),
        ("text of the resource", "on = { user = \"name\" }", true),
    ];
    for (name, keys, at_entity) in ways {
        let section =
            format!("lookup = \"t\"\n{keys}\ntake = {{ team = \"team\", tier = \"tier\" }}");
        let section = Section::parse_for_tests("t", &section);
        let input = Input { name: "in".into(), edge: Edge::open(Signal::Logs) };
        let lookups = Arc::new([("t".to_owned(), table.clone())].into());
        let scope = Scope::new(vec![input], ".".into()).with_lookups(lookups);
        let kind = weir_operators::ALL.iter().find(|k| k.name == "enrich").unwrap();
        let mut running = (kind.plan)(&section, &scope).unwrap().build();
        let batches: Vec<Batch> = (0..BATCHES).map(|n| batch(n, at_entity)).collect();
        let rate = timed(ROWS * BATCHES, || {
            for batch in &batches {
                let mut out = Output::default();
                running.process(0, batch.clone(), &mut out).unwrap();
                black_box(out);
            }
        });
        let _ = writeln!(page, "| {name} | {} |", short(rate));
    }
    page
}

fn name(n: usize) -> String {
    format!("user-{:07}", n * 7 % TABLE)
}

fn address(n: usize) -> String {
    format!("10.{}.{}.{}", (n >> 12) & 255, (n >> 4) & 255, (n & 15) << 4)
}

fn table() -> Arc<Lookup> {
    let all = |text: &dyn Fn(usize) -> String| -> ArrayRef {
        Arc::new(StringArray::from_iter_values((0..TABLE).map(text)))
    };
    let rows = RecordBatch::try_from_iter([
        ("name", all(&name)),
        ("id", Arc::new(Int64Array::from_iter_values((0..TABLE).map(|n| n as i64))) as ArrayRef),
        ("network", all(&|n| format!("{}/28", address(n)))),
        ("team", all(&|n| format!("team {}", n % 500))),
        ("tier", Arc::new(Int64Array::from_iter_values((0..TABLE).map(|n| n as i64 % 3)))),
    ]);
    Arc::new(Lookup::new(&Content::Rows(rows.unwrap()), b"a version").unwrap())
}

fn batch(nth: usize, at_entity: bool) -> Batch {
    let numbers = || (0..ROWS).map(|row| (nth * ROWS + row) * 7919 % TABLE);
    let text = |text: &dyn Fn(usize) -> String| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(numbers().map(text)))
    };
    let times = TimestampNanosecondArray::from_iter_values((0..ROWS).map(|n| n as i64));
    let mut columns: Vec<(&str, ArrayRef)> = vec![
        ("timestamp", Arc::new(times.with_timezone("UTC"))),
        ("body", text(&|n| format!("line {n}"))),
    ];
    let mut keys = None;
    if at_entity {
        let table = Arc::new(EntityTable::default());
        let entity = |n: usize| {
            let value = Value::Text(name(n).into());
            let name = Attribute { name: "user".into(), value, origin: Origin::Resource };
            table.intern(Entity::new(vec![name])).unwrap()
        };
        let of = numbers().map(|n| entity(n % ENTITIES));
        keys = Some(Keys { keys: UInt32Array::from_iter_values(of), table: table.clone() });
    } else {
        columns.push(("user", text(&name)));
        columns.push(("id", Arc::new(Int64Array::from_iter_values(numbers().map(|n| n as i64)))));
        columns.push(("address", text(&|n| address(n).replace(".0", ".1"))));
    }
    let rows = RecordBatch::try_from_iter(columns).unwrap();
    let run = Run { offset: 1, received: 0, source: "in".into(), rows: ROWS };
    Batch::new(Signal::Logs, TENANT.into(), rows, keys, [run].into()).unwrap()
}

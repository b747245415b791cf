//! Moves against the run row by row, on made-up batches.
#![allow(clippy::unwrap_used)]

use arrow::array::BooleanArray;
use proptest::prelude::*;
use weir_pipeline::config::Lookups;
use weir_pipeline::config::{Scope, Section};
use weir_pipeline::edge::Edge;
use weir_pipeline::entity;
use weir_pipeline::share::Pace;
use weir_pipeline::signal::Signal;

use super::super::program::{Compiled, compile};
use super::super::{entities, rows};
use super::*;
use crate::testing::{Row, batch, row};

const COLUMNS: [&str; 8] =
    ["a", "b", "b.c", "error", "error.type", "severity", "severity_number", "body"];

pub(in super::super) fn compiled(program: &str) -> Option<Compiled> {
    let section = Section::parse_for_tests("t", &format!("source = '''\n{program}'''\n"));
    let config: super::super::Config = section.read().ok()?;
    let text = section
        .text_or_file("source", config.source.as_ref(), None, &Scope::new(vec![], ".".into()))
        .ok()?;
    compile("t", text, &Edge::open(Signal::Logs), &Lookups::default())
        .ok()
        .map(|(compiled, _)| compiled)
}

/// Rows, entities and runs of what came out, with types and metadata of the columns.
pub(in super::super) fn shown(out: &Output) -> Vec<String> {
    let batch = |batch: &Batch| {
        let names = batch.names();
        format!("{:?}\n{:?}\n{:?}\n{names:?}", batch.rows(), batch.wide(), batch.runs())
    };
    let rejected = out.rejected.iter().map(|(b, e)| format!("{}\n{e:?}", batch(b)));
    let emitted = out.emitted.iter().map(|(name, b)| format!("{name}\n{}", batch(b)));
    emitted.chain(rejected).chain([format!("dropped {}", out.dropped)]).collect()
}

/// Runs `program` on columns if it can, and compares; whether it could. Then the same with the
/// first row alone, beside columns that have no value.
fn agree(program: &str, rows: &[Row]) -> bool {
    let Some(program) = compiled(program) else { return false };
    let all = batch(rows);
    let first = BooleanArray::from_iter((0..rows.len()).map(|i| Some(i == 0)));
    agree_on(&program, &all.filter(&first).unwrap());
    agree_on(&program, &all)
}

fn agree_on(program: &Compiled, batch: &Batch) -> bool {
    let (Some(flat), Some(moves)) = (&program.flat, &program.moves) else { return false };
    let mut fast = Output::default();
    let ran = flat.suits(batch)
        && !entities::suffices(program, batch)
        && process(moves, flat, &mut Entities::default(), batch, &mut fast).unwrap();
    if ran {
        let mut plain = Output::default();
        let with = (&mut Entities::default(), &mut Pace::default());
        rows::process(program, with, batch, &mut plain).unwrap();
        assert_eq!(shown(&fast), shown(&plain));
    }
    ran
}

fn value() -> impl Strategy<Value = entity::Value> {
    prop_oneof![
        "[a-c]{0,2}".prop_map(|s| entity::Value::Text(s.into())),
        (-3i64..3).prop_map(entity::Value::Int),
        prop_oneof![Just(0.5), Just(-0.0), Just(f64::NAN), Just(f64::INFINITY)]
            .prop_map(entity::Value::Double),
        any::<bool>().prop_map(entity::Value::Bool),
    ]
}

/// The values that a column may have: of one type in most, NULL in some rows.
fn cells(rows: usize) -> impl Strategy<Value = Vec<Option<entity::Value>>> {
    let one = (value(), prop::collection::vec(any::<bool>(), rows))
        .prop_map(|(v, has)| has.into_iter().map(|has| has.then(|| v.clone())).collect());
    prop_oneof![3 => one, 1 => prop::collection::vec(prop::option::of(value()), rows)]
}

pub(in super::super) fn input() -> impl Strategy<Value = Vec<Row>> {
    let column = || prop::option::of(cells(4));
    let columns = prop::collection::vec(column(), COLUMNS.len());
    (columns, prop::collection::vec(prop::option::of("[x-z]"), 4)).prop_map(|(columns, jobs)| {
        let made = (0..4).map(|i| {
            let mut made = row(i as i64);
            for (name, cells) in COLUMNS.iter().zip(&columns) {
                let Some(Some(value)) = cells.as_ref().map(|c| c[i].clone()) else { continue };
                // Canonical columns have their type.
                let fits = Signal::Logs.canonical_type(name);
                if fits.is_none_or(|kind| kind == value.data_type()) {
                    made = made.set(name, value);
                }
            }
            if let Some(job) = &jobs[i] {
                made = made.entity("job", job.as_str());
            }
            made
        });
        made.collect()
    })
}

pub(in super::super) fn statement() -> impl Strategy<Value = String> {
    let name = || {
        let mut names = COLUMNS.to_vec();
        names.extend(["job", "new", "timestamp", "observed_timestamp"]);
        prop::sample::select(names)
    };
    let literal = prop::sample::select(vec!["\"x\"", "s'y'", "5", "2.5", "true", "null"]);
    prop_oneof![
        4 => (name(), name()).prop_map(|(a, b)| format!(".{a} = del(.{b})")),
        2 => (name(), name()).prop_map(|(a, b)| format!(".{a} = .{b}")),
        2 => (name(), literal).prop_map(|(a, l)| format!(".{a} = {l}")),
        1 => name().prop_map(|a| format!("del(.{a})")),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn moves_are_what_rows_give(
        rows in input(),
        statements in prop::collection::vec(statement(), 1..4),
    ) {
        agree(&statements.join("\n"), &rows);
    }
}

#[test]
fn what_moves_is_moved_as_columns() {
    let first = row(1).set("a", "x").set("n", 1).set("http.request.method", "GET");
    let rows = [first.entity("job", "j"), row(2).entity("job", "k")];
    for program in [
        ".http.method = del(.http.request.method)\n.http.code = del(.http.response.code)",
        ".c = del(.a)\n.d = del(.n)",
        ".severity = del(.a)",
        ".severity_number = .n",
        ".x = del(.job)\n.severity_number = 9",
        "del(.a)",
        "del(.timestamp)",
        ".a = .n\n.n = null\ndel(.n)",
        ".x = \"a\"; .severity = .x",
    ] {
        assert!(agree(program, &rows), "{program}");
    }
}

#[test]
fn what_rows_know_better_is_left_to_rows() {
    let rows = [row(1).set("a.b", "x").set("nan", f64::NAN).set("t", "x").set("n", 1)];
    for program in [
        // An object of columns; text of a time; a type that does not fit; text of a number.
        ".x = del(.a)",
        ".x = .timestamp",
        ".severity_number = .t",
        ".severity_number = \"x\"",
        ".severity = .n",
        ".x = .nan",
        ".x = .t\n.x.y = 1",
        ".x = upcase!(.t)",
        ".x = del(.t, true)",
        ".x = %source",
        "if true { del(.t) }",
        ".x = .t[0]",
    ] {
        assert!(!agree(program, &rows), "{program}");
        assert!(compiled(program).is_some(), "{program}");
    }
}

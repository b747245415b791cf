//! The run on columns against the plain run: on made-up programs, and on the examples that come
//! with the functions of VRL.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::super::moves::tests::{compiled, input, shown, statement};
use super::super::{functions, rows};
use super::*;
use crate::testing::{Row, batch, row};

/// Runs `program` in all ways and compares; whether it can run on columns.
#[track_caller]
fn agree(program: &str, rows: &[Row]) -> bool {
    let Some(compiled) = compiled(program) else { return false };
    let batch = batch(rows);
    let Some(flat) = compiled.flat.as_ref().filter(|flat| flat.suits(&batch)) else { return false };
    let run = |threads, process: &dyn Fn((&mut Entities, &mut Pace), &mut Output)| {
        let mut out = Output { now: 1_700_000_000_000_000_000, ..Output::default() };
        process((&mut Entities::default(), &mut Pace::for_tests(threads)), &mut out);
        shown(&out)
    };
    let plain = run(1, &|with, out| rows::process(&compiled, with, &batch, out).unwrap());
    for threads in [1, 3] {
        let rows = run(threads, &|with, out| rows::process(&compiled, with, &batch, out).unwrap());
        assert_eq!(rows, plain, "{program}");
        let each = |with: (&mut _, &mut _), out: &mut _| {
            process_as(&compiled, flat, None, with, &batch, out).unwrap();
        };
        assert_eq!(run(threads, &each), plain, "{program}");
        let distinct = |with: (&mut _, &mut _), out: &mut _| {
            process(&compiled, flat, with, &batch, out).unwrap();
        };
        assert_eq!(run(threads, &distinct), plain, "{program}");
    }
    true
}

fn step() -> impl Strategy<Value = String> {
    let name = || {
        let names = vec!["a", "b", "error", "severity", "severity_number", "body", "job", "new"];
        prop::sample::select(names)
    };
    let value = prop_oneof![
        name().prop_map(|n| format!(".{n}")),
        name().prop_map(|n| format!("(upcase(.{n}) ?? .{n})")),
        name().prop_map(|n| format!("downcase!(.{n})")),
        name().prop_map(|n| format!("{{\"x\": .{n}, \"y\": {{\"z\": 1}}, \"p.q\": null}}")),
        name().prop_map(|n| format!("[.{n}, {{\"x\": 1}}]")),
        name().prop_map(|n| format!("exists(.{n})")),
        name().prop_map(|n| format!("(parse_json(.{n}) ?? {{}})")),
        Just("{}".to_owned()),
        Just("uuid_v4()".to_owned()),
        Just("%received".to_owned()),
    ];
    let act = prop_oneof![
        4 => (name(), value).prop_map(|(a, v)| format!(".{a} = {v}")),
        2 => statement(),
        1 => name().prop_map(|a| format!(".{a}[1] = 5")),
        1 => name().prop_map(|a| format!("del(.{a}[0], true)")),
        1 => name().prop_map(|a| format!(".new = .{a}[0]")),
        1 => Just("abort".to_owned()),
    ];
    prop_oneof![
        3 => act.clone(),
        1 => (name(), act.clone()).prop_map(|(n, act)| format!("if .{n} == \"a\" {{ {act} }}")),
        1 => (name(), act).prop_map(|(n, act)| format!("if is_null(.{n}) {{ {act} }}")),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn columns_are_what_rows_give(
        rows in input(),
        repeated in prop::collection::vec(0usize..4, 1..12),
        steps in prop::collection::vec(step(), 1..5),
    ) {
        let rows: Vec<Row> = repeated.into_iter().map(|i| rows[i].clone()).collect();
        agree(&steps.join("\n"), &rows);
    }
}

#[test]
fn columns_are_what_rows_give_in_known_cases() {
    let make = |i: i64, v: &str, job: &str| row(i).set("v", v).set("n", i).entity("job", job);
    let rows = [
        make(0, r#"{"a": {"b": 1}, "c": [1]}"#, "x"),
        make(1, "no", "y"),
        make(2, r#"{"a": 2.5, "d": "t"}"#, "x"),
        make(3, "no", "y"),
        make(3, r#"{"a": {"b": 1}, "c": [1]}"#, "x"),
    ];
    for program in [
        ".p = parse_json!(.v)",
        ".p = parse_json(.v) ?? null",
        ".p = {\"a\": 1}; .p = 5; .q = .p; del(.p); .r = .p",
        ".p = {\"a\": 1}; .p = {\"b\": .n}; del(.p)",
        ".p = {\"a.b\": 1, \"a\": {\"c\": 2}}; .q = .p",
        ".severity = upcase!(.v); .job = downcase!(.job)",
        ".severity_number = .v",
        ".severity = {\"x\": 1}",
        "if .v == \"no\" { .n = 7 }",
        "if .v == \"no\" { .n = \"text\" }",
        "if .v == \"no\" { abort }; .u = uuid_v4()",
        ".n, .e = to_int(.v)",
        ".n = del(.v); .v[2] = .job",
        ".s = %source; .p = %position; .t = now()",
    ] {
        assert!(agree(program, &rows), "{program}");
    }
}

/// `source` with its first text taken from the column `v` instead, and the text.
fn from_column(source: &str) -> Option<(String, String)> {
    let (open, quote) = source
        .match_indices("s'")
        .map(|(at, _)| (at, "'"))
        .chain(source.match_indices('"').map(|(at, _)| (at, "\"")))
        .min()?;
    let start = open + if quote == "'" { 2 } else { 1 };
    let end = start + source[start..].find(quote)?;
    let text = source[start..end].to_owned();
    let program = format!("{}string!(.v){}", &source[..open], &source[end + 1..]);
    (!text.contains('\\')).then_some((program, text))
}

#[test]
fn examples_of_functions_give_the_same_in_all_ways() {
    let (mut whole, mut taken) = (0, 0);
    let names: Vec<&str> = functions::all().iter().map(|f| f.identifier()).collect();
    let examples = vrl::stdlib::all().into_iter().filter(|f| names.contains(&f.identifier()));
    for source in examples.flat_map(|f| f.examples().iter().map(|e| e.source)) {
        let rows = |text: &'static str| {
            let of = |i: i64, text: &str| row(i).set("v", text).set("foo", text).entity("job", "j");
            [of(0, text), of(1, "other"), of(2, text), row(3).set("k", i64::MAX), of(3, "")]
        };
        whole += usize::from(agree(&format!(".out = {{\n{source}\n}}\n"), &rows("text")));
        if let Some((program, text)) = from_column(source) {
            let program = format!(".out = {{\n{program}\n}}\n");
            taken += usize::from(agree(&program, &rows(Box::leak(text.into_boxed_str()))));
        }
    }
    assert!(whole > 400 && taken > 200, "{whole} and {taken}");
}

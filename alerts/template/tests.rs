#![allow(clippy::unwrap_used)]

use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{Float64Array, Int64Array, RecordBatch, StringArray, TimestampNanosecondArray};
use arrow::datatypes::{DataType, Field, Schema};
use weir_pipeline::batch::{Run, TENANT};
use weir_pipeline::diagnostic::{SourceText, Span};
use weir_pipeline::signal::{Signal, timestamp};

use super::*;

fn edge() -> Edge {
    let columns = [
        ("timestamp", timestamp()),
        ("service.name", DataType::Utf8),
        ("errors", DataType::Int64),
        ("ratio", DataType::Float64),
    ];
    let columns = columns.into_iter().map(|(n, t)| (n.to_owned(), Some(t))).collect();
    Edge { signal: Signal::named("window"), columns, open: false }
}

fn batch() -> Batch {
    let fields = edge().columns.into_iter().map(|(n, t)| Field::new(n, t.unwrap(), true));
    let schema = Schema::new(fields.collect::<Vec<_>>());
    let arrays: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from(vec![Some(1_572_864), None])),
        Arc::new(Float64Array::from(vec![0.0525, f64::NAN])),
        Arc::new(StringArray::from(vec![Some("cart"), None])),
        Arc::new(
            TimestampNanosecondArray::from(vec![1_700_000_000_000_000_000, 0]).with_timezone("UTC"),
        ),
    ];
    let rows = RecordBatch::try_new(Arc::new(schema), arrays).unwrap();
    let run = Run { offset: 1, received: 0, source: "t".into(), rows: 2 };
    Batch::new(Signal::named("window"), TENANT.into(), rows, None, [run].into()).unwrap()
}

fn text(template: &str) -> Text {
    let file = Arc::new(SourceText { path: "p.toml".into(), text: template.to_owned() });
    let span = Span { file, range: 0..template.len() };
    Text { text: template.to_owned(), span, exact: true }
}

fn parse(template: &str) -> Result<Template, Diagnostics> {
    Template::parse(&text(template), &edge(), &Scope::new(Vec::new(), PathBuf::new()))
}

fn check(template: &str, expect: [&str; 2]) {
    let parsed = parse(template).map_err(|e| e.to_string()).unwrap();
    assert_eq!(parsed.render(&batch()), expect, "{template}");
}

#[test]
fn renders() {
    check("plain } { text", ["plain } { text", "plain } { text"]);
    check("{{ service.name }}: {{errors}} errors", ["cart: 1572864 errors", "null: null errors"]);
    check("{{ errors | bytes }}", ["1.5 MiB", "null"]);
    check("{{ ratio | percent }}", ["5.25 %", "NaN %"]);
    check("{{ ratio | round(2) }}", ["0.05", "NaN"]);
    check("{{ errors * 1000 | duration }}", ["1.57s", "null"]);
    check("{{ errors | duration('s') }}", ["18d 4h", "null"]);
    check("{{ timestamp }}", ["2023-11-14T22:13:20Z", "1970-01-01T00:00:00Z"]);
    check(
        "{{ timestamp | time('Europe/Berlin') }}",
        ["2023-11-14 23:13:20 CET", "1970-01-01 01:00:00 CET"],
    );
    check("{{ service.name | json }}", ["\"cart\"", "null"]);
    check("{{ service.name || '}}|' }}", ["cart}}|", "null"]);
    check("{{ coalesce(service.name, 'a | b') }}", ["cart", "a | b"]);
}

#[test]
fn what_fails_renders_in_its_place() {
    let parsed = parse("a {{ service.name | bytes }} b {{ 1 / (errors - 1572864) }} c").unwrap();
    let rendered = parsed.render(&batch());
    assert!(rendered[0].starts_with("a <error: bytes of `cart`> b <error: "), "{rendered:?}");
    assert!(rendered[0].ends_with("> c"), "{rendered:?}");
    assert_eq!(rendered[1], "a null b null c");
}

#[test]
fn mistakes_are_named_at_their_place() {
    for (template, expect, column) in [
        ("{{ errors", "does not end", 1),
        ("a {{ }}", "empty expression", 5),
        ("{{ $labels.job }}", "write `{{ job }}`", 4),
        ("x {{ $value }}", "name the column", 6),
        ("{{ .Labels.job }}", "write `{{ job }}`", 4),
        ("{{ $job }}", "`{{ job }}`", 4),
        ("{{ erors }}", "errors", 4),
        ("{{ errors | byte }}", "did you mean `bytes`?", 13),
        ("{{ errors | bytes(1) }}", "takes no argument", 13),
        ("{{ errors | duration('x') }}", "is no unit", 13),
        ("{{ timestamp | time('Nowhere/X') }}", "no time zone", 16),
        ("{{ errors | round(99) }}", "decimals", 13),
        ("{{ errors | round(1 }}", "not closed", 13),
    ] {
        let problems = parse(template).unwrap_err();
        assert!(problems.to_string().contains(expect), "{template}: {problems}");
        let (_, at) = problems.0[0].span.as_ref().unwrap().line_column();
        // The mistake is where it stands, or within it.
        assert!(at >= column && at < column + 8, "{template}: {at}");
    }
    let all = parse("{{ $value }} {{ errors | x }} {{ nope }}").unwrap_err();
    assert_eq!(all.0.len(), 3);
}

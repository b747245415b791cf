#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::util::pretty::pretty_format_batches;
use futures::executor::block_on;
use weir_pipeline::component::{LookupKind, Services};
use weir_pipeline::config::{Scope, Section};
use weir_pipeline::lookup::{Content, LookupPlan};

use super::*;

fn planned(
    kind: &LookupKind,
    folder: &Path,
    text: &str,
) -> Result<Box<dyn LookupPlan>, Diagnostics> {
    let section = Section::parse_for_tests("hosts", text);
    (kind.plan)(&section, &Scope::new(Vec::new(), folder.to_owned()))
}

/// The types and rows of a file, or what is wrong with it.
#[track_caller]
fn check(name: &str, bytes: &[u8], keys: &str, expected: &str) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join(name), bytes).unwrap();
    let plan = planned(&file::KIND, folder.path(), &format!("file = \"{name}\"\n{keys}")).unwrap();
    let got = match block_on(plan.read(&Services::default())) {
        Ok(Content::Rows(rows)) => shown(&rows),
        Ok(Content::MaxMind(_)) => "a MaxMind database".to_owned(),
        Err(why) => why.replace(&format!("{}/", folder.path().display()), ""),
    };
    assert_eq!(got.trim(), expected.trim(), "{got}");
}

fn shown(rows: &RecordBatch) -> String {
    let schema = rows.schema();
    let types: Vec<String> =
        schema.fields().iter().map(|f| format!("{} {}", f.name(), f.data_type())).collect();
    format!("{}\n{}", types.join(", "), pretty_format_batches(std::slice::from_ref(rows)).unwrap())
}

#[test]
fn csv_loses_nothing() {
    check(
        "a.csv",
        b"id,zip,version,share,up,note\n1,007,1.10,0.5,true,\"a, b\"\n2,123,2,12,false,\n",
        "",
        "id Int64, zip Utf8, version Utf8, share Float64, up Boolean, note Utf8
+----+-----+---------+-------+-------+------+
| id | zip | version | share | up    | note |
+----+-----+---------+-------+-------+------+
| 1  | 007 | 1.10    | 0.5   | true  | a, b |
| 2  | 123 | 2       | 12.0  | false |      |
+----+-----+---------+-------+-------+------+",
    );
}

#[test]
fn csv_has_the_types_that_were_asked_for() {
    check(
        "a.tsv",
        b"price\tfrom\n1.10\t2026-01-31\n\t2026-01-31T12:00:00+01:00\n",
        "types = { price = \"double\", from = \"time\" }",
        "price Float64, from Timestamp(ns, \"UTC\")
+-------+----------------------+
| price | from                 |
+-------+----------------------+
| 1.1   | 2026-01-31T00:00:00Z |
|       | 2026-01-31T11:00:00Z |
+-------+----------------------+",
    );
    check(
        "a.csv",
        b"n\n1\nx\n",
        "types = { n = \"int\" }",
        "`a.csv`: column `n`: `x` in row 2 is no int",
    );
    check("a.csv", b"n,n\n1,2\n", "", "`a.csv`: column `n` is there twice");
    check("a.csv", b"", "", "`a.csv` is empty");
}

#[test]
fn ndjson_has_dotted_columns() {
    check(
        "a.ndjson",
        b"{\"name\":\"a\",\"owner\":{\"team\":\"x\",\"n\":1}}\n\n{\"name\":\"b\",\"tags\":[1]}\n",
        "",
        "name Utf8, owner.n Int64, owner.team Utf8, tags Utf8
+------+---------+------------+------+
| name | owner.n | owner.team | tags |
+------+---------+------------+------+
| a    | 1       | x          |      |
| b    |         |            | [1]  |
+------+---------+------------+------+",
    );
    check(
        "a.ndjson",
        b"{\"a\":1}\n{\"a\":\n",
        "",
        "`a.ndjson`: line 2: EOF while parsing a value at line 1 column 5",
    );
}

#[test]
fn parquet_becomes_plain() {
    use arrow::array::{Date32Array, Int32Array, ListArray, StringArray};
    use arrow::datatypes::Int64Type;
    let list = ListArray::from_iter_primitive::<Int64Type, _, _>([Some([Some(1), None]), None]);
    let rows = RecordBatch::try_from_iter([
        ("n", Arc::new(Int32Array::from(vec![1, 2])) as arrow::array::ArrayRef),
        ("day", Arc::new(Date32Array::from(vec![Some(20_484), None]))),
        ("s", Arc::new(StringArray::from(vec!["x", "y"]))),
        ("l", Arc::new(list)),
    ])
    .unwrap();
    let mut bytes = Vec::new();
    let mut writer = parquet::arrow::ArrowWriter::try_new(&mut bytes, rows.schema(), None).unwrap();
    writer.write(&rows).unwrap();
    writer.close().unwrap();
    check(
        "a.parquet",
        &bytes,
        "",
        "n Int64, day Timestamp(ns, \"UTC\"), s Utf8, l Utf8
+---+----------------------+---+----------+
| n | day                  | s | l        |
+---+----------------------+---+----------+
| 1 | 2026-01-31T00:00:00Z | x | [1,null] |
| 2 |                      | y |          |
+---+----------------------+---+----------+",
    );
}

#[test]
fn an_answer_is_an_array_somewhere_or_lines() {
    let count = |body: &str, pointer: &str| {
        http_json::rows(body.as_bytes(), pointer).map(|rows| rows.num_rows())
    };
    assert_eq!(count("[{\"a\":1},{\"a\":2}]", ""), Ok(2));
    assert_eq!(count("{\"a\":1}\n{\"a\":2}\n{\"a\":3}", ""), Ok(3));
    assert_eq!(count("{\"data\":{\"items\":[{\"a\":1}]}}", "/data/items"), Ok(1));
    assert_eq!(count("{\"a\":1}", "/b").unwrap_err(), "nothing is at `/b`");
    assert_eq!(count("[1]", "").unwrap_err(), "row 1 is no object");
    // The rows stay in the order in which they are given.
    let rows = http_json::rows(b"[{\"a\":2},{\"a\":1}]", "").unwrap();
    assert_eq!(rows.column(0).as_ref(), &arrow::array::Int64Array::from(vec![2, 1]));
}

#[test]
fn no_digit_is_lost() {
    check(
        "a.ndjson",
        b"{\"id\":9007199254740993,\"big\":18446744073709551615,\"share\":0.1}\n\
          {\"id\":-1,\"big\":7,\"share\":0.12345678901234567890}\n",
        "",
        "big Utf8, id Int64, share Utf8
+----------------------+------------------+-----------------------+
| big                  | id               | share                 |
+----------------------+------------------+-----------------------+
| 18446744073709551615 | 9007199254740993 | 0.1                   |
| 7                    | -1               | 0.1234567890123456789 |
+----------------------+------------------+-----------------------+",
    );
    use arrow::array::{ArrayRef, Decimal128Array, UInt64Array};
    let decimals = |values: Vec<i128>, scale| -> ArrayRef {
        Arc::new(Decimal128Array::from(values).with_precision_and_scale(38, scale).unwrap())
    };
    let rows = RecordBatch::try_from_iter([
        ("price", decimals(vec![150, 1999], 2)),
        ("id", decimals(vec![9_007_199_254_740_993, 5], 0)),
        ("wide", decimals(vec![12_345_678_901_234_567_890_123, 10], 1)),
        ("count", Arc::new(UInt64Array::from(vec![3, 4])) as ArrayRef),
    ])
    .unwrap();
    assert_eq!(
        shown(&plain::plain(&rows).unwrap()).trim(),
        "price Float64, id Int64, wide Utf8, count Int64
+-------+------------------+--------------------------+-------+
| price | id               | wide                     | count |
+-------+------------------+--------------------------+-------+
| 1.5   | 9007199254740993 | 1234567890123456789012.3 | 3     |
| 19.99 | 5                | 1                        | 4     |
+-------+------------------+--------------------------+-------+"
    );
}

#[test]
fn mistakes_are_said_at_their_place() {
    let folder = tempfile::tempdir().unwrap();
    let said = |kind: &LookupKind, text: &str| {
        planned(kind, folder.path(), text).map(|_| ()).unwrap_err().to_string()
    };
    assert!(said(&file::KIND, "file = \"a.xlsx\"").contains("expected `format`"));
    let short = "url = \"http://a/\"\nrefresh = \"1ms\"";
    assert!(said(&http_json::KIND, short).contains("expected 1s at least"));
    assert!(said(&http_json::KIND, "url = \"ftp://a/\"").contains("no URL that can be asked"));
    assert!(said(&sql::KIND, "refresh = \"1m\"").contains("query"));
}

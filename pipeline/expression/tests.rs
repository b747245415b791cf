#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray, StructArray,
    TimestampNanosecondArray, UInt32Array,
};
use arrow::datatypes::{DataType, Field, Fields, Schema};
use arrow::util::display::array_value_to_string;
use proptest::prelude::*;

use super::*;
use crate::batch::{Keys, Run, TENANT};
use crate::diagnostic::{SourceText, Span};
use crate::entity::{Attribute, Entity, EntityTable, Origin, Value};
use crate::signal::Signal;

fn text(sql: &str) -> Text {
    let before = "where = '";
    let file = Arc::new(SourceText { path: "x.toml".into(), text: format!("{before}{sql}'\n") });
    let range = before.len()..before.len() + sql.len();
    Text { text: sql.to_owned(), span: Span { file, range }, exact: true }
}

fn scope() -> Scope {
    Scope::new(Vec::new(), PathBuf::new())
}

fn open() -> Edge {
    Edge::open(Signal::Logs)
}

fn entity(attributes: &[(&str, Value)]) -> Entity {
    let attribute = |(name, value): &(&str, Value)| Attribute {
        name: (*name).into(),
        value: value.clone(),
        origin: Origin::Resource,
    };
    Entity::new(attributes.iter().map(attribute).collect())
}

fn batch(columns: Vec<(&str, ArrayRef)>, entities: Vec<Entity>) -> Batch {
    let rows = columns.first().map_or(entities.len(), |c| c.1.len());
    let fields: Vec<Field> =
        columns.iter().map(|(n, a)| Field::new(*n, a.data_type().clone(), true)).collect();
    let arrays = columns.into_iter().map(|c| c.1).collect();
    let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(rows));
    let record =
        RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), arrays, &options).unwrap();
    let keys = (!entities.is_empty()).then(|| {
        let table = Arc::new(EntityTable::default());
        let keys = entities.into_iter().map(|e| table.intern(e).unwrap());
        Keys { keys: UInt32Array::from_iter_values(keys), table }
    });
    let run = Run { offset: 1, received: 0, source: "t".into(), rows };
    Batch::new(Signal::Logs, TENANT.into(), record, keys, [run].into()).unwrap()
}

fn strings(values: &[Option<&str>]) -> ArrayRef {
    Arc::new(StringArray::from(values.to_vec()))
}

fn ints(values: &[Option<i64>]) -> ArrayRef {
    Arc::new(Int64Array::from(values.to_vec()))
}

fn show(array: &ArrayRef) -> Vec<String> {
    (0..array.len())
        .map(|i| match array.is_null(i) {
            true => "NULL".to_owned(),
            false => array_value_to_string(array, i).unwrap(),
        })
        .collect()
}

fn sample() -> Batch {
    let time: ArrayRef = Arc::new(
        TimestampNanosecondArray::from(vec![0, 1_000_000_000, 60_000_000_000]).with_timezone("UTC"),
    );
    batch(
        vec![
            ("timestamp", time),
            ("severity", strings(&[Some("ERROR"), Some("INFO"), None])),
            ("http.status", ints(&[Some(500), Some(200), None])),
            ("latency", strings(&[Some("12.5"), Some("7"), Some("slow")])),
            ("Latency", strings(&[Some("a"), Some("b"), Some("c")])),
            (
                "attributes",
                strings(&[Some(r#"{"rare.key":5}"#), Some(r#"{"http.status":"x"}"#), None]),
            ),
        ],
        vec![
            entity(&[("service.name", Value::Text("shop".into())), ("replica", Value::Int(1))]),
            entity(&[("service.name", Value::Text("cart".into()))]),
            entity(&[("service.name", Value::Text("shop".into())), ("replica", Value::Int(2))]),
        ],
    )
}

#[track_caller]
fn check(sql: &str, expect: &[&str]) {
    let expression =
        Expression::parse(&text(sql), &open(), &scope()).unwrap_or_else(|e| panic!("{sql}: {e}"));
    let values = expression.evaluate(&sample()).unwrap_or_else(|e| panic!("{sql}: {e}"));
    assert_eq!(show(&values), expect, "{sql}");
}

#[test]
fn names() {
    check("severity", &["ERROR", "INFO", "NULL"]);
    check("service.name", &["shop", "cart", "shop"]);
    check("\"service.name\"", &["shop", "cart", "shop"]);
    check("Latency", &["a", "b", "c"]);
    check("nowhere.to.be.seen", &["NULL", "NULL", "NULL"]);
    check("user.id IS NULL AND order.group IS NULL", &["true", "true", "true"]);
    check("rare.key", &["5", "NULL", "NULL"]);
    check("http.status", &["500", "200", "NULL"]);
    check("replica + 1", &["2", "NULL", "3"]);
    check("UPPER(service.name)", &["SHOP", "CART", "SHOP"]);
}

#[test]
fn text_and_numbers() {
    check("latency > 10", &["true", "false", "NULL"]);
    check("http.status >= '300'", &["true", "false", "NULL"]);
    check("latency * 2", &["25.0", "14.0", "NULL"]);
    check("latency + latency", &["25.0", "14.0", "NULL"]);
    check("-latency", &["-12.5", "-7.0", "NULL"]);
    check("latency BETWEEN 7 AND 8", &["false", "true", "NULL"]);
    check("latency IN (7, 8)", &["false", "true", "NULL"]);
    check("http.status IN ('500')", &["true", "false", "NULL"]);
    check("http.status LIKE '5%'", &["true", "false", "NULL"]);
    check("http.status ~ '^2'", &["false", "true", "NULL"]);
    check("abs(latency)", &["12.5", "7.0", "NULL"]);
    check("upper(http.status)", &["500", "200", "NULL"]);
    check("nowhere > 5 OR severity = 'INFO'", &["NULL", "true", "NULL"]);
    check("coalesce(nowhere, 'x')", &["x", "x", "x"]);
    check("nowhere + 1", &["NULL", "NULL", "NULL"]);
    check("NOT nowhere", &["NULL", "NULL", "NULL"]);
    check("CASE WHEN http.status >= 500 THEN 'bad' ELSE 'good' END", &["bad", "good", "good"]);
    check("length(severity)", &["5", "4", "NULL"]);
    check("json_get_int(attributes, 'rare.key')", &["5", "NULL", "NULL"]);
    check(
        "timestamp >= '1970-01-01T00:00:01Z' AND timestamp < to_timestamp(2)",
        &["false", "true", "false"],
    );
    check(
        "date_trunc('minute', timestamp)",
        &["1970-01-01T00:00:00Z", "1970-01-01T00:00:00Z", "1970-01-01T00:01:00Z"],
    );
    check("extract(second FROM timestamp)", &["0", "1", "0"]);
    check("timestamp + INTERVAL '5 seconds' > '1970-01-01T00:00:30Z'", &["false", "false", "true"]);
}

#[test]
fn struct_fields() {
    let fields = Fields::from(vec![Field::new("count", DataType::Int64, true)]);
    let edge = Edge {
        signal: Signal::named("x"),
        columns: [
            ("histogram".to_owned(), Some(DataType::Struct(fields.clone()))),
            ("name".to_owned(), Some(DataType::Utf8)),
        ]
        .into(),
        open: true,
    };
    let parse = |sql: &str| Expression::parse(&text(sql), &edge, &scope()).unwrap();
    let count = parse("histogram.count * 2");
    assert_eq!(count.columns(), ["histogram"]);
    let array: ArrayRef = Arc::new(StructArray::new(fields, vec![ints(&[Some(4)])], None));
    let values = count.evaluate(&batch(vec![("histogram", array)], vec![])).unwrap();
    assert_eq!(show(&values), ["8"]);
    // A known column that is no struct does not take the rest of a longer name.
    assert_eq!(parse("name.first = 'x'").columns(), ["name.first"]);
    assert_eq!(parse("histogram.else").columns(), ["histogram.else"]);
}

#[track_caller]
fn mistake(sql: &str, edge: &Edge, expect: &[&str]) {
    let e = match Expression::condition(&text(sql), edge, &scope()) {
        Ok(_) => panic!("no mistake in {sql}"),
        Err(e) => e.to_string(),
    };
    for part in expect {
        assert!(e.contains(part), "no `{part}` in:\n{e}");
    }
}

#[test]
fn mistakes() {
    let closed = Edge {
        signal: Signal::named("window"),
        columns: [("errors".to_owned(), Some(DataType::Int64))].into(),
        open: false,
    };
    mistake("errors >", &closed, &["W301", "x.toml:1:18", "found the end"]);
    mistake("errors > > 5", &closed, &["W301", "x.toml:1:19"]);
    mistake("errors > 5 errors", &closed, &["expected the end", "x.toml:1:21"]);
    mistake("'abc", &closed, &["W301"]);
    mistake("", &closed, &["W301"]);
    mistake(
        "eror > 5",
        &closed,
        &["W030", "x.toml:1:10", "did you mean `errors`?", "^^^^\n"].map(|s| s.trim_end()),
    );
    mistake("now() > timestamp", &open(), &["W305", "`now` is not repeatable"]);
    mistake("random() > 0.5", &open(), &["W305"]);
    mistake("uuid() = 'x'", &open(), &["W305"]);
    mistake("timestamp > current_timestamp", &open(), &["W305"]);
    mistake("timestamp > current_date", &open(), &["W305"]);
    mistake("count(*) > 5", &open(), &["W305", "aggregate outside a window: `count`"]);
    mistake("sum(errors) OVER () > 5", &closed, &["W305", "OVER"]);
    mistake("errors > (SELECT 1)", &closed, &["W305", "subquer"]);
    mistake("EXISTS (SELECT 1)", &closed, &["W305"]);
    mistake("uper(severity) = 'X'", &open(), &["W304", "did you mean `upper`?"]);
    mistake("errors + 1", &closed, &["W307", "a whole number"]);
    mistake("errors AND true", &closed, &["W306"]);
    mistake("upper(severity, 1) = 'X'", &open(), &["W306"]);
    mistake("\"a\".\"b\" = 1", &open(), &["W302", "write \"a.b\""]);
    mistake("user = 'x'", &open(), &["write \"user\" in quotes"]);
    mistake("errors > ?", &closed, &["W30"]);
    mistake("@@x = 1", &closed, &["W030"]);
    mistake(&format!("{}1{} = 1", "(".repeat(5000), ")".repeat(5000)), &closed, &["W301"]);
    mistake(&format!("1 = 1 {}", "OR 1 = 1 ".repeat(5000)), &closed, &["W301", "tokens"]);
}

#[test]
fn long_conditions_are_planned() {
    let sql = format!("1 = 2{}", " OR severity = 'x'".repeat(490));
    let e = Expression::condition(&text(&sql), &open(), &scope()).unwrap();
    assert_eq!(e.mask(&sample()).unwrap().true_count(), 0);
    let sum = |n: usize| format!("1{} > 0", " + severity_number".repeat(n));
    assert!(Expression::condition(&text(&sum(100)), &open(), &scope()).is_ok());
    mistake(&sum(900), &open(), &["W301", "too deeply"]);
    // Left to right, as written: the division is guarded.
    let guarded =
        format!("http.status <> 200{} AND 1 / (http.status - 200) < 1", " AND true".repeat(9));
    check(&guarded, &["true", "false", "NULL"]);
}

#[test]
fn near_names_of_open_edges_warn() {
    let scope = scope();
    Expression::parse(&text("severty = 'ERROR' AND http.route = '/x'"), &open(), &scope).unwrap();
    let warnings = scope.take_warnings();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert_eq!(warnings[0].code, "W031");
}

#[test]
fn types_known_before_running() {
    let t =
        |sql: &str| Expression::parse(&text(sql), &open(), &scope()).unwrap().data_type().cloned();
    assert_eq!(t("http.status > 5"), Some(DataType::Boolean));
    assert_eq!(t("severity_number + 1"), Some(DataType::Int64));
    assert_eq!(t("length(anything)"), Some(DataType::Int64));
    assert_eq!(t("service.name"), None);
    assert_eq!(t("timestamp"), Some(crate::signal::timestamp()));
}

#[test]
fn rows_that_fail_are_named_and_others_kept() {
    let zero = ints(&[Some(1), Some(0), None, Some(4), Some(0)]);
    let b = batch(vec![("x", zero)], vec![]);
    let e = Expression::parse(&text("8 / x"), &open(), &scope()).unwrap();
    let err = e.evaluate(&b).unwrap_err();
    assert_eq!(err.reason, "divide by zero error");
    assert_eq!(err.place.as_deref(), Some("x.toml:1:10"));
    let evaluated = e.evaluate_each(&b).unwrap();
    assert_eq!(show(&evaluated.values), ["8", "NULL", "NULL", "2", "NULL"]);
    let rows: Vec<usize> = evaluated.errors.iter().map(|e| e.0).collect();
    assert_eq!(rows, [1, 4]);
}

#[test]
fn entity_values_are_kept_and_extended() {
    let e = Expression::parse(&text("upper(service.name) = 'SHOP'"), &open(), &scope()).unwrap();
    let table = Arc::new(EntityTable::default());
    let mut all = Vec::new();
    for i in 0..5 {
        let name = if i % 2 == 0 { "shop" } else { "cart" };
        let attributes = [("service.name", Value::Text(name.into())), ("i", Value::Int(i))];
        all.push(table.intern(entity(&attributes)).unwrap());
        let keys = UInt32Array::from(all.clone());
        let rows = all.len();
        let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(rows));
        let record =
            RecordBatch::try_new_with_options(Arc::new(Schema::empty()), vec![], &options).unwrap();
        let run = Run { offset: 1, received: 0, source: "t".into(), rows };
        let keys = Some(Keys { keys, table: table.clone() });
        let b = Batch::new(Signal::Logs, TENANT.into(), record, keys, [run].into()).unwrap();
        assert!(e.by_entity(&b));
        let expect: Vec<Option<bool>> = (0..rows).map(|r| Some(r % 2 == 0)).collect();
        assert_eq!(e.mask(&b).unwrap().iter().collect::<Vec<_>>(), expect);
    }
}

const EXPRESSIONS: [&str; 9] = [
    "a = 'x'",
    "a > 1",
    "coalesce(a, b)",
    "a + b",
    "upper(a)",
    "8 / b",
    "a = b OR b IS NULL",
    "CASE WHEN b > 1 THEN a END",
    "nowhere = 1 OR a LIKE '1%'",
];

fn value() -> impl Strategy<Value = Option<Value>> {
    prop_oneof![
        Just(None),
        (-2i64..3).prop_map(|i| Some(Value::Int(i))),
        (-2i64..3).prop_map(|i| Some(Value::Double(i as f64 / 2.0))),
        "[x1]{1,2}".prop_map(|s| Some(Value::Text(s.into()))),
        any::<bool>().prop_map(|b| Some(Value::Bool(b))),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// What is kept per entity is what each row alone gives.
    #[test]
    fn by_entity_is_row_by_row(
        values in proptest::collection::vec((value(), value()), 1..8),
        uniform in any::<bool>(),
        sql in proptest::sample::select(EXPRESSIONS.to_vec()),
        rows in proptest::collection::vec(0usize..8, 1..20),
    ) {
        let values: Vec<(Option<Value>, Option<Value>)> = if uniform {
            values.into_iter().map(|(a, b)| {
                (a.filter(|v| matches!(v, Value::Text(_))), b.filter(|v| matches!(v, Value::Int(_))))
            }).collect()
        } else {
            values
        };
        let table = Arc::new(EntityTable::default());
        let keys: Vec<u32> = values.iter().enumerate().map(|(i, (a, b))| {
            let mut attributes = vec![("i", Value::Int(i as i64))];
            attributes.extend(a.clone().map(|a| ("a", a)));
            attributes.extend(b.clone().map(|b| ("b", b)));
            table.intern(entity(&attributes)).unwrap()
        }).collect();
        let rows: Vec<u32> = rows.into_iter().map(|r| keys[r % keys.len()]).collect();
        let make = |keys: &[u32]| {
            let options =
                arrow::array::RecordBatchOptions::new().with_row_count(Some(keys.len()));
            let schema = Arc::new(Schema::empty());
            let record = RecordBatch::try_new_with_options(schema, vec![], &options).unwrap();
            let run = Run { offset: 1, received: 0, source: "t".into(), rows: keys.len() };
            let keys = Keys { keys: UInt32Array::from(keys.to_vec()), table: table.clone() };
            Batch::new(Signal::Logs, TENANT.into(), record, Some(keys), [run].into()).unwrap()
        };
        let e = Expression::parse(&text(sql), &open(), &scope()).unwrap();
        let whole = e.evaluate_each(&make(&rows));
        if !uniform {
            // Types may differ between cuts here: it has to give something or say why.
            prop_assert!(whole.map_or(true, |w| w.values.len() == rows.len()));
            return Ok(());
        }
        let whole = whole.unwrap();
        let failed: Vec<usize> = whole.errors.iter().map(|e| e.0).collect();
        for (i, key) in rows.iter().enumerate() {
            // Materialised at the row level, one row at a time.
            let one = make(&[*key]);
            let columns: Vec<(&str, ArrayRef)> = ["a", "b"]
                .into_iter()
                .filter_map(|n| Some((n, one.array(n)?)))
                .collect();
            let alone = Expression::parse(&text(sql), &open(), &scope()).unwrap();
            let row = match columns.is_empty() {
                true => alone.evaluate_each(&one).unwrap(),
                false => alone.evaluate_each(&batch(columns, vec![])).unwrap(),
            };
            prop_assert_eq!(failed.contains(&i), !row.errors.is_empty(), "row {} of {}", i, sql);
            prop_assert_eq!(&show(&whole.values)[i], &show(&row.values)[0], "row {} of {}", i, sql);
        }
    }

    #[test]
    fn any_text_is_parsed_or_refused(sql in "\\PC{0,60}") {
        let _ = Expression::parse(&text(&sql), &open(), &scope());
        let _ = Aggregate::parse(&text(&sql), &open(), &scope());
    }

    #[test]
    fn any_words(words in proptest::collection::vec(proptest::sample::select(vec![
        "a", "b.c", "(", ")", "AND", "NOT", "=", "'x'", "1", "count", "sum", ",", "*", "CASE",
        "WHEN", "THEN", "END", "IN", "[", "]", "::", "INT", "BETWEEN", "IS", "NULL", "LIKE", "-",
        "\"q\"", ".", "FILTER", "WHERE", "DISTINCT", "INTERVAL", "user", "CAST", "AS",
    ]), 0..14)) {
        let sql = words.join(" ");
        let _ = Expression::parse(&text(&sql), &open(), &scope());
        let _ = Aggregate::parse(&text(&sql), &open(), &scope());
    }
}

#[test]
fn aggregates() {
    let plan = |sql: &str| Aggregate::parse(&text(sql), &open(), &scope());
    let t = |sql: &str| plan(sql).unwrap_or_else(|e| panic!("{e}")).data_type();
    assert_eq!(t("count(*) FILTER (WHERE severity = 'ERROR')"), Some(DataType::Int64));
    assert_eq!(t("count(DISTINCT user.id)"), Some(DataType::Int64));
    assert_eq!(t("avg(latency)"), Some(DataType::Float64));
    assert_eq!(t("quantile(latency, 0.99)"), Some(DataType::Float64));
    assert_eq!(t("max(timestamp)"), Some(crate::signal::timestamp()));
    assert_eq!(t("min(severity)"), Some(DataType::Utf8));
    assert_eq!(t("sum(severity_number)"), Some(DataType::Int64));
    assert_eq!(t("sum(latency)"), None);
    assert_eq!(t("1.0 * count(*) FILTER (WHERE a > 1) / count(*)"), Some(DataType::Float64));
    let refuse = |sql: &str, expect: &str| {
        let e = match plan(sql) {
            Ok(a) => panic!("{sql} was taken: {a:?}"),
            Err(e) => e.to_string(),
        };
        assert!(e.contains(expect), "no `{expect}` for {sql} in:\n{e}");
    };
    refuse("array_agg(a)", "W308");
    refuse("median(a)", "quantile(x, 0.5)");
    refuse("stddev(a)", "cut into batches");
    refuse("severity", "column outside of an aggregate");
    refuse("count(*) + a", "column outside of an aggregate: `a`");
    refuse("5", "no aggregate");
    refuse("sum(body)", "W306");
    refuse("sum(max(a))", "aggregate outside a window: `max`");
    refuse("sum()", "expected an argument");
    refuse("sum(a, b)", "it takes one argument");
    refuse("sum(*)", "no such argument");
    refuse("quantile(a, 2)", "between 0 and 1");
    refuse("quantile(a)", "between 0 and 1");
    refuse("sum(a ORDER BY b)", "ORDER BY");
    refuse("sum(a) OVER ()", "OVER");
    refuse("count(*) FILTER (WHERE severity_number)", "W307");
    refuse("count(*) FILTER (WHERE nope(1))", "W304");
    let float: ArrayRef = Arc::new(Float64Array::from(vec![1.0, 2.0]));
    let count: ArrayRef = Arc::new(Int64Array::from(vec![2, 0]));
    let values = plan("sum(a) / count(*)").unwrap().finish(&[float, count], 2).unwrap();
    assert_eq!(show(&values), ["0.5", "inf"]);
    let count: ArrayRef = Arc::new(Int64Array::from(vec![2, 0]));
    let values = plan("8 / count(*)").unwrap().finish(&[count], 2).unwrap();
    assert_eq!(show(&values), ["4", "NULL"]);
}

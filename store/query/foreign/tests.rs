//! What is asked of another store, whatever its names and values hold.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use arrow::datatypes::DataType;
use datafusion::common::ScalarValue;
use datafusion::logical_expr::{Expr, col, lit, not};
use datafusion::prelude::ident;

use super::client::columns_for_tests;
use super::filter::condition;
use super::types::{self, Column};

fn columns() -> Vec<Column> {
    let kinds = [
        ("n", "Nullable(Int32)"),
        ("u", "UInt64"),
        ("f", "Float32"),
        ("t", "LowCardinality(Nullable(String))"),
        ("e", "Enum8('a, (b' = 1, 'it\\'s' = 2)"),
        ("b", "Bool"),
        ("s", "DateTime('Asia/Tokyo')"),
        ("ms", "Nullable(DateTime64(3, 'UTC'))"),
        ("d", "Date"),
        ("m", "Map(String, Array(UInt8))"),
        ("o`\\dd", "Int64"),
    ];
    kinds.iter().map(|(name, kind)| Column::new(name, kind).unwrap()).collect()
}

#[track_caller]
fn check(expr: &Expr, expected: Option<&str>) {
    assert_eq!(condition(expr, &columns()).as_deref(), expected, "{expr}");
}

fn time(nanos: i64) -> Expr {
    let zone = Some("UTC".into());
    Expr::Literal(ScalarValue::TimestampNanosecond(Some(nanos), zone), None)
}

#[test]
fn types_that_come() {
    let list = |t| DataType::new_list(t, true);
    for (kind, data_type, select) in [
        ("UInt8", DataType::Int64, "toInt64(`x`)"),
        ("LowCardinality(String)", DataType::Utf8, "toValidUTF8(`x`)"),
        ("SimpleAggregateFunction(max, Nullable(Int8))", DataType::Int64, "toInt64(`x`)"),
        ("Decimal(9, 2)", DataType::Decimal128(9, 2), "`x`"),
        ("Decimal(76, 5)", DataType::Decimal256(76, 5), "`x`"),
        ("Array(Nullable(String))", list(DataType::Utf8), "arrayMap(v -> toValidUTF8(v), `x`)"),
        ("Array(Array(UInt8))", DataType::Utf8, "toJSONString(`x`)"),
        ("Tuple(a UInt8, b String)", DataType::Utf8, "toJSONString(`x`)"),
        ("Int256", DataType::Utf8, "toString(`x`)"),
        ("DateTime64(6, 'UTC')", weir_pipeline::signal::timestamp(), "toDateTime64(`x`, 6, 'UTC')"),
    ] {
        let column = Column::new("x", kind).unwrap();
        assert_eq!(*column.field.data_type(), data_type, "{kind}");
        assert_eq!(column.select, select, "{kind}");
    }
    assert!(Column::new("x", "AggregateFunction(sum, UInt8)").is_none());
}

#[test]
fn names_and_texts_end_where_they_should() {
    assert_eq!(types::name("a`; DROP TABLE x --"), "`a\\`; DROP TABLE x --`");
    assert_eq!(types::name("a\\"), "`a\\\\`");
    assert_eq!(types::text("it's \\' OR 1"), "'it\\'s \\\\\\' OR 1'");
    check(&ident("o`\\dd").eq(lit(1_i64)), Some("`o\\`\\\\dd` = 1"));
    check(&col("t").eq(lit("' OR 1=1 --")), Some("`t` = '\\' OR 1=1 --'"));
}

#[test]
fn conditions_that_mean_the_same() {
    check(&col("n").gt(lit(5_i64)), Some("`n` > 5"));
    check(&lit(5_i64).gt(col("n")), Some("`n` < 5"));
    check(&col("u").eq(lit(7_u64)), Some("`u` = 7"));
    check(&col("n").in_list(vec![lit(1_i64), lit(2_i64)], false), Some("(`n` = 1 OR `n` = 2)"));
    check(&col("t").lt(lit("x")), Some("toValidUTF8(`t`) < 'x'"));
    check(&col("t").like(lit("a%b")), Some("`t` LIKE 'a%b'"));
    check(&col("e").eq(lit("it's")), Some("toString(`e`) = 'it\\'s'"));
    check(&col("n").is_null(), Some("isNull(`n`)"));
    check(&col("b"), Some("`b`"));
    check(&not(col("b")), Some("NOT `b`"));
    let either = col("n").eq(lit(1_i64)).or(col("t").eq(lit("a")));
    check(&either, Some("(`n` = 1 OR `t` = 'a')"));
}

#[test]
fn what_may_differ_is_let_through() {
    // NaN is greater than any number here, and than none there.
    let above = format!(
        "(toFloat64(`f`) > reinterpretAsFloat64(toUInt64({})) OR isNaN(`f`))",
        1.5_f64.to_bits()
    );
    check(&col("f").gt(lit(1.5)), Some(&above));
    check(&col("f").gt(lit(0.0)), None);
    check(&col("f").eq(lit(1.5)), None);
    // Rounded outwards to what the column can hold.
    check(&col("s").gt(time(1_500_000_000)), Some("`s` >= toDateTime(1, 'UTC')"));
    check(&col("s").lt_eq(time(1_500_000_000)), Some("`s` <= toDateTime(2, 'UTC')"));
    check(&col("s").eq(time(1_500_000_000)), None);
    check(&col("s").gt(time(-5_000_000_000)), None);
    let below = "`ms` <= toDateTime64('1970-01-01 00:00:01.002', 3, 'UTC')";
    check(&col("ms").lt(time(1_001_500_000)), Some(below));
    let before = "`ms` >= toDateTime64('1969-12-31 23:59:59.999', 3, 'UTC')";
    check(&col("ms").gt(time(-500_000)), Some(before));
    check(&col("t").like(lit("a_b")), None);
    check(&col("t").like(lit("a\\%b")), None);
    check(&col("t").ilike(lit("a%")), None);
    check(&col("t").eq(lit("\u{fffd}")), None);
    check(&col("n").in_list(vec![lit(1_i64)], true), None);
    check(&not(col("n").eq(lit(1_i64))), None);
    check(&col("m").eq(lit("x")), None);
    // Half of an AND leaves more; half of an OR would leave fewer.
    let (one, other) = (col("n").eq(lit(1_i64)), col("m").eq(lit("x")));
    check(&one.clone().and(other.clone()), Some("`n` = 1"));
    check(&one.or(other), None);
}

#[test]
fn descriptions_are_read() {
    let rows = b"[\"a\",\"UInt8\",\"\",\"\"]\n[\"b\",\"String\",\"EPHEMERAL\",\"\"]\n\
                 [\"c\",\"AggregateFunction(sum, UInt8)\"]\n";
    let names: Vec<String> =
        columns_for_tests(rows).iter().map(|c| c.field.name().clone()).collect();
    assert_eq!(names, ["a"]);
    assert!(columns_for_tests(b"<html>").is_empty());
}

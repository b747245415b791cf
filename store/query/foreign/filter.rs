//! Conditions as ClickHouse understands them.
//!
//! A condition that is asked for there leaves at least the rows that it leaves here, where it is
//! looked at again; one that might leave fewer is not asked for. So texts are compared by their bytes,
//! NaN is always let through, times are rounded outwards to what the column can hold, and nothing is
//! negated but what is exact.

use arrow::temporal_conversions::{date32_to_datetime, timestamp_ns_to_datetime};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::expr::InList;
use datafusion::logical_expr::{Between, BinaryExpr, Expr, Like, Operator};

use super::types::{Class, Column, text};

/// Longest list of values that is asked for.
const LIST_MAX: usize = 1_000;

/// Nesting of AND and OR that is asked for.
const DEPTH_MAX: usize = 64;

/// Seconds since 1970 that `DateTime` holds, about: not to depend on what it does at the ends.
const SECONDS: std::ops::Range<i64> = 0..4_000_000_000;

/// Nanoseconds since 1970 of what every `DateTime64` holds, about: the years 1901 to 2261.
const NANOS: std::ops::Range<i64> = -2_177_000_000_000_000_000..9_190_000_000_000_000_000;

/// Days since 1970 that `Date32` holds, about: the years 1901 to 2298.
const DAYS: std::ops::Range<i32> = -25_000..120_000;

/// How a time is rounded.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Round {
    Down,
    Up,
    /// Only if it need not be.
    Not,
}

/// The condition in ClickHouse's words, `None` if it is not asked for.
pub(super) fn condition(expr: &Expr, columns: &[Column]) -> Option<String> {
    nested(expr, columns, 0)
}

fn nested(expr: &Expr, columns: &[Column], depth: usize) -> Option<String> {
    if depth > DEPTH_MAX {
        return None;
    }
    match expr {
        Expr::Alias(alias) => nested(&alias.expr, columns, depth + 1),
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => match op {
            Operator::And | Operator::Or => {
                let word = if *op == Operator::And { "AND" } else { "OR" };
                let left = nested(left, columns, depth + 1);
                let right = nested(right, columns, depth + 1);
                match (left, right, op) {
                    (Some(left), Some(right), _) => Some(format!("({left} {word} {right})")),
                    // Half of it leaves more.
                    (Some(one), None, Operator::And) | (None, Some(one), Operator::And) => {
                        Some(one)
                    }
                    _ => None,
                }
            }
            _ => match (column(left, columns), column(right, columns)) {
                (Some(column), None) => compare(column, *op, literal(right)?),
                (None, Some(column)) => compare(column, op.swap()?, literal(left)?),
                _ => None,
            },
        },
        Expr::Between(Between { expr, negated: false, low, high }) => {
            let column = column(expr, columns)?;
            let low = compare(column, Operator::GtEq, literal(low)?)?;
            let high = compare(column, Operator::LtEq, literal(high)?)?;
            Some(format!("({low} AND {high})"))
        }
        Expr::InList(InList { expr, list, negated: false }) if list.len() <= LIST_MAX => {
            let column = column(expr, columns)?;
            let equal = |item| compare(column, Operator::Eq, literal(item)?);
            let all: Vec<String> = list.iter().map(equal).collect::<Option<_>>()?;
            (!all.is_empty()).then(|| format!("({})", all.join(" OR ")))
        }
        Expr::IsNull(inner) => known(inner, columns).map(|c| format!("isNull({})", c.raw)),
        Expr::IsNotNull(inner) => known(inner, columns).map(|c| format!("isNotNull({})", c.raw)),
        Expr::Like(like) => begins(like, columns),
        Expr::Column(_) => {
            let column = column(expr, columns).filter(|c| c.class == Class::Bool)?;
            Some(column.raw.clone())
        }
        Expr::Not(inner) => {
            let column = column(inner, columns).filter(|c| c.class == Class::Bool)?;
            Some(format!("NOT {}", column.raw))
        }
        _ => None,
    }
}

fn column<'a>(expr: &Expr, columns: &'a [Column]) -> Option<&'a Column> {
    let Expr::Column(column) = expr else { return None };
    columns.iter().find(|c| *c.field.name() == column.name)
}

/// A column of which NULL is NULL here, too.
fn known<'a>(expr: &Expr, columns: &'a [Column]) -> Option<&'a Column> {
    column(expr, columns).filter(|c| c.class != Class::Other)
}

fn literal(expr: &Expr) -> Option<&ScalarValue> {
    match expr {
        Expr::Literal(value, _) => Some(value),
        _ => None,
    }
}

/// `LIKE 'some text%'` and the like: with `%` alone, which is the same everywhere.
fn begins(like: &Like, columns: &[Column]) -> Option<String> {
    let Like { negated: false, expr, pattern, escape_char: None, case_insensitive: false } = like
    else {
        return None;
    };
    let column = column(expr, columns).filter(|c| c.class == Class::Text)?;
    let pattern = letters(literal(pattern)?)?;
    let plain = !pattern.contains(['\\', '_']);
    plain.then(|| format!("{} LIKE {}", column.raw, text(pattern)))
}

/// A text that no invalid bytes are seen as.
fn letters(value: &ScalarValue) -> Option<&str> {
    let (ScalarValue::Utf8(Some(value))
    | ScalarValue::LargeUtf8(Some(value))
    | ScalarValue::Utf8View(Some(value))) = value
    else {
        return None;
    };
    (!value.contains(['\u{fffd}', '\0'])).then_some(value)
}

fn sign(op: Operator) -> Option<&'static str> {
    Some(match op {
        Operator::Eq => "=",
        Operator::NotEq => "!=",
        Operator::Lt => "<",
        Operator::LtEq => "<=",
        Operator::Gt => ">",
        Operator::GtEq => ">=",
        _ => return None,
    })
}

fn compare(column: &Column, op: Operator, value: &ScalarValue) -> Option<String> {
    let said = sign(op)?;
    let exact = matches!(op, Operator::Eq | Operator::NotEq);
    let raw = &column.raw;
    match (column.class, value) {
        (Class::Int, ScalarValue::Int64(Some(n))) => Some(format!("{raw} {said} {n}")),
        (Class::UInt64, ScalarValue::UInt64(Some(n))) => Some(format!("{raw} {said} {n}")),
        // Bits, since how a decimal number is read may differ in the last of them.
        (Class::Float, ScalarValue::Float64(Some(n))) if n.is_finite() && *n != 0.0 && !exact => {
            let n = format!("reinterpretAsFloat64(toUInt64({}))", n.to_bits());
            Some(format!("({} {said} {n} OR isNaN({raw}))", column.select))
        }
        (Class::Bool, ScalarValue::Boolean(Some(is))) if exact => {
            Some(format!("{raw} {said} {is}"))
        }
        (Class::Text, value) => {
            // Of bytes that are no text something else is seen.
            let what = if exact { raw } else { &column.select };
            Some(format!("{what} {said} {}", text(letters(value)?)))
        }
        (Class::Words, value) => {
            Some(format!("{} {said} {}", column.select, text(letters(value)?)))
        }
        (Class::DateTime | Class::DateTime64(_) | Class::Date, value) => time(column, op, value),
        _ => None,
    }
}

/// The comparison with a time, rounded so that more is let through.
fn time(column: &Column, op: Operator, value: &ScalarValue) -> Option<String> {
    let (said, round) = match op {
        Operator::Gt | Operator::GtEq => (">=", Round::Down),
        Operator::Lt | Operator::LtEq => ("<=", Round::Up),
        Operator::Eq => ("=", Round::Not),
        _ => return None,
    };
    let raw = &column.raw;
    match (column.class, value) {
        (Class::Date, ScalarValue::Date32(Some(days))) if DAYS.contains(days) => {
            let day = date32_to_datetime(*days)?.format("%Y-%m-%d");
            Some(format!("{raw} {said} toDate32('{day}')"))
        }
        (Class::DateTime, ScalarValue::TimestampNanosecond(Some(nanos), Some(_))) => {
            let seconds = rounded(*nanos, 1_000_000_000, round)? / 1_000_000_000;
            SECONDS.contains(&seconds).then(|| format!("{raw} {said} toDateTime({seconds}, 'UTC')"))
        }
        (Class::DateTime64(scale), ScalarValue::TimestampNanosecond(Some(nanos), Some(_))) => {
            let nanos = rounded(*nanos, 10_i64.pow(9 - scale), round)?;
            if !NANOS.contains(&nanos) {
                return None;
            }
            let time = timestamp_ns_to_datetime(nanos)?.format("%Y-%m-%d %H:%M:%S");
            let parts = nanos.rem_euclid(1_000_000_000) / 10_i64.pow(9 - scale);
            let parts = match scale {
                0 => String::new(),
                scale => format!(".{parts:0width$}", width = scale as usize),
            };
            Some(format!("{raw} {said} toDateTime64('{time}{parts}', {scale}, 'UTC')"))
        }
        _ => None,
    }
}

fn rounded(nanos: i64, to: i64, round: Round) -> Option<i64> {
    let over = nanos.rem_euclid(to);
    match round {
        _ if over == 0 => Some(nanos),
        Round::Down => nanos.checked_sub(over),
        Round::Up => nanos.checked_add(to - over),
        Round::Not => None,
    }
}

//! Functions that make much of little (`repeat('x', 2000000000)`) refuse to make too much.
//!
//! What a function returns is in no memory pool, so that a single value could take more memory
//! than the server has. The size is reckoned from the arguments, before anything is made.

use std::sync::Arc;

use arrow::array::{Array, AsArray};
use arrow::datatypes::{DataType, FieldRef, TimeUnit};
use datafusion::common::{Result, ScalarValue, exec_err};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
};

/// Largest value that such a function makes, in bytes: far more than anybody reads.
const VALUE_BYTES_MAX: u64 = 16 << 20;
/// Most that one call makes for a batch of rows, in bytes.
const CALL_BYTES_MAX: u64 = 256 << 20;
/// `replace` by something at most so many times as long is taken for harmless.
const REPLACE_FACTOR: u64 = 16;
/// Bytes of an element of a list of numbers or times.
const ELEMENT_BYTES: u64 = 8;
const DAY_NS: i128 = 24 * 3_600_000_000_000;

/// `functions`, with a bound on those that need one.
pub(super) fn bounded(functions: Vec<Arc<ScalarUDF>>) -> Vec<Arc<ScalarUDF>> {
    let bound = |inner: Arc<ScalarUDF>| match Growth::of(inner.name()) {
        Some(growth) => Arc::new(ScalarUDF::new_from_impl(Bounded { inner, growth })),
        None => inner,
    };
    functions.into_iter().map(bound).collect()
}

/// How the size of a result follows from the arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Growth {
    Concat,
    ConcatWithSeparator,
    Pad,
    Repeat,
    RepeatElement,
    Replace,
    Resize,
    Series,
}

impl Growth {
    fn of(function: &str) -> Option<Self> {
        Some(match function {
            "concat" => Self::Concat,
            "concat_ws" => Self::ConcatWithSeparator,
            "lpad" | "rpad" => Self::Pad,
            "repeat" => Self::Repeat,
            "array_repeat" => Self::RepeatElement,
            "replace" => Self::Replace,
            "array_resize" => Self::Resize,
            "generate_series" | "range" => Self::Series,
            _ => return None,
        })
    }

    /// Bytes of the result for row `row`, at most.
    fn bytes(self, args: &[ColumnarValue], row: usize) -> Result<u64> {
        let size = |i: usize| args.get(i).map_or(0, |arg| size(arg, row));
        let count = |i: usize| args.get(i).map_or(Ok(0), |arg| count(arg, row));
        let all = || (0..args.len()).map(size).fold(0, u64::saturating_add);
        Ok(match self {
            Self::Concat => all(),
            Self::ConcatWithSeparator => {
                all().saturating_add(size(0).saturating_mul(args.len() as u64))
            }
            // A character has four bytes at most.
            Self::Pad => count(1)?.saturating_mul(4),
            Self::Repeat | Self::RepeatElement => size(0).saturating_mul(count(1)?),
            Self::Replace => {
                let (from, to) = (size(1).max(1), size(2));
                let harmless = to <= from.saturating_mul(REPLACE_FACTOR);
                let factor = if harmless { 1 } else { to.div_ceil(from) };
                size(0).saturating_mul(factor)
            }
            Self::Resize => count(1)?.saturating_mul(ELEMENT_BYTES.max(size(2))),
            Self::Series => {
                let value = |i: usize| args.get(i).map(|arg| scalar(arg, row)).transpose();
                elements(value(0)?, value(1)?, value(2)?).saturating_mul(ELEMENT_BYTES)
            }
        })
    }
}

/// A function of DataFusion that refuses to make more than the bounds.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Bounded {
    inner: Arc<ScalarUDF>,
    growth: Growth,
}

impl ScalarUDFImpl for Bounded {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn aliases(&self) -> &[String] {
        self.inner.aliases()
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        self.inner.schema_name(args)
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        self.inner.inner().coerce_types(types)
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.inner.return_type(types)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        self.inner.return_field_from_args(args)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let constant = args.args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
        let rows = if constant { 1 } else { args.number_rows };
        let mut total = 0_u64;
        for row in 0..rows {
            let one = self.growth.bytes(&args.args, row)?;
            total = total.saturating_add(one);
            if one > VALUE_BYTES_MAX || total > CALL_BYTES_MAX {
                return exec_err!(
                    "`{}` would make more than {} MiB in one value or {} MiB in {} rows",
                    self.name(),
                    VALUE_BYTES_MAX >> 20,
                    CALL_BYTES_MAX >> 20,
                    args.number_rows
                );
            }
        }
        self.inner.invoke_with_args(args)
    }
}

/// Bytes of an argument in one row.
fn size(arg: &ColumnarValue, row: usize) -> u64 {
    let bytes = match arg {
        ColumnarValue::Scalar(value) => match value.try_as_str() {
            Some(text) => text.map_or(0, str::len),
            None => value.size(),
        },
        ColumnarValue::Array(array) if array.is_null(row) => 0,
        ColumnarValue::Array(array) => match array.data_type() {
            DataType::Utf8 => array.as_string::<i32>().value(row).len(),
            DataType::LargeUtf8 => array.as_string::<i64>().value(row).len(),
            DataType::Utf8View => array.as_string_view().value(row).len(),
            // As if all were of one size.
            _ => array.get_array_memory_size() / array.len(),
        },
    };
    bytes as u64
}

/// An argument that says how many; none for NULL and less than none.
fn count(arg: &ColumnarValue, row: usize) -> Result<u64> {
    let number = scalar(arg, row)?.cast_to(&DataType::Int64)?;
    Ok(match number {
        ScalarValue::Int64(Some(n)) => u64::try_from(n).unwrap_or(0),
        _ => 0,
    })
}

fn scalar(arg: &ColumnarValue, row: usize) -> Result<ScalarValue> {
    match arg {
        ColumnarValue::Scalar(value) => Ok(value.clone()),
        ColumnarValue::Array(array) => ScalarValue::try_from_array(array, row),
    }
}

/// Elements of a series, given as (end), (start, end) or (start, end, step).
fn elements(
    start: Option<ScalarValue>,
    end: Option<ScalarValue>,
    step: Option<ScalarValue>,
) -> u64 {
    let (start, end) = match (start, end) {
        (Some(end), None) => (ScalarValue::Int64(Some(0)), end),
        (Some(start), Some(end)) => (start, end),
        _ => return 0,
    };
    if start.is_null() || end.is_null() {
        return 0;
    }
    let (Some(start), Some(end)) = (place(&start), place(&end)) else { return u64::MAX };
    let step = match step {
        None => 1,
        Some(ScalarValue::IntervalMonthDayNano(Some(i))) => {
            // The shortest months.
            let days = i128::from(i.months) * 28 + i128::from(i.days);
            days * DAY_NS + i128::from(i.nanoseconds)
        }
        Some(step) => place(&step).unwrap_or(1),
    };
    let steps = (end - start).unsigned_abs() / step.unsigned_abs().max(1);
    u64::try_from(steps).unwrap_or(u64::MAX).saturating_add(1)
}

/// A number, or a time in nanoseconds; `None` for times out of range.
fn place(value: &ScalarValue) -> Option<i128> {
    let time = value.data_type().is_temporal();
    let value = if time {
        value.cast_to(&DataType::Timestamp(TimeUnit::Nanosecond, None)).ok()?
    } else {
        value.clone()
    };
    match value.cast_to(&DataType::Int64).ok()? {
        ScalarValue::Int64(n) => n.map(i128::from),
        _ => None,
    }
}

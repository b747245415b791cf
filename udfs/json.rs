//! `json_get(json, key, ...)` and its typed forms: one value out of JSON text, such as the columns
//! `events`, `links` and `attributes`.
//!
//! Each further argument is a member's name or a position in an array (from 0). What is not there,
//! is JSON null or is no JSON reads as NULL. `json_get` gives text (strings without quotes, the
//! rest as JSON), `json_get_int`, `json_get_double` and `json_get_bool` give that type or NULL.

use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Float64Array, Int64Array, StringArray,
};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Int64Type};
use datafusion::common::{Result, exec_err, plan_err};
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use serde_json::Value;

/// The functions.
pub(crate) fn functions() -> Vec<Arc<ScalarUDF>> {
    [
        ("json_get", DataType::Utf8),
        ("json_get_int", DataType::Int64),
        ("json_get_double", DataType::Float64),
        ("json_get_bool", DataType::Boolean),
    ]
    .map(|(name, gives)| {
        let signature = Signature::user_defined(Volatility::Immutable);
        Arc::new(ScalarUDF::from(JsonGet { name, gives, signature }))
    })
    .into()
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct JsonGet {
    name: &'static str,
    gives: DataType,
    signature: Signature,
}

impl ScalarUDFImpl for JsonGet {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(self.gives.clone())
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        let text = |t: &DataType| {
            matches!(t, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Null)
        };
        match types {
            [json, path @ ..] if text(json) && !path.is_empty() => {
                let mut out = vec![DataType::Utf8];
                for t in path {
                    out.push(match t {
                        t if text(t) => DataType::Utf8,
                        t if t.is_integer() => DataType::Int64,
                        t => {
                            return plan_err!(
                                "{}: a key is text or a position, not {t}",
                                self.name
                            );
                        }
                    });
                }
                Ok(out)
            }
            _ => plan_err!("{} takes JSON text and at least one key", self.name),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let rows = args.number_rows;
        let scalars = args.args.iter().all(|a| matches!(a, ColumnarValue::Scalar(_)));
        let rows = if scalars { 1 } else { rows };
        let arrays: Vec<ArrayRef> =
            args.args.into_iter().map(|a| a.into_array(rows)).collect::<Result<_>>()?;
        let Some((json, path)) = arrays.split_first() else {
            return exec_err!("{} without arguments", self.name);
        };
        let json = cast(json, &DataType::Utf8)?;
        let json = json.as_string::<i32>();
        let values = (0..rows).map(|row| {
            let text = json.is_valid(row).then(|| json.value(row))?;
            let value = serde_json::from_str::<Value>(text).ok()?;
            path.iter().try_fold(value, |value, key| step(value, key, row))
        });
        let array: ArrayRef = match self.gives {
            DataType::Int64 => Arc::new(values.map(|v| as_int(&v?)).collect::<Int64Array>()),
            DataType::Float64 => Arc::new(values.map(|v| as_double(&v?)).collect::<Float64Array>()),
            DataType::Boolean => Arc::new(values.map(|v| v?.as_bool()).collect::<BooleanArray>()),
            _ => Arc::new(values.map(|v| as_text(v?)).collect::<StringArray>()),
        };
        if scalars {
            let value = datafusion::common::ScalarValue::try_from_array(&array, 0)?;
            return Ok(ColumnarValue::Scalar(value));
        }
        Ok(ColumnarValue::Array(array))
    }
}

/// The part of `value` that the key in `row` names.
fn step(mut value: Value, key: &ArrayRef, row: usize) -> Option<Value> {
    if key.is_null(row) {
        return None;
    }
    match key.data_type() {
        DataType::Int64 => {
            let position = key.as_primitive::<Int64Type>().value(row);
            value.get_mut(usize::try_from(position).ok()?).map(Value::take)
        }
        DataType::Utf8 => value.get_mut(key.as_string::<i32>().value(row)).map(Value::take),
        _ => None,
    }
}

fn as_text(value: Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(s) => Some(s),
        other => Some(other.to_string()),
    }
}

fn as_int(value: &Value) -> Option<i64> {
    match value {
        Value::String(s) => s.trim().parse().ok(),
        other => other.as_i64(),
    }
}

fn as_double(value: &Value) -> Option<f64> {
    match value {
        Value::String(s) => s.trim().parse().ok(),
        other => other.as_f64(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use datafusion::common::{DFSchema, ScalarValue};
    use datafusion::logical_expr::execution_props::ExecutionProps;
    use datafusion::logical_expr::simplify::SimplifyContext;
    use datafusion::logical_expr::{Expr, lit};
    use datafusion::optimizer::simplify_expressions::ExprSimplifier;

    use super::*;

    fn check(function: &str, json: &str, path: Vec<Expr>, expect: ScalarValue) {
        let udf = functions().into_iter().find(|f| f.name() == function).unwrap();
        let mut args = vec![lit(json)];
        args.extend(path);
        let schema = Arc::new(DFSchema::empty());
        let _ = ExecutionProps::new();
        let context = SimplifyContext::builder().with_schema(schema.clone()).build();
        let simplifier = ExprSimplifier::new(context);
        let expr = simplifier.coerce(udf.call(args), &schema).unwrap();
        match simplifier.simplify(expr).unwrap() {
            Expr::Literal(value, _) => assert_eq!(value, expect, "{function}({json})"),
            other => panic!("not a constant: {other}"),
        }
    }

    #[test]
    fn reads_members_and_positions() {
        let json = r#"{"a":{"b":[1,"x",2.5,true,null]},"n":"7"}"#;
        let path = |i: i64| vec![lit("a"), lit("b"), lit(i)];
        let text = |s: &str| ScalarValue::Utf8(Some(s.into()));
        check("json_get", json, path(0), text("1"));
        check("json_get", json, path(1), text("x"));
        check("json_get", json, path(4), ScalarValue::Utf8(None));
        check("json_get", json, path(9), ScalarValue::Utf8(None));
        check("json_get", json, vec![lit("a")], text(r#"{"b":[1,"x",2.5,true,null]}"#));
        check("json_get", "no json", vec![lit("a")], ScalarValue::Utf8(None));
        check("json_get_int", json, path(0), ScalarValue::Int64(Some(1)));
        check("json_get_int", json, vec![lit("n")], ScalarValue::Int64(Some(7)));
        check("json_get_int", json, path(1), ScalarValue::Int64(None));
        check("json_get_double", json, path(2), ScalarValue::Float64(Some(2.5)));
        check("json_get_bool", json, path(3), ScalarValue::Boolean(Some(true)));
    }
}

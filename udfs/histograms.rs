//! Histograms in SQL: `histogram_merge(h)` makes one of many, `histogram_quantile(h, q)` reads a
//! quantile of one with exponential buckets, `histogram_quantile(h, q, bounds)` of one with explicit
//! buckets, whose bounds are a JSON list as in `metric.bounds`.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, Float64Array};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Float64Type};
use datafusion::common::{DataFusionError, Result, ScalarValue, exec_err, plan_err};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::format_state_name;
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, ColumnarValue, ScalarFunctionArgs, ScalarUDF,
    ScalarUDFImpl, Signature, Volatility,
};

use crate::histogram::{Counts, Histogram, Reader, column};

/// The functions of one row.
pub(crate) fn functions() -> Vec<Arc<ScalarUDF>> {
    let signature = Signature::user_defined(Volatility::Immutable);
    vec![Arc::new(ScalarUDF::from(Quantile { signature }))]
}

/// The aggregates.
pub(crate) fn aggregates() -> Vec<Arc<AggregateUDF>> {
    let signature = Signature::user_defined(Volatility::Immutable);
    vec![Arc::new(AggregateUDF::from(Merge { signature }))]
}

fn reader(array: &ArrayRef) -> Result<Reader<'_>> {
    let reader = Reader::new(array);
    reader.ok_or_else(|| DataFusionError::Execution("it is no column of histograms".into()))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Quantile {
    signature: Signature,
}

impl ScalarUDFImpl for Quantile {
    fn name(&self) -> &'static str {
        "histogram_quantile"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        let number = |t: &DataType| t.is_numeric() || *t == DataType::Null;
        let text = |t: &DataType| t.is_string() || *t == DataType::Null;
        match types {
            [h @ DataType::Struct(_), q] if number(q) => Ok(vec![h.clone(), DataType::Float64]),
            [h @ DataType::Struct(_), q, bounds] if number(q) && text(bounds) => {
                Ok(vec![h.clone(), DataType::Float64, DataType::Utf8])
            }
            _ => plan_err!(
                "histogram_quantile takes a histogram, a share between 0 and 1, and of explicit \
                 buckets their bounds"
            ),
        }
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Float64)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let scalar = args.args.iter().all(|a| matches!(a, ColumnarValue::Scalar(_)));
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        let histograms = reader(&arrays[0])?;
        let shares = arrays[1].as_primitive::<Float64Type>();
        let bounds = arrays.get(2).map(|a| a.as_string::<i32>());
        let value = |row: usize| -> Result<Option<f64>> {
            let histogram = histograms.at(row, true).map_err(DataFusionError::Execution)?;
            let Some(histogram) = histogram.filter(|_| shares.is_valid(row)) else {
                return Ok(None);
            };
            let q = shares.value(row);
            if !(0.0..=1.0).contains(&q) {
                return exec_err!("the share of histogram_quantile is between 0 and 1, not {q}");
            }
            let bounds = bounds.filter(|b| b.is_valid(row)).map(|b| b.value(row));
            let bounds: Vec<f64> = match (&histogram.counts, bounds) {
                (Counts::Exponential { .. }, _) => Vec::new(),
                (Counts::Explicit(counts), Some(text)) => {
                    let bounds: Vec<f64> = serde_json::from_str(text).unwrap_or_default();
                    if counts.len() != bounds.len() + 1 {
                        return exec_err!(
                            "{} buckets of a histogram do not fit the bounds `{text}`",
                            counts.len()
                        );
                    }
                    bounds
                }
                (Counts::Explicit(_), None) => {
                    return exec_err!(
                        "explicit buckets need bounds: histogram_quantile(histogram, {q}, \
                         metric.bounds)"
                    );
                }
            };
            Ok(histogram.quantile(q, &bounds))
        };
        let values = (0..arrays[0].len()).map(value).collect::<Result<Float64Array>>()?;
        let array: ArrayRef = Arc::new(values);
        Ok(match scalar {
            true => ColumnarValue::Scalar(ScalarValue::try_from_array(&array, 0)?),
            false => ColumnarValue::Array(array),
        })
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Merge {
    signature: Signature,
}

impl AggregateUDFImpl for Merge {
    fn name(&self) -> &'static str {
        "histogram_merge"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        match types {
            [DataType::Struct(_)] => Ok(types.to_vec()),
            _ => plan_err!("histogram_merge takes a histogram"),
        }
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        match types {
            [histogram] => Ok(histogram.clone()),
            _ => plan_err!("histogram_merge takes a histogram"),
        }
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        let name = format_state_name(args.name, "histogram");
        Ok(vec![Arc::new(Field::new(name, args.return_field.data_type().clone(), true))])
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        if args.is_distinct {
            return exec_err!("histogram_merge takes no DISTINCT");
        }
        let data_type = args.return_field.data_type().clone();
        Ok(Box::new(Merged { data_type, histogram: None }))
    }
}

#[derive(Debug)]
struct Merged {
    data_type: DataType,
    histogram: Option<Histogram>,
}

impl Accumulator for Merged {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let histograms = reader(&values[0])?;
        for row in 0..values[0].len() {
            let histogram = histograms.at(row, true).map_err(DataFusionError::Execution)?;
            let Some(histogram) = histogram else { continue };
            let Some(own) = &mut self.histogram else {
                self.histogram = Some(histogram);
                continue;
            };
            if !own.add(&histogram, 1) {
                return exec_err!(
                    "histogram_merge: histograms of other buckets do not merge: group by \
                     metric.name and metric.bounds, too"
                );
            }
        }
        Ok(())
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let DataType::Struct(fields) = &self.data_type else {
            return exec_err!("histogram_merge takes a histogram");
        };
        let array = column(&[self.histogram.as_ref()], fields)?;
        ScalarValue::try_from_array(&array, 0)
    }

    fn size(&self) -> usize {
        let buckets = |h: &Histogram| match &h.counts {
            Counts::Explicit(counts) => counts.len() * 8,
            Counts::Exponential { positive, negative, .. } => {
                (positive.len() + negative.len()) * 24
            }
        };
        size_of::<Self>() + self.histogram.as_ref().map_or(0, buckets)
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(vec![self.evaluate()?])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.update_batch(states)
    }
}

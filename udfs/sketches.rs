//! Sketches as values, so that quantiles of many rows are had of few: `sketch(x)` makes one of
//! numbers, `sketch_merge(s)` one of many, `sketch_quantile(s, q)` reads a quantile of it, within
//! 1 % as `quantile` does, and `sketch_count(s)` how many values it has seen. A sketch is text, in
//! the form of [`Sketch::to_text`]; a NULL is none, and text that is no sketch is an error.

use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanArray, Float64Array, Int64Array, StringArray,
};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Float64Type};
use datafusion::common::{Result, ScalarValue, exec_err, plan_err};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::format_state_name;
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, ColumnarValue, EmitTo, GroupsAccumulator,
    ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use crate::sketch::Sketch;

/// The functions of one row.
pub(crate) fn functions() -> Vec<Arc<ScalarUDF>> {
    let signature = || Signature::user_defined(Volatility::Immutable);
    [Read::Quantile, Read::Count]
        .map(|read| Arc::new(ScalarUDF::from(Reading { read, signature: signature() })))
        .into()
}

/// The aggregates.
pub(crate) fn aggregates() -> Vec<Arc<AggregateUDF>> {
    let signature = || Signature::user_defined(Volatility::Immutable);
    [Of::Numbers, Of::Sketches]
        .map(|of| Arc::new(AggregateUDF::from(Making { of, signature: signature() })))
        .into()
}

fn parse(text: &str) -> Result<Sketch> {
    match Sketch::from_text(text) {
        Ok(sketch) => Ok(sketch),
        Err(_) => {
            let start: String = text.chars().take(20).collect();
            exec_err!("`{start}` is no sketch, as `sketch(x)` and the operator `rollup` make them")
        }
    }
}

fn is_text(t: &DataType) -> bool {
    matches!(t, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Null)
}

/// What is read of a sketch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Read {
    Quantile,
    Count,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Reading {
    read: Read,
    signature: Signature,
}

impl ScalarUDFImpl for Reading {
    fn name(&self) -> &'static str {
        match self.read {
            Read::Quantile => "sketch_quantile",
            Read::Count => "sketch_count",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        let number = |t: &DataType| t.is_numeric() || *t == DataType::Null;
        match (self.read, types) {
            (Read::Quantile, [s, q]) if is_text(s) && number(q) => {
                Ok(vec![DataType::Utf8, DataType::Float64])
            }
            (Read::Quantile, _) => {
                plan_err!("sketch_quantile takes a sketch and a share between 0 and 1")
            }
            (Read::Count, [s]) if is_text(s) => Ok(vec![DataType::Utf8]),
            (Read::Count, _) => plan_err!("sketch_count takes a sketch"),
        }
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(match self.read {
            Read::Quantile => DataType::Float64,
            Read::Count => DataType::Int64,
        })
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let scalar = args.args.iter().all(|a| matches!(a, ColumnarValue::Scalar(_)));
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        let texts = arrays[0].as_string::<i32>();
        let array: ArrayRef = match self.read {
            Read::Count => {
                let counts = texts.iter().map(|text| text.map(parse).transpose());
                let count = |s: Sketch| i64::try_from(s.count()).unwrap_or(i64::MAX);
                let counts = counts.map(|s| Ok(s?.map(count)));
                Arc::new(counts.collect::<Result<Int64Array>>()?)
            }
            Read::Quantile => {
                let shares = arrays[1].as_primitive::<Float64Type>();
                let values = texts.iter().zip(shares).map(|(text, q)| {
                    let (Some(text), Some(q)) = (text, q) else { return Ok(None) };
                    if !(0.0..=1.0).contains(&q) {
                        return exec_err!(
                            "the share of sketch_quantile is between 0 and 1, not {q}"
                        );
                    }
                    Ok(parse(text)?.quantile(q))
                });
                Arc::new(values.collect::<Result<Float64Array>>()?)
            }
        };
        Ok(match scalar {
            true => ColumnarValue::Scalar(ScalarValue::try_from_array(&array, 0)?),
            false => ColumnarValue::Array(array),
        })
    }
}

/// What a sketch is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Of {
    Numbers,
    Sketches,
}

impl Of {
    /// Adds what stands in a row.
    fn add(self, sketch: &mut Sketch, values: &ArrayRef, row: usize) -> Result<()> {
        if values.is_null(row) {
            return Ok(());
        }
        match self {
            Self::Numbers => sketch.add(values.as_primitive::<Float64Type>().value(row)),
            Self::Sketches => sketch.merge(&parse(values.as_string::<i32>().value(row))?),
        }
        Ok(())
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Making {
    of: Of,
    signature: Signature,
}

impl AggregateUDFImpl for Making {
    fn name(&self) -> &'static str {
        match self.of {
            Of::Numbers => "sketch",
            Of::Sketches => "sketch_merge",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        match (self.of, types) {
            (Of::Numbers, [x]) if x.is_numeric() || *x == DataType::Null => {
                Ok(vec![DataType::Float64])
            }
            (Of::Numbers, _) => plan_err!("sketch takes a number"),
            (Of::Sketches, [s]) if is_text(s) => Ok(vec![DataType::Utf8]),
            (Of::Sketches, _) => plan_err!("sketch_merge takes a sketch"),
        }
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8)
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        let name = format_state_name(args.name, "sketch");
        Ok(vec![Arc::new(Field::new(name, DataType::Binary, true))])
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        not_distinct(&args)?;
        Ok(Box::new(One { of: self.of, sketch: Sketch::default() }))
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs) -> bool {
        !args.is_distinct
    }

    fn create_groups_accumulator(
        &self,
        args: AccumulatorArgs,
    ) -> Result<Box<dyn GroupsAccumulator>> {
        not_distinct(&args)?;
        Ok(Box::new(Groups { of: self.of, sketches: Vec::new() }))
    }
}

fn not_distinct(args: &AccumulatorArgs) -> Result<()> {
    if args.is_distinct { exec_err!("sketches take no DISTINCT") } else { Ok(()) }
}

fn decode(bytes: &[u8]) -> Result<Sketch> {
    match Sketch::from_bytes(bytes) {
        Ok(sketch) => Ok(sketch),
        Err(_) => exec_err!("malformed state of a sketch"),
    }
}

/// NULL without values.
fn text(sketch: &Sketch) -> Option<String> {
    (sketch.count() > 0).then(|| sketch.to_text())
}

#[derive(Debug)]
struct One {
    of: Of,
    sketch: Sketch,
}

impl Accumulator for One {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        (0..values[0].len()).try_for_each(|row| self.of.add(&mut self.sketch, &values[0], row))
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        Ok(ScalarValue::Utf8(text(&self.sketch)))
    }

    fn size(&self) -> usize {
        self.sketch.size()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(vec![ScalarValue::Binary(Some(self.sketch.to_bytes()))])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        for bytes in states[0].as_binary::<i32>().iter().flatten() {
            self.sketch.merge(&decode(bytes)?);
        }
        Ok(())
    }
}

#[derive(Debug)]
struct Groups {
    of: Of,
    sketches: Vec<Sketch>,
}

impl GroupsAccumulator for Groups {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        groups: &[usize],
        filter: Option<&BooleanArray>,
        total: usize,
    ) -> Result<()> {
        self.sketches.resize_with(total, Sketch::default);
        for (row, &group) in groups.iter().enumerate() {
            if filter.is_none_or(|f| f.is_valid(row) && f.value(row)) {
                self.of.add(&mut self.sketches[group], &values[0], row)?;
            }
        }
        Ok(())
    }

    fn evaluate(&mut self, emit: EmitTo) -> Result<ArrayRef> {
        let sketches = emit.take_needed(&mut self.sketches);
        Ok(Arc::new(sketches.iter().map(text).collect::<StringArray>()))
    }

    fn state(&mut self, emit: EmitTo) -> Result<Vec<ArrayRef>> {
        let sketches = emit.take_needed(&mut self.sketches);
        let bytes = sketches.iter().map(|s| Some(s.to_bytes()));
        Ok(vec![Arc::new(BinaryArray::from_iter(bytes))])
    }

    fn merge_batch(&mut self, values: &[ArrayRef], groups: &[usize], total: usize) -> Result<()> {
        self.sketches.resize_with(total, Sketch::default);
        for (bytes, &group) in values[0].as_binary::<i32>().iter().zip(groups) {
            if let Some(bytes) = bytes {
                self.sketches[group].merge(&decode(bytes)?);
            }
        }
        Ok(())
    }

    fn convert_to_state(
        &self,
        values: &[ArrayRef],
        filter: Option<&BooleanArray>,
    ) -> Result<Vec<ArrayRef>> {
        let rows = values[0].len();
        let mut each = Self { of: self.of, sketches: Vec::new() };
        let groups: Vec<usize> = (0..rows).collect();
        each.update_batch(values, &groups, filter, rows)?;
        each.state(EmitTo::All)
    }

    fn size(&self) -> usize {
        self.sketches.iter().map(Sketch::size).sum()
    }
}

//! `quantile(x, q)`: the value below which a share `q` of all values lies, within 1 %.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, BinaryArray, BooleanArray, Float64Array};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Float64Type};
use datafusion::common::{DataFusionError, Result, ScalarValue, exec_err, plan_err};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::format_state_name;
use datafusion::logical_expr::{
    Accumulator, AggregateUDFImpl, EmitTo, GroupsAccumulator, Signature, Volatility,
};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{CastExpr, Literal};

use crate::sketch::Sketch;

/// The aggregate.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct Quantile {
    signature: Signature,
}

impl Default for Quantile {
    fn default() -> Self {
        Self { signature: Signature::user_defined(Volatility::Immutable) }
    }
}

impl AggregateUDFImpl for Quantile {
    fn name(&self) -> &'static str {
        "quantile"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        let number = |t: &DataType| t.is_numeric() || *t == DataType::Null;
        match types {
            [x, q] if number(x) && number(q) => Ok(vec![DataType::Float64; 2]),
            [x, _] if !number(x) => plan_err!("quantile takes numbers, not {x}"),
            _ => plan_err!("quantile takes a number and a share between 0 and 1"),
        }
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Float64)
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        let name = format_state_name(args.name, "sketch");
        Ok(vec![Arc::new(Field::new(name, DataType::Binary, true))])
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        not_distinct(&args)?;
        Ok(Box::new(One { share: share(&args)?, sketch: Sketch::default() }))
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs) -> bool {
        !args.is_distinct
    }

    fn create_groups_accumulator(
        &self,
        args: AccumulatorArgs,
    ) -> Result<Box<dyn GroupsAccumulator>> {
        not_distinct(&args)?;
        Ok(Box::new(Groups { share: share(&args)?, sketches: Vec::new() }))
    }
}

fn not_distinct(args: &AccumulatorArgs) -> Result<()> {
    if args.is_distinct { exec_err!("quantile takes no DISTINCT") } else { Ok(()) }
}

/// The second argument, which has to be a constant.
fn share(args: &AccumulatorArgs) -> Result<f64> {
    let mut expr: Option<&Arc<dyn PhysicalExpr>> = args.exprs.get(1);
    while let Some(cast) = expr.and_then(|e| e.downcast_ref::<CastExpr>()) {
        expr = Some(cast.expr());
    }
    let value = expr.and_then(|e| e.downcast_ref::<Literal>()).map(Literal::value);
    match value.map(|v| v.cast_to(&DataType::Float64)) {
        Some(Ok(ScalarValue::Float64(Some(q)))) if (0.0..=1.0).contains(&q) => Ok(q),
        _ => plan_err!("the second argument of quantile is a constant between 0 and 1"),
    }
}

fn decode(bytes: &[u8]) -> Result<Sketch> {
    Sketch::from_bytes(bytes)
        .map_err(|_| DataFusionError::Execution("malformed state of quantile".into()))
}

#[derive(Debug)]
struct One {
    share: f64,
    sketch: Sketch,
}

impl Accumulator for One {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        for v in values[0].as_primitive::<Float64Type>().iter().flatten() {
            self.sketch.add(v);
        }
        Ok(())
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        Ok(ScalarValue::Float64(self.sketch.quantile(self.share)))
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
    share: f64,
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
        let values = values[0].as_primitive::<Float64Type>();
        for (row, &group) in groups.iter().enumerate() {
            let kept = filter.is_none_or(|f| f.is_valid(row) && f.value(row));
            if kept && values.is_valid(row) {
                self.sketches[group].add(values.value(row));
            }
        }
        Ok(())
    }

    fn evaluate(&mut self, emit: EmitTo) -> Result<ArrayRef> {
        let sketches = emit.take_needed(&mut self.sketches);
        let values = sketches.iter().map(|s| s.quantile(self.share));
        Ok(Arc::new(Float64Array::from_iter(values)))
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
        let mut each = Self { share: self.share, sketches: Vec::new() };
        let groups: Vec<usize> = (0..rows).collect();
        each.update_batch(values, &groups, filter, rows)?;
        each.state(EmitTo::All)
    }

    fn size(&self) -> usize {
        self.sketches.iter().map(Sketch::size).sum()
    }
}

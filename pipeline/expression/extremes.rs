//! `min` and `max` of doubles in IEEE 754 total order, infinities included.
//!
//! DataFusion starts `min` at the largest finite double, so that the smallest of nothing but
//! infinities came out finite, and a state that was saved and merged differed from one that was
//! not. Doubles are mapped to integers of the same order instead.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BooleanArray, Float64Array, Int64Array};
use arrow::datatypes::{Float64Type, Int64Type};
use datafusion::common::Result;
use datafusion::logical_expr::{EmitTo, GroupsAccumulator};

/// An accumulator of integers that takes and gives doubles.
pub(super) struct Ordered(pub(super) Box<dyn GroupsAccumulator>);

/// IEEE 754 totalOrder as an integer; its own inverse.
fn flip(bits: i64) -> i64 {
    bits ^ ((bits >> 63).cast_unsigned() >> 1).cast_signed()
}

fn to_order(arrays: &[ArrayRef]) -> Vec<ArrayRef> {
    arrays
        .iter()
        .map(|array| match array.as_primitive_opt::<Float64Type>() {
            Some(doubles) => {
                let order = |v: f64| flip(v.to_bits().cast_signed());
                Arc::new(Int64Array::from_iter(doubles.iter().map(|v| v.map(order)))) as ArrayRef
            }
            None => array.clone(),
        })
        .collect()
}

fn to_doubles(array: &ArrayRef) -> ArrayRef {
    match array.as_primitive_opt::<Int64Type>() {
        Some(order) => {
            let double = |v: i64| f64::from_bits(flip(v).cast_unsigned());
            Arc::new(Float64Array::from_iter(order.iter().map(|v| v.map(double))))
        }
        None => array.clone(),
    }
}

impl GroupsAccumulator for Ordered {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        filter: Option<&BooleanArray>,
        total: usize,
    ) -> Result<()> {
        self.0.update_batch(&to_order(values), group_indices, filter, total)
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        Ok(to_doubles(&self.0.evaluate(emit_to)?))
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        Ok(self.0.state(emit_to)?.iter().map(to_doubles).collect())
    }

    fn merge_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        total: usize,
    ) -> Result<()> {
        self.0.merge_batch(&to_order(values), group_indices, total)
    }

    fn convert_to_state(
        &self,
        values: &[ArrayRef],
        filter: Option<&BooleanArray>,
    ) -> Result<Vec<ArrayRef>> {
        let state = self.0.convert_to_state(&to_order(values), filter)?;
        Ok(state.iter().map(to_doubles).collect())
    }

    fn size(&self) -> usize {
        self.0.size()
    }
}

//! Which rows are peers, and what is usual among them.

use arrow::array::{Array, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, TimestampNanosecondType};
use hashbrown::HashMap;
use weir_pipeline::batch::Batch;
use weir_pipeline::component::OperatorError;

/// Peers without whom nothing is unusual.
const LEAST: usize = 3;

/// What makes the median absolute deviation of normal values their standard deviation: 1 / 0.6745.
const MAD: f64 = 1.482_602_218_505_602;

/// The same for the mean absolute deviation: the root of half of pi.
const MEAN: f64 = 1.253_314_137_315_500_3;

/// Values of rows, group by group.
#[derive(Debug, Default)]
pub(super) struct Peers {
    /// By time and the text of the columns that they have in common.
    numbers: HashMap<(Option<i64>, Vec<Option<String>>), usize>,
    values: Vec<Vec<f64>>,
}

/// What is usual in a group.
#[derive(Debug, PartialEq)]
pub(super) struct Usual {
    pub(super) count: usize,
    pub(super) median: f64,
    /// Standard deviation, robust; `None` if there are too few.
    pub(super) spread: Option<f64>,
}

/// The column `name` as numbers; what is none, or not finite, has no value.
pub(super) fn numbers(batch: &Batch, name: &str) -> Vec<Option<f64>> {
    let numbers = batch.array(name).and_then(|a| cast(&a, &DataType::Float64).ok());
    match numbers {
        Some(array) => {
            let array = array.as_primitive::<Float64Type>();
            array.iter().map(|v| v.filter(|v| v.is_finite())).collect()
        }
        None => vec![None; batch.num_rows()],
    }
}

impl Peers {
    /// The group of each row of `batch`, whose values are `values`.
    pub(super) fn add(
        &mut self,
        batch: &Batch,
        among: &[String],
        values: &[Option<f64>],
    ) -> Result<Vec<usize>, OperatorError> {
        let columns = among.iter().map(|name| {
            let array = batch.array(name);
            array.map(|a| cast(&a, &DataType::Utf8)).transpose()
        });
        let columns: Vec<_> = columns.collect::<Result<_, _>>()?;
        let times = batch.array("timestamp");
        let times = times.as_ref().and_then(|t| t.as_primitive_opt::<TimestampNanosecondType>());
        let mut groups = Vec::with_capacity(values.len());
        for (row, value) in values.iter().enumerate() {
            let time = times.filter(|t| t.is_valid(row)).map(|t| t.value(row));
            let texts = columns.iter().map(|column| {
                let texts = column.as_ref()?.as_string::<i32>();
                texts.is_valid(row).then(|| texts.value(row).to_owned())
            });
            let next = self.values.len();
            let group = *self.numbers.entry((time, texts.collect())).or_insert(next);
            if group == next {
                self.values.push(Vec::new());
            }
            self.values[group].extend(value);
            groups.push(group);
        }
        Ok(groups)
    }

    /// What is usual in each group.
    pub(super) fn usual(self) -> Vec<Usual> {
        self.values.into_iter().map(usual).collect()
    }
}

fn usual(mut values: Vec<f64>) -> Usual {
    let count = values.len();
    if count < LEAST {
        return Usual { count, median: f64::NAN, spread: None };
    }
    let middle = median(&mut values);
    values.iter_mut().for_each(|v| *v = (*v - middle).abs());
    let spread = match MAD * median(&mut values) {
        // More than half are the same. In order, so that the sum does not depend on how they came.
        0.0 => {
            values.sort_unstable_by(f64::total_cmp);
            MEAN * values.iter().sum::<f64>() / count as f64
        }
        spread => spread,
    };
    Usual { count, median: middle, spread: Some(spread) }
}

/// Of values that are there; they are put in another order.
fn median(values: &mut [f64]) -> f64 {
    let half = values.len() / 2;
    let (below, middle, _) = values.select_nth_unstable_by(half, f64::total_cmp);
    let middle = *middle;
    match below.iter().copied().max_by(f64::total_cmp) {
        Some(other) if values.len().is_multiple_of(2) => f64::midpoint(other, middle),
        _ => middle,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn half_of_the_peers_hide_nothing() {
        let of = |values: &[f64]| usual(values.to_vec());
        assert_eq!(of(&[1.0, 2.0]).spread, None);
        let five = of(&[5.0, 1.0, 3.0, 2.0, 1000.0]);
        assert_eq!((five.median, five.spread), (3.0, Some(2.0 * MAD)));
        // More than half are the same.
        let same = of(&[1.0, 1.0, 1.0, 9.0]);
        assert_eq!((same.median, same.spread), (1.0, Some(2.0 * MEAN)));
        assert_eq!(of(&[4.0; 7]).spread, Some(0.0));
    }

    proptest! {
        #[test]
        fn the_median_is_that_of_sorted_values(
            values in proptest::collection::vec(-1e6..1e6_f64, 1..30),
        ) {
            let mut sorted = values.clone();
            sorted.sort_by(f64::total_cmp);
            let half = sorted.len() / 2;
            let expect = match sorted.len() % 2 {
                0 => f64::midpoint(sorted[half - 1], sorted[half]),
                _ => sorted[half],
            };
            prop_assert_eq!(median(&mut values.clone()), expect);
        }
    }
}

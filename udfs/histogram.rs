//! Histograms of the column `histogram` of metrics, subtracted, summed and asked for quantiles.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, Float64Array, Int64Array, Int64Builder, ListArray, ListBuilder,
    StructArray, new_null_array,
};
use datafusion::arrow::datatypes::{Fields, Float64Type, Int64Type};
use datafusion::arrow::error::ArrowError;

/// Buckets of one sign that an exponential histogram spans: beyond it two of them become one. At
/// 1,024 a factor of 65,000 is spanned at a relative error below 1 %.
const BUCKETS_MAX: i64 = 1_024;

/// Scales that the protocol of OpenTelemetry and Prometheus have are from -10 to 20; with others
/// nothing is gained.
const SCALES: std::ops::RangeInclusive<i64> = -20..=30;

/// Counts by bucket.
pub type Buckets = BTreeMap<i64, i64>;

/// What is counted of values, by bucket.
#[derive(Clone, Debug, PartialEq)]
pub enum Counts {
    /// By the bounds of the series; none of a summary.
    Explicit(Vec<i64>),
    /// As OpenTelemetry has them: bucket `i` of scale `s` holds values above `2^(i / 2^s)`, up to
    /// the next such bound.
    Exponential {
        /// Buckets between two powers of two, as a power of two.
        scale: i64,
        /// Values that are zero, or within `threshold` of it.
        zero: i64,
        /// See `zero`.
        threshold: f64,
        /// Of values above zero.
        positive: Buckets,
        /// Of values below zero.
        negative: Buckets,
    },
}

/// Values as counts.
#[derive(Clone, Debug, PartialEq)]
pub struct Histogram {
    /// Number of values.
    pub count: i64,
    /// Their sum.
    pub sum: f64,
    /// Least and greatest value, of deltas alone.
    pub range: Option<(f64, f64)>,
    /// By size.
    pub counts: Counts,
}

fn coarser(buckets: &Buckets, by: u32) -> Buckets {
    let mut out = Buckets::new();
    for (at, count) in buckets {
        // Arithmetic shift: bucket -1 falls into bucket -1 of the coarser scale.
        let slot = out.entry(at >> by.min(63)).or_default();
        *slot = i64::saturating_add(*slot, *count);
    }
    out
}

fn span(buckets: &Buckets) -> i64 {
    match (buckets.first_key_value(), buckets.last_key_value()) {
        (Some((first, _)), Some((last, _))) => last - first + 1,
        _ => 0,
    }
}

fn add(into: &mut Buckets, other: &Buckets, sign: i64) {
    for (at, count) in other {
        let slot = into.entry(*at).or_default();
        *slot = slot.saturating_add(sign * count);
    }
}

impl Counts {
    /// Makes exponential buckets as coarse as `to`, or as need be to be few.
    fn coarsen(&mut self, to: i64) {
        let Self::Exponential { scale, positive, negative, .. } = self else { return };
        let mut by = (*scale - to).max(0) as u32;
        let wide = |buckets: &Buckets, by: u32| {
            let (Some((first, _)), Some((last, _))) =
                (buckets.first_key_value(), buckets.last_key_value())
            else {
                return false;
            };
            (last >> by.min(63)) - (first >> by.min(63)) >= BUCKETS_MAX
        };
        while wide(positive, by) || wide(negative, by) {
            by += 1;
        }
        if by > 0 {
            *positive = coarser(positive, by);
            *negative = coarser(negative, by);
            *scale -= i64::from(by);
        }
    }

    /// Adds, or with a `sign` of -1 takes away. Whether the two can be compared.
    fn combine(&mut self, other: &Self, sign: i64) -> bool {
        match (&mut *self, other) {
            (Self::Explicit(own), Self::Explicit(other)) => {
                if own.len() != other.len() {
                    return false;
                }
                for (own, other) in own.iter_mut().zip(other) {
                    *own = own.saturating_add(sign * other);
                }
                true
            }
            (Self::Exponential { .. }, Self::Exponential { scale: theirs, .. }) => {
                self.coarsen(*theirs);
                let Self::Exponential { scale: ours, .. } = self else { return false };
                let mut other = other.clone();
                other.coarsen(*ours);
                if let Self::Exponential { scale, .. } = &other {
                    let scale = *scale;
                    self.coarsen(scale);
                }
                let (
                    Self::Exponential { zero, threshold, positive, negative, .. },
                    Self::Exponential {
                        zero: their_zero,
                        threshold: their_threshold,
                        positive: their_positive,
                        negative: their_negative,
                        ..
                    },
                ) = (&mut *self, &other)
                else {
                    return false;
                };
                *zero = zero.saturating_add(sign * their_zero);
                *threshold = threshold.max(*their_threshold);
                add(positive, their_positive, sign);
                add(negative, their_negative, sign);
                if let Self::Exponential { scale, .. } = &*self {
                    let scale = *scale;
                    self.coarsen(scale);
                }
                true
            }
            _ => false,
        }
    }

    fn any(&self, is: impl Fn(i64) -> bool) -> bool {
        match self {
            Self::Explicit(counts) => counts.iter().any(|c| is(*c)),
            Self::Exponential { zero, positive, negative, .. } => {
                is(*zero) || positive.values().chain(negative.values()).any(|c| is(*c))
            }
        }
    }
}

impl Histogram {
    /// Adds, or with a `sign` of -1 takes away. Buckets that do not fit are left out.
    /// Gives whether they did.
    pub fn add(&mut self, other: &Self, sign: i64) -> bool {
        self.count = self.count.saturating_add(sign * other.count);
        self.sum += sign as f64 * other.sum;
        self.range = match (self.range, other.range) {
            (Some((low, high)), Some((l, h))) => Some((low.min(l), high.max(h))),
            (own, other) => own.or(other),
        };
        self.counts.combine(&other.counts, sign)
    }

    /// The value below which a share `q` of all values lies, were they spread evenly in their bucket
    /// (of exponential ones: evenly by their logarithm). Explicit buckets need their `bounds`; the
    /// first begins at 0, or at its bound if that is below, and the last ends where it begins.
    pub fn quantile(&self, q: f64, bounds: &[f64]) -> Option<f64> {
        match &self.counts {
            Counts::Explicit(counts) => {
                let (last, within) = bounds.split_last()?;
                let ends = |i: usize| bounds.get(i).unwrap_or(last);
                let (at, part) = place(counts.iter().copied(), q)?;
                Some(match at {
                    0 if *ends(0) <= 0.0 => *ends(0),
                    0 => ends(0) * part,
                    at if at > within.len() => *last,
                    at => ends(at - 1) + (ends(at) - ends(at - 1)) * part,
                })
            }
            Counts::Exponential { scale, zero, positive, negative, .. } => {
                let below = negative.iter().rev().map(|(i, count)| (Some((-1.0, *i)), *count));
                let above = positive.iter().map(|(i, count)| (Some((1.0, *i)), *count));
                let all: Vec<_> = below.chain([(None, *zero)]).chain(above).collect();
                let (at, part) = place(all.iter().map(|(_, count)| *count), q)?;
                let power = |i: f64| (i / (*scale as f64).exp2()).exp2();
                let value = match all.get(at)?.0 {
                    None => 0.0,
                    Some((sign, i)) if sign > 0.0 => power(i as f64 + part),
                    Some((_, i)) => -power(i as f64 + 1.0 - part),
                };
                Some(match self.range {
                    Some((low, high)) if low <= high => value.clamp(low, high),
                    _ => value,
                })
            }
        }
    }

    /// What this counts more than `before`, `None` if that is no earlier state of it.
    pub fn since(&self, before: &Self) -> Option<Self> {
        let mut counts = self.counts.clone();
        if self.count < before.count || !counts.combine(&before.counts, -1) {
            return None;
        }
        if counts.any(|c| c < 0) {
            return None;
        }
        let (count, sum) = (self.count - before.count, self.sum - before.sum);
        Some(Self { count, sum, range: None, counts })
    }

    /// What takes it away.
    pub fn negated(mut self) -> Self {
        let negate = |count: &mut i64| *count = count.saturating_neg();
        negate(&mut self.count);
        (self.sum, self.range) = (-self.sum, None);
        match &mut self.counts {
            Counts::Explicit(counts) => counts.iter_mut().for_each(negate),
            Counts::Exponential { zero, positive, negative, .. } => {
                negate(zero);
                positive.values_mut().chain(negative.values_mut()).for_each(negate);
            }
        }
        self
    }

    /// Whether it adds nothing.
    pub fn is_nothing(&self) -> bool {
        self.count == 0 && self.sum == 0.0 && !self.counts.any(|c| c != 0)
    }
}

/// In which of the buckets a share `q` of all is reached, and at which part of it. None if there is
/// nothing in them.
fn place(counts: impl Iterator<Item = i64> + Clone, q: f64) -> Option<(usize, f64)> {
    // Of corrections alone there may be fewer than none.
    let counts = counts.map(|count| count.max(0) as f64);
    let total: f64 = counts.clone().sum();
    let rank = q * total;
    let mut before = 0.0;
    let mut last = None;
    for (at, count) in counts.enumerate().filter(|(_, count)| *count > 0.0) {
        if before + count >= rank {
            return Some((at, ((rank - before) / count).clamp(0.0, 1.0)));
        }
        before += count;
        last = Some((at, 1.0));
    }
    last
}

/// The columns of a `histogram` column.
pub struct Reader<'a> {
    all: &'a StructArray,
    count: &'a Int64Array,
    sum: &'a Float64Array,
    range: [&'a Float64Array; 2],
    scale: &'a Int64Array,
    zero: &'a Int64Array,
    threshold: &'a Float64Array,
    offsets: [&'a Int64Array; 2],
    /// `counts`, `positive_counts`, `negative_counts`.
    lists: [&'a ListArray; 3],
}

impl<'a> Reader<'a> {
    /// `None` if it is no column of histograms.
    pub fn new(array: &'a ArrayRef) -> Option<Self> {
        let all = array.as_struct_opt()?;
        let int = |name: &str| all.column_by_name(name)?.as_primitive_opt::<Int64Type>();
        let double = |name: &str| all.column_by_name(name)?.as_primitive_opt::<Float64Type>();
        let list = |name: &str| all.column_by_name(name)?.as_list_opt::<i32>();
        Some(Self {
            all,
            count: int("count")?,
            sum: double("sum")?,
            range: [double("min")?, double("max")?],
            scale: int("scale")?,
            zero: int("zero_count")?,
            threshold: double("zero_threshold")?,
            offsets: [int("positive_offset")?, int("negative_offset")?],
            lists: [list("counts")?, list("positive_counts")?, list("negative_counts")?],
        })
    }

    fn list(&self, index: usize, row: usize) -> Vec<i64> {
        let list = self.lists[index];
        if list.is_null(row) {
            return Vec::new();
        }
        let values = list.value(row);
        values.as_primitive_opt::<Int64Type>().map_or_else(Vec::new, |v| v.values().to_vec())
    }

    fn buckets(&self, sign: usize, row: usize) -> Option<Buckets> {
        let offset = self.offsets[sign];
        let offset = if offset.is_valid(row) { offset.value(row) } else { 0 };
        // The protocol has 32 bits.
        let offset = i64::from(i32::try_from(offset).ok()?);
        let counts = self.list(sign + 1, row);
        Some((offset..).zip(counts).filter(|(_, count)| *count != 0).collect())
    }

    /// The histogram of a row; `None` if it has none.
    ///
    /// # Errors
    /// If it cannot be one.
    pub fn at(&self, row: usize, delta: bool) -> Result<Option<Histogram>, String> {
        if self.all.is_null(row) || self.count.is_null(row) {
            return Ok(None);
        }
        let double = |array: &Float64Array| array.is_valid(row).then(|| array.value(row));
        let counts = if self.scale.is_valid(row) {
            let scale = self.scale.value(row);
            let bad = || format!("no exponential histogram: scale {scale}");
            if !SCALES.contains(&scale) {
                return Err(bad());
            }
            let mut counts = Counts::Exponential {
                scale,
                zero: if self.zero.is_valid(row) { self.zero.value(row) } else { 0 },
                threshold: double(self.threshold).unwrap_or(0.0),
                positive: self.buckets(0, row).ok_or_else(bad)?,
                negative: self.buckets(1, row).ok_or_else(bad)?,
            };
            counts.coarsen(scale);
            counts
        } else {
            Counts::Explicit(self.list(0, row))
        };
        let range = double(self.range[0]).zip(double(self.range[1])).filter(|_| delta);
        let sum = double(self.sum).unwrap_or(0.0);
        Ok(Some(Histogram { count: self.count.value(row), sum, range, counts }))
    }
}

/// Those of rows as a column.
///
/// # Errors
/// If `fields` are not those of such a column.
pub fn column(rows: &[Option<&Histogram>], fields: &Fields) -> Result<ArrayRef, ArrowError> {
    type Part = (i64, Vec<i64>);
    let dense = |buckets: &Buckets| -> Part {
        let first = buckets.first_key_value().map_or(0, |(at, _)| *at);
        let mut counts = vec![0; span(buckets) as usize];
        buckets.iter().for_each(|(at, count)| counts[(at - first) as usize] = *count);
        (first, counts)
    };
    let exponential = |h: &Histogram| match &h.counts {
        Counts::Exponential { scale, zero, threshold, positive, negative } => {
            Some((*scale, *zero, *threshold, dense(positive), dense(negative)))
        }
        Counts::Explicit(_) => None,
    };
    let parts: Vec<_> = rows.iter().map(|r| r.and_then(exponential)).collect();
    let lists = |lists: Vec<Option<&Vec<i64>>>| -> ArrayRef {
        let mut builder = ListBuilder::new(Int64Builder::new());
        for list in lists {
            if let Some(list) = list {
                builder.values().append_slice(list);
            }
            builder.append(list.is_some());
        }
        Arc::new(builder.finish())
    };
    let int = |values: Vec<Option<i64>>| -> ArrayRef { Arc::new(Int64Array::from(values)) };
    let double = |values: Vec<Option<f64>>| -> ArrayRef { Arc::new(Float64Array::from(values)) };
    let explicit = |h: Option<&Histogram>| -> Option<Vec<i64>> {
        match &h?.counts {
            Counts::Explicit(counts) => Some(counts.clone()),
            Counts::Exponential { .. } => None,
        }
    };
    let explicit: Vec<Option<Vec<i64>>> = rows.iter().map(|r| explicit(*r)).collect();
    let arrays = fields.iter().map(|field| match field.name().as_str() {
        "count" => int(rows.iter().map(|r| r.map(|h| h.count)).collect()),
        "sum" => double(rows.iter().map(|r| r.map(|h| h.sum)).collect()),
        "min" => double(rows.iter().map(|r| r.and_then(|h| h.range).map(|r| r.0)).collect()),
        "max" => double(rows.iter().map(|r| r.and_then(|h| h.range).map(|r| r.1)).collect()),
        "counts" => lists(explicit.iter().map(Option::as_ref).collect()),
        "scale" => int(parts.iter().map(|p| p.as_ref().map(|p| p.0)).collect()),
        "zero_count" => int(parts.iter().map(|p| p.as_ref().map(|p| p.1)).collect()),
        "zero_threshold" => double(parts.iter().map(|p| p.as_ref().map(|p| p.2)).collect()),
        "positive_offset" => int(parts.iter().map(|p| p.as_ref().map(|p| p.3.0)).collect()),
        "positive_counts" => lists(parts.iter().map(|p| p.as_ref().map(|p| &p.3.1)).collect()),
        "negative_offset" => int(parts.iter().map(|p| p.as_ref().map(|p| p.4.0)).collect()),
        "negative_counts" => lists(parts.iter().map(|p| p.as_ref().map(|p| &p.4.1)).collect()),
        _ => new_null_array(field.data_type(), rows.len()),
    });
    let arrays = arrays.collect();
    let nulls = rows.iter().map(Option::is_some).collect::<Vec<bool>>().into();
    Ok(Arc::new(StructArray::try_new(fields.clone(), arrays, Some(nulls))?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use proptest::prelude::*;

    use super::*;

    fn explicit(counts: &[i64]) -> Histogram {
        let (count, counts) = (counts.iter().sum(), Counts::Explicit(counts.into()));
        Histogram { count, sum: 0.0, range: None, counts }
    }

    /// The histogram of `values`, none of them so small that it has no bucket.
    fn exponential(values: &[f64], scale: i64) -> Histogram {
        let (mut positive, mut negative, mut zero) = (Buckets::new(), Buckets::new(), 0);
        for value in values {
            let at = |v: f64| (v.log2() * (scale as f64).exp2()).ceil() as i64 - 1;
            match value {
                v if *v > 0.0 => *positive.entry(at(*v)).or_default() += 1,
                v if *v < 0.0 => *negative.entry(at(-v)).or_default() += 1,
                _ => zero += 1,
            }
        }
        let counts = Counts::Exponential { scale, zero, threshold: 0.0, positive, negative };
        let (count, sum) = (values.len() as i64, values.iter().sum());
        Histogram { count, sum, range: None, counts }
    }

    #[test]
    fn quantiles_of_explicit_buckets_are_between_their_bounds() {
        let histogram = explicit(&[1, 1, 2]);
        for (q, expected) in [(0.0, 0.0), (0.125, 0.5), (0.25, 1.0), (0.375, 1.5), (1.0, 2.0)] {
            assert_eq!(histogram.quantile(q, &[1.0, 2.0]), Some(expected), "{q}");
        }
        assert_eq!(explicit(&[3, 0]).quantile(0.5, &[-4.0]), Some(-4.0));
        assert_eq!(explicit(&[0, 0]).quantile(0.5, &[1.0]), None);
        assert_eq!(explicit(&[4]).quantile(0.5, &[]), None);
    }

    proptest! {
        #[test]
        fn quantiles_of_exponential_buckets_are_near(
            mut values in proptest::collection::vec(
                prop_oneof![1e-3..1e6_f64, -1e6..-1e-3_f64, Just(0.0)], 1..200),
            q in 0.0..=1.0_f64,
            cut in 0..200_usize,
        ) {
            let cut = cut.min(values.len());
            // What is merged of two parts of other scales is that of all at the coarser one.
            let mut merged = exponential(&values[..cut], 5);
            prop_assert!(merged.add(&exponential(&values[cut..], 4), 1));
            let whole = exponential(&values, 4);
            prop_assert_eq!(&merged.counts, &whole.counts);
            values.sort_by(f64::total_cmp);
            let rank = (q * values.len() as f64).ceil().max(1.0) as usize - 1;
            let (found, exact) = (merged.quantile(q, &[]).unwrap(), values[rank]);
            // A bucket is 2^(1/16) wide.
            prop_assert!((found - exact).abs() <= exact.abs() * 0.045, "{found} for {exact}");
        }

        #[test]
        fn what_was_added_is_what_it_is_more(
            before in proptest::collection::vec(0..9_i64, 4),
            more in proptest::collection::vec(0..9_i64, 4),
        ) {
            let (before, more) = (explicit(&before), explicit(&more));
            let mut after = before.clone();
            prop_assert!(after.add(&more, 1));
            prop_assert_eq!(after.since(&before), Some(more.clone()));
            prop_assert_eq!(before.since(&after).is_some(), more.is_nothing());
            after.add(&more.negated(), 1);
            prop_assert_eq!(after, before);
        }
    }
}

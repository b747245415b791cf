//! Histograms that are subtracted and summed.

use std::collections::BTreeMap;

use arrow::array::{
    Array, ArrayRef, AsArray, Float64Array, Int64Array, Int64Builder, ListBuilder, StructArray,
    new_null_array,
};
use arrow::datatypes::{Float64Type, Int64Type};
use weir_pipeline::component::OperatorError;
use weir_pipeline::signal::histogram_fields;

/// Buckets of one sign that an exponential histogram spans: beyond it two of them become one. At
/// 1,024 a factor of 65,000 is spanned at a relative error below 1 %.
const BUCKETS_MAX: i64 = 1_024;

/// Scales that the protocol of OpenTelemetry and Prometheus have are from -10 to 20; with others
/// nothing is gained.
const SCALES: std::ops::RangeInclusive<i64> = -20..=30;

/// Counts by bucket.
pub(super) type Buckets = BTreeMap<i64, i64>;

/// What is counted of values.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Counts {
    /// By the bounds of the series; none of a summary.
    Explicit(Vec<i64>),
    Exponential {
        scale: i64,
        zero: i64,
        threshold: f64,
        positive: Buckets,
        negative: Buckets,
    },
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Histogram {
    pub(super) count: i64,
    pub(super) sum: f64,
    /// Least and greatest value, of deltas alone.
    pub(super) range: Option<(f64, f64)>,
    pub(super) counts: Counts,
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
    pub(super) fn add(&mut self, other: &Self, sign: i64) {
        self.count = self.count.saturating_add(sign * other.count);
        self.sum += sign as f64 * other.sum;
        self.range = match (self.range, other.range) {
            (Some((low, high)), Some((l, h))) => Some((low.min(l), high.max(h))),
            (own, other) => own.or(other),
        };
        self.counts.combine(&other.counts, sign);
    }

    /// What this counts more than `before`, `None` if that is no earlier state of it.
    pub(super) fn since(&self, before: &Self) -> Option<Self> {
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
    pub(super) fn negated(mut self) -> Self {
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
    pub(super) fn is_nothing(&self) -> bool {
        self.count == 0 && self.sum == 0.0 && !self.counts.any(|c| c != 0)
    }
}

/// The columns of a `histogram` column.
pub(super) struct Reader<'a> {
    all: &'a StructArray,
    count: &'a Int64Array,
    sum: &'a Float64Array,
    range: [&'a Float64Array; 2],
    scale: &'a Int64Array,
    zero: &'a Int64Array,
    threshold: &'a Float64Array,
    offsets: [&'a Int64Array; 2],
    /// `counts`, `positive_counts`, `negative_counts`.
    lists: [&'a arrow::array::ListArray; 3],
}

impl<'a> Reader<'a> {
    /// `None` if it is no column of histograms.
    pub(super) fn new(array: &'a ArrayRef) -> Option<Self> {
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
    pub(super) fn at(&self, row: usize, delta: bool) -> Result<Option<Histogram>, OperatorError> {
        if self.all.is_null(row) || self.count.is_null(row) {
            return Ok(None);
        }
        let double = |array: &Float64Array| array.is_valid(row).then(|| array.value(row));
        let counts = if self.scale.is_valid(row) {
            let scale = self.scale.value(row);
            let bad = || OperatorError::new(format!("no exponential histogram: scale {scale}"));
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
pub(super) fn column(rows: &[Option<&Histogram>]) -> Result<ArrayRef, OperatorError> {
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
        std::sync::Arc::new(builder.finish())
    };
    let int =
        |values: Vec<Option<i64>>| -> ArrayRef { std::sync::Arc::new(Int64Array::from(values)) };
    let double =
        |values: Vec<Option<f64>>| -> ArrayRef { std::sync::Arc::new(Float64Array::from(values)) };
    let explicit = |h: Option<&Histogram>| -> Option<Vec<i64>> {
        match &h?.counts {
            Counts::Explicit(counts) => Some(counts.clone()),
            Counts::Exponential { .. } => None,
        }
    };
    let explicit: Vec<Option<Vec<i64>>> = rows.iter().map(|r| explicit(*r)).collect();
    let fields = histogram_fields();
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
    Ok(std::sync::Arc::new(StructArray::try_new(fields, arrays, Some(nulls))?))
}

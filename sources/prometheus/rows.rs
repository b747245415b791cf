//! Rows of metrics, as columns.

use std::sync::Arc;

use arrow::array::{
    ArrayBuilder, ArrayRef, BooleanArray, Float64Array, Float64Builder, Int64Array, Int64Builder,
    ListBuilder, RecordBatch, StringArray, StructArray, TimestampNanosecondArray, UInt32Array,
};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{Field, Schema};
use weir_pipeline::batch::Keys;
use weir_pipeline::component::{DecodeError, DecodedBatch};
use weir_pipeline::entity::EntityTable;
use weir_pipeline::signal::{META_JSON, Signal, histogram_fields};

use super::STALE_NAN;

/// One native histogram.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Histogram {
    pub(crate) count: i64,
    pub(crate) sum: f64,
    /// Explicit buckets; empty for exponential ones.
    pub(crate) counts: Vec<i64>,
    /// Exponential buckets, OpenTelemetry indexes.
    pub(crate) exponential: Option<Exponential>,
}

/// The exponential part of a histogram.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Exponential {
    pub(crate) scale: i64,
    pub(crate) zero_count: i64,
    pub(crate) zero_threshold: f64,
    pub(crate) positive: (i64, Vec<i64>),
    pub(crate) negative: (i64, Vec<i64>),
}

/// Collects rows; every column but `timestamp` is left out if no row has a value for it.
#[derive(Debug, Default)]
pub(crate) struct MetricRows {
    keys: Vec<u32>,
    timestamps: Vec<i64>,
    values: Vec<f64>,
    /// Rows without a value: stale ones and histograms.
    empty: Vec<usize>,
    stale: Vec<usize>,
    ints: Vec<(usize, i64)>,
    histograms: Vec<(usize, Histogram)>,
    exemplars: Vec<(usize, String)>,
}

impl MetricRows {
    /// None, with room for `rows`.
    pub(crate) fn with_capacity(rows: usize) -> Self {
        Self {
            keys: Vec::with_capacity(rows),
            timestamps: Vec::with_capacity(rows),
            values: Vec::with_capacity(rows),
            ..Self::default()
        }
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.keys.len()
    }

    /// Adds a sample of milliseconds `time`; the stale NaN becomes `stale` without a value.
    pub(crate) fn sample(&mut self, key: u32, time: i64, value: f64) {
        if value.to_bits() == STALE_NAN {
            self.stale(key, time);
        } else {
            self.push(key, time, value);
        }
    }

    fn push(&mut self, key: u32, time: i64, value: f64) {
        self.keys.push(key);
        self.timestamps.push(time.saturating_mul(1_000_000));
        self.values.push(value);
    }

    /// Says that the series has ended.
    pub(crate) fn stale(&mut self, key: u32, time: i64) {
        self.stale.push(self.len());
        self.empty.push(self.len());
        self.push(key, time, 0.0);
    }

    /// Adds a histogram.
    pub(crate) fn histogram(&mut self, key: u32, time: i64, histogram: Histogram) {
        self.histograms.push((self.len(), histogram));
        self.empty.push(self.len());
        self.push(key, time, 0.0);
    }

    /// Gives the last row an integer that its double does not hold exactly.
    pub(crate) fn last_int(&mut self, value: i64) {
        if let Some(row) = self.len().checked_sub(1) {
            self.ints.push((row, value));
        }
    }

    /// Gives the last row its exemplars, a JSON array.
    pub(crate) fn last_exemplars(&mut self, json: String) {
        if let Some(row) = self.len().checked_sub(1) {
            self.exemplars.push((row, json));
        }
    }

    /// The batch for `output`.
    ///
    /// # Errors
    /// If a column takes more than Arrow holds.
    pub(crate) fn finish(
        self,
        output: &'static str,
        table: Arc<EntityTable>,
    ) -> Result<DecodedBatch, DecodeError> {
        let n = self.len();
        let json: usize = self.exemplars.iter().map(|(_, e)| e.len()).sum();
        let buckets = |h: &Histogram| {
            let e = h.exponential.as_ref().map_or(0, |e| e.positive.1.len() + e.negative.1.len());
            h.counts.len() + e
        };
        let buckets: usize = self.histograms.iter().map(|(_, h)| buckets(h)).sum();
        if json.max(buckets) > i32::MAX as usize {
            return Err(DecodeError::new("too_large", "exemplars or buckets past 2 GiB"));
        }
        let time = TimestampNanosecondArray::from(self.timestamps).with_timezone("UTC");
        let mut columns: Vec<(&str, ArrayRef)> = vec![("timestamp", Arc::new(time))];
        let nulls = (!self.empty.is_empty()).then(|| {
            let mut valid = vec![true; n];
            for &row in &self.empty {
                valid[row] = false;
            }
            NullBuffer::from(valid)
        });
        if self.empty.len() < n {
            columns.push(("value", Arc::new(Float64Array::new(self.values.into(), nulls))));
        }
        if !self.ints.is_empty() {
            columns.push(("value_int", Arc::new(Int64Array::from_iter(spread(n, self.ints)))));
        }
        if !self.stale.is_empty() {
            let rows = self.stale.into_iter().map(|row| (row, true));
            columns.push(("stale", Arc::new(BooleanArray::from_iter(spread(n, rows)))));
        }
        if !self.histograms.is_empty() {
            columns.push(("histogram", histograms(n, self.histograms)?));
        }
        if !self.exemplars.is_empty() {
            let values = StringArray::from_iter(spread(n, self.exemplars));
            columns.push(("exemplars", Arc::new(values)));
        }
        let fields = columns.iter().map(|(name, array)| {
            let field = Field::new(*name, array.data_type().clone(), true);
            if *name != "exemplars" {
                return field;
            }
            field.with_metadata([(META_JSON.to_owned(), "true".to_owned())].into())
        });
        let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        let arrays = columns.into_iter().map(|(_, array)| array).collect();
        let rows = RecordBatch::try_new(schema, arrays).map_err(internal)?;
        let entities = Some(Keys { keys: UInt32Array::from(self.keys), table });
        Ok(DecodedBatch { output, signal: Signal::Metrics, rows, entities })
    }
}

fn internal(e: arrow::error::ArrowError) -> DecodeError {
    DecodeError::new("internal", e.to_string())
}

/// Values by ascending row, as one optional value per row.
fn spread<T>(
    rows: usize,
    values: impl IntoIterator<Item = (usize, T)>,
) -> impl Iterator<Item = Option<T>> {
    let mut values = values.into_iter().peekable();
    (0..rows).map(move |row| values.next_if(|(at, _)| *at == row).map(|(_, value)| value))
}

fn histograms(rows: usize, values: Vec<(usize, Histogram)>) -> Result<ArrayRef, DecodeError> {
    let number = || (Int64Builder::with_capacity(rows), Float64Builder::with_capacity(rows));
    let ((mut count, mut sum), (mut scale, mut zero_threshold)) = (number(), number());
    let ((mut zero_count, mut none), (mut positive_offset, _)) = (number(), number());
    let mut negative_offset = Int64Builder::with_capacity(rows);
    let list = || ListBuilder::new(Int64Builder::new());
    let (mut counts, mut positive, mut negative) = (list(), list(), list());
    let mut quantiles = ListBuilder::new(Float64Builder::new());
    let mut valid = Vec::with_capacity(rows);
    for h in spread(rows, values) {
        valid.push(h.is_some());
        let h = h.as_ref();
        let e = h.and_then(|h| h.exponential.as_ref());
        count.append_option(h.map(|h| h.count));
        sum.append_option(h.map(|h| h.sum));
        none.append_null();
        quantiles.append_null();
        match h.filter(|_| e.is_none()) {
            Some(h) => counts.append_value(h.counts.iter().copied().map(Some)),
            None => counts.append_null(),
        }
        scale.append_option(e.map(|e| e.scale));
        zero_count.append_option(e.map(|e| e.zero_count));
        zero_threshold.append_option(e.map(|e| e.zero_threshold));
        positive_offset.append_option(e.map(|e| e.positive.0));
        negative_offset.append_option(e.map(|e| e.negative.0));
        for (list, side) in
            [(&mut positive, e.map(|e| &e.positive.1)), (&mut negative, e.map(|e| &e.negative.1))]
        {
            match side {
                Some(side) => list.append_value(side.iter().copied().map(Some)),
                None => list.append_null(),
            }
        }
    }
    let none: ArrayRef = Arc::new(none.finish());
    let done = |builder: &mut dyn ArrayBuilder| builder.finish();
    let arrays = vec![
        done(&mut count),
        done(&mut sum),
        none.clone(),
        none,
        done(&mut counts),
        done(&mut quantiles),
        done(&mut scale),
        done(&mut zero_count),
        done(&mut zero_threshold),
        done(&mut positive_offset),
        done(&mut positive),
        done(&mut negative_offset),
        done(&mut negative),
    ];
    let array = StructArray::try_new(histogram_fields(), arrays, Some(valid.into()));
    Ok(Arc::new(array.map_err(internal)?))
}

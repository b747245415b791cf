//! The `histogram` struct column.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, Float64Array, Float64Builder, Int64Array, Int64Builder, ListBuilder, StructArray,
};
use arrow::buffer::NullBuffer;
use opentelemetry_proto::tonic::metrics::v1 as pb;
use weir_pipeline::component::DecodeError;
use weir_pipeline::signal::histogram_fields;

use super::value::Bad;

/// One value of the column; the fields are those of [`histogram_fields`].
#[derive(Clone, Debug, Default)]
pub(super) struct Histogram {
    count: i64,
    sum: Option<f64>,
    min: Option<f64>,
    max: Option<f64>,
    counts: Option<Vec<i64>>,
    values: Option<Vec<f64>>,
    scale: Option<i64>,
    zero_count: Option<i64>,
    zero_threshold: Option<f64>,
    positive: Option<(i64, Vec<i64>)>,
    negative: Option<(i64, Vec<i64>)>,
}

impl Histogram {
    pub(super) fn explicit(p: &pb::HistogramDataPoint) -> Result<Self, Bad> {
        let (counts, bounds) = (p.bucket_counts.len(), p.explicit_bounds.len());
        if counts != bounds + 1 && (counts, bounds) != (0, 0) {
            return Err(Bad {
                reason: "bad_histogram",
                message: format!("{counts} bucket counts do not fit {bounds} bounds"),
            });
        }
        Ok(Self {
            count: count(p.count)?,
            sum: p.sum,
            min: p.min,
            max: p.max,
            counts: Some(all(&p.bucket_counts)?),
            ..Self::default()
        })
    }

    pub(super) fn exponential(p: &pb::ExponentialHistogramDataPoint) -> Result<Self, Bad> {
        let buckets = |b: &Option<pb::exponential_histogram_data_point::Buckets>| {
            b.as_ref().map(|b| Ok((b.offset.into(), all(&b.bucket_counts)?))).transpose()
        };
        Ok(Self {
            count: count(p.count)?,
            sum: p.sum,
            min: p.min,
            max: p.max,
            scale: Some(p.scale.into()),
            zero_count: Some(count(p.zero_count)?),
            zero_threshold: Some(p.zero_threshold),
            positive: buckets(&p.positive)?,
            negative: buckets(&p.negative)?,
            ..Self::default()
        })
    }

    pub(super) fn summary(p: &pb::SummaryDataPoint) -> Result<Self, Bad> {
        Ok(Self {
            count: count(p.count)?,
            sum: Some(p.sum),
            values: Some(p.quantile_values.iter().map(|q| q.value).collect()),
            ..Self::default()
        })
    }
}

fn all(counts: &[u64]) -> Result<Vec<i64>, Bad> {
    counts.iter().map(|c| count(*c)).collect()
}

fn count(count: u64) -> Result<i64, Bad> {
    i64::try_from(count).map_err(|_| Bad {
        reason: "bad_histogram",
        message: format!("count {count} is above 2^63"),
    })
}

/// The column; NULL for rows without a histogram.
pub(super) fn column(rows: &[Option<Box<Histogram>>]) -> Result<ArrayRef, DecodeError> {
    let some = |row: &Option<Box<Histogram>>| row.is_some();
    let int = |f: fn(&Histogram) -> Option<i64>| -> ArrayRef {
        Arc::new(Int64Array::from_iter(rows.iter().map(|r| r.as_deref().and_then(f))))
    };
    let double = |f: fn(&Histogram) -> Option<f64>| -> ArrayRef {
        Arc::new(Float64Array::from_iter(rows.iter().map(|r| r.as_deref().and_then(f))))
    };
    let ints = |f: fn(&Histogram) -> Option<&Vec<i64>>| -> ArrayRef {
        let mut b = ListBuilder::new(Int64Builder::new());
        for row in rows {
            let list = row.as_deref().and_then(f);
            if let Some(list) = list {
                b.values().append_slice(list);
            }
            b.append(list.is_some());
        }
        Arc::new(b.finish())
    };
    let mut values = ListBuilder::new(Float64Builder::new());
    for row in rows {
        let list = row.as_ref().and_then(|h| h.values.as_ref());
        if let Some(list) = list {
            values.values().append_slice(list);
        }
        values.append(list.is_some());
    }
    // In the order of `histogram_fields`.
    let columns = vec![
        int(|h| Some(h.count)),
        double(|h| h.sum),
        double(|h| h.min),
        double(|h| h.max),
        ints(|h| h.counts.as_ref()),
        Arc::new(values.finish()),
        int(|h| h.scale),
        int(|h| h.zero_count),
        double(|h| h.zero_threshold),
        int(|h| h.positive.as_ref().map(|b| b.0)),
        ints(|h| h.positive.as_ref().map(|b| &b.1)),
        int(|h| h.negative.as_ref().map(|b| b.0)),
        ints(|h| h.negative.as_ref().map(|b| &b.1)),
    ];
    let nulls = NullBuffer::from_iter(rows.iter().map(some));
    StructArray::try_new(histogram_fields(), columns, Some(nulls))
        .map(|s| Arc::new(s) as ArrayRef)
        .map_err(|e| DecodeError::new("internal", e.to_string()))
}

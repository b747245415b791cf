//! OTLP/JSON metrics to the same records as protobuf.

use opentelemetry_proto::tonic::metrics::v1 as pb;
use pb::exponential_histogram_data_point::Buckets;
use pb::metric::Data;
use pb::summary_data_point::ValueAtQuantile;

use super::read::{Object, Wrong, attributes, double, hex, integer, number_or_name, string};
use super::text::Json;

type Read<T> = Result<T, Wrong>;

pub(super) fn metric(value: &Json<'_>) -> Read<pb::Metric> {
    let o = Object::of(value)?;
    let data = if let Some(v) = o.get("gauge", gauge)? {
        Some(Data::Gauge(v))
    } else if let Some(v) = o.get("sum", sum)? {
        Some(Data::Sum(v))
    } else if let Some(v) = o.get("histogram", histogram)? {
        Some(Data::Histogram(v))
    } else if let Some(v) = o.get("exponentialHistogram", exponential_histogram)? {
        Some(Data::ExponentialHistogram(v))
    } else {
        o.get("summary", summary)?.map(Data::Summary)
    };
    Ok(pb::Metric {
        name: o.or("name", string)?,
        description: o.or("description", string)?,
        unit: o.or("unit", string)?,
        metadata: attributes(&o, "metadata")?,
        data,
    })
}

fn gauge(value: &Json<'_>) -> Read<pb::Gauge> {
    Ok(pb::Gauge { data_points: Object::of(value)?.list("dataPoints", number_point)? })
}

fn sum(value: &Json<'_>) -> Read<pb::Sum> {
    let o = Object::of(value)?;
    Ok(pb::Sum {
        data_points: o.list("dataPoints", number_point)?,
        aggregation_temporality: temporality(&o)?,
        is_monotonic: o.or("isMonotonic", |v| match v {
            Json::Bool(v) => Ok(*v),
            other => integer::<i64>(other).map(|v| v != 0),
        })?,
    })
}

fn histogram(value: &Json<'_>) -> Read<pb::Histogram> {
    let o = Object::of(value)?;
    Ok(pb::Histogram {
        data_points: o.list("dataPoints", histogram_point)?,
        aggregation_temporality: temporality(&o)?,
    })
}

fn exponential_histogram(value: &Json<'_>) -> Read<pb::ExponentialHistogram> {
    let o = Object::of(value)?;
    Ok(pb::ExponentialHistogram {
        data_points: o.list("dataPoints", exponential_point)?,
        aggregation_temporality: temporality(&o)?,
    })
}

fn summary(value: &Json<'_>) -> Read<pb::Summary> {
    Ok(pb::Summary { data_points: Object::of(value)?.list("dataPoints", summary_point)? })
}

fn temporality(o: &Object<'_, '_>) -> Read<i32> {
    o.or("aggregationTemporality", |v| {
        number_or_name(v, |n| pb::AggregationTemporality::from_str_name(n).map(|n| n as i32))
    })
}

fn number_point(value: &Json<'_>) -> Read<pb::NumberDataPoint> {
    use pb::number_data_point::Value::{AsDouble, AsInt};
    let o = Object::of(value)?;
    let int = o.get("asInt", integer)?.map(AsInt);
    Ok(pb::NumberDataPoint {
        attributes: attributes(&o, "attributes")?,
        start_time_unix_nano: o.or("startTimeUnixNano", integer)?,
        time_unix_nano: o.or("timeUnixNano", integer)?,
        exemplars: o.list("exemplars", exemplar)?,
        flags: o.or("flags", integer)?,
        value: match int {
            Some(int) => Some(int),
            None => o.get("asDouble", double)?.map(AsDouble),
        },
    })
}

fn histogram_point(value: &Json<'_>) -> Read<pb::HistogramDataPoint> {
    let o = Object::of(value)?;
    Ok(pb::HistogramDataPoint {
        attributes: attributes(&o, "attributes")?,
        start_time_unix_nano: o.or("startTimeUnixNano", integer)?,
        time_unix_nano: o.or("timeUnixNano", integer)?,
        count: o.or("count", integer)?,
        sum: o.get("sum", double)?,
        bucket_counts: o.list("bucketCounts", integer)?,
        explicit_bounds: o.list("explicitBounds", double)?,
        exemplars: o.list("exemplars", exemplar)?,
        flags: o.or("flags", integer)?,
        min: o.get("min", double)?,
        max: o.get("max", double)?,
    })
}

fn exponential_point(value: &Json<'_>) -> Read<pb::ExponentialHistogramDataPoint> {
    let o = Object::of(value)?;
    Ok(pb::ExponentialHistogramDataPoint {
        attributes: attributes(&o, "attributes")?,
        start_time_unix_nano: o.or("startTimeUnixNano", integer)?,
        time_unix_nano: o.or("timeUnixNano", integer)?,
        count: o.or("count", integer)?,
        sum: o.get("sum", double)?,
        scale: o.or("scale", integer)?,
        zero_count: o.or("zeroCount", integer)?,
        positive: o.get("positive", buckets)?,
        negative: o.get("negative", buckets)?,
        flags: o.or("flags", integer)?,
        exemplars: o.list("exemplars", exemplar)?,
        min: o.get("min", double)?,
        max: o.get("max", double)?,
        zero_threshold: o.or("zeroThreshold", double)?,
    })
}

fn buckets(value: &Json<'_>) -> Read<Buckets> {
    let o = Object::of(value)?;
    Ok(Buckets {
        offset: o.or("offset", integer)?,
        bucket_counts: o.list("bucketCounts", integer)?,
    })
}

fn summary_point(value: &Json<'_>) -> Read<pb::SummaryDataPoint> {
    let o = Object::of(value)?;
    Ok(pb::SummaryDataPoint {
        attributes: attributes(&o, "attributes")?,
        start_time_unix_nano: o.or("startTimeUnixNano", integer)?,
        time_unix_nano: o.or("timeUnixNano", integer)?,
        count: o.or("count", integer)?,
        sum: o.or("sum", double)?,
        quantile_values: o.list("quantileValues", |v| {
            let o = Object::of(v)?;
            Ok(ValueAtQuantile {
                quantile: o.or("quantile", double)?,
                value: o.or("value", double)?,
            })
        })?,
        flags: o.or("flags", integer)?,
    })
}

fn exemplar(value: &Json<'_>) -> Read<pb::Exemplar> {
    use pb::exemplar::Value::{AsDouble, AsInt};
    let o = Object::of(value)?;
    let int = o.get("asInt", integer)?.map(AsInt);
    Ok(pb::Exemplar {
        filtered_attributes: attributes(&o, "filteredAttributes")?,
        time_unix_nano: o.or("timeUnixNano", integer)?,
        span_id: o.or("spanId", hex)?,
        trace_id: o.or("traceId", hex)?,
        value: match int {
            Some(int) => Some(int),
            None => o.get("asDouble", double)?.map(AsDouble),
        },
    })
}

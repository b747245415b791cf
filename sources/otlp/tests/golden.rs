//! One request per kind, as JSON and as protobuf: both give the same rows.

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::common::v1::{
    AnyValue, ArrayValue, InstrumentationScope, KeyValue, KeyValueList,
};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::metrics::v1 as m;
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1 as t;
use serde_json::json as value;

use super::*;

fn any(value: Any) -> AnyValue {
    AnyValue { value: Some(value) }
}

fn kv(key: &str, value: Any) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(any(value)), ..KeyValue::default() }
}

fn text(text: &str) -> Any {
    Any::StringValue(text.to_owned())
}

fn resource() -> Option<Resource> {
    Some(Resource {
        attributes: vec![kv("service.name", text("cart")), kv("host.name", text("h1"))],
        ..Resource::default()
    })
}

fn scope() -> Option<InstrumentationScope> {
    Some(InstrumentationScope { name: "lib".into(), version: "1.2".into(), ..Default::default() })
}

const HEAD: &str = r#""resource":{"attributes":[
    {"key":"service.name","value":{"stringValue":"cart"}},
    {"key":"host.name","value":{"stringValue":"h1"}}]}"#;
const SCOPE: &str = r#""scope":{"name":"lib","version":"1.2"}"#;

/// Both forms give the same rows; those are `expect`.
fn both(path: &str, message: &impl Message, text: &str, rows: &[Value]) -> Decoded {
    let decoded = protobuf(path, message).unwrap();
    let from_json = json(path, text).unwrap();
    assert_eq!(batch(&decoded).rows(), batch(&from_json).rows());
    expect(&from_json, rows);
    expect(&decoded, rows);
    assert_eq!(decoded.rejected, from_json.rejected);
    decoded
}

#[test]
fn logs() {
    let id = [0xab; 16];
    let records = vec![
        LogRecord {
            time_unix_nano: 1_700_000_000_123_456_789,
            observed_time_unix_nano: 1_700_000_000_200_000_000,
            severity_number: 10,
            severity_text: "Info2".into(),
            body: Some(any(text("paid 100%"))),
            attributes: vec![
                kv("http.response.status_code", text("200")),
                kv("ok", Any::BoolValue(true)),
                kv("big", Any::IntValue(i64::MAX)),
                kv(
                    "tags",
                    Any::ArrayValue(ArrayValue {
                        values: vec![any(text("a\"b")), any(Any::IntValue(1)), AnyValue::default()],
                    }),
                ),
                kv(
                    "user",
                    Any::KvlistValue(KeyValueList {
                        values: vec![kv("id", text("u1")), kv("age", Any::IntValue(7))],
                    }),
                ),
                kv("raw", Any::BytesValue(vec![1, 2, 255])),
                kv("host.name", text("own")),
            ],
            flags: 1,
            trace_id: id.into(),
            span_id: id[..8].into(),
            event_name: "paid".into(),
            ..LogRecord::default()
        },
        LogRecord {
            severity_text: "ERROR".into(),
            body: Some(any(Any::KvlistValue(KeyValueList {
                values: vec![kv("x", Any::DoubleValue(0.1)), kv("y", Any::DoubleValue(f64::NAN))],
            }))),
            trace_id: vec![0; 16],
            ..LogRecord::default()
        },
        LogRecord { trace_id: vec![1; 15], ..LogRecord::default() },
    ];
    let request = ExportLogsServiceRequest {
        resource_logs: vec![ResourceLogs {
            resource: resource(),
            scope_logs: vec![ScopeLogs {
                scope: scope(),
                log_records: records,
                schema_url: "https://schema".into(),
            }],
            ..ResourceLogs::default()
        }],
    };
    let text = format!(
        r#"{{"resourceLogs":[{{{HEAD},"scopeLogs":[{{{SCOPE},"schemaUrl":"https://schema","logRecords":[
        {{"timeUnixNano":"1700000000123456789","observedTimeUnixNano":1700000000200000000,
          "severityNumber":"SEVERITY_NUMBER_INFO2","severityText":"Info2","body":{{"stringValue":"paid 100%"}},
          "attributes":[
            {{"key":"http.response.status_code","value":{{"stringValue":"200"}}}},
            {{"key":"ok","value":{{"boolValue":true}}}},
            {{"key":"big","value":{{"intValue":"9223372036854775807"}}}},
            {{"key":"tags","value":{{"arrayValue":{{"values":[{{"stringValue":"a\"b"}},{{"intValue":1}},{{}}]}}}}}},
            {{"key":"user","value":{{"kvlistValue":{{"values":[
              {{"key":"id","value":{{"stringValue":"u1"}}}},{{"key":"age","value":{{"intValue":7}}}}]}}}}}},
            {{"key":"raw","value":{{"bytesValue":"AQL/"}}}},
            {{"key":"host.name","value":{{"stringValue":"own"}}}}],
          "flags":1,"traceId":"ABABABABABABABABABABABABABABABAB","spanId":"abababababababab",
          "eventName":"paid","unknownMember":[1,{{}}]}},
        {{"severity_text":"ERROR","body":{{"kvlistValue":{{"values":[
            {{"key":"x","value":{{"doubleValue":0.1}}}},{{"key":"y","value":{{"doubleValue":"NaN"}}}}]}}}},
          "traceId":"00000000000000000000000000000000"}},
        {{"traceId":"010101010101010101010101010101"}}]}}]}}]}}"#
    );
    let decoded = both("/v1/logs", &request, &text, &[
        value!({
            "attr.host.name": null, "big": i64::MAX, "body": "paid 100%", "event_name": "paid",
            "flags": 1, "host.name": "own", "http.response.status_code": 200,
            "observed_timestamp": "2023-11-14T22:13:20.200Z", "ok": true, "raw": "AQL/",
            "resource.host.name": "h1", "scope.name": "lib", "scope.schema_url": "https://schema",
            "scope.version": "1.2", "service.name": "cart", "severity": "INFO",
            "severity_number": 10, "severity_text": "Info2", "span_id": "abababababababab",
            "tags": "[\"a\\\"b\",1,null]", "timestamp": "2023-11-14T22:13:20.123456789Z",
            "trace_id": "abababababababababababababababab", "user.age": 7, "user.id": "u1",
        }),
        value!({
            "body": "{\"x\":0.1,\"y\":\"NaN\"}", "host.name": "h1", "resource.host.name": "h1",
            "scope.name": "lib", "scope.schema_url": "https://schema", "scope.version": "1.2",
            "service.name": "cart", "severity": "ERROR", "timestamp": "2023-11-14T22:13:20Z",
        }),
    ].map(without_null));
    assert_eq!(rejected(&decoded), [("bad_id", 1)]);
    assert_eq!(decoded.rejected[0].message, "trace_id has 15 bytes, expected 16");
}

/// JSON objects sort by name; a null is only there to be readable.
fn without_null(mut value: Value) -> Value {
    if let Some(object) = value.as_object_mut() {
        object.retain(|_, v| !v.is_null());
    }
    value
}

#[test]
fn spans() {
    let span = t::Span {
        trace_id: vec![1; 16],
        span_id: vec![2; 8],
        parent_span_id: vec![3; 8],
        trace_state: "a=b".into(),
        name: "GET /".into(),
        kind: 2,
        start_time_unix_nano: 1_700_000_000_000_000_000,
        end_time_unix_nano: 1_700_000_000_000_000_042,
        attributes: vec![kv("server.port", Any::IntValue(80))],
        events: vec![t::span::Event {
            time_unix_nano: 5,
            name: "e".into(),
            attributes: vec![kv("k", text("v"))],
            dropped_attributes_count: 2,
        }],
        links: vec![t::span::Link {
            trace_id: vec![4; 16],
            span_id: vec![5; 8],
            ..Default::default()
        }],
        dropped_events_count: 3,
        status: Some(t::Status { message: "boom".into(), code: 2 }),
        ..t::Span::default()
    };
    let backwards = t::Span {
        start_time_unix_nano: 1_700_000_000_000_000_000,
        end_time_unix_nano: 1_600_000_000_000_000_000,
        name: "back".into(),
        ..t::Span::default()
    };
    let far = t::Span { start_time_unix_nano: u64::MAX, ..t::Span::default() };
    let request = ExportTraceServiceRequest {
        resource_spans: vec![t::ResourceSpans {
            resource: resource(),
            scope_spans: vec![t::ScopeSpans {
                scope: scope(),
                spans: vec![span, backwards, far],
                ..t::ScopeSpans::default()
            }],
            ..t::ResourceSpans::default()
        }],
    };
    let text = format!(
        r#"{{"resourceSpans":[{{{HEAD},"scopeSpans":[{{{SCOPE},"spans":[
        {{"traceId":"01010101010101010101010101010101","spanId":"0202020202020202",
          "parentSpanId":"0303030303030303","traceState":"a=b","name":"GET /","kind":"SPAN_KIND_SERVER",
          "startTimeUnixNano":"1700000000000000000","endTimeUnixNano":"1700000000000000042",
          "attributes":[{{"key":"server.port","value":{{"intValue":"80"}}}}],
          "events":[{{"timeUnixNano":"5","name":"e","droppedAttributesCount":2,
            "attributes":[{{"key":"k","value":{{"stringValue":"v"}}}}]}}],
          "links":[{{"traceId":"04040404040404040404040404040404","spanId":"0505050505050505"}}],
          "droppedEventsCount":3,"status":{{"message":"boom","code":2}}}},
        {{"name":"back","startTimeUnixNano":"1700000000000000000","endTimeUnixNano":"1600000000000000000"}},
        {{"startTimeUnixNano":"18446744073709551615"}}]}}]}}]}}"#
    );
    let decoded = both(
        "/v1/traces",
        &request,
        &text,
        &[
            value!({
                "dropped_events_count": 3, "duration_ns": 42,
                "events": r#"[{"timestamp":5,"name":"e","attributes":{"k":"v"},"dropped_attributes_count":2}]"#,
                "host.name": "h1", "kind": "server",
                "links": r#"[{"trace_id":"04040404040404040404040404040404","span_id":"0505050505050505"}]"#,
                "name": "GET /", "parent_span_id": "0303030303030303", "scope.name": "lib",
                "scope.version": "1.2", "server.port": 80, "service.name": "cart",
                "span_id": "0202020202020202", "status": "error", "status_message": "boom",
                "timestamp": "2023-11-14T22:13:20Z", "trace_id": "01010101010101010101010101010101",
                "trace_state": "a=b",
            }),
            value!({
                "duration_ns": 0, "end_time_unix_nano": 1_600_000_000_000_000_000_i64,
                "host.name": "h1", "name": "back", "scope.name": "lib", "scope.version": "1.2",
                "service.name": "cart", "status": "unset", "timestamp": "2023-11-14T22:13:20Z",
            }),
        ],
    );
    assert_eq!(rejected(&decoded), [("bad_time", 1)]);
    let field = decoded.batches[0].rows.schema_ref().field_with_name("events").unwrap().clone();
    assert!(field.metadata().contains_key(weir_pipeline::signal::META_JSON));
}

fn metric(name: &str, unit: &str, data: m::metric::Data) -> m::Metric {
    m::Metric { name: name.into(), unit: unit.into(), data: Some(data), ..m::Metric::default() }
}

fn point(value: m::number_data_point::Value) -> m::NumberDataPoint {
    m::NumberDataPoint {
        attributes: vec![kv("route", text("/"))],
        start_time_unix_nano: 1_699_999_999_000_000_001,
        time_unix_nano: 1_700_000_000_001_999_999,
        value: Some(value),
        ..m::NumberDataPoint::default()
    }
}

const POINT: &str = r#""attributes":[{"key":"route","value":{"stringValue":"/"}}],
    "startTimeUnixNano":"1699999999000000001","timeUnixNano":"1700000000001999999""#;

#[test]
fn metrics() {
    use m::metric::Data;
    use m::number_data_point::Value::{AsDouble, AsInt};
    let big = (1_i64 << 53) + 1;
    let stale = m::NumberDataPoint { flags: 1, value: None, ..point(AsInt(0)) };
    let empty = m::NumberDataPoint { value: None, ..point(AsInt(0)) };
    let (attributes, start, time) = {
        let p = point(AsInt(0));
        (p.attributes, p.start_time_unix_nano, p.time_unix_nano)
    };
    let all = vec![
        metric(
            "g",
            "By",
            Data::Gauge(m::Gauge {
                data_points: vec![point(AsDouble(1.5)), point(AsInt(big)), stale, empty],
            }),
        ),
        metric(
            "c",
            "",
            Data::Sum(m::Sum {
                data_points: vec![m::NumberDataPoint {
                    exemplars: vec![m::Exemplar {
                        time_unix_nano: 7,
                        trace_id: vec![1; 16],
                        value: Some(m::exemplar::Value::AsInt(0)),
                        ..m::Exemplar::default()
                    }],
                    ..point(AsInt(3))
                }],
                aggregation_temporality: 2,
                is_monotonic: true,
            }),
        ),
        metric(
            "h",
            "s",
            Data::Histogram(m::Histogram {
                data_points: vec![
                    m::HistogramDataPoint {
                        attributes: attributes.clone(),
                        start_time_unix_nano: start,
                        time_unix_nano: time,
                        count: 3,
                        sum: Some(4.5),
                        bucket_counts: vec![1, 2, 0],
                        explicit_bounds: vec![0.5, 10.0],
                        min: Some(0.25),
                        ..m::HistogramDataPoint::default()
                    },
                    m::HistogramDataPoint {
                        bucket_counts: vec![1],
                        explicit_bounds: vec![1.0, 2.0],
                        ..Default::default()
                    },
                ],
                aggregation_temporality: 1,
            }),
        ),
        metric(
            "e",
            "",
            Data::ExponentialHistogram(m::ExponentialHistogram {
                data_points: vec![m::ExponentialHistogramDataPoint {
                    attributes: attributes.clone(),
                    start_time_unix_nano: start,
                    time_unix_nano: time,
                    count: 6,
                    sum: Some(-1.0),
                    scale: -2,
                    zero_count: 1,
                    positive: Some(m::exponential_histogram_data_point::Buckets {
                        offset: -3,
                        bucket_counts: vec![2, 3],
                    }),
                    zero_threshold: 0.001,
                    ..m::ExponentialHistogramDataPoint::default()
                }],
                aggregation_temporality: 2,
            }),
        ),
        metric(
            "s",
            "",
            Data::Summary(m::Summary {
                data_points: vec![m::SummaryDataPoint {
                    attributes,
                    start_time_unix_nano: start,
                    time_unix_nano: time,
                    count: 2,
                    sum: 3.0,
                    quantile_values: vec![m::summary_data_point::ValueAtQuantile {
                        quantile: 0.99,
                        value: 2.5,
                    }],
                    flags: 0,
                }],
            }),
        ),
    ];
    let request = ExportMetricsServiceRequest {
        resource_metrics: vec![m::ResourceMetrics {
            resource: resource(),
            scope_metrics: vec![m::ScopeMetrics {
                scope: scope(),
                metrics: all,
                ..m::ScopeMetrics::default()
            }],
            ..m::ResourceMetrics::default()
        }],
    };
    let json = format!(
        r#"{{"resourceMetrics":[{{{HEAD},"scopeMetrics":[{{{SCOPE},"metrics":[
        {{"name":"g","unit":"By","gauge":{{"dataPoints":[
            {{{POINT},"asDouble":1.5}},{{{POINT},"asInt":"{big}"}},{{{POINT},"flags":1}},{{{POINT}}}]}}}},
        {{"name":"c","sum":{{"aggregationTemporality":"AGGREGATION_TEMPORALITY_CUMULATIVE","isMonotonic":true,
            "dataPoints":[{{{POINT},"asInt":3,"exemplars":[
              {{"timeUnixNano":"7","asInt":"0","traceId":"01010101010101010101010101010101"}}]}}]}}}},
        {{"name":"h","unit":"s","histogram":{{"aggregationTemporality":1,"dataPoints":[
            {{{POINT},"count":"3","sum":4.5,"bucketCounts":["1",2,0],"explicitBounds":[0.5,10],"min":0.25}},
            {{"bucketCounts":[1],"explicitBounds":[1,2]}}]}}}},
        {{"name":"e","exponentialHistogram":{{"aggregationTemporality":2,"dataPoints":[
            {{{POINT},"count":6,"sum":-1.0,"scale":-2,"zeroCount":1,"zeroThreshold":1e-3,
              "positive":{{"offset":-3,"bucketCounts":[2,"3"]}}}}]}}}},
        {{"name":"s","summary":{{"dataPoints":[
            {{{POINT},"count":2,"sum":3,"quantileValues":[{{"quantile":0.99,"value":2.5}}]}}]}}}}
        ]}}]}}]}}"#
    );
    let row = |name: &str, kind: &str, more: Value| {
        let mut row = value!({
            "host.name": "h1", "metric.name": name, "metric.type": kind, "route": "/",
            "scope.name": "lib", "scope.version": "1.2", "service.name": "cart",
            "start_timestamp": "2023-11-14T22:13:19Z", "timestamp": "2023-11-14T22:13:20.001Z",
        });
        row.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        row
    };
    let decoded = both(
        "/v1/metrics",
        &request,
        &json,
        &[
            row("g", "gauge", value!({"metric.unit": "By", "value": 1.5})),
            row("g", "gauge", value!({"metric.unit": "By", "value": big as f64, "value_int": big})),
            row("g", "gauge", value!({"metric.unit": "By", "stale": true})),
            row(
                "c",
                "counter",
                value!({
                    "metric.temporality": "cumulative", "value": 3.0,
                    "exemplars": r#"[{"timestamp":7,"value":0,"trace_id":"01010101010101010101010101010101"}]"#,
                }),
            ),
            row(
                "h",
                "histogram",
                value!({
                    "metric.temporality": "delta", "metric.unit": "s", "metric.bounds": "[0.5,10.0]",
                    "histogram": {"count": 3, "counts": [1, 2, 0], "min": 0.25, "sum": 4.5},
                }),
            ),
            row(
                "e",
                "exponential_histogram",
                value!({
                    "metric.temporality": "cumulative",
                    "histogram": {"count": 6, "sum": -1.0, "scale": -2, "zero_count": 1,
                        "zero_threshold": 0.001, "positive_offset": -3, "positive_counts": [2, 3]},
                }),
            ),
            row(
                "s",
                "summary",
                value!({
                    "metric.bounds": "[0.99]", "histogram": {"count": 2, "sum": 3.0, "values": [2.5]},
                }),
            ),
        ],
    );
    assert_eq!(rejected(&decoded), [("no_value", 1), ("bad_histogram", 1)]);
    assert_eq!(decoded.rejected[1].message, "metric `h`: 1 bucket counts do not fit 2 bounds");
    // A sum that may go down is a gauge, and keeps its temporality; NaN and infinity come back.
    let sum = |value| {
        metric(
            "u",
            "",
            Data::Sum(m::Sum {
                data_points: vec![point(AsDouble(value))],
                aggregation_temporality: 1,
                is_monotonic: false,
            }),
        )
    };
    let mut request = request;
    request.resource_metrics[0].scope_metrics[0].metrics =
        vec![sum(f64::NAN), sum(f64::NEG_INFINITY), sum(-0.0)];
    let decoded = protobuf("/v1/metrics", &request).unwrap();
    let batch = batch(&decoded);
    let bits: Vec<u64> = arrow::array::AsArray::as_primitive::<arrow::datatypes::Float64Type>(
        &*batch.array("value").unwrap(),
    )
    .values()
    .iter()
    .map(|v| v.to_bits())
    .collect();
    assert_eq!(bits, [f64::NAN, f64::NEG_INFINITY, -0.0].map(f64::to_bits));
    let row = &rows(&decoded)[0];
    assert_eq!(
        (&row["metric.type"], &row["metric.temporality"]),
        (&"gauge".into(), &"delta".into())
    );
}

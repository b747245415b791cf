//! Requests with numbered rows, as each protocol has them.

use std::time::{SystemTime, UNIX_EPOCH};

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value as Any};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::resource::v1::Resource;
use serde_json::{Value, json};

use super::ROWS;
use crate::durability::remote_write;
use crate::harness::{Grpc, Reply, request};

/// Length of a body: a second of load is more than the 1 MiB that a checkpoint keeps by itself, so
/// that there are files to stage and to commit.
const BODY: usize = 3000;

/// Three services share the logs.
fn service(first: i64) -> &'static str {
    ["cart", "shop", "web"][usize::try_from(first / ROWS % 3).unwrap()]
}

/// Sends the logs `first..first + ROWS` as OTLP JSON.
pub(in super::super) fn send_logs(url: &str, first: i64) -> Reply {
    send_logs_at(url, first, nanoseconds())
}

/// As [`send_logs`], stamped with a time of its own.
pub(in super::super) fn send_logs_at(url: &str, first: i64, time: i64) -> Reply {
    let record = |n: i64| {
        json!({
            "timeUnixNano": time.to_string(),
            "severityNumber": 9,
            "body": {"stringValue": format!("{n:0BODY$}")},
            "attributes": [{"key": "n", "value": {"intValue": n.to_string()}}],
        })
    };
    let name = json!({"key": "service.name", "value": {"stringValue": service(first)}});
    let body: Value = json!({"resourceLogs": [{
        "resource": {"attributes": [name]},
        "scopeLogs": [{"logRecords": (first..first + ROWS).map(record).collect::<Vec<_>>()}],
    }]});
    request("POST", url, &[("content-type", "application/json")], body.to_string().into_bytes())
}

/// Sends the logs `first..first + ROWS` over gRPC.
pub(super) fn send_logs_grpc(grpc: &Grpc, first: i64) -> Reply {
    let text = |key: &str, value: Any| KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(value) }),
        ..KeyValue::default()
    };
    let time = u64::try_from(nanoseconds()).unwrap();
    let record = |n: i64| LogRecord {
        time_unix_nano: time,
        severity_number: 9,
        body: Some(AnyValue { value: Some(Any::StringValue(format!("{n:0BODY$}"))) }),
        attributes: vec![text("n", Any::IntValue(n))],
        ..LogRecord::default()
    };
    let resource = Resource {
        attributes: vec![text("service.name", Any::StringValue(service(first).to_owned()))],
        ..Resource::default()
    };
    let scope_logs = ScopeLogs {
        log_records: (first..first + ROWS).map(record).collect(),
        ..ScopeLogs::default()
    };
    let logs = ResourceLogs {
        resource: Some(resource),
        scope_logs: vec![scope_logs],
        ..Default::default()
    };
    let message = ExportLogsServiceRequest { resource_logs: vec![logs] };
    grpc.call("/opentelemetry.proto.collector.logs.v1.LogsService/Export", &message)
}

/// Sends the spans `first..first + ROWS` as OTLP JSON.
pub(super) fn send_spans(url: &str, first: i64) -> Reply {
    let time = nanoseconds();
    let span = |n: i64| {
        json!({
            "traceId": format!("{:032x}", first + 1),
            "spanId": format!("{:016x}", n + 1),
            "name": "GET /cart",
            "startTimeUnixNano": (time - 1_000_000).to_string(),
            "endTimeUnixNano": time.to_string(),
            "attributes": [{"key": "n", "value": {"intValue": n.to_string()}}],
        })
    };
    let body: Value = json!({"resourceSpans": [{
        "resource": {"attributes": [{"key": "service.name", "value": {"stringValue": "web"}}]},
        "scopeSpans": [{"spans": (first..first + ROWS).map(span).collect::<Vec<_>>()}],
    }]});
    request("POST", url, &[("content-type", "application/json")], body.to_string().into_bytes())
}

/// Sends the points `first..first + ROWS` of a gauge, each its number, as OTLP JSON.
pub(super) fn send_points(url: &str, first: i64) -> Reply {
    let time = nanoseconds().to_string();
    let point = |n: i64| {
        let series = json!({"key": "series", "value": {"intValue": (n % ROWS).to_string()}});
        json!({"timeUnixNano": time, "asDouble": n as f64, "attributes": [series]})
    };
    let points: Vec<Value> = (first..first + ROWS).map(point).collect();
    let body: Value = json!({"resourceMetrics": [{"scopeMetrics": [{"metrics": [
        {"name": "points", "gauge": {"dataPoints": points}}
    ]}]}]});
    request("POST", url, &[("content-type", "application/json")], body.to_string().into_bytes())
}

/// Sends the samples `first..first + ROWS`, each its number, as remote write.
pub(in crate::durability) fn send_samples(url: &str, first: i64) -> Reply {
    let samples: Vec<_> = (first..first + ROWS).map(|n| (n % ROWS, n as f64)).collect();
    let body = remote_write::body("load", "series", &samples);
    request("POST", url, &remote_write::HEADERS, body)
}

/// Wall time.
pub(crate) fn nanoseconds() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos()).unwrap()
}

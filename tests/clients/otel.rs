//! The OpenTelemetry SDK for Python, over gRPC and over HTTP.

use serde_json::{Value, json};

use super::assert_rows;
use crate::harness::{Server, python};

const PIPELINE: &str = r#"
[sources.otlp]
type = "otlp"
grpc = "127.0.0.1:0"
http = "127.0.0.2:0"

[sinks.logs]
type = "store"
inputs = ["otlp.logs"]
table = "logs"

[sinks.metrics]
type = "store"
inputs = ["otlp.metrics"]
table = "metrics"

[sinks.spans]
type = "store"
inputs = ["otlp.spans"]
table = "spans"
"#;

#[test]
fn sdk_over_grpc() {
    check("grpc", "127.0.0.1:");
}

#[test]
fn sdk_over_http() {
    check("http", "127.0.0.2:");
}

fn check(protocol: &str, at: &str) {
    let mut server = Server::start(&[("otel", PIPELINE)], None);
    let listens = server.listens("otlp");
    let address = listens.iter().find(|l| l.starts_with(at)).unwrap();
    let said = python("otel.py", &[protocol, address.trim_end_matches("/tcp")]);
    let ids: Value = serde_json::from_str(said.trim()).unwrap();
    let service = format!("shop-{protocol}");
    server.wait_sql("SELECT * FROM spans", |rows| rows.len() == 3);
    logs(&server, &service);
    metrics(&server, &service);
    spans(&server, &service, &ids);
    // The same from files, after the hot rows were flushed.
    server.stop();
    server.restart();
    logs(&server, &service);
    metrics(&server, &service);
    spans(&server, &service, &ids);
}

fn logs(server: &Server, service: &str) {
    let by_name = format!(
        "SELECT timestamp, severity, severity_number, severity_text, body, http.route, \
         http.response.status_code, app.ratio, app.big, app.cached, app.tags, service.name, \
         service.version, deployment.ring, scope.name, scope.version \
         FROM logs WHERE service.name = '{service}' ORDER BY timestamp"
    );
    let resource = json!({
        "service.name": service, "service.version": "1.2.3", "deployment.ring": 7,
        "scope.name": "shop.cart", "scope.version": "4.5.6",
    });
    let mut expect = json!([
        {
            "timestamp": "2023-11-14T22:13:20.123456789Z",
            "severity": "WARN",
            "severity_number": 14,
            "severity_text": "warning",
            "body": "cart is slow ✓",
            "http.route": "/cart",
            "http.response.status_code": 503,
            "app.ratio": 0.1,
            "app.big": 9_007_199_254_740_993_i64,
            "app.cached": false,
            "app.tags": "[\"a\",\"b\"]",
        },
        {
            "timestamp": "2023-11-14T22:13:21.000000000Z",
            "severity": "ERROR",
            "severity_number": 17,
            "severity_text": null,
            "body": "{\"error\":{\"code\":7}}",
            "http.route": "/pay",
            "http.response.status_code": null,
            "app.big": null,
        },
    ]);
    for row in expect.as_array_mut().unwrap() {
        row.as_object_mut().unwrap().extend(resource.as_object().unwrap().clone());
    }
    assert_rows(&server.sql(&by_name), &expect);
    let found = server.sql("SELECT count(*) AS n FROM logs WHERE http.route = '/cart'");
    assert_rows(&found, &json!([{ "n": 1 }]));
}

fn metrics(server: &Server, service: &str) {
    let metric = |columns: &str, name: &str| {
        server.sql(&format!(
            "SELECT metric.type, metric.unit, metric.temporality, {columns} FROM metrics.{name} \
             WHERE service.name = '{service}' AND scope.name = 'shop.meter' ORDER BY 4"
        ))
    };
    let counter = json!({
        "metric.type": "counter", "metric.unit": "{order}", "metric.temporality": "cumulative",
    });
    let mut expect =
        json!([{ "shop.region": "eu", "value": 42.0 }, { "shop.region": "us", "value": 5.0 }]);
    for row in expect.as_array_mut().unwrap() {
        row.as_object_mut().unwrap().extend(counter.as_object().unwrap().clone());
    }
    assert_rows(&metric("shop.region, value", "shop.orders"), &expect);
    assert_rows(
        &metric("value", "shop.queue.depth"),
        &json!([{ "metric.type": "gauge", "metric.unit": null, "value": -2.0 }]),
    );
    // Every value of these sums is exact in binary but for the first, which is as Python adds it.
    let duration = metric("http.route, metric.bounds, histogram", "shop.request.duration");
    assert_rows(
        &duration,
        &json!([{
            "metric.type": "histogram", "metric.unit": "s", "metric.bounds": "[0.1,1.0]",
            "http.route": "/cart",
        }]),
    );
    assert_rows(
        &[duration[0]["histogram"].clone()],
        &json!([{ "count": 4, "sum": 8.8, "min": 0.05, "max": 8.0, "counts": [1, 2, 1] }]),
    );
    let size = metric("histogram", "shop.request.size");
    assert_rows(&size, &json!([{ "metric.type": "exponential_histogram", "metric.unit": "By" }]));
    let size = &size[0]["histogram"];
    assert_rows(
        std::slice::from_ref(size),
        &json!([{ "count": 4, "sum": 7.0, "min": 0.0, "max": 4.0, "zero_count": 1 }]),
    );
    // 1, 2 and 4 are the upper ends of buckets whose index is log2(value) * 2^scale - 1.
    let positive: Vec<i64> = serde_json::from_value(size["positive_counts"].clone()).unwrap();
    let offset = size["positive_offset"].as_i64().unwrap();
    let one = 1_i64 << size["scale"].as_i64().unwrap();
    let filled: Vec<i64> =
        (offset..).zip(&positive).filter(|(_, n)| **n == 1).map(|(i, _)| i).collect();
    assert_eq!(filled, [-1, one - 1, 2 * one - 1]);
    assert_eq!(positive.iter().sum::<i64>(), 3);
}

fn spans(server: &Server, service: &str, ids: &Value) {
    let rows = server.sql(&format!(
        "SELECT s.*, p.name AS parent FROM spans s LEFT JOIN spans p \
         ON s.parent_span_id = p.span_id AND s.trace_id = p.trace_id \
         WHERE s.service.name = '{service}' ORDER BY s.timestamp"
    ));
    let (root, child, grandchild) = (&ids["root"], &ids["child"], &ids["grandchild"]);
    assert_rows(
        &rows,
        &json!([
            {
                "name": "GET /cart", "kind": "server", "status": "unset", "parent": null,
                "trace_id": root["trace_id"], "span_id": root["span_id"],
                "parent_span_id": null, "duration_ns": 9_000_000, "user.id": "u-1",
                "timestamp": "2023-11-14T22:13:22.000000000Z",
            },
            {
                "name": "SELECT cart", "kind": "client", "status": "error",
                "status_message": "deadlock", "parent": "GET /cart",
                "trace_id": root["trace_id"], "span_id": child["span_id"],
                "parent_span_id": root["span_id"], "duration_ns": 4_000_001,
                "db.system.name": "postgresql", "user.id": null,
                "timestamp": "2023-11-14T22:13:22.001000000Z",
            },
            {
                "name": "lock", "kind": "internal", "parent": "SELECT cart",
                "trace_id": root["trace_id"], "span_id": grandchild["span_id"],
                "parent_span_id": child["span_id"], "duration_ns": 100_000,
                "scope.name": "shop.tracer", "service.version": "1.2.3",
            },
        ]),
    );
    let events: Value = serde_json::from_str(rows[1]["events"].as_str().unwrap()).unwrap();
    assert_rows(
        events.as_array().unwrap(),
        &json!([{
            "name": "retry", "timestamp": 1_700_000_002_002_000_000_i64,
            "attributes": { "attempt": 2 },
        }]),
    );
}

//! Random entries and ticks: rows out of order, late, ahead and without a time; attributes that
//! are one type here and another there; targets that come, fail and go; a wall clock that jumps.

use bytes::Bytes;
use serde_json::{Value, json};
use weir_pipeline::journal::Envelope;

use super::random::Random;
use crate::durability::remote_write;

/// One entry of the journal; its offset is its place, counted from one.
pub(super) enum Step {
    Data(Data),
    Tick(Time),
}

pub(super) struct Data {
    pub(super) source: &'static str,
    pub(super) received: i64,
    pub(super) envelope: Envelope,
    pub(super) payload: Bytes,
}

#[derive(Clone, Copy)]
pub(super) struct Time {
    pub(super) time: i64,
    pub(super) elapsed: i64,
}

const MS: i64 = 1_000_000;
const S: i64 = 1_000 * MS;
/// 2026-01-01.
const EPOCH: i64 = 1_767_225_600 * S;

pub(super) fn generate(random: &mut Random) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut now = Time { time: EPOCH + random.range(0, 10 * S), elapsed: random.range(0, S) };
    let kinds = random.range(1, 63);
    for _ in 0..random.range(10, 40) {
        for _ in 0..random.range(0, 7) {
            let kind = random.range(0, 6);
            // Some cases are without some sources.
            if kinds & 1 << kind != 0 {
                steps.push(Step::Data(data(random, kind, now.time)));
            }
            now.time += random.range(0, 50) * MS;
        }
        let passed = random.range(50, 900) * MS;
        now.time += passed;
        now.elapsed += passed;
        match random.range(0, 40) {
            // It was down, or the clock was set.
            0 => now.time += random.range(20, 2_000) * S,
            1 => now.time -= random.range(1, 30) * S,
            2 => {
                now.time += 8 * S;
                now.elapsed += 8 * S;
            }
            _ => {}
        }
        steps.push(Step::Tick(now));
    }
    steps
}

fn data(random: &mut Random, kind: i64, now: i64) -> Data {
    let (source, path, payload) = match kind {
        0 => ("otlp", "/v1/logs", logs(random, now).to_string().into()),
        1 => ("otlp", "/v1/traces", spans(random, now).to_string().into()),
        2 => ("otlp", "/v1/metrics", metrics(random, now).to_string().into()),
        3 => ("syslog", "", lines(random, now)),
        4 => ("prometheus", "", samples(random, now)),
        _ => return scrape(random, now),
    };
    let (content_type, encoding) = match source {
        "otlp" => ("application/json", ""),
        "syslog" => ("application/vnd.weir.syslog", ""),
        _ => ("application/x-protobuf", "snappy"),
    };
    let envelope = Envelope {
        content_type: content_type.into(),
        encoding: encoding.into(),
        path: path.into(),
        peer: "10.0.0.1:99".into(),
        ..Envelope::default()
    };
    Data { source, received: now, envelope, payload }
}

/// When a row says it was: mostly a moment ago, in any order.
fn time(random: &mut Random, now: i64) -> i64 {
    match random.range(0, 40) {
        0 => now + 20 * 60 * S,
        1 => now + 2 * 3_600 * S,
        2 => now - 100 * S,
        3..6 => now - random.range(0, 9_000) * MS,
        // Equal times, too.
        6..10 => now / S * S,
        _ => now - random.range(0, 1_500) * MS,
    }
}

/// A value whose type is that of this entry, mostly.
fn value(random: &mut Random, kind: i64) -> Value {
    let kind = if random.chance(10) { random.range(0, 6) } else { kind };
    match kind {
        0..3 => json!({"intValue": random.range(-2, 9).to_string()}),
        3 => json!({"doubleValue": random.range(-20, 90) as f64 / 8.0}),
        4 => json!({"stringValue": *random.pick(&["7", "x", "2.5", ""])}),
        _ => match random.range(0, 3) {
            0 => json!({"boolValue": random.chance(50)}),
            1 => json!({"arrayValue": {"values": [{"intValue": "1"}, {"stringValue": "a"}]}}),
            _ => json!({"kvlistValue": {"values": [{"key": "k", "value": {"intValue": "1"}}]}}),
        },
    }
}

fn attribute(name: &str, value: Value) -> Value {
    json!({"key": name, "value": value})
}

fn resource(random: &mut Random) -> Value {
    let mut attributes = Vec::new();
    if random.chance(90) {
        let name = *random.pick(&["cart", "Shop", "web"]);
        attributes.push(attribute("service.name", json!({"stringValue": name})));
    }
    if random.chance(70) {
        let version = match random.range(0, 5) {
            0 => json!({"stringValue": *random.pick(&["2", "two"])}),
            1 => json!({"doubleValue": 2.5}),
            n => json!({"intValue": n.to_string()}),
        };
        attributes.push(attribute("service.version", version));
    }
    json!({"attributes": attributes})
}

fn attributes(random: &mut Random, kind: i64) -> Vec<Value> {
    let mut all = Vec::new();
    for name in ["n", "x"] {
        if random.chance(75) {
            all.push(attribute(name, value(random, kind)));
        }
    }
    all
}

/// Of few patterns: some become wider, some are forgotten.
fn body(random: &mut Random) -> String {
    match random.range(0, 9) {
        0 => format!("session opened for user {}", *random.pick(&["alice", "bob"])),
        1 => format!("{} harvest came before winter", *random.pick(&FRUIT)),
        2 => (*random.pick(&["", " ", "ok", "user", "[a, b]", "k="])).into(),
        _ => format!("took {} ms", random.range(0, 99)),
    }
}

/// As many as it takes until a word is held to vary, and some.
const FRUIT: [&str; 10] =
    ["apple", "pear", "plum", "cherry", "grape", "melon", "lemon", "fig", "kiwi", "lime"];

fn logs(random: &mut Random, now: i64) -> Value {
    let resources = (0..random.range(1, 3)).map(|_| {
        let kind = random.range(0, 6);
        let records = (0..random.range(1, 6)).map(|_| {
            let mut record = json!({
                "severityNumber": random.range(0, 22),
                "severityText": *random.pick(&["ERROR", "info", ""]),
                "body": {"stringValue": body(random)},
                "attributes": attributes(random, kind),
            });
            if random.chance(95) {
                record["timeUnixNano"] = time(random, now).to_string().into();
            }
            record
        });
        let records: Vec<Value> = records.collect();
        json!({"resource": resource(random), "scopeLogs": [{"logRecords": records}]})
    });
    json!({"resourceLogs": resources.collect::<Vec<_>>()})
}

fn spans(random: &mut Random, now: i64) -> Value {
    let kind = random.range(0, 6);
    let spans = (0..random.range(1, 5)).map(|_| {
        let start = time(random, now);
        // Few ids, so that some spans are the parents of others.
        let parent = if random.chance(60) { random.range(1, 20) } else { 0 };
        json!({
            "traceId": format!("{:032x}", random.range(1, 4)),
            "spanId": format!("{:016x}", random.range(1, 20)),
            "parentSpanId": if parent > 0 { format!("{parent:016x}") } else { String::new() },
            "kind": random.range(0, 6),
            "status": {"code": random.range(0, 3)},
            "name": *random.pick(&["GET", "PUT"]),
            "startTimeUnixNano": start.to_string(),
            "endTimeUnixNano": (start + random.range(0, 900) * MS).to_string(),
            "attributes": attributes(random, kind),
        })
    });
    let spans: Vec<Value> = spans.collect();
    let scopes = json!([{"scope": {"name": "s"}, "spans": spans}]);
    json!({"resourceSpans": [{"resource": resource(random), "scopeSpans": scopes}]})
}

fn metrics(random: &mut Random, now: i64) -> Value {
    let metrics = (0..random.range(1, 4)).map(|_| {
        let points = (0..random.range(1, 4)).map(|_| {
            let job = json!({"stringValue": *random.pick(&["a", "b", "c"])});
            let mut point = json!({
                "timeUnixNano": time(random, now).to_string(),
                "attributes": [attribute("job", job)],
            });
            match random.chance(50) {
                true => point["asInt"] = random.range(-2, 9).to_string().into(),
                false => point["asDouble"] = (random.range(-20, 90) as f64 / 7.0).into(),
            }
            point
        });
        let points = json!({"dataPoints": points.collect::<Vec<_>>()});
        match random.chance(60) {
            true => json!({"name": "load", "gauge": points}),
            false => json!({"name": "hits", "unit": "1", "sum": {
                "aggregationTemporality": 2, "isMonotonic": true,
                "dataPoints": points["dataPoints"].clone(),
            }}),
        }
    });
    let metrics: Vec<Value> = metrics.collect();
    let scopes = json!([{"metrics": metrics}]);
    json!({"resourceMetrics": [{"resource": resource(random), "scopeMetrics": scopes}]})
}

fn lines(random: &mut Random, now: i64) -> Bytes {
    let mut payload = Vec::new();
    for _ in 0..random.range(1, 5) {
        let stamp = match random.chance(80) {
            true => jiff::Timestamp::from_nanosecond(time(random, now).into()).unwrap().to_string(),
            false => "-".into(),
        };
        let n = *random.pick(&["1", "5", "x", "2.5"]);
        let priority = random.range(0, 192);
        let host = *random.pick(&["h1", "h2"]);
        let line = match random.chance(80) {
            true => format!("<{priority}>1 {stamp} {host} app 7 - [d n=\"{n}\"] took {n}"),
            false => format!("no syslog at all {n}"),
        };
        payload.extend(u32::try_from(line.len()).unwrap().to_le_bytes());
        payload.push(0);
        payload.extend(line.into_bytes());
    }
    payload.into()
}

fn samples(random: &mut Random, now: i64) -> Bytes {
    let jobs = ["a", "b", "c"];
    let samples: Vec<(&str, f64)> = (0..random.range(1, 5))
        .map(|_| (*random.pick(&jobs), random.range(-20, 90) as f64 / 7.0))
        .collect();
    let metric = *random.pick(&["up_x", "load"]);
    remote_write::body_at(time(random, now) / MS, metric, "job", &samples).into()
}

fn scrape(random: &mut Random, now: i64) -> Data {
    let instance = *random.pick(&["one:9100", "two:9100"]);
    let mut text = String::new();
    for le in 0..8 {
        if random.chance(80) {
            text += &format!("load{{le=\"{le}\"}} {}\n", random.range(-20, 90) as f64 / 7.0);
        }
    }
    let mut outcome = json!({
        "start": now - random.range(0, 300) * MS,
        "duration_ns": random.range(1, 90) * MS,
        "status": 200,
        "labels": {"job": "node", "instance": instance},
    });
    if random.chance(10) {
        outcome["error"] = "connection refused".into();
        text.clear();
    }
    let envelope = Envelope {
        content_type: "text/plain; version=0.0.4".into(),
        target: instance.into(),
        outcome: outcome.to_string(),
        ..Envelope::default()
    };
    Data { source: "node", received: now, envelope, payload: text.into() }
}

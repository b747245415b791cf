#![allow(clippy::unwrap_used, clippy::expect_used)]

mod reading;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use prost::Message as _;
use serde_json::{Value, json};
use weir_pipeline::journal::Envelope;

use super::cursor::Cursor;
use super::frames::{self, Frame, Payload};
use super::*;
use crate::testing::decode;

const SYSTEM: System = System {
    name: "fake",
    log: "messaging.destination.name",
    key: "messaging.fake.key",
    offset: "messaging.fake.offset",
    partitions: true,
};

fn bytes() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..20).prop_map(Bytes::from)
}

fn record() -> impl Strategy<Value = Record> {
    let name = option::of(any::<String>().prop_map(Arc::from));
    let headers = vec((any::<String>(), bytes()), 0..3);
    let rest = (any::<u64>(), option::of(any::<i64>()), option::of(bytes()), option::of(bytes()));
    (rest, name, headers).prop_map(|((offset, time, key, value), name, headers)| Record {
        offset,
        time,
        key,
        name,
        headers,
        value,
    })
}

fn partition() -> impl Strategy<Value = Partition> {
    ("[a-z]{0,3}", 0..3_u32).prop_map(|(topic, number)| Partition { topic: topic.into(), number })
}

proptest! {
    #[test]
    fn cursors_read_back(
        positions in btree_map(partition(), (any::<u64>(), any::<u64>()), 0..5),
        cut in any::<prop::sample::Index>(),
    ) {
        let position = |(next, incarnation)| Position { next, incarnation };
        let cursor = Cursor(positions.into_iter().map(|(k, v)| (k, position(v))).collect());
        let written = cursor.encode("fake");
        prop_assert_eq!(Cursor::decode(&written, "fake"), Ok(Some(cursor.clone())));
        prop_assert_eq!(Cursor::decode(&written, "other"), Ok(None));
        // What is cut short is never taken for other positions of the same partitions.
        let cut = cut.index(written.len());
        if let Ok(Some(part)) = Cursor::decode(&written[..cut], "fake") {
            prop_assert!(part.0.iter().all(|(k, v)| cursor.0.get(k) == Some(v)));
        }
    }

    #[test]
    fn payloads_read_back(records in vec((partition(), record()), 0..6), limit in 0..25_usize) {
        let mut payload = Payload::default();
        records.iter().for_each(|(partition, record)| payload.push(partition, record, limit));
        let payload = payload.finish();
        let read = frames::read(&payload).unwrap();
        prop_assert_eq!(read.len(), records.len());
        for (frame, (partition, record)) in read.iter().zip(&records) {
            let kept = record.value.as_deref().filter(|v| v.len() <= limit);
            let expect = Frame {
                topic: &partition.topic,
                partition: partition.number,
                offset: record.offset,
                time: record.time,
                key: record.key.as_deref(),
                name: record.name.as_deref(),
                headers: record.headers.iter().map(|(n, v)| (n.as_str(), v.as_ref())).collect(),
                omitted: record.value.as_ref().map(|v| v.len() as u64).filter(|_| kept.is_none()),
                value: kept,
            };
            prop_assert_eq!(frame, &expect);
        }
    }

    #[test]
    fn garbage_is_no_payload_and_no_panic(payload in vec(any::<u8>(), 0..64)) {
        let _ = frames::read(&payload);
        let _ = Cursor::decode(&payload, "fake");
    }
}

#[test]
fn a_cursor_of_a_newer_weir_is_not_guessed() {
    let error = Cursor::decode(&[2, 0], "fake").unwrap_err();
    assert!(error.contains("version 2"), "{error}");
}

/// Rows of records with these values, and what was counted.
fn rows(format: Format, values: &[&[u8]]) -> (Vec<Value>, Vec<String>) {
    let mut payload = Payload::default();
    let partition = Partition { topic: "t".into(), number: 3 };
    for (offset, value) in values.iter().enumerate() {
        let record = Record {
            offset: offset as u64,
            time: Some(1_000_000_000),
            value: Some(Bytes::copy_from_slice(value)),
            ..Record::default()
        };
        payload.push(&partition, &record, 1 << 10);
    }
    let decoder = RecordDecoder::new(&SYSTEM, format);
    decode(&decoder, 5_000_000_000, &Envelope::default(), &payload.finish()).unwrap()
}

/// The row without what all rows have.
fn own(row: &Value) -> BTreeMap<&str, &Value> {
    let shared = ["messaging.system", "messaging.destination", "messaging.fake.offset", "observed"];
    let row = row.as_object().unwrap().iter().map(|(n, v)| (n.as_str(), v));
    row.filter(|(name, _)| !shared.iter().any(|s| name.starts_with(s))).collect()
}

#[track_caller]
fn check(record: &str, expect: Value) {
    let (rows, rejected) = rows(Format::Json, &[record.as_bytes()]);
    assert_eq!(json!(own(&rows[0])), expect, "{record}");
    assert_eq!(rejected.is_empty(), expect.get("messaging.message.error").is_none());
}

#[test]
fn json_objects_are_columns() {
    let stored = "1970-01-01T00:00:01Z";
    check("{}", json!({"timestamp": stored}));
    check(
        r#"{"timestamp":"2026-01-02T03:04:05.5+01:00","body":"b","severity":"Warning","n":1}"#,
        json!({"timestamp": "2026-01-02T02:04:05.500Z", "body": "b", "severity": "WARN", "severity_number": 13, "n": 1}),
    );
    check(r#"{"ts":1700000000}"#, json!({"timestamp": "2023-11-14T22:13:20Z"}));
    check(r#"{"time":1700000000123}"#, json!({"timestamp": "2023-11-14T22:13:20.123Z"}));
    check(
        r#"{"ts":1700000000.5,"msg":"m"}"#,
        json!({"timestamp": "2023-11-14T22:13:20.500Z", "body": "m"}),
    );
    // What is no time stays what it is, under a name that no column has.
    check(r#"{"timestamp":"soon"}"#, json!({"timestamp": stored, "attr.timestamp": "soon"}));
    check(
        r#"{"a":{"b":{"c":true},"d":[1,"x"]},"service.name":"web","body":{"k":1},"message":"m"}"#,
        json!({"timestamp": stored, "a.b.c": true, "a.d": "[1,\"x\"]", "service.name": "web", "body": "{\"k\":1}", "message": "m"}),
    );
    check(
        r#"{"trace_id":"0123456789ABCDEF0123456789abcdef","span_id":"short","level":"custom"}"#,
        json!({"timestamp": stored, "trace_id": "0123456789abcdef0123456789abcdef", "attr.span_id": "short", "severity": "custom"}),
    );
    check(
        r#"{"n":18446744073709551615}"#,
        json!({"timestamp": stored, "n": "18446744073709551615"}),
    );
}

#[test]
fn what_is_no_json_object_is_kept_as_text() {
    let (rows, rejected) =
        rows(Format::Json, &[b"{\"n\":1}", b"{\"n\":", b"[1]", b"\xff\x00", b"", &[b'x'; 2000]]);
    assert_eq!(rejected, ["4 malformed", "1 too_large"]);
    let bodies: Vec<_> = rows.iter().map(|r| r["body"].as_str()).collect();
    let text = |t| Some(t);
    assert_eq!(bodies, [None, text("{\"n\":"), text("[1]"), text("\u{fffd}\0"), text(""), None]);
    assert_eq!(rows[3]["messaging.message.raw"], "/wA=");
    assert!(rows[1].get("messaging.message.raw").is_none());
    let errors: Vec<_> = rows.iter().map(|r| r.get("messaging.message.error").is_some()).collect();
    assert_eq!(errors, [false, true, true, true, true, true]);
    let long = rows[5]["messaging.message.error"].as_str().unwrap();
    assert!(long.contains("2000 bytes"), "{long}");
}

/// Also what this wrote once itself, and came back.
#[test]
fn a_body_cannot_pretend_to_come_from_elsewhere() {
    let body = br#"{"messaging":{"destination":{"name":"x"},"fake.offset":7},"messaging.other":1}"#;
    let (rows, _) = rows(Format::Json, &[body]);
    for (name, value) in [
        ("messaging.destination.name", json!("t")),
        ("attr.messaging.destination.name", json!("x")),
        ("messaging.fake.offset", json!(0)),
        ("attr.messaging.fake.offset", json!(7)),
        ("messaging.other", json!(1)),
    ] {
        assert_eq!(rows[0][name], value, "{name} of {}", rows[0]);
    }
}

#[test]
fn each_row_says_where_it_was() {
    let mut payload = Payload::default();
    let partition = Partition { topic: "orders".into(), number: 7 };
    let record = Record {
        offset: 42,
        key: Some("k".into()),
        name: Some("orders.eu".into()),
        headers: vec![("h".to_owned(), "v".into())],
        value: Some("text".into()),
        ..Record::default()
    };
    payload.push(&partition, &record, 100);
    let decoder = RecordDecoder::new(&SYSTEM, Format::Text);
    let envelope = Envelope::default();
    let (rows, _) = decode(&decoder, 5_000_000_000, &envelope, &payload.finish()).unwrap();
    let expect = json!({
        "timestamp": "1970-01-01T00:00:05Z",
        "observed_timestamp": "1970-01-01T00:00:05Z",
        "body": "text",
        "messaging.system": "fake",
        "messaging.destination.name": "orders.eu",
        "messaging.destination.partition.id": "7",
        "messaging.fake.offset": 42,
        "messaging.fake.key": "k",
        "messaging.message.header.h": "v",
        "resource.messaging.destination.name": "orders",
    });
    assert_eq!(rows[0], expect);
}

/// An OTLP request of one log record.
fn request(body: &str) -> Vec<u8> {
    let request = json!({"resourceLogs": [{"scopeLogs": [{"logRecords": [
        {"timeUnixNano": "1", "body": {"stringValue": body}}
    ]}]}]});
    let request: ExportLogsServiceRequest = serde_json::from_value(request).unwrap();
    request.encode_to_vec()
}

#[test]
fn otlp_requests_are_rows_and_bad_ones_cost_no_other() {
    let (one, two) = (request("one"), request("two"));
    let bodies = |rows: &[Value]| rows.iter().map(|r| r["body"].clone()).collect::<Vec<_>>();
    let (both, rejected) = rows(Format::OtlpLogs, &[&one, &two]);
    assert_eq!((bodies(&both), rejected), (vec![json!("one"), json!("two")], vec![]));
    let (both, rejected) = rows(Format::OtlpLogs, &[&one, b"\xff\xff garbage", &two]);
    assert_eq!(bodies(&both), [json!("one"), json!("two")]);
    assert_eq!(rejected, ["1 malformed"]);
    let (none, rejected) = rows(Format::OtlpLogs, &[b"\xff\xff garbage"]);
    assert_eq!((none.len(), rejected), (0, vec!["1 malformed".to_owned()]));
}

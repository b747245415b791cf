//! Bad and hostile input.

use std::io::Write;

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, KeyValue, KeyValueList};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::resource::v1::Resource;
use proptest::prelude::*;
use weir_pipeline::signal::{ATTRIBUTES, COLUMNS_MAX};

use super::*;

const PATHS: [&str; 3] = ["/v1/logs", "/v1/metrics", "/v1/traces"];

fn logs(groups: Vec<(Vec<KeyValue>, Vec<LogRecord>)>) -> ExportLogsServiceRequest {
    let group = |(attributes, log_records)| ResourceLogs {
        resource: Some(Resource { attributes, ..Resource::default() }),
        scope_logs: vec![ScopeLogs { log_records, ..ScopeLogs::default() }],
        ..ResourceLogs::default()
    };
    ExportLogsServiceRequest { resource_logs: groups.into_iter().map(group).collect() }
}

fn kv(key: &str, value: Any) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(value) }),
        ..KeyValue::default()
    }
}

fn record(attributes: Vec<KeyValue>) -> LogRecord {
    LogRecord { attributes, ..LogRecord::default() }
}

#[test]
fn refusals_say_why() {
    let check = |head: (&str, &str, &str), body: &[u8], reason: &str, message: &str| {
        let error = decode_within(1 << 20, head, body.to_vec()).unwrap_err();
        assert_eq!((error.reason, error.message.as_str()), (reason, message));
    };
    let (logs, json, pb) = ("/v1/logs", "application/json", "application/x-protobuf");
    check(
        (logs, "text/plain", ""),
        b"",
        "content_type",
        "content type `text/plain` is not OTLP, expected `application/x-protobuf` or `application/json`",
    );
    check(("/v1/nope", pb, ""), b"", "path", "`/v1/nope` is no OTLP path");
    check(
        (logs, pb, "br"),
        b"",
        "encoding",
        "content encoding `br` is not known, expected one of gzip, zstd, deflate, identity",
    );
    check(
        (logs, pb, ""),
        b"\x0a\x05ab",
        "malformed",
        "the body is not a protobuf message, or it is cut short",
    );
    check(
        (logs, json, ""),
        b"{\"a\":\xff}",
        "malformed",
        "the body is not UTF-8: invalid utf-8 sequence of 1 bytes from index 5",
    );
    check(
        (logs, json, ""),
        b"{\"a\":}",
        "malformed",
        "the body is not JSON: expected a value at byte 5",
    );
    check(
        (logs, json, ""),
        br#"{"resourceLogs":[{"scopeLogs":[{"logRecords":[{},{"timeUnixNano":"soon"}]}]}]}"#,
        "malformed",
        "resourceLogs[0].scopeLogs[0].logRecords[1].timeUnixNano: expected a 64-bit integer, found `soon`",
    );
    let deep = format!("{{\"a\":{}", "[".repeat(100_000));
    check(
        (logs, json, ""),
        deep.as_bytes(),
        "malformed",
        "the body is nested deeper than 100 levels",
    );
    check(
        (logs, pb, ""),
        &vec![0; (1 << 20) + 1],
        "too_large",
        "the body is larger than 1048576 bytes uncompressed",
    );
}

#[test]
fn invalid_utf8_is_named() {
    let body = logs(vec![(
        vec![],
        vec![LogRecord { severity_text: "~~~~".into(), ..LogRecord::default() }],
    )]);
    let mut bytes = body.encode_to_vec();
    let at = bytes.windows(4).position(|w| w == b"~~~~").unwrap();
    bytes[at] = 0xff;
    let error = decode_within(1 << 20, ("/v1/logs", "application/x-protobuf", ""), bytes);
    let error = error.unwrap_err();
    assert_eq!(error.reason, "malformed");
    assert!(error.message.contains("severity_text") && error.message.contains("UTF-8"), "{error}");
}

#[test]
fn gzip_bomb() {
    let mut e = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    e.write_all(&vec![0; 4 << 20]).unwrap();
    let bomb = e.finish().unwrap();
    let head = ("/v1/logs", "application/x-protobuf", "gzip");
    assert_eq!(decode_within(1 << 20, head, bomb).unwrap_err().reason, "too_large");
}

#[test]
fn few_bytes_do_not_become_gigabytes_by_their_scopes() {
    let of = |scopes| {
        let long = kv("long", Any::StringValue("x".repeat(1 << 20)));
        let mut request = logs(vec![(vec![long], vec![record(vec![])])]);
        let scope = request.resource_logs[0].scope_logs[0].clone();
        request.resource_logs[0].scope_logs = vec![scope; scopes];
        protobuf("/v1/logs", &request)
    };
    assert_eq!(rows(&of(3).unwrap()).len(), 3);
    let error = of(200).unwrap_err();
    assert_eq!(error.reason, "too_wide");
    assert!(error.message.contains("send fewer scopes at once"), "{error}");
}

#[test]
fn compressed_bodies() {
    let message = logs(vec![(vec![], vec![record(vec![kv("a", Any::IntValue(1))])])]);
    let body = message.encode_to_vec();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&body).unwrap();
    for (encoding, body) in [
        ("", body.clone()),
        ("gzip", gzip.finish().unwrap()),
        ("zstd", zstd::encode_all(&body[..], 1).unwrap()),
    ] {
        let decoded =
            decode_within(1 << 20, ("/v1/logs", "application/x-protobuf", encoding), body);
        assert_eq!(rows(&decoded.unwrap())[0]["a"], 1, "{encoding}");
    }
}

#[test]
fn a_hundred_thousand_attributes() {
    let attributes: Vec<KeyValue> =
        (0..100_000).map(|i| kv(&format!("k{i:06}"), Any::IntValue(i))).collect();
    let decoded = protobuf(
        "/v1/logs",
        &logs(vec![
            (
                vec![],
                vec![record(attributes.clone()), record(vec![kv("k000001", Any::IntValue(7))])],
            ),
            (attributes, vec![record(vec![])]),
        ]),
    );
    let decoded = decoded.unwrap();
    let batch = batch(&decoded);
    assert_eq!(batch.num_rows(), 3);
    // Names that the second resource has too stand at the row level.
    assert_eq!(batch.rows().num_columns(), 1 + COLUMNS_MAX + 1);
    let rows = rows(&decoded);
    assert_eq!(rows[1]["k000001"], 7);
    assert_eq!(rows[2]["k000001"], 1);
    assert_eq!(rows[2]["resource.k000001"], 1);
    // Alone, the record has a thousand columns, and the rest in one.
    let alone = logs(vec![(
        vec![],
        vec![record((0..100_000).map(|i| kv(&format!("k{i:06}"), Any::IntValue(i))).collect())],
    )]);
    let decoded = protobuf("/v1/logs", &alone).unwrap();
    let columns = decoded.batches[0].rows.num_columns();
    assert_eq!(columns, 1 + COLUMNS_MAX + 1);
    let row = &super::rows(&decoded)[0];
    assert_eq!(row["k000999"], 999);
    let rest: Value = serde_json::from_str(row[ATTRIBUTES].as_str().unwrap()).unwrap();
    assert_eq!(rest["k099999"], 99_999);
    assert_eq!(rest.as_object().unwrap().len(), 99_000);
}

#[test]
fn a_megabyte_of_text() {
    let long = "x".repeat(1 << 20);
    let request = logs(vec![(
        vec![kv("r", Any::StringValue(long.clone()))],
        vec![record(vec![kv("a", Any::StringValue(long.clone())), kv(&long, Any::IntValue(1))])],
    )]);
    let row = &rows(&protobuf("/v1/logs", &request).unwrap())[0];
    assert_eq!(row["a"].as_str().unwrap(), long);
    assert_eq!(row["r"].as_str().unwrap(), long);
    assert!(row[ATTRIBUTES].as_str().unwrap().len() > 1 << 20);
}

#[test]
fn more_rows_than_a_request_may_have() {
    // A million and one empty records: three megabytes.
    let records = b"\x12\x00".repeat(1_000_001);
    let wrap = |tag: u8, inner: Vec<u8>| {
        let mut out = vec![tag];
        prost::encoding::encode_varint(inner.len() as u64, &mut out);
        out.extend(inner);
        out
    };
    let body = wrap(0x0a, wrap(0x12, records));
    let head = ("/v1/logs", "application/x-protobuf", "");
    let error = decode_within(64 << 20, head, body).unwrap_err();
    assert_eq!(error.to_string(), "more than 1000000 records in one request");
    // Points of one metric, the same way: Metric{gauge{point*}}.
    let points = wrap(0x2a, b"\x0a\x00".repeat(1_000_001));
    let body = wrap(0x0a, wrap(0x12, wrap(0x12, points)));
    let head = ("/v1/metrics", "application/x-protobuf", "");
    let error = decode_within(64 << 20, head, body).unwrap_err();
    assert_eq!(error.to_string(), "more than 1000000 data points in one request");
}

#[test]
fn a_record_of_many_megabytes() {
    let long = "x".repeat(17 << 20);
    let request = logs(vec![(vec![], vec![record(vec![kv("a", Any::StringValue(long))])])]);
    let error = protobuf("/v1/logs", &request).unwrap_err();
    assert_eq!(error.to_string(), "a record or resource is larger than 16777216 bytes");
}

#[test]
fn nesting() {
    let nest = |levels: usize| {
        (0..levels).fold(kv("leaf", Any::IntValue(1)), |inner, _| {
            kv("m", Any::KvlistValue(KeyValueList { values: vec![inner] }))
        })
    };
    let flat =
        |levels| protobuf("/v1/logs", &logs(vec![(vec![], vec![record(vec![nest(levels)])])]));
    let name = format!("{}leaf", "m.".repeat(20));
    assert_eq!(rows(&flat(20).unwrap())[0][&name], 1);
    let error = flat(200).unwrap_err();
    assert!(error.message.contains("recursion limit"), "{error}");
}

#[test]
fn severities() {
    let check = |number: i32, text: &str, expect: [Option<&str>; 2]| {
        let record = LogRecord {
            severity_number: number,
            severity_text: text.to_owned(),
            ..LogRecord::default()
        };
        let row = &rows(&protobuf("/v1/logs", &logs(vec![(vec![], vec![record])])).unwrap())[0];
        let got = ["severity", "severity_text"].map(|n| row.get(n).and_then(Value::as_str));
        assert_eq!(got, expect, "{number} {text}");
    };
    check(1, "", [Some("TRACE"), None]);
    check(9, "INFO", [Some("INFO"), None]);
    check(13, "Warning", [Some("WARN"), Some("Warning")]);
    check(24, "", [Some("FATAL"), None]);
    check(25, "", [None, None]);
    check(-1, "", [None, None]);
    check(i32::MIN, "", [None, None]);
    check(0, "err", [Some("ERROR"), Some("err")]);
    check(0, "loud", [None, Some("loud")]);
    check(0, "", [None, None]);
}

#[test]
fn one_attribute_of_two_types() {
    let request = logs(vec![(
        vec![],
        vec![
            record(vec![kv("a", Any::IntValue(1)), kv("b", Any::IntValue(2))]),
            record(vec![kv("a", Any::StringValue("x".into())), kv("b", Any::DoubleValue(0.5))]),
        ],
    )]);
    let rows = rows(&protobuf("/v1/logs", &request).unwrap());
    assert_eq!((&rows[0]["a"], &rows[1]["a"]), (&"1".into(), &"x".into()));
    assert_eq!((&rows[0]["b"], &rows[1]["b"]), (&2.0.into(), &0.5.into()));
}

#[test]
fn truncated_anywhere() {
    let message = logs(vec![(
        vec![kv("service.name", Any::StringValue("cart".into()))],
        vec![
            LogRecord {
                time_unix_nano: 5,
                trace_id: vec![1; 16],
                ..record(vec![kv(
                    "a",
                    Any::ArrayValue(ArrayValue {
                        values: vec![AnyValue { value: Some(Any::DoubleValue(1.0)) }],
                    }),
                )])
            },
            record(vec![]),
        ],
    )]);
    let body = message.encode_to_vec();
    for path in PATHS {
        for cut in 0..body.len() {
            let head = (path, "application/x-protobuf", "");
            // A cut between two messages is a whole, shorter request; anything else an error.
            if let Err(e) = decode_within(1 << 20, head, body[..cut].to_vec()) {
                assert_eq!(e.reason, "malformed");
            }
        }
    }
}

fn any_value() -> impl Strategy<Value = Option<Any>> {
    let leaf = prop_oneof![
        any::<String>().prop_map(Any::StringValue),
        any::<bool>().prop_map(Any::BoolValue),
        any::<i64>().prop_map(Any::IntValue),
        any::<f64>().prop_map(Any::DoubleValue),
        any::<Vec<u8>>().prop_map(Any::BytesValue),
    ];
    let value = leaf.prop_recursive(3, 16, 4, |inner| {
        let values = prop::collection::vec(inner.clone(), 0..4);
        let members = prop::collection::vec(("[a-c]", inner), 0..4);
        prop_oneof![
            values.prop_map(|v| Any::ArrayValue(ArrayValue {
                values: v.into_iter().map(|v| AnyValue { value: Some(v) }).collect(),
            })),
            members.prop_map(|m| Any::KvlistValue(KeyValueList {
                values: m.into_iter().map(|(k, v)| kv(&k, v)).collect(),
            })),
        ]
    });
    prop::option::of(value)
}

fn attributes() -> impl Strategy<Value = Vec<KeyValue>> {
    let name = prop_oneof![
        "[a-d]",
        Just("body".to_owned()),
        Just("user.id".to_owned()),
        Just(String::new()),
        Just("resource.a".to_owned()),
        Just("attributes".to_owned())
    ];
    let pair = (name, any_value()).prop_map(|(key, value)| KeyValue {
        key,
        value: Some(AnyValue { value }),
        ..KeyValue::default()
    });
    prop::collection::vec(pair, 0..6)
}

fn log_record() -> impl Strategy<Value = LogRecord> {
    let id =
        prop_oneof![Just(vec![]), Just(vec![7; 16]), prop::collection::vec(any::<u8>(), 0..20)];
    (any::<u64>(), any::<i32>(), any::<String>(), any_value(), attributes(), id).prop_map(
        |(time, severity_number, severity_text, body, attributes, trace_id)| LogRecord {
            time_unix_nano: time,
            severity_number,
            severity_text,
            body: Some(AnyValue { value: body }),
            attributes,
            trace_id,
            ..LogRecord::default()
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn any_logs_add_up(groups in prop::collection::vec(
        (attributes(), prop::collection::vec(log_record(), 0..5)), 0..4,
    )) {
        let records: Vec<LogRecord> = groups.iter().flat_map(|g| g.1.clone()).collect();
        let decoded = protobuf("/v1/logs", &logs(groups)).unwrap();
        let batch = batch_or_none(&decoded);
        let left_out: u64 = decoded.rejected.iter().map(|r| r.rows).sum();
        let rows = batch.as_ref().map_or(0, Batch::num_rows);
        prop_assert_eq!(rows as u64 + left_out, records.len() as u64);
        let Some(batch) = batch else { return Ok(()) };
        prop_assert!(batch.wide().is_ok());
        // One name, one level.
        let mut names: Vec<_> = batch.names().into_iter().map(|n| n.0).collect();
        names.dedup();
        prop_assert_eq!(names.len(), batch.names().len());
        for entity in batch.entities().unwrap().table.since(0) {
            for a in entity.attributes() {
                prop_assert!(batch.rows().column_by_name(&a.name).is_none(), "{}", a.name);
            }
        }
        // Plain text comes back as it was sent.
        let good = records.iter().filter(|r| {
            r.time_unix_nano <= i64::MAX as u64
                && (r.trace_id.is_empty() || r.trace_id.len() == 16)
        });
        let Some(body) = batch.array("body") else { return Ok(()) };
        let body = arrow::array::AsArray::as_string::<i32>(&*body);
        for (row, record) in good.enumerate() {
            if let Some(AnyValue { value: Some(Any::StringValue(text)) }) = &record.body {
                prop_assert_eq!(body.value(row), text);
            }
        }
    }

    #[test]
    fn bytes_never_panic(body in prop::collection::vec(any::<u8>(), 0..200), path in 0..3_usize) {
        let head = (PATHS[path], "application/x-protobuf", "");
        let _ = decode_within(1 << 20, head, body.clone());
        let _ = decode_within(1 << 20, (PATHS[path], "application/json", ""), body);
    }

    #[test]
    fn flipped_bytes_never_panic(at in any::<prop::sample::Index>(), to in any::<u8>(), r in log_record()) {
        let mut body = logs(vec![(vec![], vec![r])]).encode_to_vec();
        let at = at.index(body.len());
        body[at] = to;
        for path in PATHS {
            let _ = decode_within(1 << 20, (path, "application/x-protobuf", ""), body.clone());
        }
    }
}

fn batch_or_none(decoded: &Decoded) -> Option<Batch> {
    let batches = intake::batches(&"otlp".into(), RECEIVED, decoded.clone()).unwrap();
    batches.into_iter().next().map(|b| b.1)
}

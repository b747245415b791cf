#![allow(clippy::unwrap_used, clippy::expect_used)]

use proptest::prelude::*;
use serde_json::{Value, json};
use weir_pipeline::journal::Envelope;

use super::super::frames::Frames;
use super::*;
use crate::testing;

/// 2023-11-14T22:13:20Z.
const RECEIVED: i64 = 1_700_000_000_000_000_000;

fn decode(messages: &[(&str, &[u8], bool)]) -> Vec<Value> {
    let mut frames = Frames::default();
    for (peer, message, cut) in messages {
        frames.push(peer, message, *cut);
    }
    let envelope = Envelope { peer: "10.0.0.9:40000".to_owned(), ..Envelope::default() };
    let decoder = SyslogDecoder { zone: TimeZone::UTC };
    let (rows, rejected) = testing::decode(&decoder, RECEIVED, &envelope, &frames.take()).unwrap();
    assert!(rejected.is_empty());
    rows
}

/// The row of one message, without the columns that every row has.
#[track_caller]
fn check(message: &[u8], expect: Value) {
    let mut rows = decode(&[("", message, false)]);
    let row = rows.pop().unwrap();
    let mut row = row.as_object().unwrap().clone();
    assert_eq!(row.remove("observed_timestamp"), Some(json!("2023-11-14T22:13:20Z")));
    assert_eq!(row.remove("network.peer.address"), Some(json!("10.0.0.9")));
    assert_eq!(Value::Object(row), expect);
}

#[test]
fn columns() {
    check(
        br#"<165>1 2003-10-11T22:14:15.003Z h.example app 8710 ID47 [ex@1 a="1" b="2" a="3"][none] hi"#,
        json!({
            "timestamp": "2003-10-11T22:14:15.003Z", "severity": "INFO", "severity_number": 10,
            "body": "hi", "host.name": "h.example", "service.name": "app", "process.pid": 8710,
            "syslog.facility": "local4", "syslog.msgid": "ID47",
            "syslog.structured_data.ex@1.a": "[\"1\",\"3\"]",
            "syslog.structured_data.ex@1.b": "2",
            "syslog.structured_data.none": true,
        }),
    );
    check(
        b"<11>Nov 14 22:00:00 h p[x-1]: m",
        json!({
            "timestamp": "2023-11-14T22:00:00Z", "severity": "ERROR", "severity_number": 17,
            "body": "m", "host.name": "h", "service.name": "p", "syslog.procid": "x-1",
            "syslog.facility": "user",
        }),
    );
    check(b"hello", json!({ "timestamp": "2023-11-14T22:13:20Z", "body": "hello" }));
    check(
        b"<0>1 9999-12-31T00:00:00Z - - 007 - -",
        json!({
            "timestamp": "2023-11-14T22:13:20Z", "syslog.timestamp": "9999-12-31T00:00:00Z",
            "severity": "FATAL", "severity_number": 21, "syslog.facility": "kern",
            "syslog.procid": "007",
        }),
    );
    check(
        b"<13>a\xffb",
        json!({
            "timestamp": "2023-11-14T22:13:20Z", "severity": "INFO", "severity_number": 10,
            "body": "a\u{fffd}b", "syslog.raw": "PDEzPmH/Yg==", "syslog.facility": "user",
        }),
    );
}

#[test]
fn severities() {
    let numbers: Vec<Value> =
        (0..8).map(|s| decode(&[("", format!("<{s}>x").as_bytes(), false)])[0].clone()).collect();
    let show = |v: &Value| format!("{} {}", v["severity_number"], v["severity"].as_str().unwrap());
    let got: Vec<String> = numbers.iter().map(show).collect();
    let expect = ["21 FATAL", "19 ERROR", "18 ERROR", "17 ERROR", "13 WARN", "10 INFO", "9 INFO"];
    assert_eq!(got[..7], expect);
    assert_eq!(got[7], "5 DEBUG");
}

#[test]
fn many_in_order() {
    let rows = decode(&[
        ("10.0.0.1", b"<13>Nov 14 22:00:00 a p: 1", false),
        ("10.0.0.1", b"<13>Nov 14 22:00:00 b p: 2", true),
        ("10.0.0.2", b"<13>Nov 14 22:00:00 a p: 3", false),
    ]);
    let show = |r: &Value| {
        let text = |n: &str| r[n].as_str().unwrap_or("-").to_owned();
        let cut = r["syslog.truncated"].as_bool().unwrap_or(false);
        format!("{} {} {} {cut}", text("network.peer.address"), text("host.name"), text("body"))
    };
    let got: Vec<String> = rows.iter().map(show).collect();
    assert_eq!(got, ["10.0.0.1 a 1 false", "10.0.0.1 b 2 true", "10.0.0.2 a 3 false"]);
}

proptest! {
    #[test]
    fn any_payload(payload in prop::collection::vec(any::<u8>(), 0..100), message in any::<Vec<u8>>()) {
        let decoder = SyslogDecoder { zone: TimeZone::UTC };
        let _ = testing::decode(&decoder, RECEIVED, &Envelope::default(), &payload);
        let mut frames = Frames::default();
        frames.push("p", &message, false);
        let payload = frames.take();
        let (rows, _) =
            testing::decode(&decoder, RECEIVED, &Envelope::default(), &payload).unwrap();
        prop_assert_eq!(rows.len(), 1);
    }
}

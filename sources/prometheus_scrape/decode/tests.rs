#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::Write;

use proptest::prelude::*;
use serde_json::{Value, json};
use weir_pipeline::journal::Envelope;

use super::*;
use crate::testing;

fn decoder() -> ScrapeDecoder {
    ScrapeDecoder {
        honor_labels: false,
        honor_timestamps: true,
        body_bytes_max: 1 << 20,
        sample_limit: None,
        cache: SeriesCache::default(),
    }
}

fn outcome() -> Outcome {
    Outcome {
        start: 1_700_000_000_123_456_789,
        duration_ns: 250_000_000,
        status: Some(200),
        error: None,
        labels: [("instance", "h:1"), ("job", "j")]
            .map(|(n, v)| (n.to_owned(), v.to_owned()))
            .into(),
    }
}

fn envelope(outcome: &Outcome, content_type: &str, encoding: &str) -> Envelope {
    Envelope {
        content_type: content_type.to_owned(),
        encoding: encoding.to_owned(),
        target: "http://h:1/metrics".to_owned(),
        outcome: serde_json::to_string(outcome).unwrap(),
        ..Envelope::default()
    }
}

/// Each row as `name{labels} type value @time`, those of the scrape itself last.
fn decode(
    decoder: &ScrapeDecoder,
    outcome: &Outcome,
    content_type: &str,
    body: &[u8],
) -> (Vec<String>, Vec<String>) {
    let envelope = envelope(outcome, content_type, "");
    let (rows, rejected) = testing::decode(decoder, 0, &envelope, body).unwrap();
    (rows.iter().map(show).collect(), rejected)
}

fn show(row: &Value) -> String {
    let mut row = row.as_object().unwrap().clone();
    let mut take = |name: &str| match row.remove(name) {
        Some(Value::String(text)) => text,
        Some(other) => other.to_string(),
        None => "-".to_owned(),
    };
    let (name, kind, value) = (take("metric.name"), take("metric.type"), take("value"));
    let time = take("timestamp");
    let labels: Vec<String> = row
        .iter()
        .map(|(n, v)| format!("{n}={}", v.as_str().map_or(v.to_string(), str::to_owned)))
        .collect();
    let time = time.strip_prefix("2023-11-14T").unwrap_or(&time).to_owned();
    format!("{name}{{{}}} {kind} {value} @{time}", labels.join(","))
}

const OWN: [&str; 3] = ["up", "scrape_duration_seconds", "scrape_samples_scraped"];

/// The rows without those of the scrape itself, and the values of these.
#[track_caller]
fn check(decoder: &ScrapeDecoder, body: &str, rows: &[&str], own: [&str; 3], rejected: &[&str]) {
    let (got, left_out) = decode(decoder, &outcome(), "text/plain; version=0.0.4", body.as_bytes());
    let at = got.len() - 3;
    assert_eq!(got[..at], *rows);
    for ((row, name), value) in got[at..].iter().zip(OWN).zip(own) {
        let expect = format!("{name}{{instance=h:1,job=j}} gauge {value} @22:13:20.123Z");
        assert_eq!(*row, expect);
    }
    assert_eq!(left_out, rejected);
}

#[test]
fn pages() {
    check(
        &decoder(),
        "# TYPE a counter\na{b=\"c\",empty=\"\"} 1\na{b=\"d\"} 9007199254740993 1700000000000\n",
        &[
            "a{b=c,instance=h:1,job=j} counter 1.0 @22:13:20.123Z",
            "a{b=d,instance=h:1,job=j,value_int=9007199254740993} counter 9007199254740992.0 \
             @22:13:20Z",
        ],
        ["1.0", "0.25", "2.0"],
        &[],
    );
    check(&decoder(), "", &[], ["1.0", "0.25", "0.0"], &[]);
    check(
        &decoder(),
        "a 1\nbad\na 2 99999999999999999\n",
        &["a{instance=h:1,job=j} unknown 1.0 @22:13:20.123Z"],
        ["1.0", "0.25", "2.0"],
        &["1 malformed", "1 bad_time"],
    );
    check(&decoder(), "<html>\n<body>x", &[], ["0.0", "0.25", "0.0"], &["2 malformed"]);
    let limited = ScrapeDecoder { sample_limit: Some(1), ..decoder() };
    check(&limited, "a 1\nb 2\n", &[], ["0.0", "0.25", "2.0"], &["2 sample_limit"]);
    let own_times = ScrapeDecoder { honor_timestamps: false, ..decoder() };
    let row = ["a{instance=h:1,job=j} unknown 1.0 @22:13:20.123Z"];
    check(&own_times, "a 1 5\n", &row, ["1.0", "0.25", "1.0"], &[]);
}

#[test]
fn labels_of_both_sides() {
    let page = "a{job=\"x\",exported_job=\"y\",instance=\"\"} 1\n";
    let row = ["a{exported_exported_job=x,exported_job=y,instance=h:1,job=j} unknown 1.0 \
                @22:13:20.123Z"];
    check(&decoder(), page, &row, ["1.0", "0.25", "1.0"], &[]);
    let honor = ScrapeDecoder { honor_labels: true, ..decoder() };
    let row = ["a{exported_job=y,instance=h:1,job=x} unknown 1.0 @22:13:20.123Z"];
    check(&honor, page, &row, ["1.0", "0.25", "1.0"], &[]);
}

#[test]
fn open_metrics() {
    let page = "# TYPE a counter\n# UNIT a seconds\na_total 1 # {trace_id=\"x\"} 2 1700000000.5\n";
    let of = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    let row = "a_total{exemplars=[{\"timestamp\":1700000000500000000,\"value\":2.0,\"attributes\":\
               {\"trace_id\":\"x\"}}],instance=h:1,job=j,metric.unit=seconds} counter 1.0 \
               @22:13:20.123Z";
    let whole = decode(&decoder(), &outcome(), of, format!("{page}# EOF\n").as_bytes());
    assert_eq!((whole.0[0].as_str(), whole.1.len()), (row, 0));
    let cut = decode(&decoder(), &outcome(), of, page.as_bytes());
    assert_eq!((cut.0[0].as_str(), cut.1), (row, vec!["1 truncated".to_owned()]));
}

#[test]
fn failures() {
    let failed = Outcome { error: Some("refused".into()), status: None, ..outcome() };
    let (rows, rejected) = decode(&decoder(), &failed, "", b"");
    assert_eq!(rows[0], "up{instance=h:1,job=j} gauge 0.0 @22:13:20.123Z");
    assert_eq!((rows.len(), rejected.len()), (3, 0));
    let junk = Envelope { outcome: "x".into(), ..Envelope::default() };
    assert!(testing::decode(&decoder(), 0, &junk, b"").unwrap_err().starts_with("malformed"));
    // Bytes that are not what they should be.
    let gzip = envelope(&outcome(), "", "gzip");
    let (rows, rejected) = testing::decode(&decoder(), 0, &gzip, b"a 1\n").unwrap();
    assert_eq!((&rows[0]["value"], rejected), (&json!(0.0), vec!["1 malformed".to_owned()]));
    let mut bomb = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    bomb.write_all(&vec![b'\n'; 2 << 20]).unwrap();
    let (rows, rejected) = testing::decode(&decoder(), 0, &gzip, &bomb.finish().unwrap()).unwrap();
    assert_eq!((&rows[0]["value"], rejected), (&json!(0.0), vec!["1 too_large".to_owned()]));
}

#[test]
fn known_series_keep_their_entity() {
    let (decoder, space) = (decoder(), EntitySpace::default());
    let mut last = None;
    // Other type, unit or target: another entity.
    for (page, instance, entities) in [
        ("a{b=\"c\"} 1\n", "h:1", 4),
        ("a{b=\"c\"} 2\n", "h:1", 4),
        ("a{ b=\"c\" } 2\n", "h:1", 4),
        ("# TYPE a gauge\na{b=\"c\"} 2\n", "h:1", 5),
        ("a{b=\"c\"} 1\n", "h:2", 9),
    ] {
        let mut outcome = outcome();
        outcome.labels.insert("instance".into(), instance.into());
        let envelope = envelope(&outcome, "", "");
        let head = EntryHead { received: 0, envelope: &envelope };
        let decoded = decoder.decode(&head, &page.as_bytes().to_vec().into(), &space).unwrap();
        let key = decoded.batches[0].entities.clone().unwrap().keys.value(0);
        assert_eq!(space.table().len(), entities, "{page}");
        assert_eq!(last.is_none_or(|last| last == key), page.starts_with('a') && instance == "h:1");
        if last.is_none() {
            last = Some(key);
        }
    }
}

proptest! {
    #[test]
    fn nothing_panics(body in prop::collection::vec(any::<u8>(), 0..200), open in any::<bool>()) {
        let of = if open { "application/openmetrics-text" } else { "text/plain" };
        let (rows, _) = decode(&decoder(), &outcome(), of, &body);
        prop_assert!(rows.len() >= 3);
    }
}

#![allow(clippy::unwrap_used, clippy::expect_used)]

use proptest::prelude::*;
use serde_json::{Value, json};
use weir_pipeline::journal::Envelope;

use super::super::tests::{Message, request, sample, series, snappy};
use super::*;
use crate::testing;

fn decoder(bytes_max: usize) -> RemoteWriteDecoder {
    RemoteWriteDecoder { bytes_max, cache: SeriesCache::default() }
}

fn decode(request: &[u8]) -> Result<(Vec<Value>, Vec<String>), String> {
    testing::decode(&decoder(1 << 20), 0, &Envelope::default(), &snappy(request))
}

#[track_caller]
fn check(request: &[u8], rows: Value, rejected: &[&str]) {
    let (got, left_out) = decode(request).unwrap();
    assert_eq!(Value::Array(got), rows);
    assert_eq!(left_out, rejected);
}

#[test]
fn samples() {
    check(
        &request(&[
            series(
                &[("__name__", "http_requests_total"), ("job", "a"), ("value", "v"), ("x", "")],
                &[sample(1.5, 1_700_000_000_123), sample(f64::INFINITY, -1)],
            ),
            series(&[("job", "b"), ("__name__", "up")], &[sample(0.0, 0)]),
        ]),
        json!([
            { "metric.name": "http_requests_total", "metric.type": "counter", "job": "a",
              "label.value": "v", "timestamp": "2023-11-14T22:13:20.123Z", "value": 1.5 },
            { "metric.name": "http_requests_total", "metric.type": "counter", "job": "a",
              "label.value": "v", "timestamp": "1969-12-31T23:59:59.999Z", "value": null },
            { "metric.name": "up", "metric.type": "unknown", "job": "b",
              "timestamp": "1970-01-01T00:00:00Z", "value": 0.0 },
        ]),
        &[],
    );
}

#[test]
fn types_by_name() {
    let kind = |labels: &[(&str, &str)]| {
        let (rows, _) = decode(&request(&[series(labels, &[sample(1.0, 1)])])).unwrap();
        rows[0]["metric.type"].as_str().unwrap().to_owned()
    };
    assert_eq!(kind(&[("__name__", "a_bucket"), ("le", "1")]), "counter");
    assert_eq!(kind(&[("__name__", "a_bucket")]), "unknown");
    assert_eq!(kind(&[("__name__", "a_total")]), "counter");
    assert_eq!(kind(&[("__name__", "a_count")]), "unknown");
}

#[test]
fn nan_and_stale() {
    let stale = f64::from_bits(STALE_NAN);
    let bytes = snappy(&request(&[series(
        &[("__name__", "a")],
        &[sample(stale, 1), sample(f64::NAN, 2), sample(1.0, 3)],
    )]));
    let envelope = Envelope::default();
    let head = EntryHead { received: 0, envelope: &envelope };
    let decoded = decoder(1 << 20).decode(&head, &bytes.into(), &EntitySpace::default()).unwrap();
    let rows = &decoded.batches[0].rows;
    let value = rows.column_by_name("value").unwrap();
    let value: &arrow::array::Float64Array = value.as_any().downcast_ref().unwrap();
    let stale = rows.column_by_name("stale").unwrap();
    let stale: &arrow::array::BooleanArray = stale.as_any().downcast_ref().unwrap();
    use arrow::array::Array;
    assert!(value.is_null(0) && value.value(1).is_nan() && value.value(2) == 1.0);
    assert_eq!(stale.iter().collect::<Vec<_>>(), [Some(true), None, None]);
}

#[test]
fn bad_series_cost_themselves() {
    let good = || series(&[("__name__", "good")], &[sample(1.0, 0)]);
    let row = json!([{ "metric.name": "good", "metric.type": "unknown",
        "timestamp": "1970-01-01T00:00:00Z", "value": 1.0 }]);
    let with = |bad: Message, reason: &str| check(&request(&[bad, good()]), row.clone(), &[reason]);
    let two = || vec![sample(1.0, 0), sample(2.0, 1)];
    with(series(&[("job", "a")], &two()), "2 no_name");
    with(series(&[("__name__", "a"), ("b", "1"), ("b", "2")], &two()), "2 duplicate_label");
    with(series(&[("__name__", "a"), ("", "1")], &two()), "2 bad_label");
    with(series(&[("__name__", "a")], &[sample(1.0, i64::MAX)]), "1 bad_time");
    let label = Message::new().bytes(1, b"__name__").bytes(2, b"\xff");
    let bad = Message::new().message(1, label).message(2, sample(1.0, 0));
    with(bad, "1 bad_utf8");
    // Out of order is not bad; an unknown field is passed over.
    let odd = series(&[("z", "1"), ("__name__", "a")], &[sample(1.0, 0)]).varint(9, 9);
    let (rows, rejected) = decode(&request(&[odd])).unwrap();
    assert_eq!((rows[0]["z"].as_str(), rejected.len()), (Some("1"), 0));
}

#[test]
fn one_entity_whatever_the_order() {
    let space = EntitySpace::default();
    let decoder = decoder(1 << 20);
    let envelope = Envelope::default();
    let head = EntryHead { received: 0, envelope: &envelope };
    let a = series(&[("__name__", "a"), ("b", "1")], &[sample(1.0, 0)]);
    let b = series(&[("b", "1"), ("__name__", "a")], &[sample(1.0, 0)]);
    for _ in 0..2 {
        let bytes = snappy(&request(&[a.clone(), b.clone(), a.clone()]));
        let decoded = decoder.decode(&head, &bytes.into(), &space).unwrap();
        let keys = decoded.batches[0].entities.clone().unwrap().keys;
        assert_eq!(keys.values().as_ref(), [0, 0, 0]);
    }
    assert_eq!(space.table().len(), 1);
}

#[test]
fn exemplars() {
    let label = |name: &str, value: &str| {
        Message::new().bytes(1, name.as_bytes()).bytes(2, value.as_bytes())
    };
    let exemplar = || {
        let id = "0AF7651916CD43DD8448EB211C80319C";
        Message::new()
            .message(1, label("trace_id", id))
            .message(1, label("user", "u"))
            .double(2, 0.5)
            .varint(3, 1_000)
    };
    let with = series(&[("__name__", "a")], &[sample(1.0, 0)]).message(3, exemplar());
    let alone = series(&[("__name__", "a")], &[]).message(3, exemplar());
    check(
        &request(&[with, alone]),
        json!([{ "metric.name": "a", "metric.type": "unknown", "value": 1.0,
            "timestamp": "1970-01-01T00:00:00Z",
            "exemplars": "[{\"timestamp\":1000000000,\"value\":0.5,\
                \"trace_id\":\"0af7651916cd43dd8448eb211c80319c\",\
                \"attributes\":{\"user\":\"u\"}}]" }]),
        &["1 exemplar_without_sample"],
    );
}

fn zigzag(n: i64) -> u64 {
    ((n << 1) ^ (n >> 63)) as u64
}

fn span(offset: i64, length: u64) -> Message {
    Message::new().varint(1, zigzag(offset)).varint(2, length)
}

#[test]
fn native_histograms() {
    let histogram = Message::new()
        .varint(1, 12)
        .double(3, 18.4)
        .varint(4, zigzag(1))
        .double(5, 0.001)
        .varint(6, 2)
        .message(11, span(-1, 2))
        .message(11, span(1, 1))
        .varints(12, &[zigzag(1), zigzag(2), zigzag(-1)])
        .message(8, span(0, 1))
        .varints(9, &[zigzag(4)])
        .varint(15, 1_000);
    let of = |h: Message| series(&[("__name__", "h")], &[]).message(4, h);
    check(
        &request(&[of(histogram)]),
        json!([{ "metric.name": "h", "metric.type": "exponential_histogram",
            "metric.temporality": "cumulative", "timestamp": "1970-01-01T00:00:01Z",
            "histogram": { "count": 12, "sum": 18.4, "scale": 1, "zero_count": 2,
                "zero_threshold": 0.001, "positive_offset": -2, "positive_counts": [1, 3, 0, 2],
                "negative_offset": -1, "negative_counts": [4] } }]),
        &[],
    );
    let custom = Message::new()
        .varint(1, 3)
        .double(3, 4.5)
        .varint(4, zigzag(-53))
        .message(11, span(0, 1))
        .message(11, span(1, 1))
        .varints(12, &[zigzag(1), zigzag(1)])
        .varint(15, 1_000)
        .doubles(16, &[0.5, 1.0]);
    check(
        &request(&[of(custom)]),
        json!([{ "metric.name": "h", "metric.type": "histogram", "metric.bounds": "[0.5,1.0]",
            "metric.temporality": "cumulative", "timestamp": "1970-01-01T00:00:01Z",
            "histogram": { "count": 3, "sum": 4.5, "counts": [1, 0, 2] } }]),
        &[],
    );
    let bad = |h: Message| check(&request(&[of(h)]), json!([]), &["1 bad_histogram"]);
    bad(Message::new().double(2, 1.5));
    bad(Message::new().varint(4, zigzag(99)));
    bad(Message::new().message(11, span(0, u64::MAX)));
    bad(Message::new().message(11, span(0, 2)).varints(12, &[2]));
    bad(Message::new().message(11, span(0, 1)).varints(12, &[2, 2]));
    bad(Message::new().message(11, span(0, 1)).varints(12, &[zigzag(-1)]));
    bad(Message::new().message(11, span(i64::from(i32::MAX) << 20, 1)).varints(12, &[2]));
    // The stale marker is in the sum; the whole doubles of recording rules are counts.
    let stale = Message::new().double(3, f64::from_bits(STALE_NAN)).varint(15, 1_000);
    let (rows, _) = decode(&request(&[of(stale)])).unwrap();
    assert_eq!((&rows[0]["stale"], rows[0].get("histogram")), (&json!(true), None));
    let whole = Message::new().double(2, 2.0).double(7, 2.0);
    let (rows, _) = decode(&request(&[of(whole)])).unwrap();
    assert_eq!(rows[0]["histogram"]["zero_count"], 2);
}

#[test]
fn what_is_refused() {
    let check = |payload: &[u8], expect: &str| {
        let got = testing::decode(&decoder(1 << 10), 0, &Envelope::default(), payload);
        assert!(got.as_ref().is_err_and(|e| e.starts_with(expect)), "{got:?}");
    };
    check(b"", "malformed: the body is not snappy");
    check(b"hello", "malformed: the body is not snappy");
    check(&snappy(&vec![0; 1025]), "too_large: ");
    // Claims 4 GiB.
    check(&[0xff, 0xff, 0xff, 0xff, 0x0f, 0], "too_large: ");
    check(&snappy(b"\x0a\x05x"), "malformed: the body is not a protobuf");
    check(&snappy(b"\x0b\x0c"), "malformed: the body is not a protobuf");
    check(&snappy(b"\x08\x01"), "malformed: the body is not a protobuf");
    let decoded = decode(b"").unwrap();
    assert!(decoded.0.is_empty() && decoded.1.is_empty());
}

#[test]
fn cut_at_every_byte() {
    let h = Message::new().varint(1, 1).message(11, span(0, 1)).varints(12, &[2]);
    let whole = request(&[
        series(&[("__name__", "a"), ("b", "c")], &[sample(1.0, 1), sample(2.0, 2)]),
        series(&[("__name__", "h")], &[]).message(4, h),
    ]);
    let rows = decode(&whole).unwrap().0.len();
    assert_eq!(rows, 3);
    for at in 0..whole.len() {
        match decode(&whole[..at]) {
            Ok((some, _)) => assert!(some.len() < rows, "cut at {at}"),
            Err(e) => assert!(e.starts_with("malformed"), "{e}"),
        }
    }
    // The decompressor takes missing bytes of a last offset for 0: then the text is the whole one.
    let packed = snappy(&whole);
    for at in 0..packed.len() {
        if let Ok(unpacked) = decompress(&packed[..at], 1 << 20, &mut Vec::new()) {
            assert!(unpacked == whole && at + 1 == packed.len(), "cut at {at}");
        }
    }
}

proptest! {
    #[test]
    fn nothing_panics(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
        let _ = decode(&bytes);
        let labels = Message::new().message(1, Message::new().bytes(1, b"__name__").bytes(2, b"a"));
        let inner = Message::new().bytes(1, &labels.message(4, Message(bytes)).0);
        let _ = decode(&inner.0);
    }

    #[test]
    fn what_was_sent_comes_out(
        all in prop::collection::vec(
            ("[a-z]{1,5}", prop::collection::btree_map("[a-z]{1,3}", "[a-zé\"]{1,4}", 0..4),
             prop::collection::vec((-1_000_000..1_000_000_i32, -1_000_000_000_000_i64..9_000_000_000_000), 0..4)),
            0..6),
    ) {
        let list: Vec<Message> = all.iter().map(|(name, labels, samples)| {
            let mut pairs = vec![("__name__", name.as_str())];
            pairs.extend(labels.iter().map(|(n, v)| (n.as_str(), v.as_str())));
            let samples: Vec<Message> = samples.iter().map(|(v, t)| sample(f64::from(*v), *t)).collect();
            series(&pairs, &samples)
        }).collect();
        let (rows, rejected) = decode(&request(&list)).unwrap();
        prop_assert!(rejected.is_empty());
        let expect: Vec<_> = all.iter()
            .flat_map(|(name, labels, samples)| samples.iter().map(move |s| (name, labels, s)))
            .collect();
        prop_assert_eq!(rows.len(), expect.len());
        for (row, (name, labels, (value, _))) in rows.iter().zip(expect) {
            prop_assert_eq!(&row["metric.name"], name);
            prop_assert_eq!(row["value"].as_f64(), Some(f64::from(*value)));
            for (label, text) in labels {
                let column = Signal::Metrics.attribute_column(label).into_owned();
                prop_assert_eq!(&row[column.as_str()], text);
            }
        }
    }
}

//! Rollups against a naive model, whatever comes late and wherever they are interrupted.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, TimestampNanosecondArray, UInt32Array};
use arrow::datatypes::{DataType, Field, Float64Type, Int64Type, Schema, TimestampNanosecondType};
use proptest::prelude::*;
use weir_pipeline::batch::{Batch, Keys, Run, TENANT};
use weir_pipeline::component::{Operator, Output, Tick};
use weir_pipeline::entity::{Attribute, Entity, EntityTable, Origin, Value};
use weir_pipeline::expression::histogram::{Buckets, Counts, Histogram, column};
use weir_pipeline::expression::sketch::Sketch;
use weir_pipeline::signal::{Signal, histogram, histogram_fields, timestamp};

use super::KIND;
use crate::testing::{self, Row, batch, row, run, show, tick};

const S: i64 = 1_000_000_000;

fn metric(at: i64, kind: &'static str, instance: &'static str, value: f64) -> Row {
    row(at * S)
        .set("value", value)
        .entity("metric.name", "m")
        .entity("metric.type", kind)
        .entity("instance", instance)
        .entity("job", "j")
}

fn rollup(toml: &str) -> Box<dyn Operator> {
    testing::plan(&KIND, toml).unwrap().build()
}

#[test]
fn gauges_of_a_step_fall_together() {
    let mut rollup = rollup("every = \"10s\"\nlateness = \"0s\"\nkeep = [\"job\"]");
    let rows = [
        metric(1, "gauge", "a", 3.0),
        metric(2, "gauge", "b", -1.0),
        metric(2, "gauge", "a", f64::NAN),
        metric(12, "gauge", "b", 8.0),
    ];
    let out = run(&mut *rollup, |o, out| {
        o.process(0, batch(&rows), out).unwrap();
        o.tick(tick(10 * S), out).unwrap();
    });
    let head = "correction=false count=2 job=j last=-1.0 last_timestamp=1970-01-01T00:00:02Z";
    let tail = "max=3.0 metric.name=m metric.type=gauge min=-1.0 sum=2.0 \
                timestamp=1970-01-01T00:00:00Z window_end=1970-01-01T00:00:10Z";
    assert_eq!(show(&out.emitted, ""), [format!("{head} {tail}")]);
    // What is late is given in a row of its own, a step later.
    let out = run(&mut *rollup, |o, out| {
        o.process(0, batch(&[metric(3, "gauge", "c", 9.0)]), out).unwrap();
        o.tick(tick(11 * S), out).unwrap();
        o.tick(tick(21 * S), out).unwrap();
    });
    let shown = show(&out.emitted, "");
    assert_eq!(shown.len(), 2, "{shown:?}");
    assert!(shown[0].contains("correction=false count=1"), "{}", shown[0]);
    assert!(shown[1].contains("correction=true count=1"), "{}", shown[1]);
    assert!(shown[1].contains("sum=9.0 timestamp=1970-01-01T00:00:00Z"), "{}", shown[1]);
}

#[test]
fn labels_go_or_stay() {
    let rows = [metric(1, "gauge", "a", 1.0).entity("count", "x").entity("le", "5")];
    for (toml, expected) in [
        ("", "instance=a job=j label.count=x last="),
        ("drop = [\"instance\"]", "count=1 job=j label.count=x last="),
        ("keep = []", "count=1 last="),
        ("keep = [\"count\", \"instance\"]", "count=1 instance=a label.count=x last="),
    ] {
        let mut rollup = rollup(&format!("every = \"10s\"\n{toml}"));
        let out = run(&mut *rollup, |o, out| {
            o.process(0, batch(&rows), out).unwrap();
            o.flush(tick(S), out).unwrap();
        });
        let shown = show(&out.emitted, "").join("\n");
        assert!(shown.contains(expected) && shown.contains("le=5"), "{toml}: {shown}");
    }
}

#[test]
fn labels_in_rows_count_like_those_of_series() {
    let of = |at, host: &'static str, value: f64| {
        metric(at, "counter", "a", value).set("host", host).set("half", value / 2.0)
    };
    let rows = [of(1, "x", 1.0), of(2, "y", 7.0), of(3, "x", 4.0), of(4, "y", 9.0)];
    for (toml, expected) in
        [("drop = [\"instance\"]", 2), ("keep = [\"host\"]", 2), ("keep = []", 1)]
    {
        let mut rollup = rollup(&format!("every = \"10s\"\n{toml}"));
        let out = run(&mut *rollup, |o, out| {
            o.process(0, batch(&rows), out).unwrap();
            o.flush(tick(S), out).unwrap();
        });
        assert_eq!(show(&out.emitted, "").len(), expected, "{toml}");
        assert_eq!(increases(&out), [(0, 5.0)].into(), "{toml}");
    }
}

/// The sum of `increase` by step, in seconds.
fn increases(out: &Output) -> BTreeMap<i64, f64> {
    let mut all = BTreeMap::new();
    for (_, batch) in out.emitted.iter().filter(|(name, _)| name.is_empty()) {
        let times = batch.array("timestamp").unwrap();
        let times = times.as_primitive::<TimestampNanosecondType>().clone();
        let Some(values) = batch.array("increase") else { continue };
        for (time, value) in times.values().iter().zip(values.as_primitive::<Float64Type>()) {
            *all.entry(time / S).or_insert(0.0) += value.unwrap_or(0.0);
        }
    }
    all.retain(|_, v| *v != 0.0);
    all
}

#[test]
fn counters_carry_over_steps_and_resets() {
    let mut rollup = rollup("every = \"10s\"\nlateness = \"0s\"\nkeep = []");
    let of = |at, instance, value| metric(at, "counter", instance, value);
    let rows = [
        of(1, "a", 100.0),
        of(8, "a", 110.0),
        of(9, "b", 5.0),
        of(12, "a", 112.0),
        // A reset: counts from zero.
        of(14, "a", 3.0),
        of(22, "b", 6.0),
    ];
    let out = run(&mut *rollup, |o, out| {
        o.process(0, batch(&rows), out).unwrap();
        o.tick(tick(30 * S), out).unwrap();
        // Late, between 110 and 112: its share goes from the second step to the first.
        o.process(0, batch(&[of(9, "a", 111.0)]), out).unwrap();
        o.tick(tick(31 * S), out).unwrap();
        o.tick(tick(41 * S), out).unwrap();
    });
    assert_eq!(increases(&out), [(0, 11.0), (10, 4.0), (20, 1.0)].into());
}

#[test]
fn whole_numbers_past_doubles_are_subtracted_exactly() {
    let mut rollup = rollup("every = \"10s\"\nlateness = \"0s\"");
    let big = (1i64 << 60) + 1;
    let of = |at, value: i64| {
        row(at * S).set("value_int", value).entity("metric.type", "counter").entity("a", "b")
    };
    let out = run(&mut *rollup, |o, out| {
        o.process(0, batch(&[of(1, big), of(2, big + 1), of(3, big + 3)]), out).unwrap();
        o.tick(tick(10 * S), out).unwrap();
    });
    assert_eq!(increases(&out), [(0, 3.0)].into());
}

#[test]
fn what_has_no_place_says_why() {
    let toml = "every = \"10s\"\nlateness = \"0s\"\ncorrect_for = \"20s\"\nmax_groups = 1\n\
                max_series = 1";
    let mut rollup = rollup(toml);
    let rows = [
        metric(5, "counter", "a", 1.0),
        metric(5, "counter", "b", 1.0),
        metric(5, "histogram", "b", 1.0),
        metric(6, "gauge", "c", 1.0),
        Row { time: None, ..metric(5, "gauge", "a", 1.0) },
        Row { received: 0, ..metric(700, "gauge", "a", 1.0) },
    ];
    let out = run(&mut *rollup, |o, out| o.process(0, batch(&rows), out).unwrap());
    assert_eq!(out.dropped, 1);
    let reasons: Vec<&str> =
        out.rejected.iter().flat_map(|(_, e)| e).map(|e| e.reason.as_str()).collect();
    assert_eq!(
        reasons,
        [
            "there are `max_series` other cumulative series",
            "the histogram has no `metric.temporality`",
            "the step has `max_groups` other groups",
            "the row has no timestamp",
        ]
    );
    let out = run(&mut *rollup, |o, out| {
        o.tick(tick(40 * S), out).unwrap();
        o.process(0, batch(&[metric(19, "gauge", "c", 1.0)]), out).unwrap();
    });
    assert_eq!(out.emitted.iter().map(|(name, _)| *name).collect::<Vec<_>>(), ["", "late"]);
}

#[test]
fn an_open_step_takes_what_counts_by_itself_however_old() {
    let toml = "every = \"1h\"\nlateness = \"0s\"\ncorrect_for = \"20s\"";
    let mut rollup = rollup(toml);
    let out = run(&mut *rollup, |o, out| {
        o.tick(tick(3_000 * S), out).unwrap();
        let rows = [metric(100, "gauge", "a", 100.0), metric(2_999, "gauge", "a", 1.0)];
        o.process(0, batch(&rows), out).unwrap();
        o.process(0, batch(&[metric(100, "counter", "a", 5.0)]), out).unwrap();
        o.tick(tick(3_600 * S), out).unwrap();
        // Now it is given, and what is that old is late.
        o.process(0, batch(&[metric(200, "gauge", "a", 7.0)]), out).unwrap();
    });
    assert_eq!(out.emitted.iter().filter(|(name, _)| *name == "late").count(), 2);
    let shown = show(&out.emitted, "");
    assert!(shown.len() == 1 && shown[0].contains("count=2"), "{shown:?}");
    assert!(shown[0].contains("sum=101.0"), "{shown:?}");
}

fn histograms(values: &[(i64, Histogram)], kind: &str, temporality: &str) -> Batch {
    let of = |name: &str, value: &str| Attribute {
        name: name.into(),
        value: Value::Text(value.into()),
        origin: Origin::Metric,
    };
    let entity = Entity::new(vec![of("metric.type", kind), of("metric.temporality", temporality)]);
    let table = Arc::new(EntityTable::default());
    let key = table.intern(entity).unwrap();
    let times = TimestampNanosecondArray::from_iter_values(values.iter().map(|(t, _)| t * S));
    let values_of: Vec<_> = values.iter().map(|(_, h)| Some(h)).collect();
    let column = column(&values_of, &histogram_fields()).unwrap();
    let arrays: Vec<ArrayRef> = vec![Arc::new(times.with_timezone("UTC")), column];
    let field = |name: &str, t: DataType| Field::new(name, t, true);
    let fields = vec![field("timestamp", timestamp()), field("histogram", histogram())];
    let record = RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).unwrap();
    let n = values.len();
    let keys = Keys { keys: UInt32Array::from(vec![key; n]), table };
    let run = Run { offset: 1, received: 1_000 * S, source: "in".into(), rows: n };
    Batch::new(Signal::Metrics, TENANT.into(), record, Some(keys), [run].into()).unwrap()
}

fn explicit(counts: [i64; 3], sum: f64) -> Histogram {
    let count = counts.iter().sum();
    Histogram { count, sum, range: None, counts: Counts::Explicit(counts.into()) }
}

fn exponential(scale: i64, positive: &[(i64, i64)], sum: f64) -> Histogram {
    let positive: Buckets = positive.iter().copied().collect();
    let count = positive.values().sum();
    let negative = Buckets::new();
    let counts = Counts::Exponential { scale, zero: 0, threshold: 0.0, positive, negative };
    Histogram { count, sum, range: None, counts }
}

fn rolled(batch: Batch) -> Vec<String> {
    let mut rollup = rollup("every = \"10s\"\naggregate = [\"histogram\"]");
    let out = run(&mut *rollup, |o, out| {
        o.process(0, batch, out).unwrap();
        o.flush(tick(S), out).unwrap();
    });
    show(&out.emitted, "")
}

#[test]
fn buckets_of_histograms_are_summed() {
    let values = [
        (1, explicit([1, 1, 0], 3.0)),
        (2, explicit([2, 1, 0], 4.0)),
        (11, explicit([2, 3, 1], 9.0)),
        // A reset.
        (12, explicit([0, 1, 0], 1.0)),
    ];
    let shown = rolled(histograms(&values, "histogram", "cumulative"));
    assert!(shown[0].contains("histogram={count: 1, sum: 1.0"), "{shown:?}");
    assert!(shown[0].contains("counts: [1, 0, 0]"), "{shown:?}");
    assert!(shown[1].contains("count: 4, sum: 6.0"), "{shown:?}");
    assert!(shown[1].contains("counts: [0, 3, 1]"), "{shown:?}");
    let shown = rolled(histograms(&values, "histogram", "delta"));
    assert!(shown[0].contains("counts: [3, 2, 0]"), "{shown:?}");
}

#[test]
fn exponential_histograms_meet_at_the_coarser_scale() {
    let values = [
        (1, exponential(1, &[(-1, 2), (4, 1)], 1.0)),
        (2, exponential(0, &[(-1, 3), (2, 2)], 2.0)),
    ];
    let shown = rolled(histograms(&values, "exponential_histogram", "delta"));
    let expected = "scale: 0, zero_count: 0, zero_threshold: 0.0, positive_offset: -1, \
                    positive_counts: [5, 0, 0, 3]";
    assert!(shown[0].contains(expected), "{shown:?}");
    let shown = rolled(histograms(&values, "exponential_histogram", "cumulative"));
    assert!(shown[0].contains("positive_counts: [1, 0, 0, 1]"), "{shown:?}");
}

#[test]
fn sketches_of_rows_merge() {
    let mut rollup = rollup("every = \"10s\"\naggregate = [\"sketch\"]\nkeep = []");
    let rows: Vec<Row> =
        (0..30).map(|i| metric(i, "gauge", if i % 2 == 0 { "a" } else { "b" }, i as f64)).collect();
    let out = run(&mut *rollup, |o, out| {
        o.process(0, batch(&rows), out).unwrap();
        o.flush(tick(S), out).unwrap();
    });
    let mut merged = Sketch::default();
    for (_, batch) in &out.emitted {
        assert!(batch.array("sum").is_none());
        for text in batch.array("sketch").unwrap().as_string::<i32>().iter().flatten() {
            merged.merge(&Sketch::from_text(text).unwrap());
        }
    }
    let mut whole = Sketch::default();
    (0..30).for_each(|i| whole.add(f64::from(i)));
    assert_eq!(merged, whole);
}

#[test]
fn mistakes() {
    for (toml, message) in [
        ("every = \"0s\"", "steps of no length"),
        ("every = \"1s\"\nkeep = []\ndrop = []", "both `keep` and `drop`"),
        ("every = \"1s\"\ndrop = [\"le\"]", "`le` cannot be dropped"),
        ("every = \"1s\"\ncounters = [\"a*b\"]", "pattern of names with `*` within"),
        ("every = \"1s\"\naggregate = []", "no column to make"),
        ("every = \"1s\"\nmax_groups = 0", "`max_groups` is out of range"),
    ] {
        let wrong = testing::plan(&KIND, toml).unwrap_err().to_string();
        assert!(wrong.contains(message), "{toml}: {wrong}");
    }
}

/// A sample: seconds, series, value.
type Sample = (i64, usize, i64);

const INSTANCES: [&str; 3] = ["a", "b", "c"];

fn of(kind: &'static str, &(at, series, value): &Sample) -> Row {
    Row { received: 500 * S, ..metric(at, kind, INSTANCES[series], value as f64) }
}

/// By step: count, sum, min, max, last, and increase.
type Totals = BTreeMap<i64, (i64, f64, f64, f64, (i64, f64), f64)>;

const EMPTY: (i64, f64, f64, f64, (i64, f64), f64) =
    (0, 0.0, f64::INFINITY, f64::NEG_INFINITY, (i64::MIN, 0.0), 0.0);

/// What one question over all rows gives.
fn asked(out: &[(&'static str, Batch)]) -> Totals {
    let mut all = Totals::new();
    for (_, batch) in out.iter().filter(|(name, _)| name.is_empty()) {
        let number = |name: &str, row: usize| -> Option<f64> {
            let array = batch.array(name)?;
            let array = array.as_primitive::<Float64Type>();
            array.is_valid(row).then(|| array.value(row))
        };
        let time = |name: &str, row: usize| -> Option<i64> {
            let array = batch.array(name)?;
            let array = array.as_primitive::<TimestampNanosecondType>();
            array.is_valid(row).then(|| array.value(row) / S)
        };
        let counts = batch.array("count").unwrap();
        for row in 0..batch.num_rows() {
            let total = all.entry(time("timestamp", row).unwrap()).or_insert(EMPTY);
            total.0 += counts.as_primitive::<Int64Type>().value(row);
            total.1 += number("sum", row).unwrap_or(0.0);
            total.2 = total.2.min(number("min", row).unwrap_or(f64::INFINITY));
            total.3 = total.3.max(number("max", row).unwrap_or(f64::NEG_INFINITY));
            if let Some(at) = time("last_timestamp", row)
                && at >= total.4.0
            {
                total.4 = (at, number("last", row).unwrap());
            }
            total.5 += number("increase", row).unwrap_or(0.0);
        }
    }
    all.retain(|_, t| t.0 > 0 || t.5 != 0.0);
    all
}

fn naive(samples: &[Sample], counter: bool) -> Totals {
    let mut all = Totals::new();
    for &(at, _, value) in samples {
        let total = all.entry(at - at % 10).or_insert(EMPTY);
        total.0 += 1;
        if !counter {
            let value = value as f64;
            *total =
                (total.0, total.1 + value, total.2.min(value), total.3.max(value), total.4, 0.0);
            if at >= total.4.0 {
                total.4 = (at, value);
            }
        }
    }
    for series in 0..INSTANCES.len() {
        let mut own: Vec<&Sample> = samples.iter().filter(|s| s.1 == series && counter).collect();
        own.sort_unstable();
        for pair in own.windows(2) {
            let (last, value) = (pair[0].2 as f64, pair[1].2 as f64);
            let increase = if value < last { value } else { value - last };
            all.entry(pair[1].0 - pair[1].0 % 10).or_insert(EMPTY).5 += increase;
        }
    }
    all
}

fn samples() -> impl Strategy<Value = Vec<Sample>> {
    proptest::collection::vec((0..80i64, 0..INSTANCES.len(), 0..50i64), 1..120).prop_map(
        |mut all| {
            // One sample of a series at a time, and one value at a time, so that the last is one.
            let mut seen = std::collections::BTreeSet::new();
            all.retain(|s| seen.insert(s.0 * 3 + s.1 as i64));
            all
        },
    )
}

proptest! {
    #[test]
    fn late_or_not_the_answer_is_the_same(
        samples in samples(),
        cuts in proptest::collection::vec(0..120usize, 0..12),
        counter in any::<bool>(),
    ) {
        // Ticks come between, as if all of it were late by any time.
        let toml = "every = \"10s\"\nlateness = \"0s\"\nkeep = []";
        let kind = if counter { "counter" } else { "gauge" };
        let [mut straight, mut broken] = [rollup(toml), rollup(toml)];
        let (mut out, mut other) = (Output::default(), Output::default());
        let mut cuts: Vec<usize> = cuts.iter().map(|c| c % samples.len()).collect();
        cuts.sort_unstable();
        let mut from = 0;
        for (i, to) in cuts.into_iter().chain([samples.len()]).enumerate() {
            let rows: Vec<Row> = samples[from..to].iter().map(|s| of(kind, s)).collect();
            from = to;
            let time = 8 * S * (i as i64 + 1);
            let tick = Tick { time, elapsed: time, watermark: time, ..Tick::default() };
            straight.process(0, batch(&rows), &mut out).unwrap();
            straight.tick(tick, &mut out).unwrap();
            // Row by row, and interrupted after each tick.
            for row in rows {
                broken.process(0, batch(&[row]), &mut other).unwrap();
            }
            broken.tick(tick, &mut other).unwrap();
            let state = broken.snapshot().unwrap();
            prop_assert_eq!(&state, &straight.snapshot().unwrap());
            broken = rollup(toml);
            broken.restore(&state).unwrap();
            prop_assert_eq!(&state, &broken.snapshot().unwrap());
        }
        straight.flush(tick(900 * S), &mut out).unwrap();
        broken.flush(tick(900 * S), &mut other).unwrap();
        prop_assert_eq!(show(&out.emitted, ""), show(&other.emitted, ""));
        prop_assert!(out.emitted.iter().all(|(name, _)| name.is_empty()));
        let mut expected = naive(&samples, counter);
        if !counter {
            // Of values at one time any may be the last.
            let known = asked(&out.emitted);
            for (step, total) in &mut expected {
                let (at, value) = known[step].4;
                prop_assert_eq!(at, total.4.0);
                let is = |s: &Sample| s.0 == at && s.2 as f64 == value;
                prop_assert!(samples.iter().any(is));
                total.4.1 = value;
            }
        }
        prop_assert_eq!(asked(&out.emitted), expected);
    }

    #[test]
    fn any_state(bytes in proptest::collection::vec(0u8..4, 0..200)) {
        let _ = rollup("every = \"10s\"").restore(&bytes);
    }
}

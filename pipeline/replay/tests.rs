#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use serde_json::{Value, json};

use super::alerts::Alert;
use super::rows::{Output, Step};
use super::*;
use crate::batch::Batch;
use crate::testing::to_batch;

const SECOND: i64 = 1_000_000_000;

/// Rows of the entry at `offset`, one JSON object each.
fn batch(offset: u64, rows: &Value) -> Batch {
    let rows: Vec<_> =
        rows.as_array().unwrap().iter().map(|r| r.as_object().cloned().unwrap()).collect();
    to_batch("logs", "otlp", offset, offset.cast_signed() * SECOND, &rows).unwrap()
}

fn output(samples: usize) -> Output {
    Output::new("table", "logs".to_owned(), samples, 1 << 20, 60 * SECOND)
}

fn step(number: u64, counts: bool) -> Step {
    Step { number, time: number.cast_signed() * SECOND, counts }
}

/// Steps of (live, edited) rows; the step is also the entry.
fn compare(steps: &[(Value, Value)]) -> OutputReport {
    let mut output = output(10);
    for (number, (live, edited)) in (1..).zip(steps) {
        let side = |rows: &Value| match rows.as_array().unwrap().is_empty() {
            true => Vec::new(),
            false => vec![batch(number, rows)],
        };
        output.take([side(live), side(edited)], step(number, true));
        output.tick(number.cast_signed() * SECOND);
    }
    output.finish()
}

/// (added, gone, changed)
#[track_caller]
fn check(live: Value, edited: Value, expected: (u64, u64, u64)) -> OutputReport {
    let report = compare(&[(live, edited)]);
    assert_eq!((report.added, report.gone, report.changed), expected, "{report:#?}");
    report
}

#[test]
fn equal_rows_are_the_same_whatever_their_order_and_batch() {
    let row = |n: i64| json!({ "body": format!("b{n}"), "n": n });
    check(json!([row(1), row(2), row(2)]), json!([row(2), row(1), row(2)]), (0, 0, 0));
    // Here the column is of doubles.
    check(json!([row(1)]), json!([row(1), { "n": 1.5 }]), (1, 0, 0));
    check(json!([{ "a": null, "b": 1 }]), json!([{ "b": 1 }]), (0, 0, 0));
    check(json!([{ "a": "" }]), json!([{ "a": null }]), (1, 1, 0));
    check(json!([{ "a": "x" }]), json!([{ "b": "x" }]), (1, 1, 0));
    // Text is no number.
    check(json!([{ "a": "1", "b": "x" }]), json!([{ "a": 1, "b": "x" }]), (0, 0, 1));
    let mut output = output(1);
    let rows = |from: i64, to: i64| batch(1, &(from..to).map(row).collect());
    output.take([vec![rows(0, 9)], vec![rows(0, 4), rows(4, 9)]], step(1, true));
    let report = output.finish();
    assert_eq!((report.live, report.edited, report.added + report.gone), (9, 9, 0), "{report:#?}");
}

#[test]
fn rows_are_gone_added_or_changed() {
    let [a, b, c] = ["a", "b", "c"].map(|s| json!({ "body": s, "service": "cart", "n": 1 }));
    let report = check(json!([a, b, c]), json!([b]), (0, 2, 0));
    let gone = |i: usize| &report.samples.gone[i];
    assert_eq!(
        (gone(0).position, &gone(0).row["body"], &gone(1).row["body"]),
        (1, &json!("a"), &json!("c"))
    );
    check(json!([b]), json!([b, b]), (1, 0, 0));
    // A number has another value.
    let more = json!({ "body": "b", "service": "cart", "n": 2 });
    let report = check(json!([a, b, c]), json!([c, more, a]), (0, 0, 1));
    let changed = &report.samples.changed[0];
    assert_eq!(changed.columns, ["n"]);
    assert_eq!((&changed.live["n"], &changed.edited["n"]), (&json!(1), &json!(2)));
    assert_eq!(report.columns, [("n".to_owned(), 1)].into());
    // Half of the texts are others: still that row. All are: another one.
    let other = json!({ "body": "B", "service": "cart", "n": 1, "new": true });
    check(json!([b]), json!([other]), (1, 1, 0));
    let other = json!({ "body": "B", "service": "cart", "n": 1 });
    assert_eq!(check(json!([b]), json!([other]), (0, 0, 1)).samples.changed[0].columns, ["body"]);
    let other = json!({ "body": "B", "service": "shop", "n": 1 });
    check(json!([b]), json!([other]), (1, 1, 0));
    // Another time, but the same entry.
    let later = json!({ "body": "b", "service": "cart", "n": 1, "timestamp": 5 });
    let report = check(json!([b]), json!([later]), (0, 0, 1));
    assert_eq!(report.samples.changed[0].columns, ["timestamp"]);
}

#[test]
fn groups_of_a_window_are_told_apart_however_many_there_are() {
    let rows = |groups: std::ops::Range<i64>, n: i64| -> Value {
        groups.map(|g| json!({ "service": format!("s{g}"), "n": n + g % 2 })).collect()
    };
    // s0 is gone, s300 is new, and every second of the others has another value.
    let live = rows(0..300, 0);
    let mut edited = rows(1..301, 0);
    for row in edited.as_array_mut().unwrap().iter_mut().step_by(2) {
        row["n"] = json!(7);
    }
    let report = check(live, edited, (1, 1, 150));
    assert_eq!(report.samples.gone[0].row["service"], "s0");
    assert_eq!(report.samples.added[0].row["service"], "s300");
    for changed in &report.samples.changed {
        assert_eq!(changed.live["service"], changed.edited["service"]);
        assert_eq!(changed.columns, ["n"]);
    }
    // Without any text.
    check(json!([{ "n": 1 }]), json!([{ "n": 2 }]), (0, 0, 1));
}

#[test]
fn a_row_may_come_later_on_one_side() {
    let (row, none) = (json!([{ "body": "x", "timestamp": 1 }]), json!([]));
    for (steps, expected) in [(61, (0, 0, 0)), (63, (1, 1, 0))] {
        let mut all = vec![(none.clone(), none.clone()); steps];
        all[0].0 = row.clone();
        all[steps - 1].1 = row.clone();
        let report = compare(&all);
        assert_eq!((report.added, report.gone, report.changed), expected, "{steps}");
        all.iter_mut().for_each(|(live, edited)| std::mem::swap(live, edited));
        let report = compare(&all);
        assert_eq!((report.gone, report.added, report.changed), expected, "{steps}");
    }
}

#[test]
fn what_comes_in_the_warm_up_does_not_count() {
    let [a, b] = ["a", "b"].map(|s| json!([{ "body": s, "timestamp": 1 }]));
    let mut output = output(10);
    let one = |rows: &Value, offset| vec![batch(offset, rows)];
    output.take([one(&a, 1), one(&b, 1)], step(1, false));
    // What the live side had in the warm-up the edited one has later.
    output.take([Vec::new(), one(&a, 2)], step(2, true));
    output.take([one(&b, 3), Vec::new()], step(3, true));
    let report = output.finish();
    assert_eq!((report.live, report.edited), (1, 1));
    assert_eq!((report.added, report.gone, report.changed), (0, 0, 0));
}

#[test]
fn samples_are_few_and_texts_short() {
    let rows: Value =
        (0..50).map(|i| json!({ "body": format!("{i}{}", "ä".repeat(2_000)) })).collect();
    let mut output = output(3);
    output.take([vec![batch(1, &rows)], Vec::new()], step(1, true));
    let report = output.finish();
    assert_eq!((report.gone, report.samples.gone.len()), (50, 3));
    let text = report.samples.gone[0].row["body"].as_str().unwrap();
    assert!(text.len() < 1_100 && text.ends_with('…'), "{text}");
}

proptest! {
    /// Against multisets: what one side has more of is gone or changed, what the other has more of
    /// is added or changed, whatever came when.
    #[test]
    fn counts_are_those_of_multisets(
        steps in prop::collection::vec(
            (prop::collection::vec((0..4_i64, 0..3_i64), 0..6),
             prop::collection::vec((0..4_i64, 0..3_i64), 0..6)),
            1..20,
        ),
    ) {
        let rows = |rows: &[(i64, i64)]| -> Value {
            let row = |g: &i64, n: &i64| json!({ "g": format!("g{g}"), "n": n, "timestamp": 1 });
            rows.iter().map(|(g, n)| row(g, n)).collect()
        };
        let all: Vec<_> = steps.iter().map(|(l, e)| (rows(l), rows(e))).collect();
        let report = compare(&all);
        let mut counts = std::collections::HashMap::new();
        for (live, edited) in &steps {
            live.iter().for_each(|r| *counts.entry(*r).or_insert(0_i64) += 1);
            edited.iter().for_each(|r| *counts.entry(*r).or_insert(0_i64) -= 1);
        }
        let sum = |sign: i64| {
            counts.values().map(|c| (c * sign).max(0)).sum::<i64>().unsigned_abs()
        };
        prop_assert_eq!(report.gone + report.changed, sum(1));
        prop_assert_eq!(report.added + report.changed, sum(-1));
        prop_assert_eq!(report.live, steps.iter().map(|(l, _)| l.len() as u64).sum::<u64>());
        prop_assert_eq!(report.samples.changed.len() as u64, report.changed.min(10));
    }
}

/// Transitions (second, instance, whether it fires, summary) of one side.
type Changes<'a> = &'a [(u64, &'a str, bool, &'a str)];

/// What differs between two sides that count from second 10 on.
fn alerts(live: Changes<'_>, edited: Changes<'_>) -> AlertReport {
    let mut alert = Alert::new("slow".to_owned(), 10);
    let at = |changes: Changes<'_>, second: u64| -> Vec<Batch> {
        let of = changes.iter().filter(|c| c.0 == second);
        let rows: Vec<Value> = of
            .map(|(_, instance, fires, summary)| {
                json!({
                    "timestamp": second * 1_000_000_000, "fingerprint": instance,
                    "state": if *fires { "firing" } else { "resolved" },
                    "labels": json!({ "service": instance }).to_string(),
                    "annotations": json!({ "summary": summary }).to_string(), "reason": "",
                })
            })
            .collect();
        if rows.is_empty() { Vec::new() } else { vec![batch(second, &Value::Array(rows))] }
    };
    for second in 1..60 {
        if second == 10 {
            alert.begin();
        }
        alert.take(&[at(live, second), at(edited, second)], second >= 10);
    }
    alert.finish(true)
}

#[track_caller]
fn check_alerts(
    live: Changes<'_>,
    edited: Changes<'_>,
    expected: (u64, u64, u64),
    differs: &[&str],
) -> AlertReport {
    let report = alerts(live, edited);
    assert_eq!((report.fires, report.silent, report.changed), expected, "{report:#?}");
    let all: Vec<&String> = report.samples.iter().flat_map(|s| &s.differs).collect();
    assert_eq!(all, differs, "{report:#?}");
    report
}

#[test]
fn alerts_fire_or_not_or_at_another_time() {
    let fires: Changes<'_> = &[(20, "a", true, "s"), (30, "a", false, "s")];
    check_alerts(fires, fires, (0, 0, 0), &[]);
    let report = check_alerts(&[], fires, (1, 0, 0), &[]);
    let sample = &report.samples[0];
    assert_eq!((sample.kind, &sample.labels["service"]), ("fires", &json!("a")));
    let edited = sample.edited.as_ref().unwrap();
    assert_eq!((edited.from, edited.to), (20 * SECOND, Some(30 * SECOND)));
    check_alerts(fires, &[], (0, 1, 0), &[]);
    check_alerts(fires, &[(22, "a", true, "s"), (30, "a", false, "s")], (0, 0, 1), &["from"]);
    check_alerts(fires, &[(20, "a", true, "s")], (0, 0, 1), &["to"]);
    check_alerts(fires, &[(20, "a", true, "S"), (30, "a", false, "S")], (0, 0, 1), &["summary"]);
    // Another instance, and another time that does not overlap.
    check_alerts(fires, &[(20, "b", true, "s"), (30, "b", false, "s")], (1, 1, 0), &[]);
    check_alerts(fires, &[(40, "a", true, "s"), (50, "a", false, "s")], (1, 1, 0), &[]);
    // It flaps beside one that stands.
    let flaps: Changes<'_> =
        &[(20, "a", true, "s"), (22, "a", false, "s"), (26, "a", true, "s"), (30, "a", false, "s")];
    check_alerts(fires, flaps, (1, 0, 1), &["to"]);
    check_alerts(flaps, fires, (0, 1, 1), &["to"]);
}

#[test]
fn alerts_that_fire_before_are_known() {
    let before: Changes<'_> = &[(2, "a", true, "s"), (30, "a", false, "s")];
    // When they began does not count, nor what is over.
    let earlier: Changes<'_> = &[
        (1, "a", true, "other"),
        (2, "b", true, "s"),
        (5, "b", false, "s"),
        (30, "a", false, "s"),
    ];
    let report = check_alerts(before, earlier, (0, 0, 0), &[]);
    assert_eq!((report.live_before, report.edited_before), (1, 1));
    assert_eq!((report.live, report.edited), (1, 1));
    let report = check_alerts(before, &[], (0, 1, 0), &[]);
    assert_eq!((report.live_before, report.edited_before), (1, 0));
    assert!(report.samples[0].live.as_ref().unwrap().before);
    check_alerts(before, &[(12, "a", true, "s"), (30, "a", false, "s")], (0, 0, 1), &["from"]);
    // One of several that went before.
    let flapped: Changes<'_> =
        &[(2, "a", true, "s"), (4, "a", false, "s"), (6, "a", true, "s"), (30, "a", false, "s")];
    check_alerts(before, flapped, (0, 0, 0), &[]);
}

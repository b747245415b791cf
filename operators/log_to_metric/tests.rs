//! It is a window whose rows leave as metrics.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use proptest::prelude::*;
use weir_pipeline::signal::Signal;

use super::KIND;
use crate::testing::{self, Row, batch, row, run, show, tick};

const S: i64 = 1_000_000_000;

const TOML: &str = "every = \"10s\"\nlateness = \"0s\"\ngroup_by = [\"service.name\", \"value\"]\n\
    counters = { \"lines\" = \"count(*)\", \"bad\" = \"count(*) FILTER (WHERE severity_number > 16)\" }\n\
    gauges = { \"slowest\" = \"max(took)\" }";

fn line(at: i64, service: &'static str) -> Row {
    row(at * S).entity("service.name", service)
}

#[test]
fn counters_and_gauges() {
    let mut metrics = testing::plan(&KIND, TOML).unwrap().build();
    let rows = [
        line(1, "a").set("took", 5).set("severity_number", 17).set("value", "x"),
        line(2, "a").set("took", 7).set("severity_number", 9).set("value", "x"),
        line(3, "b"),
    ];
    let out = run(&mut *metrics, |o, out| {
        o.process(0, batch(&rows), out).unwrap();
        o.tick(tick(10 * S), out).unwrap();
    });
    assert_eq!(*out.emitted[0].1.signal(), Signal::Metrics);
    let times = "start_timestamp=1970-01-01T00:00:00Z timestamp=1970-01-01T00:00:10Z";
    let delta = "metric.temporality=delta metric.type=counter";
    assert_eq!(
        show(&out.emitted, ""),
        [
            // A label cannot have the name of a column that metrics have.
            format!("label.value=x metric.name=lines {delta} service.name=a {times} value=2.0"),
            format!("label.value=x metric.name=bad {delta} service.name=a {times} value=1.0"),
            format!(
                "label.value=x metric.name=slowest metric.type=gauge service.name=a {times} value=7.0"
            ),
            format!("metric.name=lines {delta} service.name=b {times} value=1.0"),
            format!("metric.name=bad {delta} service.name=b {times} value=0.0"),
        ]
    );
    let out = run(&mut *metrics, |o, out| o.process(0, batch(&[line(5, "a")]), out).unwrap());
    assert_eq!(out.emitted.iter().map(|(name, _)| *name).collect::<Vec<_>>(), ["late"]);
}

#[test]
fn mistakes() {
    let metric = "counters = { n = \"count(*)\" }";
    for (toml, code) in [
        ("every = \"10s\"".to_owned(), "W310"),
        (format!("every = \"0s\"\n{metric}"), "W310"),
        (format!("every = \"1s\"\nmax_groups = 0\n{metric}"), "W310"),
        ("every = \"1s\"\ngauges = { n = \"max(body)\" }".to_owned(), "W310"),
        (format!("every = \"1s\"\ngroup_by = [\"body\", \"body\"]\n{metric}"), "W311"),
        ("every = \"1s\"\ncounters = { n = \"1 + 1\" }".to_owned(), "W308"),
    ] {
        let e = testing::plan(&KIND, &toml).unwrap_err();
        assert!(e.to_string().contains(code), "{toml}: {e}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn as_the_model_says_however_it_is_cut(
        lines in proptest::collection::vec((0..10i64, 0..2usize, 0..30i64), 0..50),
        cuts in proptest::collection::btree_map(0usize..50, any::<bool>(), 0..5),
    ) {
        let services = ["a", "b"];
        let toml = "every = \"10s\"\ngroup_by = [\"service.name\"]\n\
            counters = { lines = \"count(*)\" }\ngauges = { slowest = \"max(took)\" }";
        let plan = testing::plan(&KIND, toml).unwrap();
        let mut metrics = plan.build();
        let rows: Vec<Row> = lines
            .iter()
            .map(|(at, service, took)| line(*at, services[*service]).set("took", *took))
            .collect();
        let mut at = 0;
        for end in cuts.keys().copied().filter(|c| *c < rows.len()).chain([rows.len()]) {
            if at < end {
                let out = run(&mut *metrics, |o, out| {
                    o.process(0, batch(&rows[at..end]), out).unwrap();
                });
                prop_assert!(out.emitted.is_empty() && out.rejected.is_empty());
                at = end;
            }
            if cuts.get(&end) == Some(&true) {
                let state = metrics.snapshot().unwrap();
                metrics = plan.build();
                metrics.restore(&state).unwrap();
            }
        }
        let out = run(&mut *metrics, |o, out| o.tick(tick(60 * S), out).unwrap());
        let got: Vec<String> = show(&out.emitted, "");
        let mut expect = Vec::new();
        for (index, service) in services.iter().enumerate() {
            let took: Vec<i64> =
                lines.iter().filter(|l| l.1 == index).map(|(_, _, took)| *took).collect();
            let Some(most) = took.iter().max() else { continue };
            let rest = format!(
                "service.name={service} start_timestamp=1970-01-01T00:00:00Z \
                 timestamp=1970-01-01T00:00:10Z value="
            );
            let delta = "metric.temporality=delta metric.type=counter";
            expect.push(format!("metric.name=lines {delta} {rest}{}.0", took.len()));
            expect.push(format!("metric.name=slowest metric.type=gauge {rest}{most}.0"));
        }
        prop_assert_eq!(got, expect);
    }
}

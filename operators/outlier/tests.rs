#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;
use crate::testing::{Row, batch, plan, row, run, show, tick};

fn host(time: i64, host: &'static str, service: &'static str, cpu: f64) -> Row {
    row(time).set("cpu", cpu).entity("host", host).entity("service", service)
}

fn judge(toml: &str, batches: &[Vec<Row>]) -> Vec<String> {
    let mut operator = plan(&KIND, toml).unwrap().build();
    let out = run(operator.as_mut(), |o, out| {
        for rows in batches {
            o.process(0, batch(rows), out).unwrap();
        }
        assert!(out.emitted.is_empty());
        o.tick(tick(1), out).unwrap();
    });
    let rows = show(&out.emitted, "").into_iter();
    rows.map(|r| r.split(" outlier").map(str::to_owned).collect::<Vec<_>>().join(" ")).collect()
}

#[test]
fn one_of_four_hosts_is_odd() {
    let rows = vec![
        host(5, "a", "cart", 0.2),
        host(5, "b", "cart", 0.3),
        host(5, "c", "cart", 0.25),
        host(5, "d", "cart", 0.95),
        // Others are no peers: another service, another time.
        host(5, "e", "shop", 0.9),
        host(6, "a", "cart", 0.9),
    ];
    let toml = "value = \"cpu\"\namong = [\"service\"]\n";
    let rows = [rows];
    let odd =
        |judged: Vec<String>| -> Vec<bool> { judged.iter().map(|r| r.contains("=true")).collect() };
    let expect = [false, false, false, true, false, false];
    let judged = judge(toml, &rows);
    assert!(judged[3].contains(".median=0.275 .peers=4"), "{}", judged[3]);
    assert!(!judged[4].contains("score") && judged[4].contains(".peers=1"), "{}", judged[4]);
    assert_eq!(odd(judged), expect);
    assert_eq!(odd(judge(&format!("{toml}direction = \"below\"\n"), &rows)), [false; 6]);
    assert_eq!(odd(judge(&format!("{toml}min_deviation = 0.7\n"), &rows)), [false; 6]);
    assert_eq!(odd(judge(&format!("{toml}threshold = 20\n"), &rows)), [false; 6]);
}

#[test]
fn what_is_no_number_is_no_peer() {
    let mut rows: Vec<Row> = (0..4).map(|_| row(1).set("value", 2.0)).collect();
    rows.push(row(1));
    rows.push(row(1).set("value", f64::NAN));
    let judged = judge("", &[rows]);
    assert!(judged.iter().all(|r| r.contains(".peers=4")));
    assert_eq!(judged.iter().filter(|r| r.contains(".score=0.0")).count(), 4);
}

#[test]
fn mistakes_are_named() {
    let wrong = |toml: &str| plan(&KIND, toml).unwrap_err().0[0].message.clone();
    assert_eq!(wrong("threshold = 0.5"), "`threshold` of 0.5");
    assert_eq!(wrong("min_deviation = -1"), "`min_deviation` of -1");
}

proptest! {
    #[test]
    fn cuts_and_order_change_no_score(
        values in proptest::collection::vec(prop_oneof![0..5_i32, -1000..1000_i32], 1..40),
        cut in 0..40_usize,
    ) {
        let rows: Vec<Row> =
            values.iter().map(|v| row(1).set("value", f64::from(*v))).collect();
        let whole = judge("", std::slice::from_ref(&rows));
        let (first, second) = rows.split_at(cut.min(rows.len()));
        let parts: Vec<_> = [first.to_vec(), second.to_vec()].into_iter().filter(|p| !p.is_empty()).collect();
        prop_assert_eq!(&judge("", &parts), &whole);
        let back: Vec<Row> = rows.iter().rev().cloned().collect();
        let mut backwards = judge("", &[back]);
        backwards.reverse();
        prop_assert_eq!(backwards, whole);
    }
}

#![allow(clippy::unwrap_used)]

use std::net::IpAddr;

use proptest::prelude::*;
use serde_json::{Map, Value as Json, json};

use super::*;

fn table(rows: Json) -> Lookup {
    let rows: Vec<Map<String, Json>> = serde_json::from_value(rows).unwrap();
    let content = Content::of_objects(&rows).unwrap();
    Lookup::new(&content, format!("{rows:?}").as_bytes()).unwrap()
}

fn keys(exact: &[&str]) -> IndexKeys {
    IndexKeys { exact: exact.iter().map(|k| (*k).to_owned()).collect(), ..IndexKeys::default() }
}

/// Which row is found for each question: the column `n` of it.
#[track_caller]
fn check(
    rows: Json,
    by: &IndexKeys,
    asked: &[(&[&str], Option<&str>, Option<&str>)],
    expected: &[Option<i64>],
) {
    let table = table(rows);
    let index = table.index(by).unwrap();
    let found: Vec<Option<i64>> = asked
        .iter()
        .map(|(texts, address, time)| {
            let address = address.map(|a| a.parse::<IpAddr>().unwrap());
            let row = index.find(texts, address, time.map(|t| instant(t).unwrap()))?;
            let column = table.table().unwrap().column_by_name("n").unwrap();
            match Value::of_array(column, row as usize) {
                Some(Value::Int(n)) => Some(n),
                other => panic!("{other:?}"),
            }
        })
        .collect();
    assert_eq!(found, expected);
}

#[test]
fn equal_keys_find_the_last_row() {
    let rows = json!([{"k": "a", "n": 1}, {"k": "b", "n": 2}, {"k": "a", "n": 3}, {"n": 4}]);
    let asked: &[(&[&str], _, _)] =
        &[(&["a"], None, None), (&["b"], None, None), (&["A"], None, None), (&[""], None, None)];
    check(rows.clone(), &keys(&["k"]), asked, &[Some(3), Some(2), None, None]);
    let folded = IndexKeys { ignore_case: true, ..keys(&["k"]) };
    check(rows.clone(), &folded, &asked[..3], &[Some(3), Some(2), Some(3)]);
    assert_eq!(table(rows).index(&keys(&["k"])).unwrap().doubled(), 1);
}

#[test]
fn keys_are_compared_as_text_whatever_their_type() {
    let rows = json!([{"k": 42, "d": 1.0, "b": true, "n": 1}]);
    check(rows.clone(), &keys(&["k"]), &[(&["42"], None, None)], &[Some(1)]);
    check(rows.clone(), &keys(&["d"]), &[(&["1"], None, None)], &[Some(1)]);
    check(rows, &keys(&["b", "k"]), &[(&["true", "42"], None, None)], &[Some(1)]);
}

#[test]
fn texts_of_several_keys_do_not_run_together() {
    let rows = json!([{"a": "x", "b": "yz", "n": 1}, {"a": "xy", "b": "z", "n": 2},
        {"a": "x:1,y", "b": "z", "n": 3}]);
    let asked: &[(&[&str], _, _)] = &[
        (&["x", "yz"], None, None),
        (&["xy", "z"], None, None),
        (&["x:1,y", "z"], None, None),
        (&["x", "y:1,z"], None, None),
    ];
    check(rows, &keys(&["a", "b"]), asked, &[Some(1), Some(2), Some(3), None]);
}

#[test]
fn the_longest_network_is_found() {
    let rows = json!([
        {"net": "10.0.0.0/8", "n": 1},
        {"net": "10.1.0.0/16", "n": 2},
        {"net": "10.1.2.3", "n": 3},
        {"net": "2001:db8::/32", "n": 4},
        {"net": "0.0.0.0/0", "n": 5},
    ]);
    let by = IndexKeys { network: Some("net".into()), ..IndexKeys::default() };
    let ask = |a| (&[] as &[&str], Some(a), None);
    let asked = [
        ask("10.9.9.9"),
        ask("10.1.9.9"),
        ask("10.1.2.3"),
        ask("2001:db8::1"),
        ask("2001:db9::1"),
        ask("192.168.0.1"),
        ask("::ffff:10.1.9.9"),
        (&[], None, None),
    ];
    let expected = [Some(1), Some(2), Some(3), Some(4), None, Some(5), Some(2), None];
    check(rows, &by, &asked, &expected);
}

#[test]
fn the_row_that_holds_at_the_time_is_found() {
    let rows = json!([
        {"k": "a", "from": "2026-01-10", "to": "2026-01-20T00:00:00Z", "n": 2},
        {"k": "a", "from": "2026-01-01", "n": 1},
        {"k": "b", "n": 3},
    ]);
    let by = IndexKeys { since: Some("from".into()), until: Some("to".into()), ..keys(&["k"]) };
    let ask = |k: &'static [&'static str], t| (k, None, Some(t));
    let asked = [
        ask(&["a"], "2025-12-31T23:59:59Z"),
        ask(&["a"], "2026-01-01"),
        ask(&["a"], "2026-01-10"),
        ask(&["a"], "2026-01-19T23:59:59.999999999Z"),
        ask(&["a"], "2026-01-20"),
        ask(&["b"], "1999-01-01"),
    ];
    check(rows, &by, &asked, &[None, Some(1), Some(2), Some(2), Some(1), Some(3)]);
}

#[test]
fn what_cannot_be_a_key_is_said_with_its_row() {
    let said = |rows: Json, by: IndexKeys| table(rows).index(&by).map(|_| ()).unwrap_err();
    let network = IndexKeys { network: Some("net".into()), ..IndexKeys::default() };
    let wrong = said(json!([{"net": "10.0.0.0/8"}, {"net": "10.0.0.0/33"}]), network);
    assert_eq!(wrong, "column `net`: `10.0.0.0/33` in row 2 is no network");
    let since = IndexKeys { since: Some("t".into()), ..keys(&["k"]) };
    let wrong = said(json!([{"k": 1, "t": "soon"}]), since);
    assert_eq!(wrong, "column `t`: `soon` in row 1 is no time");
    let wrong = said(json!([{"name": 1}]), keys(&["nam"]));
    assert_eq!(wrong, "it has no column `nam`, did you mean `name`?");
}

proptest! {
    /// The index finds what going through all rows finds.
    #[test]
    fn as_a_search_through_all_rows(
        rows in prop::collection::vec((0..4_u8, 0..4_u8, 8..33_u8, 0..6_i64, 0..6_i64), 0..40),
        asked in prop::collection::vec((0..5_u8, 0..4_u8, 0..7_i64), 1..20),
    ) {
        let address = |a: u8| format!("10.{}.0.{a}", a / 2);
        let time = |t: i64| format!("2026-01-0{}T00:00:00Z", t + 1);
        let made: Vec<Json> = rows.iter().enumerate().map(|(n, (k, a, len, from, more))| json!({
            "k": format!("k{k}"), "net": format!("{}/{len}", address(*a)),
            "from": time(*from), "to": time((from + more).min(8)), "n": n,
        })).collect();
        let table = table(Json::Array(made));
        prop_assume!(!rows.is_empty());
        let index = table.index(&IndexKeys {
            network: Some("net".into()),
            since: Some("from".into()),
            until: Some("to".into()),
            ..keys(&["k"])
        }).unwrap();
        for (k, a, t) in asked {
            let bits = |a: u8| match address(a).parse::<IpAddr>().unwrap() {
                IpAddr::V4(a) => a.to_bits(),
                IpAddr::V6(_) => 0,
            };
            let inside = |n: u8, len: u8| bits(n) >> (32 - len) == bits(a) >> (32 - len);
            let best = rows.iter().enumerate()
                .filter(|(_, (rk, ra, len, from, more))| {
                    *rk == k && inside(*ra, *len) && *from <= t && t < (from + more).min(8)
                })
                .max_by_key(|(n, (_, _, len, from, _))| (*len, *from, *n))
                .map(|(n, _)| n as u32);
            let address = address(a).parse().unwrap();
            let found = index.find(&[&format!("k{k}")], Some(address), instant(&time(t)));
            prop_assert_eq!(found, best);
        }
    }
}

#[test]
fn a_kept_version_is_the_same_table() {
    let data = tempfile::tempdir().unwrap();
    let rows = table(json!([{"k": "a", "n": 1}, {"k": null, "n": 2}]));
    let definition = tests_definition();
    let content = Content::Rows(rows.table().unwrap().clone());
    let tables = Tables::open(data.path()).unwrap();
    assert!(tables.set(&definition, &content, 7).unwrap());
    assert!(!tables.set(&definition, &content, 8).unwrap());
    let version = tables.newest(&definition).unwrap().unwrap().version().clone();
    drop(tables);
    let again = Tables::open(data.path()).unwrap();
    let newest = again.newest(&definition).unwrap().unwrap();
    assert_eq!((newest.version(), newest.table()), (&version, rows.table()));
    // One that is damaged is told, and not used.
    let path = data.path().join(format!("lookups/{version}.arrow"));
    let mut bytes = std::fs::read(&path).unwrap();
    let last = bytes.len() - 20;
    bytes[last] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let after = Tables::open(data.path()).unwrap();
    assert!(after.version(&version).unwrap_err().contains("is damaged"));
    assert!(after.newest(&definition).unwrap().is_none());
}

/// Rows with a key and a number.
fn numbered(rows: &[(&str, i64)]) -> Content {
    let rows = rows.iter().map(|(k, n)| json!({"k": k, "n": n})).collect();
    Content::Rows(table(Json::Array(rows)).table().unwrap().clone())
}

#[test]
fn an_order_that_nobody_gave_makes_no_version() {
    let (ab, ba) = (numbered(&[("a", 1), ("b", 2)]), numbered(&[("b", 2), ("a", 1)]));
    let twice = numbered(&[("a", 1), ("b", 2), ("b", 2)]);
    for counts in [false, true] {
        let definition = definition_of(counts);
        let tables = Tables::default();
        assert!(tables.set(&definition, &ab, 1).unwrap());
        assert!(!tables.set(&definition, &ab, 2).unwrap());
        assert_eq!(tables.set(&definition, &ba, 3).unwrap(), counts);
        assert!(tables.set(&definition, &twice, 4).unwrap());
        // The rows are as they were given.
        let newest = tables.newest(&definition).unwrap().unwrap();
        assert_eq!(newest.table(), table_of(&twice));
    }
}

fn table_of(content: &Content) -> Option<&RecordBatch> {
    match content {
        Content::Rows(rows) => Some(rows),
        Content::MaxMind(_) => None,
    }
}

#[test]
fn versions_that_nobody_needs_take_no_more_than_they_may() {
    let data = tempfile::tempdir().unwrap();
    let tables = Tables::open(data.path()).unwrap();
    let definition = tests_definition();
    let path = |version: &str| data.path().join(format!("lookups/{version}.arrow"));
    let put = |n: i64| {
        assert!(tables.set(&definition, &numbered(&[("a", n)]), n).unwrap());
        let lookup = tables.newest(&definition).unwrap().unwrap();
        let version = lookup.version().to_string();
        let long_ago = std::time::SystemTime::now() - Duration::from_secs(100 - n.unsigned_abs());
        let file = std::fs::File::options().append(true).open(path(&version)).unwrap();
        file.set_modified(long_ago).unwrap();
        (version, lookup)
    };
    // In the order of their age: named by a checkpoint, in a plan, two of no use, the newest.
    let (named, _) = put(1);
    let (planned, held) = put(2);
    let (older, _) = put(3);
    let (younger, _) = put(4);
    let (newest, _) = put(5);
    let there = |all: &[&String]| all.iter().map(|v| path(v).exists()).collect::<Vec<_>>();
    let all = [&named, &planned, &older, &younger, &newest];
    assert!(tables.written() > 0);
    let needed = [named.clone()].into();
    let size = std::fs::metadata(path(&older)).unwrap().len();
    let long = Duration::from_secs(1000);
    tables.tidy(&needed, long, 2 * size);
    assert_eq!((there(&all), tables.written()), (vec![true; 5], 0));
    tables.tidy(&needed, long, size);
    assert_eq!(there(&all), [true, true, false, true, true]);
    tables.tidy(&needed, Duration::ZERO, size);
    assert_eq!(there(&all), [true, true, false, false, true]);
    drop(held);
    tables.tidy(&BTreeSet::new(), Duration::ZERO, 0);
    assert_eq!(there(&all), [false, false, false, false, true]);
    // What came back is written again.
    assert!(tables.set(&definition, &numbered(&[("a", 3)]), 9).unwrap());
    assert!(path(&older).exists());
}

fn tests_definition() -> crate::plan::LookupDefinition {
    definition_of(false)
}

fn definition_of(order_counts: bool) -> crate::plan::LookupDefinition {
    use crate::diagnostic::{SourceText, Span};
    #[derive(Debug)]
    struct Nowhere(bool);
    impl LookupPlan for Nowhere {
        fn place(&self) -> Place {
            Place::Peer(Duration::from_secs(60))
        }
        fn order_counts(&self) -> bool {
            self.0
        }
        fn read(&self, _: &Services) -> BoxFuture<'static, Result<Content, String>> {
            Box::pin(async { Err("nobody is there".to_owned()) })
        }
        fn sample(&self) -> Option<Content> {
            None
        }
    }
    let file = Arc::new(SourceText { path: "a.toml".into(), text: String::new() });
    crate::plan::LookupDefinition {
        id: "hosts".into(),
        kind: "nowhere",
        plan: Arc::new(Nowhere(order_counts)),
        key: "key".into(),
        header: Span { file, range: 0..0 },
    }
}

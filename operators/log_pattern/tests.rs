//! Tests of the operator, and of what has one pattern.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod lines;

use std::collections::BTreeMap;

use arrow::array::AsArray;
use proptest::prelude::*;
use weir_pipeline::batch::Batch;
use weir_pipeline::component::Operator;

use super::miner::Miner;
use super::{KIND, state};
use crate::testing::{self, Row, row, run, show};

/// What the operator says of lines: id, template, parameters, and `new` or `changed`.
fn mined(miner: &mut Miner, lines: &[&str]) -> Vec<String> {
    let say = |line: &&str| {
        let Some(found) = miner.take(line) else { return "none".to_owned() };
        let pattern = miner.pattern(found.slot).unwrap();
        let parameters: Vec<&str> = miner.parameters(found.slot, line).collect();
        let flags = if found.new { " new" } else { "" };
        let flags = if found.changed { " changed" } else { flags };
        format!("{} {parameters:?}{flags}", pattern.template)
    };
    lines.iter().map(say).collect()
}

#[track_caller]
fn check(lines: &[&str], expect: &[&str]) {
    assert_eq!(mined(&mut Miner::new(100), lines), expect);
}

fn ids(lines: &[&str]) -> Vec<u64> {
    let mut miner = Miner::new(10_000);
    let mut id = |line: &&str| miner.take(line).and_then(|f| Some(miner.pattern(f.slot)?.id));
    lines.iter().map(|line| id(line).unwrap()).collect()
}

#[test]
fn lines_that_say_the_same_have_one_pattern() {
    for group in lines::SAME {
        let ids = ids(group);
        assert!(ids.iter().all(|id| *id == ids[0]), "{group:#?}");
    }
}

#[test]
fn lines_that_say_other_things_have_other_patterns() {
    for group in lines::DIFFERENT {
        let mut ids = ids(group);
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), group.len(), "{group:#?}");
    }
}

#[test]
fn templates_become_wider() {
    check(
        &[
            "session opened for user alice by (uid=0)",
            "session opened for user alice by (uid=7)",
            "session opened for user bob by (uid=0)",
            "session opened for user alice by (uid=0)",
        ],
        &[
            r#"session opened for user alice by (uid=<*>) ["0"] new"#,
            r#"session opened for user alice by (uid=<*>) ["7"]"#,
            r#"session opened for user <*> by (uid=<*>) ["bob", "0"] changed"#,
            r#"session opened for user <*> by (uid=<*>) ["alice", "0"]"#,
        ],
    );
}

#[test]
fn values_are_told() {
    let lines = [
        "took 5 ms, 1.5 KB from 10.0.0.1:80 (x)",
        "a\n at b\n at c",
        "  ",
        "",
        "\u{e9}t\u{e9} 5 \u{2192} \"\u{fc}ber\"",
        "[]",
    ];
    let expect = [
        r#"took <*> from <*> (x) ["5 ms, 1.5 KB", "10.0.0.1:80"] new"#,
        r#"a<*> ["\n at b\n at c"] new"#,
        "none",
        "none",
        "\u{e9}t\u{e9} <*> \u{2192} <*> [\"5\", \"\\\"\u{fc}ber\\\"\"] new",
        r#"[<*>] [""] new"#,
    ];
    check(&lines, &expect);
}

const FRUIT: [&str; 9] =
    ["apple", "pear", "plum", "cherry", "grape", "melon", "lemon", "fig", "kiwi"];

#[test]
fn a_word_that_differs_often_varies() {
    let lines = FRUIT.map(|fruit| format!("{fruit} harvest was good in year 5"));
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let mut miner = Miner::new(100);
    let said = mined(&mut miner, &lines);
    assert_eq!(said[6], r#"lemon harvest was good in year <*> ["5"] new"#);
    assert_eq!(said[7], r#"<*> harvest was good in year <*> ["fig", "5"] changed"#);
    assert_eq!(said[8], r#"<*> harvest was good in year <*> ["kiwi", "5"]"#);
    assert_eq!(miner.len(), 1);
    // The oldest keeps its id.
    assert_eq!(miner.state().1[0].id, ids(&lines[..1])[0]);
}

#[test]
fn words_of_long_lines_are_not_learned() {
    for (more, patterns) in [(20, 1), (24, FRUIT.len())] {
        let rest = "harvest ".repeat(more);
        let mut miner = Miner::new(100);
        for fruit in FRUIT {
            miner.take(&format!("{fruit} {rest}")).unwrap();
        }
        assert_eq!(miner.len(), patterns);
    }
}

#[test]
fn two_words_that_differ_often_vary() {
    let mut miner = Miner::new(1_000);
    for fruit in FRUIT {
        for colour in ["red", "blue", "pink", "grey", "white", "black", "green", "brown", "teal"] {
            miner.take(&format!("{fruit} harvest turned {colour} before winter")).unwrap();
        }
    }
    let templates: Vec<&str> = miner.state().1.iter().map(|p| &*p.template).collect();
    assert_eq!(templates, ["<*> harvest turned <*> before winter"]);
}

#[test]
fn words_of_state_do_not_vary() {
    let states =
        ["started", "stopped", "failed", "available", "ready", "empty", "full", "idle", "lost"];
    let lines = states.map(|state| format!("battery backup turned {state} before winter"));
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let mut miner = Miner::new(100);
    mined(&mut miner, &lines);
    assert_eq!(miner.len(), states.len());
}

#[test]
fn what_was_seen_longest_ago_is_forgotten() {
    let mut miner = Miner::new(16);
    for number in 0..16 {
        miner.take(&distinct(number)).unwrap();
    }
    miner.take(&distinct(0)).unwrap();
    assert!(miner.take(&distinct(16)).unwrap().new);
    assert_eq!(miner.len(), 16);
    assert!(!miner.take(&distinct(0)).unwrap().new);
    assert!(miner.take(&distinct(1)).unwrap().new);
    assert_eq!(miner.len(), 16);
}

/// A line of which there is no like.
fn distinct(number: usize) -> String {
    let word = |n: usize| ["get", "put", "set", "run", "open", "close", "start", "stop"][n % 8];
    let words: Vec<&str> = (0..6).map(|digit| word(number >> (3 * digit))).collect();
    words.join(" ")
}

#[test]
fn a_pattern_takes_a_kilobyte() {
    let mut miner = Miner::new(4_000);
    let mut seed = 1_u64;
    for number in 0..6_000 {
        let mut line = format!("request {number} ");
        for _ in 0..72 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            line.push(char::from(b'g' + (seed >> 33) as u8 % 20));
            if seed >> 40 & 7 == 0 {
                line.push(' ');
            }
        }
        miner.take(&line);
        assert!(miner.len() <= 4_000);
    }
    assert!(miner.len() > 3_700);
    // 100,000 in 200 MB.
    assert!(miner.bytes() / miner.len() < 2_000, "{}", miner.bytes() / miner.len());
}

fn operator(toml: &str) -> Box<dyn Operator> {
    testing::plan(&KIND, toml).unwrap().build()
}

fn logs(lines: &[String]) -> Vec<Row> {
    lines.iter().enumerate().map(|(i, line)| row(i as i64).set("body", line.as_str())).collect()
}

/// The rows that come out where the stream is cut before each of `cuts`, and the operator goes away
/// and comes back at the cuts for which `restart` is true; and its state.
fn through(toml: &str, rows: &[Row], cuts: &BTreeMap<usize, bool>) -> (Vec<String>, Vec<u8>) {
    let mut running = operator(toml);
    let (mut out, mut at) = (Vec::new(), 0);
    for end in cuts.keys().copied().chain([rows.len()]) {
        if at < end {
            let batch = testing::batch(&rows[at..end]);
            let emitted = run(&mut *running, |o, out| o.process(0, batch, out).unwrap()).emitted;
            out.extend(show(&emitted, ""));
            at = end;
        }
        if cuts.get(&end) == Some(&true) {
            let state = running.snapshot().unwrap();
            running = operator(toml);
            running.restore(&state).unwrap();
            assert_eq!(running.snapshot().unwrap(), state);
        }
    }
    (out, running.snapshot().unwrap())
}

/// Lines of few words, so that they meet: names, numbers, words that join, whatever else.
fn line() -> impl Strategy<Value = String> {
    let word = prop_oneof![
        8 => proptest::sample::select(FRUIT.to_vec()).prop_map(str::to_owned),
        4 => proptest::sample::select(vec!["user", "from", "was", "harvest", "(", ")", ",", "k=v",
            "=", ":", "[a, b]", "\"q\"", "java.util.List", "5 ms"]).prop_map(str::to_owned),
        2 => (0..99u32).prop_map(|n| n.to_string()),
        1 => "\\PC{0,5}",
    ];
    prop_oneof![
        4 => proptest::sample::select(FRUIT.to_vec()).prop_map(|f| format!("the {f} harvest came late")),
        4 => proptest::collection::vec(word, 0..7).prop_map(|words| words.join(" ")),
        1 => ".{0,40}",
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn cuts_and_restarts_change_nothing(
        lines in proptest::collection::vec(line(), 0..80),
        cuts in proptest::collection::btree_map(0usize..80, any::<bool>(), 0..6),
        patterns in 1usize..40,
    ) {
        let rows = logs(&lines);
        let cuts = cuts.into_iter().filter(|(at, _)| *at < rows.len()).collect();
        let toml = format!("max_patterns = {patterns}");
        let straight = through(&toml, &rows, &BTreeMap::new());
        prop_assert_eq!(through(&toml, &rows, &cuts), straight);
    }

    #[test]
    fn any_line_has_a_template_with_its_parameters(
        lines in proptest::collection::vec(prop_oneof![line(), "\\PC{0,60}", "[a-c=\"\\[\\]{}()<>:.,/é-]{0,60}"], 1..40),
    ) {
        let mut miner = Miner::new(30);
        for line in &lines {
            let Some(found) = miner.take(line) else {
                prop_assert!(line.bytes().all(|b| b <= b' ' || b == b'.' || b == b'\''), "{line:?}");
                continue;
            };
            prop_assert!(miner.len() <= 30);
            let template = &miner.pattern(found.slot).unwrap().template;
            let mut parameters = 0;
            let mut end = line.as_ptr() as usize;
            for parameter in miner.parameters(found.slot, line) {
                parameters += 1;
                // One behind the other, each where it stands in the line.
                if !parameter.is_empty() {
                    prop_assert!(parameter.as_ptr() as usize >= end, "{line:?} {template}");
                    end = parameter.as_ptr() as usize + parameter.len();
                }
            }
            if !lines.iter().any(|l| l.contains("<*>")) {
                prop_assert_eq!(template.matches("<*>").count(), parameters, "{:?} {}", line, template);
            }
        }
    }

    #[test]
    fn order_changes_no_id(lines in proptest::collection::vec(line(), 1..7)) {
        // Too few for words to be taken to vary.
        let lines: Vec<&str> = lines.iter().map(String::as_str).filter(|l| l.len() > 3).collect();
        let of = |lines: &[&str]| -> BTreeMap<String, Option<u64>> {
            let mut miner = Miner::new(100);
            let id = |m: &mut Miner, l: &str| m.take(l).and_then(|f| Some(m.pattern(f.slot)?.id));
            lines.iter().map(|l| ((*l).to_owned(), id(&mut miner, l))).collect()
        };
        let reversed: Vec<&str> = lines.iter().rev().copied().collect();
        prop_assert_eq!(of(&lines), of(&reversed));
    }

    #[test]
    fn a_damaged_state_is_refused(lines in proptest::collection::vec(line(), 1..9)) {
        let mut miner = Miner::new(100);
        lines.iter().for_each(|line| {
            miner.take(line);
        });
        let state = state::write(&miner);
        for cut in 0..state.len() {
            prop_assert!(state::read(100, &state[..cut]).is_none());
        }
        let mut other = state.clone();
        other[0] += 1;
        prop_assert!(state::read(100, &other).is_none());
    }
}

#[test]
fn a_smaller_limit_holds_after_a_restart() {
    let mut miner = Miner::new(500);
    for number in 0..500 {
        miner.take(&distinct(number)).unwrap();
    }
    let state = state::write(&miner);
    let mut miner = state::read(10, &state).unwrap();
    miner.take(&distinct(501)).unwrap();
    assert_eq!(miner.len(), 10);
    assert!(!miner.take(&distinct(499)).unwrap().new);
}

fn emitted(toml: &str, rows: &[Row]) -> Vec<(&'static str, Batch)> {
    run(&mut *operator(toml), |o, out| o.process(0, testing::batch(rows), out).unwrap()).emitted
}

#[test]
fn rows_without_text_pass() {
    let rows = [row(1).set("body", "up 5 \"a\\n\""), row(2), row(3).set("body", " ")];
    let out = emitted("", &rows);
    let expect = [
        r#"body=up 5 "a\n" pattern.changed=false pattern.id=cf976cd436a99430 pattern.new=true pattern.parameters=["5 \"a\\n\""] pattern.template=up <*> timestamp=1970-01-01T00:00:00.000000001Z"#,
        "timestamp=1970-01-01T00:00:00.000000002Z",
        "body=  timestamp=1970-01-01T00:00:00.000000003Z",
    ];
    assert_eq!(show(&out, ""), expect);
    // Numbers have no wording, and what is not there even less.
    for toml in ["field = \"n\"", "field = \"nowhere\""] {
        let out = emitted(toml, &[row(1).set("n", 5)]);
        assert_eq!(out[0].1.array("pattern.id").unwrap().null_count(), 1);
    }
}

#[test]
fn any_text_column_will_do() {
    let rows = [row(1).set("x", "up 5").entity("host.name", "web7")];
    let id = |toml: &str| {
        let out = emitted(toml, &rows);
        assert!(out[0].1.array("pattern.parameters").is_none());
        out[0].1.array("pattern.template").unwrap().as_string::<i32>().value(0).to_owned()
    };
    assert_eq!(id("field = \"x\"\nparameters = false"), "up <*>");
    assert_eq!(id("field = \"host.name\"\nparameters = false"), "<*>");
}

#[test]
fn long_lines_and_parameters_are_cut() {
    let long = format!("read {}9 bytes", "\u{e9}".repeat(400));
    let out = emitted("", &[row(1).set("body", &*long)]);
    let text = |name: &str| out[0].1.array(name).unwrap().as_string::<i32>().value(0).to_owned();
    assert_eq!(text("pattern.template"), "read <*> bytes");
    assert_eq!(text("pattern.parameters"), format!("[\"{}\"]", "\u{e9}".repeat(128)));
    let longer = "word ".repeat(40_000);
    let out = emitted("", &[row(1).set("body", &*longer)]);
    let template = out[0].1.array("pattern.template").unwrap().as_string::<i32>().value(0).len();
    assert!(template < 5_000);
}

#[test]
fn limits_are_checked() {
    for toml in ["max_patterns = 0", "max_patterns = 1_000_001"] {
        let e = testing::plan(&KIND, toml).unwrap_err();
        assert!(e.to_string().contains("W310"), "{e}");
    }
}

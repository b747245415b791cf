#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fmt::Write;

use proptest::prelude::*;

use super::*;
use crate::series::BadSeries;

/// Each sample as `kind unit name{labels} value [int] [@time] [# exemplar]`, each mistake as
/// `line N: why`.
fn show(text: &[u8], format: Format) -> String {
    let mut out = String::new();
    let parsed = parse(text, format, |number, sample| {
        let sample = sample.map_err(str::to_owned);
        let line = sample.and_then(|s| show_sample(&s).map_err(|e| e.message));
        let line = line.unwrap_or_else(|e| format!("line {number}: {e}"));
        writeln!(out, "{line}").unwrap();
    });
    if parsed.ended {
        out += "end\n";
    }
    out
}

fn show_sample(s: &Sample<'_>) -> Result<String, BadSeries> {
    let series = series(s.series)?;
    let mut out = format!("{} ", s.kind.as_str());
    if !s.unit.is_empty() {
        out += &format!("[{}] ", s.unit);
    }
    out += &format!("{:?}{:?} {}", series.name, series.labels, s.value);
    if let Some(int) = s.value_int {
        out += &format!(" ({int})");
    }
    if let Some(time) = s.time {
        out += &format!(" @{time}");
    }
    if let Some(e) = &s.exemplar {
        let mut of = Series::default();
        labels(e.labels, &mut of).unwrap();
        out += &format!(" # {:?} {} {:?}", of.labels, e.value, e.time);
    }
    Ok(out)
}

#[track_caller]
fn check(text: &str, expect: &str) {
    assert_eq!(show(text.as_bytes(), Format::Text), expect);
}

#[track_caller]
fn check_open(text: &str, expect: &str) {
    assert_eq!(show(text.as_bytes(), Format::OpenMetrics), expect);
}

#[test]
fn text_format() {
    check("a 1\n", "unknown \"a\"[] 1\n");
    check("a 1", "unknown \"a\"[] 1\n");
    check("  a\t1  5 \r\n\n#\n# comment\n#HELP a b\n", "unknown \"a\"[] 1 @5\n");
    check(
        "a{} +Inf\na{b=\"c\",} -Inf -3\n",
        "unknown \"a\"[] inf\nunknown \"a\"[(\"b\", \"c\")] -inf @-3\n",
    );
    check("a {b = \"c\" , d=\"\"} nan\n", "unknown \"a\"[(\"b\", \"c\"), (\"d\", \"\")] NaN\n");
    check(
        r#"a{b="\"\\\n\x}{",c="}"} 1e3"#,
        "unknown \"a\"[(\"b\", \"\\\"\\\\\\n\\\\x}{\"), (\"c\", \"}\")] 1000\n",
    );
    check("a 9007199254740993\n", "unknown \"a\"[] 9007199254740992 (9007199254740993)\n");
    check("a 9007199254740992\n", "unknown \"a\"[] 9007199254740992\n");
    check("a 9223372036854775807\n", "unknown \"a\"[] 9223372036854776000 (9223372036854775807)\n");
    check("# EOF\na 1\n", "unknown \"a\"[] 1\n");
}

#[test]
fn families() {
    check(
        "# TYPE a counter\na 1\na_total 2\n# TYPE h histogram\nh_bucket{le=\"+Inf\"} 1\nh_sum 2\n\
         h_count 3\nh_other 4\na 5\n# TYPE s summary\ns{quantile=\"0.5\"} 1\ns_sum 2\n\
         # TYPE g gauge\ng 1\ng_sum 1\n",
        "counter \"a\"[] 1\ncounter \"a_total\"[] 2\ncounter \"h_bucket\"[(\"le\", \"+Inf\")] 1\n\
         counter \"h_sum\"[] 2\ncounter \"h_count\"[] 3\nunknown \"h_other\"[] 4\n\
         counter \"a\"[] 5\ngauge \"s\"[(\"quantile\", \"0.5\")] 1\ncounter \"s_sum\"[] 2\n\
         gauge \"g\"[] 1\nunknown \"g_sum\"[] 1\n",
    );
    // A longer name is not a suffix.
    check(
        "# TYPE http counter\n# TYPE http_total gauge\nhttp_total 1\n",
        "gauge \"http_total\"[] 1\n",
    );
}

#[test]
fn open_metrics() {
    check_open(
        "# TYPE foo_seconds counter\n# UNIT foo_seconds seconds\n# HELP foo_seconds x\n\
         foo_seconds_total{a=\"b\"} 17.0 1520879607.789 # {trace_id=\"KOO\"} 0.67 1520879606.1\n\
         foo_seconds_created{a=\"b\"} 1520430000.123\n# TYPE up stateset\nup{up=\"x\"} 1 # {} 5\n\
         # EOF\nrest 1\n",
        "counter [seconds] \"foo_seconds_total\"[(\"a\", \"b\")] 17 @1520879607789 # \
         [(\"trace_id\", \"KOO\")] 0.67 Some(1520879606100)\n\
         gauge [seconds] \"foo_seconds_created\"[(\"a\", \"b\")] 1520430000.123\n\
         gauge \"up\"[(\"up\", \"x\")] 1 # [] 5 None\nend\n",
    );
    check_open("a 1 -0.0005\n", "unknown \"a\"[] 1 @-1\n");
}

#[test]
fn quoted_names() {
    check(
        "# TYPE \"http.requests\" counter\n{\"http.requests\", a=\"b\",\"c d\"=\"e\"} 1\n\
         {\"x\"} 2\n{ \"http.requests\" } 3\n",
        "counter \"http.requests\"[(\"a\", \"b\"), (\"c d\", \"e\")] 1\nunknown \"x\"[] 2\n\
         counter \"http.requests\"[] 3\n",
    );
}

#[test]
fn mistakes_cost_their_line() {
    for (line, why) in [
        ("a", "line without a value"),
        ("a b", "value is not a number"),
        ("a{b=\"c\"}", "value is not a number"),
        ("a{b=\"c} 1", "quote is not closed"),
        ("a{b=\"c\" 1", "brace is not closed"),
        ("a{b=c} 1", "value is not in quotes: `a{b=c}`"),
        ("a{b} 1", "label without a value: `a{b}`"),
        ("a{1b=\"c\"} 1", "not a label name: `a{1b=\"c\"}`"),
        ("a{b=\"c\"d=\"e\"} 1", "expected `,` or `}` after a label: `a{b=\"c\"d=\"e\"}`"),
        ("a{b=\"c\",b=\"d\"} 1", "label given twice: `a{b=\"c\",b=\"d\"}`"),
        ("a{\"\"=\"c\"} 1", "label without a name: `a{\"\"=\"c\"}`"),
        ("{} 1", "series without a name: `{}`"),
        ("{b=\"c\"} 1", "series without a name: `{b=\"c\"}`"),
        ("9a 1", "not a metric name: `9a`"),
        ("a 1 x", "time is not a number"),
        ("a 1 2 3", "text after the time"),
        ("a 1 # x", "exemplar without labels"),
        ("a 1 # {} x", "value of the exemplar is not a number"),
        ("# TYPE a nonsense", "unknown metric type"),
    ] {
        let text = format!("x 1\n{line}\ny 2\n");
        check(&text, &format!("unknown \"x\"[] 1\nline 2: {why}\nunknown \"y\"[] 2\n"));
    }
    assert_eq!(
        show(b"x 1\na{b=\"\xff\"} 1\ny 2", Format::Text),
        "unknown \"x\"[] 1\nline 2: not UTF-8\nunknown \"y\"[] 2\n"
    );
}

/// A label or name in quotes.
fn quote(text: &str) -> String {
    let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    format!("\"{text}\"")
}

fn pieces() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "a",
        "{",
        "}",
        "\"",
        "\\",
        "=",
        ",",
        " ",
        "\t",
        "#",
        "\n",
        "1",
        "NaN",
        "# TYPE ",
        "# UNIT ",
        "# EOF",
        "histogram",
        "_bucket",
        "é",
        "{\"",
        "=\"",
        "\r",
        "1e999",
        "-",
        ".",
    ]);
    prop::collection::vec(piece, 0..30).prop_map(|p| p.concat())
}

proptest! {
    #[test]
    fn nothing_panics(text in prop::collection::vec(any::<u8>(), 0..200), also in pieces()) {
        show(&text, Format::Text);
        for format in [Format::Text, Format::OpenMetrics] {
            show(also.as_bytes(), format);
        }
    }

    #[test]
    fn what_is_rendered_is_parsed(
        name in "[a-zA-Z_:][a-zA-Z0-9_:]{0,9}",
        dotted in any::<bool>(),
        pairs in prop::collection::btree_map("[a-zA-Z_][a-zA-Z0-9_]{0,9}", "\\PC*|[\"\\\\\n{},=]{0,5}", 0..5),
        value in any::<f64>(),
        time in any::<Option<i64>>(),
    ) {
        let name = if dotted { format!("{name}.é\"") } else { name };
        let list: Vec<String> =
            pairs.iter().map(|(n, v)| format!("{n}={}", quote(v))).collect();
        let mut line = if dotted {
            format!("{{{},{}}} {value:?}", quote(&name), list.join(","))
        } else {
            format!("{name}{{{}}} {value:?}", list.join(", "))
        };
        if let Some(time) = time {
            line += &format!(" {time}");
        }
        let mut seen = 0;
        parse(line.as_bytes(), Format::Text, |_, sample| {
            let sample = sample.unwrap();
            let series = series(sample.series).unwrap();
            assert_eq!(series.name, name);
            let got = series.labels.iter().map(|(n, v)| (n.to_string(), v.to_string()));
            assert_eq!(got.collect::<std::collections::BTreeMap<_, _>>(), pairs);
            assert!(sample.value == value || sample.value.is_nan() && value.is_nan());
            assert_eq!(sample.time, time);
            seen += 1;
        });
        assert_eq!(seen, 1);
    }
}

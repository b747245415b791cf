#![allow(clippy::unwrap_used, clippy::expect_used)]

use jiff::Timestamp;
use jiff::tz::TimeZone;
use proptest::prelude::*;

use super::*;

/// Receive time of the tests.
const RECEIVED: &str = "2024-01-02T03:04:05Z";

fn at(text: &str) -> i64 {
    text.parse::<Timestamp>().unwrap().as_nanosecond() as i64
}

/// `pri time host app pid msgid | data | body`, `-` for nothing.
fn show(line: &str, zone: &TimeZone, received: &str) -> String {
    let m = parse(line);
    let time = m.time.map(|t| match t.resolve(zone, at(received)) {
        Some(time) => Timestamp::from_nanosecond(time.into()).unwrap().to_string(),
        None => "no such time".to_owned(),
    });
    let or = |o: Option<&str>| o.unwrap_or("-").to_owned();
    let mut out = format!(
        "{} {} {} {} {} {}",
        m.pri.map_or("-".into(), |p| p.to_string()),
        or(time.as_deref()),
        or(m.hostname),
        or(m.app),
        or(m.procid),
        or(m.msgid),
    );
    if let Some(version) = m.version {
        out += &format!(" v{version}");
    }
    if let Some(sequence) = m.sequence {
        out += &format!(" #{sequence}");
    }
    for e in &m.data {
        out += &format!(" | {}{:?}", e.id, e.params);
    }
    out + &format!(" | {:?}", m.body)
}

#[track_caller]
fn check(line: &str, expect: &str) {
    assert_eq!(show(line, &TimeZone::UTC, RECEIVED), expect, "{line}");
}

#[test]
fn rfc5424() {
    // The examples of section 6.5.
    check(
        "<34>1 2003-10-11T22:14:15.003Z mymachine.example.com su - ID47 - \u{feff}'su root' failed",
        "34 2003-10-11T22:14:15.003Z mymachine.example.com su - ID47 v1 | Some(\"'su root' failed\")",
    );
    check(
        "<165>1 2003-08-24T05:14:15.000003-07:00 192.0.2.1 myproc 8710 - - %% It's time",
        "165 2003-08-24T12:14:15.000003Z 192.0.2.1 myproc 8710 - v1 | Some(\"%% It's time\")",
    );
    check(
        r#"<165>1 2003-10-11T22:14:15.003Z h evntslog - ID47 [exampleSDID@32473 iut="3" eventSource="App\"l\\i\]c\a"] m"#,
        r#"165 2003-10-11T22:14:15.003Z h evntslog - ID47 v1 | exampleSDID@32473[("iut", "3"), ("eventSource", "App\"l\\i]c\\a")] | Some("m")"#,
    );
    check(
        r#"<165>1 2003-10-11T22:14:15.003Z h e - ID47 [a b="1"][c d="2"]"#,
        r#"165 2003-10-11T22:14:15.003Z h e - ID47 v1 | a[("b", "1")] | c[("d", "2")] | None"#,
    );
    check("<0>1 - - - - - -", "0 - - - - - v1 | None");
    check("<0>1 - - - - - - ", "0 - - - - - v1 | Some(\"\")");
    check("<13>1 - h a p m [x] b", "13 - h a p m v1 | x[] | Some(\"b\")");
    check("<13>2 - h a p m", "13 - h a p m v2 | None");
    // Structured data that is none is message.
    check("<13>1 - h a p m [x y] b", "13 - h a p m v1 | Some(\"[x y] b\")");
    check("<13>1 - h a p m [x y=\"1\" b", "13 - h a p m v1 | Some(\"[x y=\\\"1\\\" b\")");
    check("<13>1 - h a p m hello", "13 - h a p m v1 | Some(\"hello\")");
    // A day that does not exist, a leap second, a time that nanoseconds cannot hold.
    check("<13>1 2023-02-30T00:00:00Z - - - - - x", "13 no such time - - - - v1 | Some(\"x\")");
    check(
        "<13>1 2016-12-31T23:59:60Z - - - - - x",
        "13 2017-01-01T00:00:00Z - - - - v1 | Some(\"x\")",
    );
    check("<13>1 9999-01-01T00:00:00Z - - - - - x", "13 no such time - - - - v1 | Some(\"x\")");
}

#[test]
fn rfc3164() {
    check(
        "<34>Oct 11 22:14:15 mymachine su: 'su root' failed for lonvick on /dev/pts/8",
        "34 2023-10-11T22:14:15Z mymachine su - - | Some(\"'su root' failed for lonvick on /dev/pts/8\")",
    );
    check("<13>Jan  2 03:04:05 h p[42]: m", "13 2024-01-02T03:04:05Z h p 42 - | Some(\"m\")");
    check("<13>Jan 02 03:04:05 h p[42] m", "13 2024-01-02T03:04:05Z h p 42 - | Some(\"m\")");
    check("<13>Jan 2 03:04:05.678 h p[42]:m", "13 2024-01-02T03:04:05.678Z h p 42 - | Some(\"m\")");
    check(
        "<6>Jan  2 03:04:05 h kernel: [12.3] usb",
        "6 2024-01-02T03:04:05Z h kernel - - | Some(\"[12.3] usb\")",
    );
    check(
        "<6>Jan  2 03:04:05 h postfix/smtpd[9]:  x\n",
        "6 2024-01-02T03:04:05Z h postfix/smtpd 9 - | Some(\" x\")",
    );
    check(
        "<6>Jan  2 03:04:05 h (systemd)[9]: x\0",
        "6 2024-01-02T03:04:05Z h (systemd) 9 - | Some(\"x\")",
    );
    // No host: as on the local socket.
    check("<13>Jan  2 03:04:05 p[42]: m", "13 2024-01-02T03:04:05Z - p 42 - | Some(\"m\")");
    check("<13>Jan  2 03:04:05 p: m", "13 2024-01-02T03:04:05Z - p - - | Some(\"m\")");
    // No tag.
    check(
        "<13>Jan  2 03:04:05 h last message repeated 2 times",
        "13 2024-01-02T03:04:05Z h - - - | Some(\"last message repeated 2 times\")",
    );
    check("<13>Jan  2 03:04:05 ::1 p: m", "13 2024-01-02T03:04:05Z ::1 p - - | Some(\"m\")");
    // No priority, or a wrong one.
    check("Jan  2 03:04:05 h p: m", "- 2024-01-02T03:04:05Z h p - - | Some(\"m\")");
    check("<192>Jan  2 03:04:05 h p: m", "- - - - - - | Some(\"<192>Jan  2 03:04:05 h p: m\")");
    check("<>x", "- - - - - - | Some(\"<>x\")");
    // No time.
    check("<13>hello world", "13 - - - - - | Some(\"hello world\")");
    check("<13>error: x", "13 - - - - - | Some(\"error: x\")");
    check("<13>p[42]: m", "13 - - p 42 - | Some(\"m\")");
    check("", "- - - - - - | Some(\"\")");
    check("<13>", "13 - - - - - | Some(\"\")");
    check("<13>1 x", "13 - - - - - | Some(\"1 x\")");
}

#[test]
fn other_times() {
    for (time, expect) in [
        ("2024-05-06T07:08:09Z", "2024-05-06T07:08:09Z"),
        ("2024-05-06T07:08:09.5+02:00", "2024-05-06T05:08:09.5Z"),
        ("2024-05-06 07:08:09,123", "2024-05-06T07:08:09.123Z"),
        ("2024-05-06T07:08:09-0530", "2024-05-06T12:38:09Z"),
        ("May  6 2019 07:08:09", "2019-05-06T07:08:09Z"),
        ("May  6 07:08:09 2019", "2019-05-06T07:08:09Z"),
        ("May  6 07:08:09 CEST", "2024-05-06T05:08:09Z"),
        ("May  6 07:08:09.123 UTC", "2024-05-06T07:08:09.123Z"),
        ("May  6 2019 07:08:09 EST", "2019-05-06T12:08:09Z"),
        ("May  6 07:08:09 +0200", "2024-05-06T05:08:09Z"),
        ("May  6 07:08:09+02:00", "2024-05-06T05:08:09Z"),
        ("May  6 07:08:09.1234567891234", "2024-05-06T07:08:09.123456789Z"),
        ("MAY  6 07:08:09", "2024-05-06T07:08:09Z"),
        ("*May  6 07:08:09", "2024-05-06T07:08:09Z"),
    ] {
        check(&format!("<13>{time} h p: m"), &format!("13 {expect} h p - - | Some(\"m\")"));
    }
    for bad in ["May 32x", "May 6 25:00:00", "May 6 07:08", "Mai 6 07:08:09", "2024-05-06"] {
        let line = format!("{bad} h p: m");
        check(&format!("<13>{line}"), &format!("13 - - - - - | Some({line:?})"));
    }
}

#[test]
fn cisco() {
    check(
        "<189>42: router1: *Mar  1 18:46:11.123 UTC: %SYS-5-CONFIG_I: Configured",
        "189 2024-03-01T18:46:11.123Z router1 - - SYS-5-CONFIG_I #42 | Some(\"%SYS-5-CONFIG_I: Configured\")",
    );
    check(
        "<189>000042: Mar  1 2023 18:46:11: %SYS-5-CONFIG_I: Configured",
        "189 2023-03-01T18:46:11Z - - - SYS-5-CONFIG_I #000042 | Some(\"%SYS-5-CONFIG_I: Configured\")",
    );
    check(
        "<166>Jan  2 2024 03:04:05 fw1 : %ASA-6-302013: Built",
        "166 2024-01-02T03:04:05Z fw1 - - ASA-6-302013 | Some(\"%ASA-6-302013: Built\")",
    );
}

#[test]
fn years_and_zones() {
    let berlin = super::time::zone("Europe/Berlin").unwrap();
    let check = |line: &str, zone: &TimeZone, received: &str, expect: &str| {
        let got = show(line, zone, received);
        assert_eq!(got.split(' ').nth(1), Some(expect), "{line} at {received}");
    };
    // Round the turn of the year, both ways.
    check(
        "<1>Dec 31 23:59:59 h p: m",
        &TimeZone::UTC,
        "2024-01-01T00:00:01Z",
        "2023-12-31T23:59:59Z",
    );
    check(
        "<1>Jan  1 00:00:01 h p: m",
        &TimeZone::UTC,
        "2023-12-31T23:59:59Z",
        "2024-01-01T00:00:01Z",
    );
    check(
        "<1>Feb 29 00:00:00 h p: m",
        &TimeZone::UTC,
        "2025-01-01T00:00:00Z",
        "2024-02-29T00:00:00Z",
    );
    check("<1>Feb 29 00:00:00 h p: m", &TimeZone::UTC, "2022-01-01T00:00:00Z", "no");
    check("<1>Jul  1 12:00:00 h p: m", &berlin, "2024-07-01T10:00:00Z", "2024-07-01T10:00:00Z");
    check("<1>Jan  1 00:30:00 h p: m", &berlin, "2023-12-31T23:30:00Z", "2023-12-31T23:30:00Z");
    check(
        "<1>Jan  1 00:30:00 CET h p: m",
        &TimeZone::UTC,
        "2023-12-31T23:30:00Z",
        "2023-12-31T23:30:00Z",
    );
    let india = super::time::zone("+05:30").unwrap();
    check("<1>Jan  2 12:00:00 h p: m", &india, RECEIVED, "2024-01-02T06:30:00Z");
    assert!(super::time::zone("Mars/Olympus").is_none());
    assert!(super::time::zone("+25:00").is_none());
}

fn pieces() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "<13>",
        "1 ",
        "- ",
        "2024-05-06T07:08:09Z ",
        "[",
        "]",
        "a",
        "=",
        "\"",
        "\\",
        " ",
        ":",
        "Jan  2 03:04:05",
        "Feb 30 00:00:00 ",
        "p[1]",
        "é",
        "\u{feff}",
        "42: ",
        "%X-1-Y: ",
        "*",
        "+0200",
        " UTC",
        "\0",
        "99",
    ]);
    prop::collection::vec(piece, 0..20).prop_map(|p| p.concat())
}

proptest! {
    #[test]
    fn nothing_panics(any in any::<String>(), line in pieces(), received in any::<i64>()) {
        for text in [&any, &line] {
            let m = parse(text);
            if let Some(time) = m.time {
                time.resolve(&TimeZone::UTC, received);
            }
        }
    }

    #[test]
    fn structured_data_is_read_back(
        params in prop::collection::vec(("[!-<>?-Z^-~]{1,8}", any::<String>()), 0..4),
    ) {
        let mut line = "<13>1 - h a p m [id@1".to_owned();
        for (name, value) in &params {
            let escaped = value.replace('\\', "\\\\").replace('"', "\\\"").replace(']', "\\]");
            line += &format!(" {name}=\"{escaped}\"");
        }
        line += "] body";
        let names_fit = params.iter().all(|(n, _)| !n.contains(['"', ']', '=']));
        prop_assume!(names_fit);
        let m = parse(&line);
        prop_assert_eq!(m.body, Some("body"));
        let got: Vec<_> =
            m.data[0].params.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect();
        prop_assert_eq!(got, params);
    }
}

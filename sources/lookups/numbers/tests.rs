#![allow(clippy::unwrap_used)]

use arrow::array::Array;
use proptest::prelude::*;
use weir_pipeline::entity::Value;

use super::*;

#[track_caller]
fn check(texts: &[&str], kind: &str, expected: &[&str]) {
    let column = texts.iter().map(|t| (!t.is_empty()).then_some(*t)).collect::<StringArray>();
    let numbers = numbers(&column).unwrap();
    let text = |row| Value::of_array(&numbers, row).map_or("".into(), |v| v.to_text().to_string());
    let got: Vec<String> = (0..numbers.len()).map(text).collect();
    assert_eq!(
        (numbers.data_type().to_string().as_str(), got),
        (kind, expected.iter().map(|t| (*t).to_owned()).collect())
    );
}

#[test]
fn a_column_is_what_holds_all_of_it() {
    check(&["42", "", "-7", "+9007199254740993"], "Int64", &["42", "", "-7", "9007199254740993"]);
    check(&["1.50", "2", "-0.25", "NaN"], "Float64", &["1.5", "2", "-0.25", "NaN"]);
    check(&["42.00"], "Float64", &["42"]);
    check(&["9007199254740993", "0.5"], "Utf8", &["9007199254740993", "0.5"]);
    check(&["12345678901234567890", "5"], "Utf8", &["12345678901234567890", "5"]);
    check(&["1.100000000000000000001", "1.10"], "Utf8", &["1.100000000000000000001", "1.1"]);
    check(
        &["0.000000000000000000123456789012345678900", "007"],
        "Utf8",
        &["0.0000000000000000001234567890123456789", "7"],
    );
    assert!(numbers(&StringArray::from(vec!["1", "x"])).unwrap_err().contains("`x` in row 2"));
}

#[test]
fn json_loses_no_digits() {
    let exact = |json: &str| String::from_utf8(exact_json(json.as_bytes()).into_owned()).unwrap();
    let same = r#"[{"a": 1, "b": -2.50, "c": "12345678901234567890 \" 1", "d": 9223372036854775807, "e": 1e3}]"#;
    assert_eq!(exact(same), same);
    assert_eq!(exact("[9223372036854775808,1]"), r#"["9223372036854775808",1]"#);
    assert_eq!(exact(r#"{"a":0.12345678901234567890}"#), r#"{"a":"0.1234567890123456789"}"#);
    assert_eq!(
        exact("[1e400, -12345678901234567891e2]"),
        r#"["1e400", "-12345678901234567891e2"]"#
    );
}

proptest! {
    /// What a double is written as is that double.
    #[test]
    fn shortest_texts_of_doubles_are_doubles(bits in any::<u64>()) {
        let double = f64::from_bits(bits);
        prop_assume!(double.is_finite());
        for text in [format!("{double:e}"), format!("{double:?}")] {
            prop_assert_eq!(Number::parse(&text), Some(Number::Double(double)));
        }
    }

    /// The text of a number is that number.
    #[test]
    fn texts_keep_the_value(whole in "-?[0-9]{1,30}", fraction in "[0-9]{0,30}") {
        let text = if fraction.is_empty() { whole } else { format!("{whole}.{fraction}") };
        let shown = Number::parse(&text).unwrap().text().into_owned();
        prop_assert_eq!(Decimal::parse(&shown), Decimal::parse(&text));
    }
}

#![allow(clippy::unwrap_used)]

use datafusion::common::config::ConfigOptions;
use proptest::prelude::*;

use super::*;

fn ask(name: &str, texts: ColumnarValue, token: ColumnarValue, rows: usize) -> Result<ArrayRef> {
    let udf = functions().into_iter().find(|f| f.name() == name).unwrap();
    let field = |t| Arc::new(Field::new("x", t, true));
    let args = ScalarFunctionArgs {
        arg_fields: vec![field(DataType::Utf8), field(DataType::Utf8)],
        args: vec![texts, token],
        number_rows: rows,
        return_field: field(DataType::Boolean),
        config_options: Arc::new(ConfigOptions::default()),
    };
    udf.invoke_with_args(args)?.into_array(rows)
}

fn check(name: &str, token: &str, rows: &[(Option<&str>, Option<bool>)]) {
    let texts = StringArray::from_iter(rows.iter().map(|(text, _)| *text));
    let expect = BooleanArray::from_iter(rows.iter().map(|(_, found)| *found));
    let token = ColumnarValue::Scalar(ScalarValue::from(token));
    let got = ask(name, ColumnarValue::Array(Arc::new(texts)), token, rows.len()).unwrap();
    assert_eq!(got.as_boolean(), &expect);
}

#[test]
fn a_token_is_found_whole() {
    let rows = [
        (Some("an unusual word"), Some(true)),
        (Some("unusual"), Some(true)),
        (Some("unusually, not unusual_"), Some(false)),
        (Some("unusually \"unusual\""), Some(true)),
        (None, None),
        (Some(""), Some(false)),
        (Some("Unusual"), Some(false)),
        (Some("éunusual unusualé"), Some(false)),
        (Some("…unusual…"), Some(true)),
        (Some("un"), Some(false)),
        (Some("usual"), Some(false)),
        (Some("unusual²"), Some(true)),
    ];
    check(HAS_TOKEN, "unusual", &rows);
    let rows = [
        (Some("UNUSUAL word"), Some(true)),
        // The long s is a small form of S.
        (Some("unuſual"), Some(true)),
        (Some("UNUSUALLY"), Some(false)),
        (None, None),
    ];
    check(HAS_TOKEN_CASE_INSENSITIVE, "Unusual", &rows);
}

#[test]
fn what_is_no_token_is_an_error() {
    let text = || ColumnarValue::Scalar(ScalarValue::from("a b"));
    for token in ["", "a b", "a-b", "%a%"] {
        let token = ColumnarValue::Scalar(ScalarValue::from(token));
        let e = ask(HAS_TOKEN, text(), token, 1).unwrap_err();
        assert!(e.to_string().contains("not one token"), "{e}");
    }
    let tokens = StringArray::from(vec![Some("a"), Some("a b"), None]);
    let got = ask(HAS_TOKEN, text(), ColumnarValue::Array(Arc::new(tokens)), 3).unwrap();
    assert_eq!(got.as_boolean(), &BooleanArray::from(vec![Some(true), Some(false), None]));
}

#[test]
fn case_is_folded_as_regular_expressions_fold_it() {
    for c in (0..=u32::from(char::MAX)).filter_map(char::from_u32) {
        let mut class =
            regex_syntax::hir::ClassUnicode::new([regex_syntax::hir::ClassUnicodeRange::new(c, c)]);
        class.try_case_fold_simple().unwrap();
        for range in class.ranges() {
            for other in range.start()..=range.end() {
                assert!(fold(c).eq(fold(other)), "{c:?} and {other:?}");
                assert_eq!(is_token_char(c), is_token_char(other), "{c:?} and {other:?}");
            }
        }
    }
}

proptest! {
    #[test]
    fn all_at_once_is_as_one_by_one(
        texts in prop::collection::vec(prop::option::of("[ab_é .]{0,9}"), 1..40),
        skip in 0..5_usize,
        token in "[ab_é]{1,3}",
    ) {
        let texts = StringArray::from(texts);
        let texts = texts.slice(skip.min(texts.len()), texts.len() - skip.min(texts.len()));
        let expect: BooleanArray = texts
            .iter()
            .map(|text| Some(text?.split(|c| !is_token_char(c)).any(|t| t == token)))
            .collect();
        let rows = texts.len();
        let asked = ColumnarValue::Scalar(ScalarValue::from(token.as_str()));
        let got = ask(HAS_TOKEN, ColumnarValue::Array(Arc::new(texts)), asked, rows).unwrap();
        prop_assert_eq!(got.as_boolean(), &expect);
    }
}

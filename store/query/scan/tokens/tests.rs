#![allow(clippy::unwrap_used)]

use arrow::array::{Array, AsArray, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use datafusion::common::DFSchema;
use datafusion::execution::SessionStateBuilder;
use datafusion::prelude::SessionContext;
use proptest::prelude::*;

use super::*;

/// The condition as a scan has it.
fn filter(sql: &str) -> Expr {
    let builder = SessionStateBuilder::new().with_default_features();
    let mut context = SessionContext::new_with_state(builder.build());
    for function in weir_udfs::all() {
        datafusion::execution::FunctionRegistry::register_udf(&mut context, function).unwrap();
    }
    let schema = DFSchema::try_from(schema()).unwrap();
    let expr = context.parse_sql_expr(sql, &schema).unwrap();
    context.create_physical_expr(expr, &schema).unwrap()
}

fn schema() -> Schema {
    Schema::new(vec![Field::new("body", DataType::Utf8, true)])
}

fn need(sql: &str) -> String {
    Need::of([filter(sql)].iter()).map_or_else(|| "-".into(), |need| need.to_string())
}

#[test]
fn conditions_prove_tokens() {
    for (sql, expect) in [
        ("body LIKE '% unusual %'", "body: unusual"),
        ("body LIKE '%unusual%'", "-"),
        ("body LIKE 'unusual %'", "body: unusual"),
        ("body LIKE 'unusual%'", "-"),
        ("body LIKE '%unusual'", "-"),
        ("body LIKE '%(unusual)%'", "body: unusual"),
        ("body LIKE '%a whole token%'", "body: whole"),
        ("body LIKE '%_x unusual_ y%'", "-"),
        (r"body LIKE '% a\_b \%c %'", "-"),
        ("body LIKE '%/cart/%/GET/%x y'", "body: cart AND body: GET AND body: y"),
        ("body NOT LIKE '% unusual %'", "-"),
        ("body ILIKE '% UnUsual %'", "body: UnUsual"),
        ("body = 'GET /x'", "body: GET AND body: x"),
        ("'a' = body", "body: a"),
        ("body <> 'a'", "-"),
        ("body IN ('a b', 'c')", "(body: a AND body: b) OR body: c"),
        ("body IN ('a b', '-', 'c', 'd')", "-"),
        ("body NOT IN ('a b', 'c', 'd', 'e')", "-"),
        ("has_token(body, 'a') AND has_token_case_insensitive(body, 'B')", "body: a AND body: B"),
        ("hasToken(body, 'a') OR body LIKE '% b %'", "body: a OR body: b"),
        ("has_token(body, 'a') OR body LIKE '%b%'", "-"),
        ("NOT has_token(body, 'a')", "-"),
        ("contains(body, 'a whole token')", "body: whole"),
        (r"body ~ '\bunusual\b'", "-"),
        ("body IS NULL", "-"),
    ] {
        assert_eq!(need(sql), expect, "{sql}");
    }
}

/// Whether a text has what is needed, by the tokens that it has.
fn met(need: &Need, text: &str) -> bool {
    match need {
        Need::Token { hash: wanted, .. } => tokens(text).any(|at| hash(&text[at]) == *wanted),
        Need::All(needs) => needs.iter().all(|need| met(need, text)),
        Need::Any(needs) => needs.iter().any(|need| met(need, text)),
    }
}

fn text() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        "[abAB]{1,2}",
        "[ ,.%_é²ſsSKk\u{212a}\u{301}0-2\\\\-]{1}",
        r"\PC",
        Just("unusual".to_owned()),
    ];
    prop::collection::vec(part, 0..7).prop_map(|parts| parts.concat())
}

proptest! {
    #[test]
    fn no_row_that_passes_is_left_out(
        texts in prop::collection::vec(prop::option::of(text()), 1..20),
        asked in text(),
        other in text(),
        form in 0..10_usize,
    ) {
        let quoted = |text: &str| text.replace('\'', "''");
        // Texts that have what is asked for, in some way.
        let wrapped = texts.iter().flatten().map(|t| Some(format!("{t}{asked}{other}")));
        let more = [Some(asked.clone()), Some(asked.to_uppercase()), Some(asked.to_lowercase())];
        let texts: StringArray = texts.iter().cloned().chain(wrapped).chain(more).collect();
        let token = tokens(&asked).next().map_or("a", |at| &asked[at]);
        let (a, b) = (quoted(&asked), quoted(&other));
        let sql = match form {
            0 => format!("body LIKE '%{a}%'"),
            1 => format!("body LIKE '{a}'"),
            2 => format!("body ILIKE '%{a}%{b}'"),
            3 => format!("body ILIKE '{a}%'"),
            4 => format!("body = '{a}'"),
            5 => format!("body IN ('{a}', '{b}', 'a b', 'c')"),
            6 => format!("has_token(body, '{token}')"),
            7 => format!("has_token_case_insensitive(body, '{token}')"),
            8 => format!("contains(body, '{a}') OR body LIKE '% {b} %'"),
            _ => format!("body LIKE '%{a}%' AND body ILIKE '%{b}%'"),
        };
        let filter = filter(&sql);
        let need = Need::of([filter.clone()].iter());
        let batch = RecordBatch::try_new(Arc::new(schema()), vec![Arc::new(texts.clone())]).unwrap();
        // A pattern may be one that no condition takes.
        let Ok(passed) = filter.evaluate(&batch) else { return Ok(()) };
        let passed = passed.into_array(texts.len()).unwrap();
        let passed = passed.as_boolean();
        for row in (0..texts.len()).filter(|row| passed.is_valid(*row) && passed.value(*row)) {
            let left = need.as_ref().is_none_or(|need| met(need, texts.value(row)));
            prop_assert!(left, "{sql}: {:?} needs {need:?}", texts.value(row));
        }
    }

    #[test]
    fn what_is_left_is_cut_out(
        lengths in prop::collection::vec((0..9_usize, 1..9_usize), 0..9),
        has in prop::collection::vec(prop::bool::ANY, 1..20),
        granule in 1..7_usize,
    ) {
        let mut at = 0;
        let mut ranges = Vec::new();
        for (gap, length) in lengths {
            ranges.push(at + gap..at + gap + length);
            at += gap + length + 1;
        }
        let rows = has.len() * granule;
        ranges.retain(|range| range.end <= rows);
        let left = Left { granule, has: has.iter().copied().collect() };
        let got: Vec<usize> = left.cut(&ranges).into_iter().flatten().collect();
        let expect: Vec<usize> =
            ranges.into_iter().flatten().filter(|row| has[row / granule]).collect();
        prop_assert_eq!(got, expect);
    }
}

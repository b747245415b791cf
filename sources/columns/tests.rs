#![allow(clippy::unwrap_used, clippy::expect_used)]

use arrow::array::{Array, RecordBatch};
use arrow::datatypes::Schema;
use proptest::prelude::*;
use weir_pipeline::entity::{Entity, Origin};

use super::*;

/// The columns of `rows` as `name type json? [values]`, one line each.
fn columns(rows: &[&[(&str, Cell<'_>)]], entities: &[EntityBuilder], owner: &[u32]) -> String {
    let mut c = AttributeColumns::new(Signal::Logs, (rows.len(), 1 << 10), entities);
    for (i, row) in rows.iter().enumerate() {
        for (name, value) in *row {
            c.set(i, name, *value);
        }
    }
    c.share(entities, owner).unwrap();
    let mut out = String::new();
    for (field, array) in c.finish().unwrap() {
        let json = if field.metadata().contains_key(META_JSON) { " json" } else { "" };
        out += &format!("{} {}{json}", field.name(), field.data_type());
        for row in 0..array.len() {
            let options = arrow::util::display::FormatOptions::new().with_null("-");
            let f = arrow::util::display::ArrayFormatter::try_new(&array, &options).unwrap();
            out += &format!(" | {}", f.value(row));
        }
        out += "\n";
    }
    out
}

use Cell::{Bool, Double, Int, Json, Text};

#[test]
fn types_are_the_narrowest() {
    let big = (1_i64 << 53) + 1;
    let check = |values: &[Cell<'_>], expect: &str| {
        let rows: Vec<Vec<(&str, Cell<'_>)>> = values.iter().map(|v| vec![("x", *v)]).collect();
        let rows: Vec<&[(&str, Cell<'_>)]> = rows.iter().map(Vec::as_slice).collect();
        assert_eq!(columns(&rows, &[], &[]).trim_end(), expect, "{values:?}");
    };
    check(&[Int(1), Int(2)], "x Int64 | 1 | 2");
    check(&[Int(1), Double(2.5)], "x Float64 | 1.0 | 2.5");
    check(&[Int(big), Double(2.5)], "x Utf8 | 9007199254740993 | 2.5");
    check(&[Bool(true), Int(1)], "x Utf8 | true | 1");
    check(&[Bool(true), Bool(false)], "x Boolean | true | false");
    check(&[Int(7), Text("a")], "x Utf8 | 7 | a");
    check(&[Json("[1]"), Json("[2]")], "x Utf8 json | [1] | [2]");
    check(&[Json("[1]"), Text("a")], "x Utf8 | [1] | a");
}

#[test]
fn conventions_decide_where_nothing_is_lost() {
    let out = columns(
        &[
            &[("http.response.status_code", Text("200")), ("server.port", Text("80"))],
            &[("http.response.status_code", Int(404)), ("server.port", Text("http"))],
            &[("user.id", Int(5)), ("http.route", Double(0.5))],
        ],
        &[],
        &[],
    );
    assert_eq!(
        out,
        "http.response.status_code Int64 | 200 | 404 | -\n\
         server.port Utf8 | 80 | http | -\n\
         user.id Utf8 | - | - | 5\n\
         http.route Utf8 | - | - | 0.5\n"
    );
    let check = |text, int| assert_eq!(semantic::as_int(Text(text)), int, "{text}");
    check("200", Some(200));
    check("0200", None);
    check("+200", None);
    check("9223372036854775808", None);
    assert_eq!(semantic::as_int(Double(-0.0)), None);
    assert_eq!(semantic::as_int(Double(200.0)), Some(200));
}

#[test]
fn table_is_sorted() {
    assert!(semantic::TABLE.windows(2).all(|w| w[0].0 < w[1].0));
}

#[test]
fn names_that_are_taken() {
    let out = columns(
        &[&[
            ("body", Int(1)),
            ("attr.body", Int(2)),
            ("attributes", Int(3)),
            ("", Int(4)),
            ("a", Int(5)),
            ("a", Int(6)),
        ]],
        &[],
        &[],
    );
    assert_eq!(
        out,
        "attr.body Int64 | 1\nattr.attributes Int64 | 3\nattr. Int64 | 4\na Int64 | 5\n"
    );
}

fn resource(pairs: &[(&str, Cell<'_>)], scope: &[(&str, Cell<'_>)]) -> EntityBuilder {
    let mut e = EntityBuilder::new(Signal::Logs);
    e.field("scope.name", Value::Text("lib".into()), Origin::Scope);
    e.field("scope.version", Value::Text("".into()), Origin::Scope);
    for (name, value) in scope {
        e.attribute(Origin::Scope, name, *value);
    }
    for (name, value) in pairs {
        e.attribute(Origin::Resource, name, *value);
    }
    e
}

fn show(entity: &Entity) -> String {
    let list: Vec<String> = entity
        .attributes()
        .iter()
        .map(|a| format!("{}={}@{}", a.name, a.value.to_text(), a.origin.as_str()))
        .collect();
    list.join(" ")
}

#[test]
fn one_name_one_level() {
    let entities = [
        resource(&[("x", Text("a")), ("y", Text("b"))], &[("x", Text("s"))]),
        resource(&[("y", Text("c"))], &[("name", Int(1))]),
    ];
    let rows: &[&[(&str, Cell<'_>)]] =
        &[&[], &[("x", Text("own"))], &[], &[("x", Int(3)), ("resource.x", Int(1))]];
    let owner = [0, 0, 1, 1];
    assert_eq!(
        columns(rows, &entities, &owner),
        "x Utf8 | a | own | - | 3\nresource.x Int64 | - | - | - | 1\n"
    );
    let at_rows = ["x", "resource.x"].into_iter().collect();
    let [first, second] = entities.map(|e| show(&e.build(&at_rows)));
    assert_eq!(
        first,
        "resource.resource.x=a@resource scope.name=lib@scope scope.x=s@scope y=b@resource"
    );
    assert_eq!(second, "name=1@scope scope.name=lib@scope y=c@resource");
}

#[test]
fn labels_go_before_resources() {
    let mut e = EntityBuilder::new(Signal::Metrics);
    e.field("metric.name", Value::Text("m".into()), Origin::Metric);
    e.attribute(Origin::Scope, "host", Text("s"));
    e.attribute(Origin::Resource, "host", Text("r"));
    e.attribute(Origin::Label, "host", Text("l"));
    e.attribute(Origin::Label, "value", Text("v"));
    e.attribute(Origin::Label, "metric.name", Text("n"));
    assert_eq!(e.plain()["host"], &Value::Text("l".into()));
    assert_eq!(
        show(&e.build(&HashSet::new())),
        "host=l@label label.metric.name=n@label label.value=v@label metric.name=m@metric \
         resource.host=r@resource scope.host=s@scope"
    );
}

#[test]
fn names_past_the_limit_go_to_json() {
    let mut c = AttributeColumns::new(Signal::Logs, (2, 100), &[]);
    for i in 0..COLUMNS_MAX + 3 {
        c.set(0, &format!("k{i}"), Int(i as i64));
    }
    c.set(0, "k1000", Text("twice"));
    c.set(1, "k5", Int(1));
    c.set(1, "k2000", Json("[\"a\"]"));
    c.set(1, "body", Double(1.0));
    let columns = c.finish().unwrap();
    assert_eq!(columns.len(), COLUMNS_MAX + 1);
    let (fields, arrays): (Vec<_>, Vec<_>) = columns.into_iter().unzip();
    let batch = RecordBatch::try_new(Schema::new(fields).into(), arrays).unwrap();
    let json = batch.column_by_name(ATTRIBUTES).unwrap();
    let json = json.as_any().downcast_ref::<arrow::array::StringArray>().unwrap();
    assert_eq!(json.value(0), r#"{"k1000":1000,"k1001":1001,"k1002":1002}"#);
    assert_eq!(json.value(1), r#"{"attr.body":1.0,"k2000":["a"]}"#);
    let name = "n".repeat(NAME_BYTES_MAX + 1);
    let mut c = AttributeColumns::new(Signal::Logs, (1, 0), &[]);
    c.set(0, &name, Bool(true));
    assert_eq!(c.finish().unwrap()[0].0.name(), ATTRIBUTES);
}

#[test]
fn entity_names_past_the_limit_go_to_json() {
    let mut e = EntityBuilder::new(Signal::Logs);
    for i in 0..COLUMNS_MAX + 2 {
        e.attribute(Origin::Resource, &format!("k{i:06}"), Int(i as i64));
    }
    let e = e.build(&HashSet::new());
    assert_eq!(e.attributes().len(), COLUMNS_MAX + 1);
    let rest = Value::Json(r#"{"k001000":1000,"k001001":1001}"#.into());
    assert_eq!(e.get("resource.attributes"), Some(&rest));
}

#[test]
fn many_rows_get_fewer_columns() {
    let rows = CELLS_MAX / 2;
    let mut c = AttributeColumns::new(Signal::Logs, (rows, 0), &[]);
    for name in ["a", "b", "c", "d"] {
        c.set(0, name, Int(1));
    }
    let names: Vec<&str> = c.columns.iter().map(|c| c.name.as_str()).collect();
    assert_eq!(names, ["a", "b"]);
    assert_eq!(c.overflow_names, ["c", "d"]);
}

/// A cell by two made-up numbers.
fn cell((kind, value): (u8, u8)) -> Cell<'static> {
    let texts = ["true", "200", "0.5", "", "a", "-1"];
    let text = texts[usize::from(value) % texts.len()];
    match kind % 6 {
        0 => Bool(value % 2 == 0),
        1 => Int(i64::from(value) - 2),
        2 => Double([0.5, 200.0, -0.0, f64::NAN][usize::from(value) % 4]),
        3 => Json("[1]"),
        _ => Text(text),
    }
}

proptest! {
    /// What goes straight into arrays comes out as what is looked at value by value.
    #[test]
    fn columns_are_as_their_values(
        kinds in prop::collection::vec(0..6_u8, 4),
        rows in prop::collection::vec(prop::collection::vec((0..4_usize, any::<(u8, u8)>()), 0..6), 0..12),
    ) {
        const NAMES: [&str; 4] = ["a", "body", "http.response.status_code", "user.id"];
        let mut columns = AttributeColumns::new(Signal::Logs, (rows.len(), 100), &[]);
        let mut expect: Vec<(String, Sparse)> = Vec::new();
        for (i, row) in rows.iter().enumerate() {
            for (name, (kind, value)) in row {
                // Mostly all of one kind.
                let kind = if kind % 8 == 0 { kind / 8 } else { kinds[*name] };
                columns.set(i, NAMES[*name], cell((kind, *value)));
                let name = attribute_column(&Signal::Logs, NAMES[*name]).into_owned();
                let at = expect.iter().position(|c| c.0 == name).unwrap_or_else(|| {
                    expect.push((name, Sparse::default()));
                    expect.len() - 1
                });
                if expect[at].1.rows.last() != Some(&(i as u32)) {
                    expect[at].1.push(i, cell((kind, *value)));
                }
            }
        }
        let got = columns.finish().unwrap();
        prop_assert_eq!(got.len(), expect.len());
        for ((field, array), (name, values)) in got.iter().zip(&expect) {
            let (expect, json) = build::array(values, name, rows.len()).unwrap();
            prop_assert_eq!(field.name(), name);
            prop_assert_eq!(field.metadata().contains_key(META_JSON), json);
            prop_assert_eq!(array.to_data(), expect.to_data());
        }
    }
}

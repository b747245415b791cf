//! Single keys out of the JSON column `attributes`, without building what is not asked for.

use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, ArrayBuilder, ArrayRef, AsArray, StringBuilder};
use hashbrown::HashMap;
use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;
use weir_pipeline::entity::double_text;

/// The values of `keys`, as text, one array per key; `None` for a key that no row has. Text stands
/// without quotes, everything else as its JSON; null, a missing key and a row that is no object
/// are NULL.
pub(super) fn extract(attributes: &ArrayRef, keys: &[&str]) -> Vec<Option<ArrayRef>> {
    let mut columns: Vec<Option<StringBuilder>> = keys.iter().map(|_| None).collect();
    let places: HashMap<&str, usize> = keys.iter().enumerate().map(|(i, key)| (*key, i)).collect();
    let texts = attributes.as_string_opt::<i32>().into_iter().flatten();
    for (row, text) in texts.enumerate() {
        let Some(text) = text else { continue };
        let mut json = serde_json::Deserializer::from_str(text);
        // A row that is no JSON object has none of the keys.
        let _ = Keys { places: &places, row, columns: &mut columns }.deserialize(&mut json);
    }
    let finish = |mut column: StringBuilder| {
        column.append_nulls(attributes.len() - column.len());
        Arc::new(column.finish()) as ArrayRef
    };
    columns.into_iter().map(|column| column.map(finish)).collect()
}

struct Keys<'a> {
    places: &'a HashMap<&'a str, usize>,
    row: usize,
    columns: &'a mut [Option<StringBuilder>],
}

impl Keys<'_> {
    /// The first value counts, should an object have a key twice.
    fn put(&mut self, place: usize, text: &str) {
        let column = self.columns[place].get_or_insert_default();
        if let Some(before) = self.row.checked_sub(column.len()) {
            column.append_nulls(before);
            column.append_value(text);
        }
    }
}

impl<'de> DeserializeSeed<'de> for Keys<'_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Keys<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<std::borrow::Cow<'de, str>>()? {
            match self.places.get(&*key).copied() {
                None => drop(map.next_value::<IgnoredAny>()?),
                Some(i) => {
                    if let Some(text) = text(map.next_value::<Value>()?) {
                        self.put(i, &text);
                    }
                }
            }
        }
        Ok(())
    }
}

fn text(value: Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text),
        // As a column of doubles reads when it is widened to text.
        Value::Number(n) if n.is_f64() => n.as_f64().map(double_text),
        other => Some(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::StringArray;

    use super::*;

    #[test]
    fn keys_come_out_as_text() {
        let rows = StringArray::from(vec![
            Some(r#"{"a": "x\ny", "http.route": 12, "c": {"d": [1]}}"#),
            Some(r#"{"a": null, "http.route": -1.5}"#),
            None,
            Some("no json"),
            Some(r#"["a"]"#),
            Some(r#"{"http.route": true, "a": ""}"#),
        ]);
        let rows: ArrayRef = Arc::new(rows);
        let got = extract(&rows, &["a", "http.route", "c"]);
        let expect = [
            vec![Some("x\ny"), None, None, None, None, Some("")],
            vec![Some("12"), Some("-1.5"), None, None, None, Some("true")],
            vec![Some(r#"{"d":[1]}"#), None, None, None, None, None],
        ];
        for (got, expect) in got.iter().zip(expect) {
            let got = got.as_ref().map(|g| g.as_string::<i32>());
            assert_eq!(got, Some(&StringArray::from(expect)));
        }
        assert!(extract(&rows, &["nowhere"])[0].is_none());
    }
}

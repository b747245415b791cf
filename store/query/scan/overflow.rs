//! Single keys out of the JSON column `attributes`, without building what is not asked for.

use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, StringBuilder, new_null_array};
use arrow::datatypes::DataType;
use hashbrown::HashMap;
use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;
use weir_pipeline::entity::double_text;

/// The values of `keys`, as text, one array per key. Text stands without quotes, everything else
/// as its JSON; null, a missing key and a row that is no object are NULL.
pub(super) fn extract(attributes: &ArrayRef, keys: &[&str]) -> Vec<ArrayRef> {
    let Some(texts) = attributes.as_string_opt::<i32>() else {
        return keys.iter().map(|_| new_null_array(&DataType::Utf8, attributes.len())).collect();
    };
    let mut columns: Vec<StringBuilder> = keys.iter().map(|_| StringBuilder::new()).collect();
    let mut found: Vec<Option<String>> = vec![None; keys.len()];
    let places: HashMap<&str, usize> = keys.iter().enumerate().map(|(i, key)| (*key, i)).collect();
    for i in 0..texts.len() {
        found.iter_mut().for_each(|f| *f = None);
        if texts.is_valid(i) {
            let mut json = serde_json::Deserializer::from_str(texts.value(i));
            // A row that is no JSON object has none of the keys.
            let _ = Keys { places: &places, found: &mut found }.deserialize(&mut json);
        }
        for (column, value) in columns.iter_mut().zip(&mut found) {
            column.append_option(value.take());
        }
    }
    columns.into_iter().map(|mut c| Arc::new(c.finish()) as ArrayRef).collect()
}

struct Keys<'a> {
    places: &'a HashMap<&'a str, usize>,
    found: &'a mut [Option<String>],
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

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<std::borrow::Cow<'de, str>>()? {
            match self.places.get(&*key).copied() {
                None => drop(map.next_value::<IgnoredAny>()?),
                Some(i) => self.found[i] = text(map.next_value::<Value>()?),
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
            assert_eq!(got.as_string::<i32>(), &StringArray::from(expect));
        }
    }
}

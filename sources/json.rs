//! Writing JSON text straight into a `String`.

use std::fmt::Write;

/// Writes `text` as a JSON string.
pub(crate) fn text(text: &str, out: &mut String) {
    out.push('"');
    let mut plain = 0;
    for (i, c) in text.bytes().enumerate() {
        let escape: &str = match c {
            b'"' => "\\\"",
            b'\\' => "\\\\",
            b'\n' => "\\n",
            b'\r' => "\\r",
            b'\t' => "\\t",
            0..0x20 => "",
            _ => continue,
        };
        // Every byte below 0x80 is a whole character, so the cuts are character boundaries.
        out.push_str(&text[plain..i]);
        if escape.is_empty() {
            let _ = write!(out, "\\u{c:04x}");
        } else {
            out.push_str(escape);
        }
        plain = i + 1;
    }
    out.push_str(&text[plain..]);
    out.push('"');
}

/// Writes a double: the shortest form that reads back to the same bits, with a fraction or an
/// exponent so that it stays a double; what JSON has no number for is a string, as in OTLP/JSON.
pub(crate) fn double(v: f64, out: &mut String) {
    if v.is_nan() {
        out.push_str("\"NaN\"");
    } else if v.is_infinite() {
        out.push_str(if v > 0.0 { "\"Infinity\"" } else { "\"-Infinity\"" });
    } else {
        let _ = write!(out, "{v:?}");
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn text_reads_back(s in any::<String>()) {
            let mut out = String::new();
            super::text(&s, &mut out);
            prop_assert_eq!(serde_json::from_str::<String>(&out).unwrap(), s);
        }

        #[test]
        fn doubles_read_back(v in any::<f64>()) {
            let mut out = String::new();
            super::double(v, &mut out);
            if v.is_finite() {
                let back: f64 = out.parse().unwrap();
                prop_assert_eq!(back.to_bits(), v.to_bits());
                prop_assert!(serde_json::from_str::<serde_json::Value>(&out).unwrap().is_f64());
            }
        }
    }
}

//! Real clients send; every value comes back from SQL as sent, under its own name.

mod otel;
mod prometheus;
mod syslog;
mod window;

use serde_json::Value;

/// Compares rows with what is expected, column by column: columns that are not expected may be
/// there, too.
fn assert_rows(got: &[Value], expect: &Value) {
    let expect = expect.as_array().unwrap();
    assert_eq!(got.len(), expect.len(), "{got:#?}");
    for (got, expect) in got.iter().zip(expect) {
        for (name, value) in expect.as_object().unwrap() {
            assert_eq!(got.get(name), Some(value), "`{name}` of {got:#}");
        }
    }
}

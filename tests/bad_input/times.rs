//! Times of 1970, 2099 and past all times.

use serde_json::json;

use super::Bench;

#[test]
fn times_far_away() {
    let bench = Bench::start();
    let reply = bench.logs(&json!([
        { "timeUnixNano": "1", "body": { "stringValue": "1970" } },
        { "timeUnixNano": "4070908800000000000", "body": { "stringValue": "2099" } },
        { "timeUnixNano": "18446744073709551615", "body": { "stringValue": "2554" } },
    ]));
    assert_eq!(reply.status, 200, "{}", reply.text());
    // No time past 2262 can be kept: this record is refused, and the sender is told.
    let partial = &reply.json()["partialSuccess"];
    assert_eq!(partial["rejectedLogRecords"], "1", "{}", reply.text());
    let old = "SELECT timestamp FROM logs WHERE body = '1970'";
    let old = bench.server.wait_sql(old, |r| r.len() == 1);
    assert_eq!(old[0]["timestamp"], "1970-01-01T00:00:00.000000001Z");
    // The store sets rows far ahead aside, so that they do not hide what is new.
    let ahead = bench.server.wait_sql("SELECT timestamp, body FROM logs.late", |r| r.len() == 1);
    assert_eq!(ahead[0]["timestamp"], "2099-01-01T00:00:00.000000000Z");
    assert_eq!(bench.server.sql("SELECT * FROM logs WHERE body = '2099'").len(), 0);
    // Windows leave such rows out, and go on to count what is good.
    let counted = "SELECT sum(total) AS n FROM windows";
    bench.server.wait_sql(counted, |r| r.first().is_some_and(|r| r["n"] == 1));
    bench.finish();
}

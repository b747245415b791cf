use serde_json::{Value, json};

use super::*;

fn component(pipeline: &str, id: &str, rows_in: i64, rows_out: i64) -> Value {
    json!({
        "pipeline": pipeline, "component": id,
        "reading": {"rows_in": rows_in, "rows_out": rows_out, "last_activity": 5_000_000_000_i64},
    })
}

fn status(components: &[Value]) -> Value {
    let node = |id: &str, kind: &str, class: &str, input: &str| json!({"id": id, "kind": kind, "class": class, "inputs": [input]});
    json!({
        "version": "0.1.0", "started": 0, "time": 10_000_000_000_i64, "ready": true,
        "reload": {"ok": true, "files": [{"path": "a.toml", "state": "live"}], "time": 1},
        "sources": [{"id": "otlp", "kind": "otlp", "running": true, "listens": ["127.0.0.1:4317"]}],
        "pipelines": [{"name": "shop", "file": "shop.toml", "state": "running", "nodes": [
            node("clean", "filter", "operator", "otlp.logs"),
            node("again", "vrl", "operator", "clean"),
            node("logs", "store", "sink", "again"),
        ]}],
        "components": components, "alerts": {"alerts": [], "notifications": []}, "problems": [],
    })
}

/// The line that the mark follows.
fn stop(components: &[Value]) -> Vec<String> {
    let text = render(&status(components));
    let lines: Vec<&str> = text.lines().collect();
    let marked = |i: &usize| lines[*i].contains("<-- stops here");
    let marks = (0..lines.len()).filter(marked);
    marks.map(|i| format!("{} {}", lines[i - 1].trim(), lines[i].trim())).collect()
}

#[test]
fn marks_the_first_place_where_flow_stops() {
    let silent: [Value; 0] = [];
    assert_eq!(stop(&silent), ["no entry yet <-- stops here: nothing was sent to 127.0.0.1:4317"]);
    let flows = [
        component("", "otlp", 9, 9),
        component("shop", "clean", 9, 9),
        component("shop", "again", 9, 9),
        component("shop", "logs", 9, 9),
    ];
    assert!(stop(&flows).is_empty());
    let dropped = [component("", "otlp", 9, 9), component("shop", "clean", 9, 0)];
    assert_eq!(
        stop(&dropped),
        ["otlp.logs -> clean (filter operator): in 9, out 0 \
          <-- stops here: all rows were dropped or failed"]
    );
}

#[test]
fn tells_fine_from_degraded() {
    let fine = status(&[]);
    assert!(!degraded(&fine) && render(&fine).ends_with("weir is fine\n"));
    let mut worse = fine.clone();
    worse["problems"] = json!(["pipeline `shop`: disk full\u{1b}[2J"]);
    let text = render(&worse);
    assert!(degraded(&worse) && text.contains("disk full\\u{1b}[2J"), "{text}");
    let mut undelivered = fine.clone();
    undelivered["alerts"]["notifications"] = json!([{"target": "a/slack:#x", "error": "403"}]);
    assert!(degraded(&undelivered));
}

#[test]
fn quantities_are_readable() {
    for (ns, expected) in [(0, "0.0 s"), (90_000_000_000, "90 s"), (7_200_000_000_000, "2 h")] {
        assert_eq!(duration(ns), expected);
    }
    assert_eq!(bytes(10), "10 bytes");
    assert_eq!(bytes(3 << 20), "3.0 MiB");
}

//! What differs, for people: `+` is added or would have fired, `-` is gone or would not have fired,
//! `~` is changed, `=` is the same.

use serde_json::{Map, Value};

use crate::check::count;
use crate::status::list;
use crate::status::text::{line, text};

/// How far what belongs to a line is indented below it.
const BELOW: usize = 4;
/// Longest row on a line, in characters; `--format json` has all of it.
const ROW_CHARS_MAX: usize = 200;

/// All of it.
pub(super) fn render(report: &Value) -> String {
    let mut out = String::new();
    for diagnostic in list(&report["diagnostics"]) {
        line(&mut out, 0, &format!("{}\n", text(diagnostic).trim_end()));
    }
    line(&mut out, 0, &head(report));
    for note in list(&report["notes"]) {
        line(&mut out, 0, &format!("note: {}", text(note)));
    }
    for pipeline in list(&report["pipelines"]) {
        pipeline_lines(&mut out, pipeline);
    }
    line(&mut out, 0, &sum(report));
    out
}

fn head(report: &Value) -> String {
    let place = |key: &str| {
        let (position, time) = (number(&report[key]["position"]), &report[key]["time"]);
        format!("{position} ({})", time_of(time))
    };
    let began = number(&report["began"]["position"]);
    if number(&report["from"]["position"]) == 0 {
        return "replay of nothing".to_owned();
    }
    let warm = match began < number(&report["from"]["position"]) {
        true => format!(", warmed up from entry {began} on"),
        false => String::new(),
    };
    let entries = many(number(&report["entries"]), "entry", "entries");
    let seconds = report["seconds"].as_f64().unwrap_or_default();
    format!(
        "replay of entries {} to {}: {entries}{warm}, {seconds:.1} s",
        place("from"),
        place("to")
    )
}

fn pipeline_lines(out: &mut String, pipeline: &Value) {
    let (name, file) = (text(&pipeline["name"]), text(&pipeline["file"]));
    let (sign, what) = match text(&pipeline["change"]) {
        "unchanged" => ('=', "as it runs".to_owned()),
        "new" => ('+', format!("new ({file})")),
        "removed" => ('-', "removed".to_owned()),
        change => ('~', format!("{change} ({file})")),
    };
    let rows = many(number(&pipeline["rows"]), "row", "rows");
    line(out, 0, &format!("{sign} pipeline {name}  {what}, {rows} from its sources"));
    for note in list(&pipeline["notes"]) {
        line(out, BELOW, text(note));
    }
    for output in list(&pipeline["outputs"]) {
        output_lines(out, output);
    }
    for alert in list(&pipeline["alerts"]) {
        alert_lines(out, alert);
    }
    for node in list(&pipeline["nodes"]) {
        node_line(out, node);
    }
}

fn output_lines(out: &mut String, output: &Value) {
    let class = match text(&output["class"]) {
        "late" => "late rows of",
        class => class,
    };
    let of = |key: &str| number(&output[key]);
    let parts = [("added", "added"), ("gone", "gone"), ("changed", "changed")];
    let differs = parts.iter().filter(|(key, _)| of(key) > 0);
    let differs: Vec<String> = differs.map(|(key, word)| format!("{} {word}", of(key))).collect();
    let name = text(&output["name"]);
    let (live, edited) = (of("live"), of("edited"));
    if differs.is_empty() {
        let rows = many(edited, "row", "rows");
        line(out, BELOW, &format!("= {class} {name}: the same {rows}"));
        return;
    }
    let rows = if live == edited {
        many(live, "row", "rows")
    } else {
        format!("{live} rows live, {edited} edited")
    };
    line(out, BELOW, &format!("~ {class} {name}: {rows}: {}", differs.join(", ")));
    if let Some(columns) = output["columns"].as_object().filter(|c| !c.is_empty()) {
        let columns: Vec<String> = columns.iter().map(|(n, c)| format!("{n} ({c})")).collect();
        line(out, 2 * BELOW, &format!("changed columns: {}", columns.join(", ")));
    }
    let samples = &output["samples"];
    for (sign, key) in [('+', "added"), ('-', "gone")] {
        for sample in list(&samples[key]) {
            let row = cut(&sample["row"].to_string());
            line(out, 2 * BELOW, &format!("{sign} entry {}: {row}", sample["position"]));
        }
        more(out, of(key), list(&samples[key]).len(), key);
    }
    for sample in list(&samples["changed"]) {
        let values: Vec<String> = list(&sample["columns"])
            .iter()
            .map(|name| {
                let value = |side: &str| match sample[side].get(text(name)) {
                    Some(value) => value.to_string(),
                    None => "nothing".to_owned(),
                };
                format!("{}: {} -> {}", text(name), value("live"), value("edited"))
            })
            .collect();
        let (values, row) = (cut(&values.join(", ")), rest_of(sample));
        line(out, 2 * BELOW, &format!("~ entry {}: {values}, of {row}", sample["position"]));
    }
    more(out, of("changed"), list(&samples["changed"]).len(), "changed");
}

/// What a changed row has on both sides.
fn rest_of(sample: &Value) -> String {
    let mut row = sample["edited"].as_object().cloned().unwrap_or_default();
    row.retain(|name, _| list(&sample["columns"]).iter().all(|column| column != name));
    cut(&Value::Object(row).to_string())
}

fn more(out: &mut String, all: i64, shown: usize, what: &str) {
    let rest = usize::try_from(all).unwrap_or_default().saturating_sub(shown);
    if rest > 0 {
        line(out, 2 * BELOW, &format!("  and {rest} more {what}"));
    }
}

fn alert_lines(out: &mut String, alert: &Value) {
    let of = |key: &str| number(&alert[key]);
    let parts = [
        ("fires", "would have fired"),
        ("silent", "would not have fired"),
        ("changed", "would have fired otherwise"),
    ];
    let differs = parts.iter().filter(|(key, _)| of(key) > 0);
    let differs: Vec<String> = differs.map(|(key, word)| format!("{} {word}", of(key))).collect();
    let name = text(&alert["alert"]);
    let (live, edited) = (of("live"), of("edited"));
    if differs.is_empty() {
        let times = many(edited, "time", "times");
        line(out, BELOW, &format!("= alert {name}: fires the same {times}"));
        return;
    }
    let mut times = format!("fired {}, edited {edited}", many(live, "time", "times"));
    let (live, edited) = (of("live_before"), of("edited_before"));
    if live + edited > 0 {
        times += &format!(" ({live} and {edited} since before)");
    }
    line(out, BELOW, &format!("~ alert {name}: {times}: {}", differs.join(", ")));
    for sample in list(&alert["samples"]) {
        let labels = labels(sample["labels"].as_object());
        let (live, edited) = (&sample["live"], &sample["edited"]);
        let (sign, what) = match text(&sample["kind"]) {
            "fires" => ('+', firing(edited)),
            "silent" => ('-', firing(live)),
            _ => ('~', format!("{}; edited: {}", firing(live), firing(edited))),
        };
        line(out, 2 * BELOW, &format!("{sign} {{{labels}}} {what}"));
    }
    for (key, what) in parts {
        let samples = list(&alert["samples"]).iter();
        more(out, of(key), samples.filter(|s| s["kind"] == key).count(), what);
    }
}

fn labels(labels: Option<&Map<String, Value>>) -> String {
    let labels = labels.into_iter().flatten().filter(|(name, _)| *name != "alertname");
    let labels: Vec<String> =
        labels.map(|(name, value)| format!("{name}={}", text(value))).collect();
    labels.join(", ")
}

fn firing(firing: &Value) -> String {
    let from = match firing["before"].as_bool() {
        Some(true) => "from before".to_owned(),
        _ => format!("from {}", time_of(&firing["from"])),
    };
    let to = match firing["to"].is_null() {
        true => "to the end".to_owned(),
        false => format!("to {}", time_of(&firing["to"])),
    };
    let summary = firing["annotations"]["summary"].as_str();
    let summary = summary.map_or(String::new(), |s| format!(": {}", cut(s)));
    format!("{from} {to}{summary}")
}

/// What a node counts that people should know: what failed and what came late.
fn node_line(out: &mut String, node: &Value) {
    let parts = [("errors", "failed"), ("late", "late")];
    let mut said = Vec::new();
    for (key, word) in parts {
        let (live, edited) = (number(&node["live"][key]), number(&node["edited"][key]));
        if live != edited {
            said.push(format!("{live} rows {word} live, {edited} edited"));
        }
    }
    if !said.is_empty() {
        let (class, id) = (text(&node["class"]), text(&node["id"]));
        line(out, BELOW, &format!("! {class} {id}: {}", said.join("; ")));
    }
}

/// "replay: 1 of 2 pipelines differs".
fn sum(report: &Value) -> String {
    let pipelines = list(&report["pipelines"]);
    let rows = |key: &str| -> i64 {
        pipelines.iter().flat_map(|p| list(&p["outputs"])).map(|o| number(&o[key])).sum()
    };
    let alerts = |key: &str| -> i64 {
        pipelines.iter().flat_map(|p| list(&p["alerts"])).map(|a| number(&a[key])).sum()
    };
    let short = match report["complete"].as_bool() {
        Some(true) => String::new(),
        _ => format!(
            "\nNOT COMPLETE, what is above holds up to entry {}: {}",
            report["to"]["position"],
            text(&report["why"])
        ),
    };
    if report["same"].as_bool() == Some(true) {
        return format!("replay: nothing differs in {}{short}", count(pipelines.len(), "pipeline"));
    }
    format!(
        "replay: rows: {} added, {} gone, {} changed; \
         alerts: {} would have fired, {} would not, {} otherwise{short}",
        rows("added"),
        rows("gone"),
        rows("changed"),
        alerts("fires"),
        alerts("silent"),
        alerts("changed"),
    )
}

fn number(value: &Value) -> i64 {
    value.as_i64().unwrap_or_default()
}

fn many(n: i64, one: &str, more: &str) -> String {
    if n == 1 { format!("1 {one}") } else { format!("{n} {more}") }
}

/// UTC nanoseconds as RFC 3339, to the millisecond.
fn time_of(value: &Value) -> String {
    let time = jiff::Timestamp::from_nanosecond(i128::from(number(value)));
    time.map_or_else(|_| value.to_string(), |t| t.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string())
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(ROW_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn signs_counts_and_samples() {
        let place =
            |position: i64| json!({ "position": position, "time": position * 1_000_000_000 });
        let row = |body: &str| json!({ "position": 7, "row": { "body": body } });
        let failed = json!({
            "class": "table", "name": "failed", "live": 9, "edited": 6, "added": 1, "gone": 4,
            "changed": 2, "columns": { "a": 2 },
            "samples": {
                "added": [row("new\u{1b}")], "gone": [row("old")],
                "changed": [{
                    "position": 8, "columns": ["a", "b"], "live": { "a": 1, "x": 2 },
                    "edited": { "a": 2, "b": "y", "x": 2 },
                }],
            },
        });
        let late = json!({ "class": "late", "name": "w", "live": 1, "edited": 1 });
        let slow = json!({ "summary": "slow" });
        let fires =
            |to: Value| json!({ "from": 1_000_000_000, "to": to, "annotations": slow.clone() });
        let labels = json!({ "alertname": "a", "service": "cart" });
        let alert = json!({
            "alert": "a", "live": 1, "edited": 2, "live_before": 1,
            "fires": 1, "silent": 0, "changed": 1,
            "samples": [
                { "kind": "fires", "labels": labels, "edited": fires(2_000_000_000.into()) },
                { "kind": "changed", "labels": labels, "live": { "before": true, "to": null },
                  "edited": fires(Value::Null) },
            ],
        });
        let late_rows = |n: i64| json!({ "late": n, "errors": 0 });
        let (one, three) = (late_rows(1), late_rows(3));
        let node = json!({ "id": "w", "class": "operator", "live": one, "edited": three });
        let report = json!({
            "same": false, "complete": false, "why": "it may take 900 s", "began": place(1),
            "from": place(5), "to": place(90), "entries": 1, "seconds": 0.25,
            "notes": ["take care"],
            "diagnostics": ["warning[W027]: nobody reads\n"],
            "pipelines": [{
                "name": "shop", "file": "a.toml", "change": "changed", "rows": 1, "notes": ["well"],
                "outputs": [failed, late], "alerts": [alert], "nodes": [node],
            }],
        });
        let expected = "\
warning[W027]: nobody reads

replay of entries 5 (1970-01-01T00:00:05.000Z) to 90 (1970-01-01T00:01:30.000Z): 1 entry, warmed \
up from entry 1 on, 0.2 s
note: take care
~ pipeline shop  changed (a.toml), 1 row from its sources
    well
    ~ table failed: 9 rows live, 6 edited: 1 added, 4 gone, 2 changed
        changed columns: a (2)
        + entry 7: {\"body\":\"new\\u001b\"}
        - entry 7: {\"body\":\"old\"}
          and 3 more gone
        ~ entry 8: a: 1 -> 2, b: nothing -> \"y\", of {\"x\":2}
          and 1 more changed
    = late rows of w: the same 1 row
    ~ alert a: fired 1 time, edited 2 (1 and 0 since before): 1 would have fired, \
1 would have fired otherwise
        + {service=cart} from 1970-01-01T00:00:01.000Z to 1970-01-01T00:00:02.000Z: slow
        ~ {service=cart} from before to the end; edited: from 1970-01-01T00:00:01.000Z to the end: \
slow
    ! operator w: 1 rows late live, 3 edited
replay: rows: 1 added, 4 gone, 2 changed; alerts: 1 would have fired, 0 would not, 1 otherwise
NOT COMPLETE, what is above holds up to entry 90: it may take 900 s
";
        assert_eq!(render(&report), expected);
        let same = json!({
            "same": true, "complete": true, "from": place(0), "pipelines": [],
        });
        assert_eq!(render(&same), "replay of nothing\nreplay: nothing differs in 0 pipelines\n");
    }
}

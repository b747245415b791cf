//! The plan for people: what is wrong, then `+` starts, `~` changes, `-` goes, `=` stays.

use serde_json::Value;

use crate::status::list;
use crate::status::text::{line, text};

/// How far what belongs to a line is indented below it.
const BELOW: usize = 4;

/// All of it.
pub(super) fn render(planned: &Value) -> String {
    let mut out = String::new();
    for diagnostic in list(&planned["diagnostics"]) {
        line(&mut out, 0, &format!("{}\n", text(diagnostic).trim_end()));
    }
    for file in list(&planned["files"]) {
        let what = match text(&file["state"]) {
            "kept" => "has a mistake, its last good version runs",
            "left_out" => "has a mistake, left out",
            _ => continue,
        };
        line(&mut out, 0, &format!("{}: {what}", text(&file["path"])));
    }
    let sources = list(&planned["sources"]);
    let pipelines = list(&planned["pipelines"]);
    let lookups = list(&planned["lookups"]);
    let heads = sources.iter().map(|s| head_of("source", &s["id"]));
    let heads = heads.chain(pipelines.iter().map(|p| head_of("pipeline", &p["name"])));
    let heads: Vec<String> =
        heads.chain(lookups.iter().map(|l| head_of("lookup", &l["id"]))).collect();
    let width = width(&heads);
    for (source, head) in sources.iter().zip(&heads) {
        let (sign, what) = source_line(source);
        line(&mut out, 0, &format!("{sign} {head:width$}  {what}"));
    }
    for (pipeline, head) in pipelines.iter().zip(&heads[sources.len()..]) {
        let (sign, what) = pipeline_line(pipeline);
        line(&mut out, 0, &format!("{sign} {head:width$}  {what}"));
        for note in list(&pipeline["notes"]) {
            line(&mut out, BELOW, text(note));
        }
        nodes(&mut out, list(&pipeline["nodes"]));
    }
    for (lookup, head) in lookups.iter().zip(&heads[sources.len() + pipelines.len()..]) {
        let (sign, what) = lookup_line(lookup);
        line(&mut out, 0, &format!("{sign} {head:width$}  {what}"));
        if let Some(why) = lookup["why"].as_str() {
            let known = lookup["rows"].is_u64();
            let rows = if known { ", the rows before stay" } else { "" };
            let said = if known { "cannot be read" } else { "has no rows" };
            line(&mut out, BELOW, &format!("{said}{rows}: {why}"));
        }
    }
    line(&mut out, 0, &sum(planned));
    out
}

fn head_of(what: &str, id: &Value) -> String {
    format!("{what:8} {}", text(id))
}

fn width(texts: &[String]) -> usize {
    texts.iter().map(|t| t.chars().count()).max().unwrap_or_default()
}

fn source_line(source: &Value) -> (char, String) {
    let (sign, what) = match text(&source["change"]) {
        "kept" => ('=', "unchanged".to_owned()),
        "settings" => ('~', "new settings behind its open sockets".to_owned()),
        "restarted" => {
            let (was, kind) = (text(&source["was"]), text(&source["kind"]));
            ('~', format!("restarted: its type changes from `{was}` to `{kind}`"))
        }
        "new" => ('+', format!("starts ({})", text(&source["kind"]))),
        _ => ('-', "stops".to_owned()),
    };
    let mut what = what;
    let addresses = [("opens", "opens"), ("closes", "closes"), ("refused", "could not open")];
    for (key, verb) in addresses {
        for address in list(&source[key]) {
            what += &format!(", {verb} {}", text(address));
        }
    }
    (sign, what)
}

fn lookup_line(lookup: &Value) -> (char, String) {
    let (file, kind) = (text(&lookup["file"]), text(&lookup["kind"]));
    let rows = |key: &str| lookup[key].as_u64().unwrap_or_default();
    match text(&lookup["change"]) {
        "unchanged" => ('=', "unchanged".to_owned()),
        "changed" => {
            ('~', format!("other rows: {} instead of {} ({file})", rows("rows"), rows("was")))
        }
        "new" => ('+', format!("{kind} table with {} rows ({file})", rows("rows"))),
        "pending" => ('+', format!("{kind} table, pending ({file})")),
        _ => ('-', format!("removed ({file})")),
    }
}

fn pipeline_line(pipeline: &Value) -> (char, String) {
    let file = text(&pipeline["file"]);
    match text(&pipeline["change"]) {
        "unchanged" => ('=', "unchanged".to_owned()),
        "changed" => ('~', format!("changes ({file})")),
        "renamed" => ('~', format!("renamed: it was `{}` ({file})", text(&pipeline["was"]))),
        "new" => ('+', format!("starts ({file})")),
        "back" => ('+', format!("comes back ({file})")),
        _ => ('-', format!("removed ({file})")),
    }
}

/// The nodes, in columns.
fn nodes(out: &mut String, nodes: &[Value]) {
    let of = |key: &str| nodes.iter().map(|n| text(&n[key]).to_owned()).collect::<Vec<_>>();
    let (id_width, kind_width) = (width(&of("id")), width(&kinds(nodes)));
    for (node, kind) in nodes.iter().zip(kinds(nodes)) {
        let (sign, what) = node_line(node);
        let id = text(&node["id"]);
        line(out, BELOW, &format!("{sign} {id:id_width$}  {kind:kind_width$}  {what}"));
        let shapes = &node["shapes"];
        if shapes.is_object() {
            // One below the other, so that the difference is seen.
            line(out, 2 * BELOW, &format!("from  {}", text(&shapes["from"])));
            line(out, 2 * BELOW, &format!("to    {}", text(&shapes["to"])));
        } else if let Some(why) = node["why"].as_str() {
            line(out, 2 * BELOW, why);
        }
    }
}

/// "window operator", "alert".
fn kinds(nodes: &[Value]) -> Vec<String> {
    let kind = |node: &Value| {
        let (kind, class) = (text(&node["kind"]), text(&node["class"]));
        if kind == class { class.to_owned() } else { format!("{kind} {class}") }
    };
    nodes.iter().map(kind).collect()
}

fn node_line(node: &Value) -> (char, String) {
    let (change, state) = (text(&node["change"]), text(&node["state"]));
    let sink = node["class"] == "sink";
    let sign = match change {
        "kept" => '=',
        "changed" => '~',
        "new" => '+',
        _ => '-',
    };
    let what = match (change, state) {
        ("kept", _) if sink => "unchanged",
        ("changed", _) if sink => "starts again; what it holds is written first",
        ("new", _) if sink => "new",
        ("removed", _) if sink => "removed; what it holds is written first",
        ("removed", "emitted") => "removed; emits what it holds first",
        ("removed", _) => match node["why"].as_str() {
            Some(_) => "goes",
            None => "removed",
        },
        (_, "dropped") => {
            let what = "STATE DROPPED, what it holds is lost: ";
            let why =
                if node["shapes"].is_object() { "the shape of its state changes" } else { "" };
            return (sign, format!("{what}{why}").trim_end_matches([':', ' ']).to_owned());
        }
        (_, "emitted") => "starts without state; what is held is emitted first",
        ("kept", "none") => "unchanged",
        ("kept", "empty") => "unchanged, starts without state",
        ("kept", _) => "unchanged, keeps its state",
        ("changed", "none") => "changes, has no state",
        ("changed", "empty") => "changes, starts without state",
        ("changed", _) => "changes, keeps its state",
        (_, "kept") => {
            return (sign, format!("new, takes over the state of `{}`", text(&node["was"])));
        }
        // There is one that it could take over.
        (_, "empty") if node["why"].is_string() => "new, starts without state",
        _ => "new",
    };
    (sign, what.to_owned())
}

/// "plan: 1 to change, 1 to start, 1 to remove, 2 unchanged; 3 of 4 files would be live".
fn sum(planned: &Value) -> String {
    let of = |key: &str, among: &[&str]| {
        list(&planned[key]).iter().filter(|p| among.contains(&text(&p["change"]))).count()
    };
    let all = |among: &[&str]| of("sources", among) + of("pipelines", among) + of("lookups", among);
    let change = all(&["changed", "renamed", "settings", "restarted"]);
    let (start, remove) = (all(&["new", "back", "pending"]), all(&["removed"]));
    let same = all(&["unchanged", "kept"]);
    let files = list(&planned["files"]);
    let live = files.iter().filter(|f| f["state"] == "live").count();
    format!(
        "plan: {change} to change, {start} to start, {remove} to remove, {same} unchanged; \
         {live} of {} files would be live",
        files.len()
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn columns_signs_and_reasons() {
        let node = |id: &str, kind: &str, change: &str, state: &str| json!({ "id": id, "kind": kind, "class": "operator", "change": change, "state": state });
        let mut dropped = node("slow", "window", "changed", "dropped");
        dropped["shapes"] = json!({ "from": "every 10", "to": "every 30" });
        let mut renamed = node("late", "window", "new", "kept");
        renamed["was"] = json!("old");
        let planned = json!({
            "ok": false,
            "diagnostics": ["error[W014]: no such field\n", "warning[W027]: nobody\u{1b} reads\n"],
            "files": [{ "path": "a.toml", "state": "kept" }, { "path": "b.toml", "state": "live" }],
            "sources": [{ "id": "otlp", "change": "settings", "opens": ["127.0.0.1:1/tcp"] }],
            "pipelines": [
                { "name": "logs", "change": "unchanged", "file": "logs.toml" },
                { "name": "b", "change": "changed", "file": "b.toml", "notes": ["take care"],
                  "nodes": [node("clean", "vrl", "kept", "none"), dropped, renamed] },
            ],
            "lookups": [
                { "id": "hosts", "file": "b.toml", "kind": "file", "change": "changed", "was": 2,
                  "rows": 3 },
                { "id": "teams", "file": "b.toml", "kind": "http_json", "change": "pending",
                  "why": "no answer within 30s" },
                { "id": "zones", "file": "b.toml", "kind": "file", "change": "unchanged", "was": 2,
                  "rows": 2, "why": "`z.csv` is empty" },
            ],
        });
        let expected = "\
error[W014]: no such field

warning[W027]: nobody\\u{1b} reads

a.toml: has a mistake, its last good version runs
~ source   otlp   new settings behind its open sockets, opens 127.0.0.1:1/tcp
= pipeline logs   unchanged
~ pipeline b      changes (b.toml)
    take care
    = clean  vrl operator     unchanged
    ~ slow   window operator  STATE DROPPED, what it holds is lost: the shape of its state changes
        from  every 10
        to    every 30
    + late   window operator  new, takes over the state of `old`
~ lookup   hosts  other rows: 3 instead of 2 (b.toml)
+ lookup   teams  http_json table, pending (b.toml)
    has no rows: no answer within 30s
= lookup   zones  unchanged
    cannot be read, the rows before stay: `z.csv` is empty
plan: 3 to change, 1 to start, 0 to remove, 2 unchanged; 1 of 2 files would be live
";
        assert_eq!(render(&planned), expected);
    }
}

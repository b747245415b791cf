//! `weir plan` says what the reload then does, and does nothing itself.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::harness::Server;

/// Stands for every secret.
const SENTINEL: &str = "sentinel-5ec3e7";

const SOURCES: &str = r#"
[sources.otlp]
type = "otlp"
http = "127.0.0.1:0"

[sources.lines]
type = "syslog"
listen = "127.0.0.2:0"
protocol = "tcp"
"#;

/// What becomes a pipeline of every kind of edit.
const SHOP: &str = r#"
[operators.clean]
type = "vrl"
inputs = ["otlp.logs"]
source = '.a = 1'

[operators.same]
type = "window"
inputs = ["otlp.logs"]
every = "1h"
[operators.same.aggregate]
rows = "count(*)"

[operators.later]
type = "window"
inputs = ["clean"]
every = "1h"
lateness = "1s"
[operators.later.aggregate]
rows = "count(*)"

[operators.shape]
type = "window"
inputs = ["otlp.logs"]
every = "1h"
[operators.shape.aggregate]
rows = "count(*)"

[operators.forgot]
type = "window"
inputs = ["otlp.logs"]
every = "2h"
[operators.forgot.aggregate]
rows = "count(*)"

[operators.told]
type = "window"
inputs = ["otlp.logs"]
every = "3h"
[operators.told.aggregate]
rows = "count(*)"

[sinks.raw]
type = "store"
inputs = ["clean"]
table = "raw"

[sinks.out]
type = "store"
inputs = ["same", "later", "shape", "forgot", "told"]
table = "windows"
"#;

/// One sink, on an input of its own.
fn small(table: &str) -> String {
    format!("[sinks.only]\ntype = \"store\"\ninputs = [\"otlp.logs\"]\ntable = \"{table}\"\n")
}

/// Files below a folder with their bytes.
fn bytes(folder: &Path, all: &mut BTreeMap<String, Vec<u8>>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            bytes(&path, all);
        } else {
            all.insert(path.display().to_string(), fs::read(&path).unwrap());
        }
    }
}

/// What a reload leaves behind and a plan must not: checkpoints, plans, texts that were good. The
/// checkpoints of the pipelines themselves go on meanwhile, so their number is not in it.
fn traces(server: &Server) -> Value {
    let mut files = BTreeMap::new();
    bytes(&server.path().join("data/plans"), &mut files);
    let good = server.path().join("data/last_good.json");
    files.insert("good".to_owned(), fs::read(good).unwrap());
    let folders = fs::read_dir(server.path().join("data/checkpoints")).unwrap();
    let mut folders: Vec<String> =
        folders.map(|f| f.unwrap().file_name().to_string_lossy().into_owned()).collect();
    folders.sort();
    let status = server.status();
    let hashes = list(&status["pipelines"]).iter().map(|p| json!([p["hash"], p["generation"]]));
    let sources: Vec<Value> = list(&status["sources"])
        .iter()
        .map(|s| json!([s["id"], s["kind"], s["generation"], s["listens"]]))
        .collect();
    json!({
        "files": files, "folders": folders, "pipelines": hashes.collect::<Vec<_>>(),
        "sources": sources, "reloads": status["reload"]["number"],
    })
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// The entry of `key` whose `id` or `name` is this.
fn find<'a>(value: &'a Value, key: &str, id: &str) -> &'a Value {
    let found = list(&value[key]).iter().find(|v| v["id"] == id || v["name"] == id);
    found.unwrap_or_else(|| panic!("no {id} in {value:#}"))
}

fn plan(server: &Server) -> (Option<i32>, Value) {
    let (code, text) = server.weir(&["plan", "--json"]);
    (code, serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}")))
}

/// Whether the outcome of a reload has an event with these parts.
fn happened(outcome: &Value, parts: &[&str]) -> bool {
    let events = list(&outcome["events"]);
    events.iter().any(|e| parts.iter().all(|part| e.as_str().unwrap().contains(part)))
}

/// Every kind of edit.
fn edited() -> String {
    SHOP.replace(".a = 1", ".a = 2")
        .replace("lateness = \"1s\"", "lateness = \"2s\"")
        .replace(
            "[operators.shape.aggregate]\nrows = \"count(*)\"",
            "[operators.shape.aggregate]\nall = \"count(*) FILTER (WHERE body = 'x')\"",
        )
        .replace("operators.forgot", "operators.renamed")
        .replace("\"forgot\"", "\"renamed\"")
        .replace("[operators.told]", "[operators.heard]\nwas = \"told\"")
        .replace("operators.told.", "operators.heard.")
        .replace("\"told\"]", "\"heard\"]")
        .replace("table = \"raw\"", "table = \"raws\"")
}

#[test]
fn the_reload_does_what_the_plan_said() {
    let files = [
        ("sources", SOURCES),
        ("shop", SHOP),
        ("gone", &small("gone")),
        ("old", &small("moved")),
        ("broken", &small("broken")),
        ("back", &small("back")),
        ("still", &small("still")),
    ];
    let server = Server::start(&files, Some("[server]\nwatch = false\n"));
    let folder = server.path().join("pipelines.d");
    // Of one pipeline there is nothing but a checkpoint.
    fs::remove_file(folder.join("back.toml")).unwrap();
    assert!(happened(&server.reload(), &["`back` removed"]));
    let (code, planned) = plan(&server);
    assert_eq!(code, Some(0), "{planned:#}");
    assert!(list(&planned["pipelines"]).iter().all(|p| p["change"] == "unchanged"), "{planned:#}");
    assert!(list(&planned["sources"]).iter().all(|s| s["change"] == "kept"), "{planned:#}");

    server.write("shop", &edited());
    fs::remove_file(folder.join("gone.toml")).unwrap();
    fs::rename(folder.join("old.toml"), folder.join("moved.toml")).unwrap();
    let secret = format!("token = \"{SENTINEL}\"\n");
    server.write("broken", &(small("broken") + &secret));
    server.write("back", &small("back"));
    server.write("fresh", &small("fresh"));
    let sources = SOURCES.replace("\"syslog\"", "\"otlp\"").replace("listen", "http");
    server.write("sources", &sources.replace("protocol = \"tcp\"\n", ""));

    let before = traces(&server);
    let (code, planned) = plan(&server);
    let (text_code, text) = server.weir(&["plan"]);
    assert_eq!(traces(&server), before, "a plan changes nothing");
    assert_eq!((code, text_code), (Some(1), Some(1)), "one file has a mistake\n{text}");
    for shown in [&text, &planned.to_string()] {
        assert!(!shown.contains(SENTINEL), "{shown}");
    }
    let change = |name: &str| find(&planned, "pipelines", name)["change"].clone();
    for (name, expected) in [
        ("shop", "changed"),
        ("gone", "removed"),
        ("moved", "renamed"),
        ("broken", "unchanged"),
        ("still", "unchanged"),
        ("back", "back"),
        ("fresh", "new"),
    ] {
        assert_eq!(change(name), expected, "{name}: {planned:#}");
    }
    let nodes = find(&planned, "pipelines", "shop");
    for (id, change, state) in [
        ("clean", "changed", "none"),
        ("same", "kept", "kept"),
        ("later", "changed", "kept"),
        ("shape", "changed", "dropped"),
        ("renamed", "new", "empty"),
        ("forgot", "removed", "emitted"),
        ("heard", "new", "kept"),
        ("raw", "changed", "none"),
    ] {
        let node = find(nodes, "nodes", id);
        assert_eq!((&node["change"], &node["state"]), (&json!(change), &json!(state)), "{node:#}");
    }
    assert_eq!(find(nodes, "nodes", "heard")["was"], "told");
    let hint = find(nodes, "nodes", "renamed")["why"].as_str().unwrap();
    assert!(hint.contains("`was = \"forgot\"`"), "{hint}");
    assert_eq!(find(&planned, "sources", "otlp")["change"], "kept");
    assert_eq!(find(&planned, "sources", "lines")["change"], "restarted");
    for line in [
        "broken.toml: has a mistake, its last good version runs",
        "= pipeline still   unchanged",
        "~ pipeline moved   renamed: it was `old`",
        "STATE DROPPED",
        "new, starts without state",
        "restarted: its type changes from `syslog` to `otlp`",
    ] {
        assert!(text.contains(line), "no `{line}` in\n{text}");
    }

    let running = server.status();
    let outcome = server.reload();
    assert_eq!(outcome["ok"], planned["ok"], "{outcome:#}");
    assert_eq!(outcome["files"], planned["files"]);
    assert_eq!(outcome["diagnostics"], planned["diagnostics"]);
    let after = server.status();
    for pipeline in list(&planned["pipelines"]) {
        let name = pipeline["name"].as_str().unwrap();
        let quoted = format!("`{name}`");
        let (verb, was) = match pipeline["change"].as_str().unwrap() {
            "unchanged" => {
                let generation =
                    |status: &Value| find(status, "pipelines", name)["generation"].clone();
                assert_eq!(generation(&after), generation(&running), "{name}");
                assert!(!happened(&outcome, &[&quoted]), "{name}: {outcome:#}");
                continue;
            }
            "new" => ("started behind", ""),
            "back" => ("started where it left off", ""),
            "renamed" => ("renamed: it was", pipeline["was"].as_str().unwrap()),
            verb => (verb, ""),
        };
        assert!(happened(&outcome, &[&quoted, verb, was]), "{name} {verb}: {outcome:#}");
    }
    // Exactly the states that the plan said are dropped, for the reasons that it gave.
    let dropped: Vec<&Value> =
        list(&nodes["nodes"]).iter().filter(|n| n["state"] == "dropped").collect();
    for node in &dropped {
        let parts = [node["id"].as_str().unwrap(), node["why"].as_str().unwrap()];
        assert!(happened(&outcome, &parts), "{parts:?}: {outcome:#}");
    }
    let events = list(&outcome["events"]).iter();
    let without = events.filter(|e| e.as_str().unwrap().contains("starts without state"));
    assert_eq!(without.count(), dropped.len(), "{outcome:#}");
    let (_, planned) = plan(&server);
    assert!(list(&planned["pipelines"]).iter().all(|p| p["change"] == "unchanged"), "{planned:#}");
}

//! `weir replay` finds exactly what an edit would have changed, and leaves no trace.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::harness::{Reply, Server, request, wait};

/// Stands for every secret.
const SENTINEL: &str = "sentinel-9b1f42";

const SOURCES: &str = "[sources.otlp]\ntype = \"otlp\"\nhttp = \"127.0.0.1:0\"\n";

const SHOP: &str = r#"
[operators.failed]
type = "filter"
inputs = ["otlp.logs"]
where = "severity_number >= 9"

[operators.clean]
type = "vrl"
inputs = ["otlp.logs"]
file = "clean.vrl"

[operators.per_second]
type = "window"
inputs = ["otlp.logs"]
every = "1s"
lateness = "1s"
group_by = ["service.name"]
[operators.per_second.aggregate]
n = "count(*)"

[sinks.failed_table]
type = "store"
inputs = ["failed"]
table = "failed"

[sinks.clean_table]
type = "store"
inputs = ["clean"]
table = "clean"

[sinks.counts]
type = "store"
inputs = ["per_second"]
table = "counts"

[alerts.burst]
inputs = ["per_second"]
when = "n > 1000"
by = ["service.name"]
summary = "{{ service.name }}: {{ n }} a second"
"#;

const CLEAN: &str = ".shop = \"a\"";

/// Rows that one request brings, half of them errors.
const ROWS: usize = 10;
/// Requests before and behind the middle.
const REQUESTS: usize = 4;

/// A server that has processed [`REQUESTS`] requests of `cart`, and then as many of `pay`. It does
/// not look at its files by itself.
struct Shop {
    server: Server,
    /// The entry behind which `pay` comes.
    middle: u64,
}

fn shop() -> Shop {
    let server = Server::prepare(&[("sources", SOURCES)], Some("[server]\nwatch = false\n"), &[]);
    fs::write(server.path().join("pipelines.d/clean.vrl"), CLEAN).unwrap();
    server.write("shop", SHOP);
    let mut server = server;
    server.restart();
    let mut middle = 0;
    for service in ["cart", "pay"] {
        middle = server.status()["journal"]["head"].as_u64().unwrap();
        (0..REQUESTS).for_each(|_| send(&server, service, ROWS));
    }
    let all = 2 * REQUESTS * ROWS;
    server.wait_sql("SELECT sum(n) AS n FROM counts", |r| r.first().is_some_and(|r| r["n"] == all));
    server.wait_sql("SELECT count(*) AS n FROM clean", |r| r[0]["n"] == all);
    Shop { server, middle }
}

/// Sends rows until they are acknowledged.
fn send(server: &Server, service: &str, rows: usize) {
    wait("an acknowledgement", || (send_once(server, service, rows).status == 200).then_some(()));
}

fn send_once(server: &Server, service: &str, rows: usize) -> Reply {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
    let records: Vec<Value> = (0..rows)
        .map(|i| {
            json!({
                "timeUnixNano": (now + i as u128).to_string(),
                "severityNumber": if i % 2 == 0 { 17 } else { 9 },
                "body": { "stringValue": format!("{service} {i} password={SENTINEL}") },
            })
        })
        .collect();
    let name = json!({ "key": "service.name", "value": { "stringValue": service } });
    let body = json!({
        "resourceLogs": [{
            "resource": { "attributes": [name] }, "scopeLogs": [{ "logRecords": records }],
        }],
    });
    let url = format!("http://{}/v1/logs", server.address("otlp"));
    let headers = [("content-type", "application/json")];
    request("POST", &url, &headers, serde_json::to_vec(&body).unwrap())
}

impl Shop {
    /// Writes an edited file with its program into a folder that is not the server's.
    fn edit(&self, name: &str, text: &str, program: &str) {
        let folder = self.server.path().join("edited");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(name), text).unwrap();
        fs::write(folder.join("clean.vrl"), program).unwrap();
    }

    /// The report on an edited file.
    fn replay(&self, arguments: &[&str]) -> Value {
        let all = [&["replay", "--format", "json"], arguments].concat();
        let (code, text) = self.server.weir(&all);
        assert_eq!(code, Some(0), "{text}");
        assert!(!text.contains(SENTINEL), "{text}");
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"))
    }

    /// What a replay must not change: tables, plans, alerts, what components have counted.
    fn traces(&self) -> Value {
        let status = self.server.status();
        let rows: Vec<Value> = status["components"]
            .as_array()
            .unwrap()
            .iter()
            .map(|c| {
                json!([
                    c["pipeline"],
                    c["component"],
                    c["reading"]["rows_in"],
                    c["reading"]["rows_out"]
                ])
            })
            .collect();
        let names = |folder: &str| {
            let files = fs::read_dir(self.server.path().join("data").join(folder)).unwrap();
            let mut names: Vec<String> =
                files.map(|f| f.unwrap().file_name().to_string_lossy().into_owned()).collect();
            names.sort();
            names
        };
        json!({
            "rows": rows, "alerts": status["alerts"], "plans": names("plans"),
            "checkpoints": names("checkpoints"), "tables": names("tables/default"),
            "reload": status["reload"],
        })
    }
}

/// An entry of a list by one of its values.
fn find<'a>(list: &'a Value, key: &str, value: &str) -> &'a Value {
    let found = list.as_array().unwrap().iter().find(|v| v[key] == value);
    found.unwrap_or_else(|| panic!("no {value} in {list:#}"))
}

/// (live, edited, added, gone, changed) of a table.
fn counts(report: &Value, table: &str) -> [u64; 5] {
    let output = find(&report["pipelines"][0]["outputs"], "name", table);
    ["live", "edited", "added", "gone", "changed"].map(|key| output[key].as_u64().unwrap())
}

#[test]
fn an_edit_is_held_against_what_runs() {
    let shop = shop();
    let before = shop.traces();
    let all = (2 * REQUESTS * ROWS) as u64;
    let edited = ["--from", "oldest", "--pipeline", "edited/shop.toml"];

    // The same file elsewhere.
    shop.edit("shop.toml", SHOP, CLEAN);
    let report = shop.replay(&edited);
    assert_eq!((&report["same"], &report["complete"]), (&json!(true), &json!(true)), "{report:#}");
    assert_eq!(counts(&report, "clean"), [all, all, 0, 0, 0]);
    assert_eq!(report["pipelines"][0]["rows"], all);

    // A filter: rows are gone.
    let text = SHOP.replace("severity_number >= 9", "severity_number >= 17");
    shop.edit("shop.toml", &text, CLEAN);
    let report = shop.replay(&edited);
    assert_eq!(counts(&report, "failed"), [all, all / 2, 0, all / 2, 0], "{report:#}");
    assert_eq!(counts(&report, "clean"), [all, all, 0, 0, 0]);
    let samples = &find(&report["pipelines"][0]["outputs"], "name", "failed")["samples"]["gone"];
    assert_eq!(samples[0]["row"]["body"], "cart 1 password=***");
    assert_eq!(samples[0]["row"]["service.name"], "cart");

    // A program, in a file of its own: rows are changed.
    shop.edit("shop.toml", SHOP, ".shop = \"b\"\n.new = true");
    let report = shop.replay(&edited);
    assert_eq!(counts(&report, "clean"), [all, all, 0, 0, all], "{report:#}");
    let output = find(&report["pipelines"][0]["outputs"], "name", "clean");
    assert_eq!(output["columns"], json!({ "new": all, "shop": all }));
    let sample = &output["samples"]["changed"][0];
    assert_eq!(sample["columns"], json!(["new", "shop"]));
    assert_eq!((&sample["live"]["shop"], &sample["edited"]["shop"]), (&json!("a"), &json!("b")));
    assert_eq!(sample["live"]["body"], sample["edited"]["body"]);

    // A program that fails: rows of errors, which the file says nothing of.
    shop.edit("shop.toml", SHOP, ".shop = to_int!(.body)");
    let report = shop.replay(&edited);
    assert_eq!(counts(&report, "clean"), [all, 0, 0, all, 0], "{report:#}");
    assert_eq!(counts(&report, "weir_errors"), [0, all, all, 0, 0], "{report:#}");

    // A threshold: alerts would have fired.
    shop.edit("shop.toml", &SHOP.replace("n > 1000", "n >= 1"), CLEAN);
    let report = shop.replay(&edited);
    let alert = &report["pipelines"][0]["alerts"][0];
    assert!(alert["fires"].as_u64() >= Some(2), "{report:#}");
    assert_eq!(
        (&alert["silent"], &alert["changed"], &alert["live"]),
        (&json!(0), &json!(0), &json!(0))
    );
    for sample in alert["samples"].as_array().unwrap() {
        let service = sample["labels"]["service.name"].as_str().unwrap();
        let summary = sample["edited"]["annotations"]["summary"].as_str().unwrap();
        assert!(summary.starts_with(&format!("{service}: ")), "{sample:#}");
    }
    let (code, shown) = shop.server.weir(&[&["replay"], &edited[..]].concat());
    assert_eq!(code, Some(0), "{shown}");
    for line in [
        "~ pipeline shop  changed (edited/shop.toml), 80 rows from its sources",
        "= table clean: the same 80 rows",
        "~ alert burst: fired 0 times, edited ",
        "+ {service.name=cart} from 20",
    ] {
        assert!(shown.contains(line), "no `{line}` in\n{shown}");
    }

    // A window that waits longer gives the same rows later.
    shop.edit("shop.toml", &SHOP.replace("lateness = \"1s\"", "lateness = \"0s\""), CLEAN);
    let report = shop.replay(&edited);
    let late = find(&report["pipelines"][0]["outputs"], "name", "counts");
    assert_eq!((&late["added"], &late["gone"]), (&json!(0), &json!(0)), "{report:#}");

    // Only what comes behind the middle, under another name.
    shop.edit("trial.toml", &text, CLEAN);
    let from = (shop.middle + 1).to_string();
    let middle = ["--from", &from, "--pipeline", "edited/trial.toml"];
    let report = shop.replay(&[&middle[..], &["--name", "shop"]].concat());
    let half = all / 2;
    assert_eq!(counts(&report, "failed"), [half, half / 2, 0, half / 2, 0], "{report:#}");
    assert!(report["began"]["position"].as_u64() <= Some(shop.middle), "{report:#}");
    // And by its own: everything is new.
    let report = shop.replay(&middle);
    assert_eq!(report["pipelines"][0]["change"], "new");
    assert_eq!(counts(&report, "failed"), [0, half / 2, half / 2, 0, 0], "{report:#}");
    // Only what comes before.
    let report = shop.replay(&[
        "--from",
        "-1h",
        "--to",
        &shop.middle.to_string(),
        "--pipeline",
        "edited/trial.toml",
        "--name",
        "shop",
    ]);
    assert_eq!(counts(&report, "failed"), [half, half / 2, 0, half / 2, 0], "{report:#}");

    assert_eq!(shop.traces(), before, "a replay leaves no trace");
}

#[test]
fn the_files_of_the_server_are_held_against_what_runs() {
    let shop = shop();
    let report = shop.replay(&["--from", "oldest"]);
    assert_eq!(report["pipelines"], json!([]), "{report:#}");
    assert_eq!(report["notes"], json!(["1 of 1 pipelines are unchanged and left out"]));
    shop.server.write("shop", &SHOP.replace(">= 9", ">= 17"));
    shop.server.write(
        "other",
        "[sinks.s]\ntype = \"store\"\ninputs = [\"otlp.logs\"]\ntable = \"other\"\n",
    );
    let report = shop.replay(&["--from", "oldest"]);
    let all = (2 * REQUESTS * ROWS) as u64;
    let changed = find(&report["pipelines"], "name", "shop");
    assert_eq!(changed["change"], "changed");
    assert_eq!(find(&changed["outputs"], "name", "failed")["gone"], all / 2);
    let new = find(&report["pipelines"], "name", "other");
    assert_eq!((&new["change"], &new["outputs"][0]["added"]), (&json!("new"), &json!(all)));
    let report = shop.replay(&["--from", "oldest", "--name", "other"]);
    assert_eq!(report["pipelines"].as_array().unwrap().len(), 1, "{report:#}");

    // A broken one stands as it runs, and is named.
    shop.server.write("shop", &SHOP.replace("where =", "were ="));
    let report = shop.replay(&["--from", "oldest", "--name", "shop"]);
    assert_eq!(report["same"], true, "{report:#}");
    assert!(report["diagnostics"].to_string().contains("shop.toml:5:1"), "{report:#}");
    assert!(report["notes"].to_string().contains("stands as it runs now"), "{report:#}");
}

#[test]
fn what_cannot_be_replayed_is_said() {
    let shop = shop();
    shop.edit("shop.toml", &SHOP.replace("where =", "were ="), CLEAN);
    let file = ["--pipeline", "edited/shop.toml"];
    let check = |arguments: &[&str], says: &[&str]| {
        let (code, text) = shop.server.weir(&[&["replay"], arguments].concat());
        assert_eq!(code, Some(1), "{arguments:?}: {text}");
        for says in says {
            assert!(text.contains(says), "{arguments:?}: no `{says}` in\n{text}");
        }
    };
    check(
        &[&["--from", "oldest"], &file[..]].concat(),
        &["edited/shop.toml:5:1", "did you mean `where`?"],
    );
    shop.edit("shop.toml", SHOP, ".shop = nonsense( +");
    check(&[&["--from", "oldest"], &file[..]].concat(), &["edited/clean.vrl:1:"]);
    fs::remove_file(shop.server.path().join("edited/clean.vrl")).unwrap();
    check(
        &[&["--from", "oldest"], &file[..]].concat(),
        &["edited/shop.toml:10:8", "file `edited/clean.vrl` cannot be read: no such file"],
    );
    shop.edit("shop.toml", SOURCES, CLEAN);
    check(
        &[&["--from", "oldest"], &file[..]].concat(),
        &["source `otlp` is defined twice", "edited/shop.toml:1:1"],
    );
    fs::write(shop.server.path().join("edited/empty.toml"), "name = \"shop\"\n").unwrap();
    check(&["--from", "oldest", "--pipeline", "edited/empty.toml"], &["has no pipeline"]);
    check(&["--from", "oldest", "--pipeline", "none.toml"], &["no such file"]);
    check(&["--from", "oldest", "--name", "shap"], &["no pipeline: `shap`", "`shop`"]);
    check(&["--from", "yesterday"], &["`from`: `yesterday` is neither a time nor a position"]);
    check(&["--from", "2100-01-01T00:00:00Z"], &["`from` is in the future"]);
    check(&["--from", "999999"], &["`from` is entry 999999, and the newest entry is"]);
    check(&["--from", "oldest", "--to", "999999"], &["`to` is entry 999999"]);
    check(&["--from", "-1m", "--to", "-2m"], &["nothing lies from `-1m` to `-2m`"]);
    check(&["--from", "4", "--to", "3"], &["nothing lies from `4` to `3`"]);
    check(&["--from", "oldest", "--warm-up", "soon"], &["`warm_up`: `soon` is not a duration"]);
}

#[test]
fn the_journal_may_begin_later() {
    let toml = "[journal]\nmax_bytes = \"64MiB\"\nretain = \"0s\"\n";
    let text = "[sinks.s]\ntype = \"store\"\ninputs = [\"otlp.logs\"]\ntable = \"s\"\n";
    let server = Server::start(&[("sources", SOURCES), ("all", text)], Some(toml));
    let filler = "x".repeat(500_000);
    let oldest = wait("the journal is trimmed", || {
        send(&server, &filler, 1);
        let reply = post(&server, &json!({ "from": 1, "pipeline": "all" }));
        let message = reply.json()["error"]["message"].as_str()?.to_owned();
        assert_eq!(reply.status, 400, "{message}");
        assert!(message.contains("`[journal] retain` in weir.toml"), "{message}");
        let (_, rest) = message.split_once("still has: entry ")?;
        rest.split_once(',')?.0.parse::<u64>().ok()
    });
    assert!(oldest > 1);
    let reply = post(&server, &json!({ "from": "-1h", "pipeline": "all" }));
    assert_eq!(reply.status, 400, "{}", reply.text());
    let reply = post(&server, &json!({ "from": "oldest", "pipeline": "all" }));
    assert_eq!(reply.status, 200, "{}", reply.text());
    let report = reply.json();
    assert!(report["from"]["position"].as_u64() >= Some(oldest), "{report:#}");
    assert!(report["notes"].to_string().contains("the journal begins at entry"), "{report:#}");
}

fn post(server: &Server, body: &Value) -> Reply {
    server.post("/api/v1/replay", body.to_string())
}

#[test]
fn the_api_says_how_far_it_is_and_refuses_too_many() {
    let shop = shop();
    let edited = SHOP.replace(">= 9", ">= 17");
    let body = json!({
        "from": shop.middle + 1, "to": "now", "warm_up": "0s", "samples": 1, "pipeline": "shop",
        "file": {
            "path": "trial.toml", "text": edited, "files": { "clean.vrl": ".shop = \"b\"" },
        },
    });
    let reply = post(&shop.server, &body);
    assert_eq!(reply.status, 200, "{}", reply.text());
    let report = reply.json();
    let half = (REQUESTS * ROWS) as u64;
    assert_eq!(counts(&report, "failed"), [half, half / 2, 0, half / 2, 0], "{report:#}");
    assert_eq!(counts(&report, "clean"), [half, half, 0, 0, half], "{report:#}");
    assert_eq!(report["began"], report["from"], "{report:#}");
    let url = format!("{}/api/v1/replay", shop.server.url);
    let headers = [("accept", "application/x-ndjson")];
    let lines = request("POST", &url, &headers, body.to_string().into_bytes()).text();
    let last: Value = serde_json::from_str(lines.lines().last().unwrap()).unwrap();
    assert_eq!(last["report"]["pipelines"], report["pipelines"], "{lines}");
    // The variables of the server's process are not the client's to see.
    let label =
        "[alerts.a]\ninputs = [\"otlp.logs\"]\nwhen = \"true\"\nlabels = { x = \"${HOME}\" }\n";
    let secret = json!({ "from": "oldest", "file": { "path": "a.toml", "text": label } });
    let reply = post(&shop.server, &secret);
    assert_eq!(reply.status, 400);
    assert!(reply.text().contains("variable `HOME` is not set"), "{}", reply.text());

    let refused = wait("a refusal", || {
        let replays = std::thread::scope(|scope| {
            let all: Vec<_> = (0..8).map(|_| scope.spawn(|| post(&shop.server, &body))).collect();
            all.into_iter().map(|r| r.join().unwrap()).collect::<Vec<_>>()
        });
        replays.into_iter().find(|reply| reply.status != 200)
    });
    assert_eq!(refused.status, 429, "{}", refused.text());
    assert_eq!(refused.headers["retry-after"], "1");
    assert!(refused.text().contains("2 replays are under way"), "{}", refused.text());
    assert_eq!(post(&shop.server, &body).status, 200, "places come free again");
}

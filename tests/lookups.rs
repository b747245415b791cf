//! Lookup tables beside all that else goes on: edits, peers that hang, plans and replays.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

use serde_json::{Value, json};
use tokio::sync::watch;

use crate::harness::{Server, request, serve, wait};

const SOURCES: &str = "[sources.otlp]\ntype = \"otlp\"\nhttp = \"127.0.0.1:0\"\n";

/// Rows of service `cart` with what the table says of it, in the table of the store `table`.
fn pipeline(lookup: &str, table: &str) -> String {
    format!(
        r#"
[lookups.services]
{lookup}

[operators.known]
type = "enrich"
inputs = ["otlp.logs"]
lookup = "services"
on = {{ "service.name" = "name" }}
take = {{ version = "version" }}

[sinks.rows]
type = "store"
inputs = ["known"]
table = "{table}"
"#
    )
}

const FILE: &str = "type = \"file\"\nfile = \"../services.csv\"";

/// Puts a version of the table where the server reads it.
fn put(path: &Path, version: i64) {
    let new = path.with_extension("new");
    fs::write(&new, format!("name,version\ncart,{version}\n")).unwrap();
    fs::rename(new, path).unwrap();
}

/// Sends row `n` until it is acknowledged.
fn send(server: &Server, n: i64) {
    let record = json!({ "attributes": [{ "key": "n", "value": { "intValue": n.to_string() } }] });
    let name = json!({ "key": "service.name", "value": { "stringValue": "cart" } });
    let body = json!({ "resourceLogs": [{
        "resource": { "attributes": [name] }, "scopeLogs": [{ "logRecords": [record] }],
    }] });
    let url = format!("http://{}/v1/logs", server.address("otlp"));
    let headers = [("content-type", "application/json")];
    wait("an acknowledgement", || {
        let body = serde_json::to_vec(&body).unwrap();
        (request("POST", &url, &headers, body).status == 200).then_some(())
    });
}

/// The newest row of a table.
fn newest(server: &Server, table: &str) -> Option<Value> {
    let sql = format!("SELECT * FROM {table} ORDER BY n DESC LIMIT 1");
    let known = server.sql(&format!(
        "SELECT count(*) AS n FROM information_schema.tables WHERE table_name = '{table}'"
    ));
    (known[0]["n"] == 1).then(|| server.sql(&sql).pop()).flatten()
}

fn plan(server: &Server) -> (Value, String) {
    let (_, text) = server.weir(&["plan", "--json"]);
    let planned: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
    (planned, server.weir(&["plan"]).1)
}

#[test]
fn new_rows_of_a_table_bring_no_edit_live() {
    let program =
        "\n[operators.marked]\ntype = \"vrl\"\ninputs = [\"known\"]\nfile = \"mark.vrl\"\n";
    let text = pipeline(FILE, "rows").replace("[\"known\"]", "[\"marked\"]") + program;
    let files = [("sources", SOURCES), ("work", &*text)];
    let mut server = Server::prepare(&files, Some("[server]\nwatch = false\n"), &[]);
    let (table, mark) =
        (server.path().join("services.csv"), server.path().join("pipelines.d/mark.vrl"));
    put(&table, 1);
    fs::write(&mark, ".mark = 1\n").unwrap();
    server.restart();
    send(&server, 1);
    server.wait_sql("SELECT * FROM rows", |rows| rows.len() == 1);
    // Edits of the file and of the program that it names, neither of them to be live.
    server.write("work", &text.replace("take = { version", "take = { other"));
    fs::write(&mark, ".mark = 2\n").unwrap();
    let mut n = 1;
    put(&table, 2);
    let row = wait("the new version is in use", || {
        n += 1;
        send(&server, n);
        newest(&server, "rows").filter(|row| row["version"] == 2)
    });
    assert_eq!((&row["mark"], &row["other"]), (&json!(1), &Value::Null));
    let (planned, said) = plan(&server);
    assert_eq!(planned["lookups"][0]["change"], "unchanged", "{said}");
    assert_eq!(planned["pipelines"][0]["change"], "changed", "{said}");
    server.reload();
    let row = wait("the edit is live", || {
        n += 1;
        send(&server, n);
        newest(&server, "rows").filter(|row| row["mark"] == 2)
    });
    assert_eq!(row["other"], 2);
}

/// A peer whose answers wait until it is let go.
struct Peer {
    address: String,
    version: Arc<AtomicI64>,
    open: watch::Sender<bool>,
    asked: Arc<AtomicI64>,
}

fn peer() -> Peer {
    let (version, asked) = (Arc::new(AtomicI64::new(1)), Arc::new(AtomicI64::new(0)));
    let (open, opened) = watch::channel(false);
    let (version_of, asked_of) = (version.clone(), asked.clone());
    let hang = move || {
        let mut opened = opened.clone();
        asked_of.fetch_add(1, Relaxed);
        async move {
            let _ = opened.wait_for(|open| *open).await;
            r#"[{"name":"cart","version":7}]"#
        }
    };
    let answer = move || {
        let version = version_of.load(Relaxed);
        async move { format!(r#"[{{"name":"cart","version":{version}}}]"#) }
    };
    let app = axum::Router::new()
        .route("/hang", axum::routing::get(hang))
        .route("/answer", axum::routing::get(answer));
    Peer { address: serve(app), version, open, asked }
}

#[test]
fn a_peer_that_hangs_holds_up_nobody_and_its_pipeline_misses_nothing() {
    let peer = peer();
    let http = |path: &str| {
        format!(
            "type = \"http_json\"\nurl = \"http://{}/{path}\"\nrefresh = \"1s\"\ntimeout = \"1h\"",
            peer.address
        )
    };
    let mut server = Server::start(&[("sources", SOURCES)], None);
    send(&server, 0);
    server.write("quick", &pipeline(&http("answer"), "quick"));
    server.write("slow", &pipeline(&http("hang"), "slow"));
    wait("it was asked", || (peer.asked.load(Relaxed) > 0).then_some(()));
    wait("the file is left out", || {
        let files = server.status()["reload"]["files"].clone();
        files.as_array()?.iter().any(|f| f["state"] == "left_out").then_some(())
    });
    let (planned, said) = plan(&server);
    let pending =
        planned["lookups"].as_array().unwrap().iter().filter(|l| l["change"] == "pending");
    assert_eq!(pending.count(), 1, "{said}");
    assert!(said.contains("http_json table, pending"), "{said}");
    // The other table is read again and again meanwhile, and other files change.
    let mut n = 0;
    let mut until = |server: &Server, version: i64| {
        peer.version.store(version, Relaxed);
        wait("the version is in use", || {
            n += 1;
            send(server, n);
            newest(server, "quick").filter(|row| row["version"] == version)
        });
        n
    };
    until(&server, 2);
    server.write(
        "third",
        "[sinks.third]\ntype = \"store\"\ninputs = [\"otlp.logs\"]\ntable = \"third\"\n",
    );
    wait("it is live", || {
        let pipelines = server.status()["pipelines"].clone();
        pipelines.as_array()?.iter().any(|p| p["name"] == "third").then_some(())
    });
    until(&server, 3);
    server.kill9();
    server.restart();
    let last = until(&server, 4);
    assert!(newest(&server, "slow").is_none());
    // All since its file came, but nothing from before.
    peer.open.send_replace(true);
    let count = format!(
        "SELECT count(*) AS n, count(DISTINCT n) AS d, min(n) AS first FROM slow WHERE version = 7 AND n <= {last}"
    );
    wait("the pipeline runs", || newest(&server, "slow"));
    let rows = server.wait_sql(&count, |rows| rows[0]["n"].as_i64() >= Some(last));
    assert_eq!(
        (&rows[0]["n"], &rows[0]["d"], &rows[0]["first"]),
        (&json!(last), &json!(last), &json!(1))
    );
}

/// While a file has a mistake its last good version runs on, with new rows as they suit it.
#[test]
fn a_last_good_version_has_the_newest_rows_that_suit_it() {
    let text = pipeline(FILE, "rows");
    let mut server = Server::prepare(&[("sources", SOURCES), ("work", &*text)], None, &[]);
    let table = server.path().join("services.csv");
    put(&table, 1);
    server.restart();
    let mut n = 0;
    let mut until = |server: &Server, version: i64| {
        wait("the version is in use", || {
            n += 1;
            send(server, n);
            newest(server, "rows").filter(|row| row["version"] == version)
        });
    };
    until(&server, 1);
    server.write("work", &text.replace("take = ", "takes = "));
    wait("the file is kept", || {
        let files = server.status()["reload"]["files"].clone();
        files.as_array()?.iter().any(|f| f["state"] == "kept").then_some(())
    });
    put(&table, 2);
    until(&server, 2);
    // Without the column that is taken: those from before stay, not those with which it was good.
    let reloads = server.status()["reload"]["number"].as_u64();
    fs::write(&table, "name,other\ncart,3\n").unwrap();
    wait("it was tried", || (server.status()["reload"]["number"].as_u64() > reloads).then_some(()));
    until(&server, 2);
    server.kill9();
    server.restart();
    until(&server, 2);
    put(&table, 4);
    until(&server, 4);
}

#[test]
fn a_plan_shows_tables() {
    let files = [("sources", SOURCES), ("work", &*pipeline(FILE, "rows"))];
    let mut server = Server::prepare(&files, Some("[server]\nwatch = false\n"), &[]);
    let table = server.path().join("services.csv");
    put(&table, 1);
    server.restart();
    let change = |planned: &Value, id: &str| {
        let all = planned["lookups"].as_array().unwrap();
        all.iter().find(|l| l["id"] == id).map(|l| l["change"].clone()).unwrap_or_default()
    };
    assert_eq!(change(&plan(&server).0, "services"), "unchanged");
    // What its file would be, were it read: without what is taken from it, a mistake.
    let other = server.path().join("other.csv");
    fs::write(&other, "name\ncart\nshop\n").unwrap();
    let edited = pipeline(FILE, "rows").replace("../services", "../other");
    server.write("work", &edited);
    let (planned, said) = plan(&server);
    assert_eq!(
        (change(&planned, "services"), &planned["ok"]),
        (json!("new"), &json!(false)),
        "{said}"
    );
    assert!(said.contains("the table has no column `version`"), "{said}");
    fs::write(&other, "name,version\ncart,1\nshop,2\n").unwrap();
    let (planned, said) = plan(&server);
    assert_eq!(
        (change(&planned, "services"), &planned["ok"]),
        (json!("new"), &json!(true)),
        "{said}"
    );
    assert!(said.contains("file table with 2 rows"), "{said}");
    fs::remove_file(&other).unwrap();
    let (planned, said) = plan(&server);
    assert_eq!(change(&planned, "services"), "pending", "{said}");
    assert!(said.contains("has no rows: "), "{said}");
    server.write(
        "work",
        "[sinks.rows]\ntype = \"store\"\ninputs = [\"otlp.logs\"]\ntable = \"rows\"\n",
    );
    let (planned, said) = plan(&server);
    assert_eq!(change(&planned, "services"), "removed", "{said}");
    // Nothing of it was kept.
    let versions = fs::read_dir(server.path().join("data/lookups")).unwrap();
    let versions =
        versions.filter(|f| f.as_ref().unwrap().path().extension().is_some_and(|e| e == "arrow"));
    assert_eq!(versions.count(), 1);
}

#[test]
fn a_replay_says_which_tables_it_does_not_have() {
    let files = [("sources", SOURCES), ("work", &*pipeline(FILE, "rows"))];
    let mut server = Server::prepare(&files, None, &[]);
    put(&server.path().join("services.csv"), 1);
    server.restart();
    send(&server, 1);
    server.wait_sql("SELECT * FROM rows", |rows| rows.len() == 1);
    let folder = server.path().join("edited");
    fs::create_dir(&folder).unwrap();
    let replay = |lookup: &str| {
        fs::write(folder.join("work.toml"), pipeline(lookup, "rows")).unwrap();
        let edited = ["--pipeline", "edited/work.toml"];
        server.weir(&[&["replay", "--format", "json", "--from", "-1h"], &edited[..]].concat())
    };
    let (code, said) = replay("type = \"http_json\"\nurl = \"http://127.0.0.1:1/\"");
    assert_ne!(code, Some(0), "{said}");
    assert!(said.contains("lookup `services` was never read by this server"), "{said}");
    let sample = "sample = [{ name = \"cart\", version = 1 }]";
    let (code, said) =
        replay(&format!("type = \"http_json\"\nurl = \"http://127.0.0.1:1/\"\n{sample}"));
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("the rows of its `sample` stand for it"), "{said}");
    // One that it has it has there too.
    let (code, said) = replay(FILE);
    assert_eq!(code, Some(0), "{said}");
    assert!(!said.contains("never read"), "{said}");
}

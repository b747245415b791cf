//! Lookup tables change under load, and the server dies in between: each row is enriched once, by
//! the version that was in force where it entered.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::check_table;
use super::load::{Ledger, ROWS, SOURCES, send_logs};
use crate::harness::{Program, Server, free_port, program, serve, wait};

const PIPELINE: &str = r#"
[operators.versioned]
type = "enrich"
inputs = ["otlp.logs"]
lookup = "services"
on = { "service.name" = "name" }
take = { version = "version" }
on_missing = "error"

[operators.asked]
type = "vrl"
inputs = ["versioned"]
source = '''
record, err = get_enrichment_table_record("services", { "name": .service.name })
if err == null { .asked = record.version }
'''

[sinks.rows]
type = "store"
inputs = ["asked"]
table = "rows"
"#;

/// Puts a version of the table where the server reads it.
fn put(path: &Path, version: i64) {
    let row = |name: &str| format!("{name},{version}\n");
    let text = format!("name,version\n{}", ["cart", "shop", "web"].map(row).concat());
    let new = path.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, path).unwrap();
}

/// All rows are there once, none with another version than its neighbours, versions in order.
fn check(server: &Server, logs: &Ledger, least: usize) {
    check_table(server, "rows", "SELECT n FROM rows", logs);
    let rows = server.sql("SELECT n, version, asked FROM rows ORDER BY n");
    let versions: Vec<i64> = rows.iter().map(|r| r["version"].as_i64().unwrap()).collect();
    assert!(versions.is_sorted(), "a row has an older version than one before it");
    assert!(rows.iter().all(|r| r["version"] == r["asked"]), "program and operator differ");
    let mut distinct = versions;
    distinct.dedup();
    assert!(distinct.len() >= least, "{distinct:?}");
    assert_eq!(server.sql("SELECT count(*) AS n FROM weir_errors")[0]["n"], 0);
}

#[test]
fn a_table_changes_under_load_and_deaths() {
    let file = "[lookups.services]\ntype = \"file\"\nfile = \"../services.csv\"\n";
    let mut server =
        Server::prepare(&[("sources", SOURCES), ("work", &format!("{file}{PIPELINE}"))], None, &[]);
    let table = server.path().join("services.csv");
    put(&table, 1);
    server.restart();
    let (mut logs, mut next) = (Ledger::default(), 0);
    for version in 2..8 {
        let url = format!("http://{}/v1/logs", server.address("otlp"));
        put(&table, version);
        let mut send = |times: usize| {
            for _ in 0..times {
                assert_eq!(send_logs(&url, next).status, 200);
                logs.acknowledge(next);
                next += ROWS;
            }
        };
        wait("the version is in use", || {
            send(1);
            let newest = server.sql("SELECT max(version) AS v FROM rows");
            (newest[0]["v"] == version).then_some(())
        });
        send(3);
        if version % 2 == 0 {
            server.kill9();
            server.restart();
        }
    }
    let all = |rows: &[Value]| rows[0]["n"].as_i64() >= Some(next);
    server.wait_sql("SELECT count(*) AS n FROM rows", all);
    check(&server, &logs, 6);
    // What the tests of a pipeline or a plan say of it without a server.
    let (code, said) = server.weir(&["check"]);
    assert_eq!(code, Some(0), "{said}");
    // A table without what is taken from it is a mistake of the file: what ran goes on.
    std::fs::write(&table, "name\ncart\nshop\nweb\n").unwrap();
    wait("the file is kept", || {
        let reload = server.status()["reload"].clone();
        (reload["files"].as_array()?.iter().any(|f| f["state"] == "kept")).then_some(())
    });
    // One that cannot be read leaves the rows in use, also after a restart, and says so.
    std::fs::write(&table, "name,name\n").unwrap();
    let wrong = wait("the status says it", || {
        let status = server.status();
        let problems = status["problems"].as_array()?.clone();
        problems
            .iter()
            .find(|p| p.as_str().is_some_and(|p| p.contains("services")))?
            .as_str()
            .map(str::to_owned)
    });
    assert!(wrong.contains("the rows before stay"), "{wrong}");
    server.kill9();
    server.restart();
    let url = format!("http://{}/v1/logs", server.address("otlp"));
    assert_eq!(send_logs(&url, next).status, 200);
    logs.acknowledge(next);
    let sql = format!("SELECT n FROM rows WHERE n >= {next}");
    server.wait_sql(&sql, |rows| rows.len() as i64 == ROWS);
    check(&server, &logs, 6);
}

/// A database server in a folder of its own, until it is dropped.
struct Database {
    _folder: tempfile::TempDir,
    _server: Program,
    url: String,
}

impl Database {
    fn postgres() -> Self {
        let folder = folder_for("postgres");
        let (data, port) = (folder.path().join("data"), free_port());
        let bin = newest_postgres();
        let run = |command: &mut Command| {
            let output = command.output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        };
        let data = data.display().to_string();
        run(as_user("postgres", &bin.join("initdb"))
            .args(["-D", &data, "-U", "weir", "-A", "trust"]));
        let mut command = as_user("postgres", &bin.join("postgres"));
        command.args(["-D", &data, "-p", &port.to_string(), "-k", "", "-c", "fsync=off"]);
        let server = Program::start("postgres", &mut command, &folder.path().join("log"));
        let url = format!("postgres://weir@127.0.0.1:{port}/postgres");
        Self { _folder: folder, _server: server, url }
    }

    fn mariadb() -> Self {
        let folder = folder_for("mysql");
        let (data, port) = (folder.path().join("data").display().to_string(), free_port());
        let user = format!("--user={}", if is_root() { "mysql" } else { "" });
        let install = Command::new(program("mariadb-install-db"))
            .args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db"])
            .args([&format!("--datadir={data}"), &user])
            .output()
            .unwrap();
        assert!(install.status.success(), "{}", String::from_utf8_lossy(&install.stderr));
        let mut command = Command::new(program("mariadbd"));
        let socket = folder.path().join("socket").display().to_string();
        command.args(["--no-defaults", "--bind-address=127.0.0.1", &user]);
        command.args([&format!("--datadir={data}"), &format!("--socket={socket}")]);
        command.arg(format!("--port={port}"));
        let server = Program::start("mariadbd", &mut command, &folder.path().join("log"));
        Self {
            _folder: folder,
            _server: server,
            url: format!("mysql://root@127.0.0.1:{port}/mysql"),
        }
    }
}

fn is_root() -> bool {
    Command::new("id").arg("-u").output().is_ok_and(|o| o.stdout == b"0\n")
}

/// Databases do not run as root: the folder is of the user that Debian made for them.
fn folder_for(user: &str) -> tempfile::TempDir {
    let folder = tempfile::TempDir::new().unwrap();
    if is_root() {
        let path = folder.path().display().to_string();
        assert!(Command::new("chown").args([user, &path]).status().unwrap().success());
    }
    folder
}

fn as_user(user: &str, program: &Path) -> Command {
    if !is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("runuser");
    command.args(["-u", user, "--"]).arg(program).current_dir("/");
    command
}

fn newest_postgres() -> std::path::PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut versions: Vec<_> = versions.map(|v| v.path().join("bin")).collect();
    versions.sort();
    versions.pop().expect("PostgreSQL is not installed; `make test` installs it")
}

const DATABASES: &str = r#"
[lookups.postgres]
type = "postgres"
url = "env:POSTGRES_URL"
query = """SELECT * FROM (VALUES
    ('cart', 1::int8, 1.5::numeric, true, '2026-01-31 12:00+00'::timestamptz, 12345678901234567890::numeric),
    ('shop', NULL, NULL, false, NULL, 9007199254740993)) t(name, n, d, b, t, id)"""
refresh = "1s"

[lookups.mysql]
type = "mysql"
url = "env:MYSQL_URL"
query = """SELECT * FROM (
    SELECT 'cart' AS name, 42 AS n, CAST(0.5 AS DECIMAL(3,1)) AS d, CAST(18446744073709551615 AS UNSIGNED) AS id
    UNION ALL SELECT 'cart', 43, 0.5, 1) t ORDER BY n DESC"""
refresh = "1s"

[lookups.service]
type = "http_json"
url = "http://URL/items"
pointer = "/items"
auth = { bearer = "env:TOKEN" }
refresh = "1s"

[lookups.own]
type = "sql"
query = "SELECT service.name AS name, count(*) AS seen FROM rows GROUP BY 1"
refresh = "1s"

[operators.a]
type = "enrich"
inputs = ["otlp.logs"]
lookup = "postgres"
on = { "service.name" = "name" }
take = { "pg.n" = "n", "pg.d" = "d", "pg.b" = "b", "pg.t" = "t", "pg.id" = "id" }

[operators.b]
type = "enrich"
inputs = ["a"]
lookup = "mysql"
on = { "service.name" = "name" }
take = { "my.n" = "n", "my.d" = "d", "my.id" = "id" }

[operators.c]
type = "enrich"
inputs = ["b"]
lookup = "service"
on = { "service.name" = "name" }
take = { "web.team" = "owner.team" }

[operators.d]
type = "enrich"
inputs = ["c"]
lookup = "own"
on = { "service.name" = "name" }

[sinks.enriched]
type = "store"
inputs = ["d"]
table = "enriched"
"#;

const ROWS_TABLE: &str =
    "[sinks.rows]\ntype = \"store\"\ninputs = [\"otlp.logs\"]\ntable = \"rows\"\n";

#[test]
fn databases_and_services_are_asked() {
    let (postgres, mariadb) = (Database::postgres(), Database::mariadb());
    let team = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(1));
    let answer = team.clone();
    let app = axum::Router::new().fallback(move |headers: axum::http::HeaderMap| async move {
        let allowed = headers.get("authorization").is_some_and(|h| h == "Bearer sesame");
        let team = answer.load(std::sync::atomic::Ordering::Relaxed);
        match allowed && team > 0 {
            true => {
                Ok(format!(r#"{{"items":[{{"name":"cart","owner":{{"team":"team {team}"}}}}]}}"#))
            }
            false => Err(axum::http::StatusCode::SERVICE_UNAVAILABLE),
        }
    });
    let pipeline = DATABASES.replace("URL/items", &format!("{}/items", serve(app)));
    let environment =
        [("POSTGRES_URL", &*postgres.url), ("MYSQL_URL", &*mariadb.url), ("TOKEN", "sesame")];
    let files = [("sources", SOURCES), ("rows", ROWS_TABLE), ("work", &*pipeline)];
    let mut server = Server::prepare(&files, None, &environment);
    server.restart();
    wait("all tables are read", || {
        let status = server.status();
        let lookups = status["lookups"].as_array()?.clone();
        let read = |l: &Value| l["version"] != "" && l["error"].is_null();
        (lookups.len() == 4 && lookups.iter().all(read)).then_some(())
    });
    wait("the pipeline runs", || {
        let status = server.status();
        let pipelines = status["pipelines"].as_array()?.clone();
        pipelines.iter().any(|p| p["name"] == "work").then_some(())
    });
    let url = format!("http://{}/v1/logs", server.address("otlp"));
    let newest = "SELECT * EXCLUDE (timestamp, observed_timestamp) FROM enriched \
        WHERE service.name = 'cart' ORDER BY n DESC LIMIT 1";
    // Cart is every third request.
    let mut next = 0;
    let row = wait("rows of own tables are found", || {
        assert_eq!(send_logs(&url, next).status, 200);
        next += 3 * ROWS;
        server.sql(newest).into_iter().find(|r| r["seen"].as_i64() > Some(0))
    });
    let expected = [
        ("pg.n", Value::from(1)),
        ("pg.d", 1.5.into()),
        ("pg.b", true.into()),
        ("pg.id", "12345678901234567890".into()),
        // The last one that the query gives.
        ("my.n", 42.into()),
        ("my.id", "18446744073709551615".into()),
        ("my.d", 0.5.into()),
        ("web.team", "team 1".into()),
    ];
    for (name, value) in expected {
        assert_eq!(row[name], value, "{name} of {row}");
    }
    let time = row["pg.t"].as_str().unwrap();
    assert!(time.starts_with("2026-01-31T12:00:00"), "{time}");
    // Another answer is another version.
    team.store(2, std::sync::atomic::Ordering::Relaxed);
    wait("the new team", || {
        assert_eq!(send_logs(&url, next).status, 200);
        next += 3 * ROWS;
        (server.sql(newest).first()?["web.team"] == "team 2").then_some(())
    });
    // Peers that are gone: rows go on with what was known, over a restart too.
    team.store(0, std::sync::atomic::Ordering::Relaxed);
    drop((postgres, mariadb));
    server.kill9();
    server.restart();
    let status = wait("three tables cannot be read", || {
        let status = server.status();
        let lookups = status["lookups"].as_array()?.clone();
        (lookups.iter().filter(|l| l["error"].is_string()).count() == 3).then_some(status)
    });
    assert!(!status.to_string().contains("sesame"));
    let url = format!("http://{}/v1/logs", server.address("otlp"));
    assert_eq!(send_logs(&url, next).status, 200);
    let sql = format!("SELECT * FROM enriched WHERE n = {next}");
    let rows = server.wait_sql(&sql, |rows| rows.len() == 1);
    assert_eq!((&rows[0]["my.n"], &rows[0]["web.team"]), (&42.into(), &"team 2".into()));
}

//! Tables that live in ClickHouse, asked for by the SQL of Weir.

use serde_json::{Value, json};

use crate::durability::clickhouse::ClickHouse;
use crate::durability::load::{SOURCES, send_logs};
use crate::harness::{Server, request, serve, wait};

const TABLES: [&str; 5] = [
    "CREATE DATABASE d",
    "CREATE TABLE d.rows (n Int64, name LowCardinality(Nullable(String)), at DateTime64(3, 'Asia/Tokyo'), \
     f Nullable(Float32), tags Array(String), e Enum8('it''s' = 1, 'b' = 2), u Nullable(UUID), \
     `a``b.c\\\\` UInt64) ENGINE = MergeTree ORDER BY n",
    "INSERT INTO d.rows SELECT number, number % 10 = 0 ? NULL : concat('it\\'s ', toString(number)), \
     toDateTime64(1700000000 + number / 1000, 3, 'UTC'), number % 7 = 0 ? nan : number / 4, \
     ['x', toString(number)], number % 2 + 1, NULL, number * 2 FROM numbers(50000)",
    "CREATE TABLE d.odd (s String, t Tuple(a UInt8, b String), dec Decimal(60, 5)) ENGINE = Memory",
    "INSERT INTO d.odd VALUES (unhex('61ff62'), (1, 'z'), 12.5)",
];

/// A row as it is answered.
fn one(server: &Server, sql: &str) -> Value {
    let rows = server.sql(sql);
    assert_eq!(rows.len(), 1, "{sql}: {rows:?}");
    rows[0].clone()
}

fn config(url: &str) -> String {
    format!(
        "[stores.ch]\ntype = \"clickhouse\"\nendpoint = \"{url}\"\ndatabase = \"d\"\ntimeout = \"3s\"\n"
    )
}

#[test]
fn tables_of_clickhouse_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let mut clickhouse = ClickHouse::start(folder.path());
    for sql in TABLES {
        assert!(clickhouse.ask(sql).is_some(), "{sql}");
    }
    let logs = "[sinks.logs]\ntype = \"store\"\ninputs = [\"otlp.logs\"]\ntable = \"logs\"\n";
    let weir_toml = config(&clickhouse.url());
    let server = Server::start(&[("sources", SOURCES), ("work", logs)], Some(&weir_toml));
    send_logs(&format!("http://{}/v1/logs", server.address("otlp")), 0);
    server.wait_sql("SELECT n FROM logs", |rows| !rows.is_empty());

    // Conditions there and here leave the same.
    for (condition, count) in [
        ("true", 50_000),
        ("n >= 100 AND n < 200", 100),
        ("name = 'it''s 4711'", 1),
        ("name IN ('it''s 1', 'it''s 2', 'nobody')", 2),
        ("name LIKE 'it''s 1%' AND n < 1000", 100),
        ("name LIKE '%\\_%'", 0),
        ("name IS NULL", 5_000),
        ("name <> 'it''s 1'", 44_999),
        ("name = ''' OR 1 = 1 --'", 0),
        ("at < '2023-11-14T22:13:21.0005Z'", 1_001),
        ("at = '2023-11-14T22:13:20.001Z'", 1),
        ("at BETWEEN '2023-11-14T22:13:20.001Z' AND '2023-11-14T22:13:20.003Z'", 3),
        // NaN, in every seventh row, is the greatest here.
        ("f > 10000", 15_714),
        ("f > 10000 AND NOT isnan(f)", 8_571),
        ("e = 'it''s'", 25_000),
        ("u IS NULL", 50_000),
        ("array_length(tags) = 2 AND tags[2] = '17'", 1),
        ("n = 5 OR length(name) = 6", 9),
        ("\"a`b.c\\\" = 84", 1),
    ] {
        let sql = format!("SELECT count(*) AS n FROM ch.rows WHERE {condition}");
        let answer = one(&server, &sql);
        assert_eq!(answer["n"], json!(count), "{condition}");
    }
    let explained =
        server.query("EXPLAIN SELECT n FROM ch.d.rows WHERE n = 5 AND name = 'x'").text();
    assert!(explained.contains("WHERE `n` = 5 AND `name` = 'x'"), "{explained}");
    let row = one(&server, "SELECT * FROM ch.rows WHERE n = 42");
    let expected = json!({
        "n": 42, "name": "it's 42", "at": "2023-11-14T22:13:20.042000000Z", "tags": ["x", "42"],
        "e": "it's", "u": null, "a`b.c\\": 84,
    });
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(row[name], *value, "{name}: {row}");
    }
    let odd = one(&server, "SELECT s, t, CAST(dec AS DOUBLE) AS dec FROM ch.odd");
    assert_eq!(odd, json!({"s": "a\u{fffd}b", "t": "{\"a\":1,\"b\":\"z\"}", "dec": 12.5}));
    let described = server.sql("DESCRIBE ch.odd");
    let kind = json!({"column_name": "s", "data_type": "Utf8", "level": "row"});
    assert!(described.len() == 3 && described.contains(&kind), "{described:?}");
    // Beside an own table.
    let joined = one(
        &server,
        "SELECT count(*) AS n, min(c.name) AS name FROM logs l JOIN ch.rows c ON l.n = c.n \
         WHERE l.n IN (11, 12)",
    );
    assert_eq!(joined, json!({"n": 2, "name": "it's 11"}));

    // What is wrong is said, and by whom.
    let said = |sql: &str| server.query(sql).text();
    assert!(said("SELECT nam FROM ch.rows").contains("did you mean `name`?"));
    let unknown = said("SELECT 1 FROM ch.nothing");
    assert!(unknown.contains("store `ch`: Code: 60"), "{unknown}");
    // The store dies: others go on, and a question for it fails in time.
    clickhouse.kill();
    let dead = said("SELECT count(*) FROM ch.rows");
    assert!(dead.contains("store `ch`: "), "{dead}");
    assert!(!server.sql("SHOW TABLES").is_empty());
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    std::fs::write(server.path().join("weir.toml"), config(&format!("http://127.0.0.1:{port}")))
        .unwrap();
    assert_eq!(server.reload()["ok"], json!(true));
    let silence = said("SELECT count(*) FROM ch.rows");
    assert!(silence.contains("no answer within 3s"), "{silence}");
    // Back again, under another name.
    clickhouse.restart();
    let renamed = config(&clickhouse.url()).replace("stores.ch", "stores.warehouse");
    std::fs::write(server.path().join("weir.toml"), renamed).unwrap();
    assert_eq!(server.reload()["ok"], json!(true));
    wait("the store answers", || {
        (server.query("SELECT n FROM warehouse.rows WHERE n = 1").status == 200).then_some(())
    });
    assert!(said("SELECT 1 FROM ch.rows").contains("unknown table `ch.rows`"));
}

/// What a store that dies within an answer sends.
#[derive(Clone, Copy, Debug)]
enum Cut {
    /// Half of it, as if that were all.
    Half,
    /// All but the end of the stream.
    End,
    /// Half of it, and an error behind it as ClickHouse writes one.
    Error,
    /// No Arrow at all.
    Other,
}

/// A front that hands on what `behind` answers, cut.
fn cutting(behind: String, cut: Cut) -> String {
    let hand_on = move |uri: axum::http::Uri, body: axum::body::Bytes| {
        let url = format!("{behind}?{}", uri.query().unwrap_or_default());
        async move {
            let describes = body.starts_with(b"DESCRIBE");
            let ask = move || request("POST", &url, &[], body.to_vec()).body;
            let whole = tokio::task::spawn_blocking(ask).await.unwrap();
            if describes {
                return whole;
            }
            let half = &whole[..whole.len() / 2];
            match cut {
                Cut::Half => half.to_vec(),
                Cut::End => whole[..whole.len() - 8].to_vec(),
                Cut::Error => [half, b"Code: 241. DB::Exception: out of it. (MEMORY)"].concat(),
                Cut::Other => b"<html>hello</html>".to_vec(),
            }
        }
    };
    format!("http://{}/", serve(axum::Router::new().fallback(hand_on)))
}

#[test]
fn a_cut_answer_is_no_answer() {
    let folder = tempfile::tempdir().unwrap();
    let clickhouse = ClickHouse::start(folder.path());
    for sql in TABLES {
        assert!(clickhouse.ask(sql).is_some(), "{sql}");
    }
    for (cut, why) in [
        (Cut::Half, "store `ch`: "),
        (Cut::End, "the answer was cut off"),
        (Cut::Error, "Code: 241. DB::Exception: out of it. (MEMORY)"),
        (Cut::Other, "store `ch`: "),
    ] {
        let url = cutting(clickhouse.url(), cut);
        let server = Server::start(&[], Some(&config(&url)));
        let answer = server.query("SELECT sum(n) FROM ch.rows");
        assert_ne!(answer.status, 200, "{cut:?}: {}", answer.text());
        assert!(answer.text().contains(why), "{cut:?}: {}", answer.text());
    }
}

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod fixture;
mod grouping;
mod oracle;

use std::time::Duration;

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;

use fixture::{Fixture, HOUR, T0, rows, text};

/// Runs `sql` over a small table and compares the rows, as text.
async fn check(fixture: &Fixture, sql: &str, expect: &[&str]) {
    let got = fixture.rows(sql).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
    assert_eq!(got, expect, "{sql}");
}

#[tokio::test]
async fn reads_files_and_hot_rows_alike() {
    let f = Fixture::new();
    let all = rows(40);
    f.write("logs", &all[..25], true);
    f.write("logs", &all[25..], false);
    check(&f, "SELECT count(*) FROM logs", &["40"]).await;
    check(&f, "SELECT min(id), max(id), count(DISTINCT id) FROM logs", &["0|39|40"]).await;
    check(&f, "SELECT id FROM logs WHERE id = 3", &["3"]).await;
    check(&f, "SELECT id FROM logs ORDER BY timestamp DESC LIMIT 3", &["39", "38", "37"]).await;
    let cart = "SELECT count(*) FROM logs WHERE service.name = 'cart' AND http.route IS NOT NULL";
    let n = all.iter().filter(|r| r.service == "cart" && r.route.is_some()).count();
    check(&f, cart, &[&n.to_string()]).await;
}

#[tokio::test]
async fn text_compares_with_numbers() {
    let f = Fixture::new();
    let mut all = rows(6);
    for (i, value) in ["200", "404", "x", "5e2", " 9 ", "1"].iter().enumerate() {
        all[i].route = Some((*value).into());
    }
    f.write("logs", &all, true);
    check(&f, "SELECT id FROM logs WHERE http.route >= 400 ORDER BY id", &["1", "3"]).await;
    check(&f, "SELECT id FROM logs WHERE http.route = 200", &["0"]).await;
    check(&f, "SELECT id FROM logs WHERE http.route IN (200, 404) ORDER BY id", &["0", "1"]).await;
    check(&f, "SELECT id FROM logs WHERE http.route BETWEEN 100 AND 450 ORDER BY id", &["0", "1"])
        .await;
    check(&f, "SELECT id FROM logs WHERE id = '3'", &["3"]).await;
    check(&f, "SELECT id FROM logs WHERE id = 'three'", &[]).await;
    check(&f, "SELECT sum(http.route + 0) FROM logs WHERE id < 2", &["604.0"]).await;
}

#[tokio::test]
async fn names_seen_nowhere_are_null_and_said() {
    let f = Fixture::new();
    f.write("logs", &rows(3), true);
    let sql = "SELECT http.rout, count(*) AS n FROM logs WHERE nowhere IS NULL GROUP BY http.rout";
    let mut answer = f.queries.query("default", sql).await.unwrap();
    let batches = answer.collect().await.unwrap();
    assert_eq!(text(&batches), ["|3"]);
    let warnings = answer.warnings();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(warnings.iter().any(|w| w.contains("did you mean `http.route`?")), "{warnings:?}");
    for sql in [
        "SELECT upper(nowhere) FROM logs",
        "SELECT nowhere LIKE 'a%', nowhere > 5, nowhere = 'x' FROM logs",
        "SELECT coalesce(nowhere, 'x') FROM logs",
        "SELECT max(nowhere), count(nowhere), sum(nowhere), avg(nowhere + 1) FROM logs",
        "SELECT DISTINCT nowhere FROM logs ORDER BY nowhere",
    ] {
        f.rows(sql).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
    }
}

#[tokio::test]
async fn one_metric() {
    let f = Fixture::new();
    f.write_metrics(&[("http.server.duration", 1.0), ("up", 2.0), ("up", 3.0)], true);
    f.write_metrics(&[("up", 4.0)], false);
    check(&f, "SELECT value FROM metrics.up ORDER BY value", &["2.0", "3.0", "4.0"]).await;
    check(&f, "SELECT count(*) FROM metrics.http.server.duration", &["1"]).await;
    check(&f, "SELECT count(*) FROM metrics", &["4"]).await;
    let join = "SELECT count(*) FROM metrics.up a JOIN metrics.up b ON a.value = b.value";
    check(&f, join, &["3"]).await;
    let mut answer = f.queries.query("default", "SELECT * FROM metrics.upp").await.unwrap();
    answer.collect().await.unwrap();
    assert!(answer.warnings()[0].contains("did you mean `up`?"), "{:?}", answer.warnings());
}

#[tokio::test]
async fn catalog_and_guard() {
    let f = Fixture::new();
    f.write("logs", &rows(5), true);
    let tables = f.rows("SHOW TABLES").await.unwrap();
    assert!(tables.iter().any(|t| t.starts_with("logs|")), "{tables:?}");
    let columns = f.rows("DESCRIBE logs").await.unwrap();
    assert!(columns.iter().any(|c| c == "service.name|Utf8|entity"), "{columns:?}");
    assert!(columns.iter().any(|c| c == "id|Int64|row"), "{columns:?}");
    let none = f.rows("SELECT * FROM information_schema.columns WHERE table_name = 'x'").await;
    assert_eq!(none.unwrap(), Vec::<String>::new());
    for (sql, code) in [
        ("DROP TABLE logs", "refused"),
        ("SELECT * FROM '/etc/passwd'", "refused"),
        ("SELECT * FROM log", "name"),
        ("SELECT * FROM other.logs", "name"),
        ("SELEC 1", "syntax"),
        ("SELECT nonsense(1) FROM logs", "plan"),
        ("SELECT 1 / (id - id) FROM logs", "failed"),
    ] {
        let got = f.rows(sql).await.expect_err(sql);
        assert_eq!(got.code(), code, "{sql}: {got}");
    }
    assert_eq!(f.rows("SELECT id FROM logs ORDER BY id LIMIT 1").await.unwrap(), ["0"]);
    // Another tenant sees nothing of it.
    let other = f.queries.query("other", "SELECT * FROM logs").await;
    assert_eq!(other.err().map(|e| e.code()), Some("name"));
}

#[tokio::test]
async fn reads_only_what_is_needed() {
    let f = Fixture::new();
    for hour in 0..6 {
        let mut part = rows(30);
        for row in &mut part {
            row.time += hour * HOUR;
        }
        f.write("logs", &part, true);
    }
    let cost = |sql: &'static str| {
        let f = &f;
        async move {
            let mut answer = f.queries.query("default", sql).await.unwrap();
            let batches = answer.collect().await.unwrap();
            (text(&batches), answer.cost())
        }
    };
    let (all, cost_all) = cost("SELECT count(id) FROM logs WHERE id >= 0").await;
    assert_eq!(all, ["180"]);
    assert_eq!((cost_all.files, cost_all.files_read), (6, 6));
    let (_, by_time) =
        cost("SELECT body FROM logs WHERE timestamp >= '2026-01-01T05:00:00Z'").await;
    assert_eq!(by_time.files_read, 1);
    let (none, by_entity) = cost("SELECT body FROM logs WHERE service.name = 'nobody'").await;
    assert!(none.is_empty());
    assert_eq!((by_entity.files_read, by_entity.rows_read), (0, 0));
    let (some, by_entity) = cost("SELECT id FROM logs WHERE service.name = 'cart'").await;
    assert_eq!(by_entity.rows_read as usize, some.len(), "only the rows of the entity are read");
    let (newest, top) = cost("SELECT body FROM logs ORDER BY timestamp DESC LIMIT 2").await;
    assert_eq!(newest.len(), 2);
    let plan = f.rows("EXPLAIN SELECT body FROM logs ORDER BY timestamp DESC LIMIT 2").await;
    assert!(top.slices_read < 6, "newest first stops early: {top:?} {plan:?}");
}

#[tokio::test]
async fn only_files_that_may_hold_a_trace_are_read() {
    let f = Fixture::new();
    let id = |n: i64| Some(format!("{:032x}", (n as u128 + 1) * 0x9e37_79b9_7f4a_7c15_f39c_c060));
    for hour in 0..6 {
        let ids = (0..100).map(|i| (i % 10 != 0).then(|| id(hour * 100 + i)).flatten());
        f.write_traces(T0 + hour * HOUR, &ids.collect::<Vec<_>>(), hour < 5);
    }
    // A file whose ids are none: kept as text, and without a filter.
    f.write_traces(T0 + 7 * HOUR, &[Some("abc".into()), id(301), None], true);
    let asked = |condition: String| {
        let f = &f;
        async move {
            let sql = format!("SELECT count(*) FROM spans WHERE {condition}");
            let mut answer = f.queries.query("default", &sql).await.unwrap();
            (text(&answer.collect().await.unwrap()).join(","), answer.cost().files_read)
        }
    };
    let is = |n: i64| format!("trace_id = '{}'", id(n).unwrap());
    assert_eq!(asked(is(101)).await, ("1".into(), 2), "its file, and the one without a filter");
    assert_eq!(asked(is(301)).await, ("2".into(), 2));
    assert_eq!(asked(is(501)).await, ("1".into(), 1), "a hot row");
    assert_eq!(asked(is(100)).await.0, "0", "that one has no id");
    assert_eq!(asked("trace_id = 'abc'".into()).await, ("1".into(), 1));
    assert_eq!(asked(is(101).to_uppercase().replace("TRACE_ID", "trace_id")).await.0, "0");
    assert_eq!(asked(format!("{} OR {}", is(1), is(402))).await, ("2".into(), 3));
    assert_eq!(asked(format!("NOT {}", is(101))).await.0, "541", "NULL is not another");
    assert_eq!(asked("trace_id IS NULL".into()).await.0, "61");
}

#[tokio::test]
async fn only_granules_that_may_have_a_token_are_read() {
    let f = Fixture::new();
    let body = |n: usize| match n {
        n if n % 7 == 0 => None,
        1_234 => Some("an Unusual, rare word".to_owned()),
        1_235 => Some("unusually unusual_ words".to_owned()),
        n => Some(format!("GET /cart/{n} {:064x} took long", (n as u128).pow(9))),
    };
    let bodies = |from: usize| (from..from + 5_000).map(body).collect::<Vec<_>>();
    for hour in 0..3 {
        f.write_bodies(T0 + hour * HOUR, &bodies(hour as usize * 5_000), true);
    }
    f.write_bodies(T0 + 3 * HOUR, &bodies(1_000), false);
    let asked = |condition: &'static str| {
        let f = &f;
        async move {
            let sql = format!("SELECT count(*) FROM logs WHERE {condition}");
            let mut answer = f.queries.query("default", &sql).await.unwrap();
            (text(&answer.collect().await.unwrap()).join(","), answer.cost())
        }
    };
    // A file's and a hot row; of the file a part is read.
    for condition in [
        "has_token(body, 'Unusual')",
        "has_token_case_insensitive(body, 'unusual')",
        "body LIKE '% Unusual, %'",
        "body ILIKE '% UNUSUAL,%'",
        "body = 'an Unusual, rare word'",
        "body IN ('an Unusual, rare word', 'x')",
    ] {
        let (count, cost) = asked(condition).await;
        assert_eq!((count.as_str(), cost.files_read), ("2", 1), "{condition}");
        assert!(cost.rows_read > 0 && cost.rows_read < 5_000, "{condition}: {cost:?}");
        assert!(cost.bytes_read > 0 && cost.hot_rows == 5_000, "{condition}: {cost:?}");
    }
    assert_eq!(asked("has_token(body, 'unusual')").await.0, "0");
    assert_eq!(asked("body ILIKE '%unusual%'").await.0, "4");
    let (count, cost) = asked("body LIKE '%/cart/7323 %' AND body LIKE '% took %'").await;
    assert_eq!((count.as_str(), cost.files_read), ("1", 1));
    let (count, cost) = asked("has_token(body, 'nowhere')").await;
    assert_eq!((count.as_str(), cost.slices_read, cost.rows_read), ("0", 0, 0));
    let (_, cost) = asked("NOT has_token(body, 'nowhere')").await;
    assert_eq!(cost.rows_read, 15_000);
    let plan = f.rows("EXPLAIN SELECT body FROM logs WHERE has_token(body, 'x')").await.unwrap();
    assert!(plan.iter().any(|line| line.contains("tokens=[body: x]")), "{plan:?}");
    let error = f.rows("SELECT body FROM logs WHERE has_token(body, 'a b')").await.unwrap_err();
    assert!(error.to_string().contains("`a b` is not one token"), "{error}");
}

#[tokio::test]
async fn a_damaged_file_is_left_out_and_named() {
    let f = Fixture::new();
    f.write("logs", &rows(10), true);
    f.write("logs", &rows(10), true);
    let snapshot = f.store.table("default", "logs").unwrap().snapshot();
    let path = snapshot.files()[0].path().to_owned();
    drop(snapshot);
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    let mut answer = f.queries.query("default", "SELECT id FROM logs WHERE id >= 0").await.unwrap();
    let batches = answer.collect().await.unwrap();
    assert_eq!(text(&batches).len(), 10);
    assert!(answer.warnings()[0].contains("damaged"), "{:?}", answer.warnings());
    assert!(!f.store.table("default", "logs").unwrap().damaged().is_empty());
    // Whoever asks later is told as well.
    let mut answer = f.queries.query("default", "SELECT count(*) FROM logs").await.unwrap();
    assert_eq!(text(&answer.collect().await.unwrap()), ["10"]);
    assert!(answer.warnings()[0].contains("answers lack"), "{:?}", answer.warnings());
}

#[tokio::test]
async fn a_disk_that_refuses_fails_the_query_and_costs_no_file() {
    let f = Fixture::new();
    f.write("logs", &rows(10), true);
    let table = f.store.table("default", "logs").unwrap();
    let path = table.snapshot().files()[0].path().to_owned();
    // Reading a folder is an error, but not that of a missing file.
    let aside = path.with_extension("aside");
    std::fs::rename(&path, &aside).unwrap();
    std::fs::create_dir(&path).unwrap();
    let refused = f.rows("SELECT id FROM logs WHERE id >= 0").await.unwrap_err();
    assert_eq!(refused.code(), "failed", "{refused}");
    std::fs::remove_dir(&path).unwrap();
    std::fs::rename(&aside, &path).unwrap();
    assert!(table.damaged().is_empty());
    check(&f, "SELECT count(id) FROM logs WHERE id >= 0", &["10"]).await;
}

#[tokio::test]
async fn rows_outlive_their_entities() {
    let f = Fixture::new();
    f.write("logs", &rows(10), true);
    let table = f.store.table("default", "logs").unwrap();
    for file in std::fs::read_dir(&table.folders().entities).unwrap() {
        std::fs::remove_file(file.unwrap().path()).unwrap();
    }
    let sql = "SELECT id, service.name FROM logs WHERE id < 2 ORDER BY id";
    let mut answer = f.queries.query("default", sql).await.unwrap();
    assert_eq!(text(&answer.collect().await.unwrap()), ["0|", "1|"]);
    assert!(answer.warnings()[0].contains("entities"), "{:?}", answer.warnings());
    check(&f, "SELECT count(*) FROM logs WHERE service.name IS NULL", &["10"]).await;
    check(&f, "SELECT count(*) FROM logs WHERE service.name = 'cart'", &["0"]).await;
    assert_eq!(table.damaged().len(), 1);
    assert_eq!(table.snapshot().files().len(), 1);
}

#[tokio::test]
async fn a_metric_is_not_asked_of_the_labels_of_others() {
    let f = Fixture::new();
    for commit in [true, false] {
        f.write_labelled("foo", ("code", "500"), commit);
        f.write_labelled("bar", ("code", "none"), commit);
    }
    let sql = "SELECT count(*) FROM metrics.foo WHERE CAST(code AS BIGINT) > 400";
    check(&f, sql, &["2"]).await;
    let all = f.rows("SELECT count(*) FROM metrics WHERE CAST(code AS BIGINT) > 400").await;
    assert_eq!(all.unwrap_err().code(), "failed");
}

#[tokio::test]
async fn long_chains_are_answered_or_refused() {
    let f = Fixture::new();
    f.write("logs", &rows(10), true);
    let chain = |n: usize| vec!["id = 3"; n].join(" OR ");
    let sql = format!("SELECT count(*) FROM logs WHERE {}", chain(100));
    check(&f, &sql, &["1"]).await;
    // Deep: answered, or refused for its price, but the process stands.
    let sum = vec!["id"; 500].join(" + ");
    match f.rows(&format!("SELECT {sum} AS x FROM logs WHERE id = 1")).await {
        Ok(rows) => assert_eq!(rows, ["500"]),
        Err(e) => assert_eq!(e.code(), "timeout", "{e}"),
    }
    for sql in [
        format!("SELECT count(*) FROM logs WHERE {}", chain(25_000)),
        vec!["SELECT 1"; 15_000].join(" UNION ALL "),
        format!("SELECT 1{}", "::int".repeat(30_000)),
        format!("SELECT 1 FROM logs{}", ", logs".repeat(300)),
    ] {
        assert_eq!(f.rows(&sql).await.unwrap_err().code(), "refused", "{}", &sql[..60]);
    }
    let many: Vec<String> = (0..3_000).map(|i| format!("-{i}")).collect();
    let sql = format!("SELECT count(*) FROM logs WHERE id IN ({})", many.join(", "));
    check(&f, &sql, &["1"]).await;
    let sql = format!("SELECT sum(x) FROM ({})", vec!["SELECT 1 AS x"; 100].join(" UNION ALL "));
    check(&f, &sql, &["100"]).await;
}

#[tokio::test]
async fn entities_are_held_within_the_memory_of_queries() {
    let dir = tempfile::tempdir().unwrap();
    let store = crate::testing::open(&dir.path().join("store"));
    let mut writer = crate::testing::writer(&store, "logs");
    let start = crate::testing::START;
    // One file and one entity log per day.
    for day in 1..=6 {
        writer.append(&crate::testing::logs(2_000, start + day * 24 * HOUR, 1, 2_000)).unwrap();
        let staged = writer.stage(day as u64, true).unwrap();
        writer.commit(day as u64, &staged.work).unwrap();
    }
    let snapshot = writer.table().snapshot();
    let set = snapshot.files()[0].entities().unwrap().clone();
    let chunk = set.columns(&set.files()[0], &["service.name"]).unwrap().memory();
    let sql = "SELECT service.name FROM logs WHERE service.name = 'service-7'";
    for (chunks, code) in [(2 * chunk, None), (chunk / 2, Some("memory"))] {
        let mut options = crate::query::QueryOptions::new(chunks, dir.path().join("spill"));
        options.threads = 1;
        let queries = crate::query::Queries::new(store.clone(), options).unwrap();
        let answer = match queries.query("default", sql).await {
            Ok(mut answer) => answer.collect().await,
            Err(e) => Err(e),
        };
        let got = answer.map(|batches| text(&batches).len());
        match code {
            None => assert_eq!(got.unwrap(), 6),
            Some(code) => assert_eq!(got.unwrap_err().code(), code),
        }
    }
}

#[tokio::test]
async fn outer_joins_merge_their_keys() {
    let f = Fixture::new();
    f.write("logs", &rows(2), true);
    let (a, b) =
        ("(VALUES (1, 'a'), (2, 'b')) AS l(k, x)", "(VALUES (2, 'c'), (3, 'd')) AS r(k, y)");
    for (join, expect) in [
        ("JOIN", &["2|b|c"][..]),
        ("LEFT JOIN", &["1|a|", "2|b|c"]),
        ("RIGHT JOIN", &["2|b|c", "3||d"]),
        ("FULL JOIN", &["1|a|", "2|b|c", "3||d"]),
    ] {
        for using in ["", "NATURAL "] {
            let on = if using.is_empty() { " USING (k)" } else { "" };
            let from = format!("FROM {a} {using}{join} {b}{on}");
            check(&f, &format!("SELECT * {from} ORDER BY k"), expect).await;
            check(&f, &format!("SELECT k, x, y {from} ORDER BY k"), expect).await;
            let keys: Vec<&str> = expect.iter().map(|row| &row[..1]).collect();
            check(&f, &format!("SELECT k {from} GROUP BY k ORDER BY k"), &keys).await;
        }
    }
}

#[tokio::test]
async fn a_name_has_one_type_hot_and_in_files() {
    let f = Fixture::new();
    let mut all = rows(2_500);
    all[7].code = Some(fixture::Code::Int(500));
    all[8].spilled = Some(("http.code".into(), serde_json::json!(404)));
    let sql = "SELECT http.code + 1 FROM logs WHERE http.code > 400 ORDER BY 1";
    for commit in [false, true] {
        let f = Fixture::new();
        f.write("logs", &all, commit);
        check(&f, sql, &["405", "501"]).await;
    }
    // Doubles read alike from a column and from `attributes`.
    let mut spilled = rows(1);
    spilled[0].spilled = Some(("ratio".into(), serde_json::json!(1.0)));
    f.write("logs", &spilled, true);
    check(&f, "SELECT ratio FROM logs", &["1"]).await;
}

#[tokio::test]
async fn limits() {
    let f = Fixture::with(|o| {
        o.rows_max = 1_000;
        o.timeout = Duration::from_secs(20);
    });
    let mut answer = f.queries.query("default", "SELECT * FROM generate_series(1, 5000)").await;
    let got = match &mut answer {
        Ok(answer) => answer.collect().await.err().map(|e| e.code()),
        Err(e) => Some(e.code()),
    };
    assert_eq!(got, Some("too_large"));
    let f = Fixture::with(|o| o.timeout = Duration::from_millis(200));
    let endless = "WITH RECURSIVE t AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM t) \
                   SELECT max(n) FROM t";
    let got = f.rows(endless).await.expect_err("it ends never");
    assert_eq!(got.code(), "timeout", "{got}");
    let f = Fixture::with(|o| o.memory_bytes = 1 << 20);
    let hungry = "SELECT count(*) FROM (SELECT DISTINCT value, value || 'x' FROM \
                  generate_series(1, 3000000))";
    if let Err(e) = f.rows(hungry).await {
        assert_eq!(e.code(), "memory", "{e}");
    }
}

#[tokio::test]
async fn a_dropped_answer_ends_its_query() {
    let f = Fixture::with(|o| o.running_max = 1);
    let endless = "SELECT a.value FROM generate_series(1, 100000000) a";
    let mut answer = f.queries.query("default", endless).await.unwrap();
    answer.next().await.unwrap().unwrap();
    drop(answer);
    // Its place is free again.
    let next = f.queries.query("default", "SELECT 1 AS one");
    let mut next = tokio::time::timeout(Duration::from_secs(5), next).await.unwrap().unwrap();
    let batches = next.collect().await.unwrap();
    assert_eq!(batches[0].column(0).as_primitive::<Int64Type>().value(0), 1);
}

/// Queries that yield nowhere by themselves while they work.
const STUBBORN: [&str; 5] = [
    "SELECT count(*) FROM generate_series(1, 100000) a, generate_series(1, 1000000) b \
     WHERE a.value * b.value % 7 = 9",
    "SELECT count(*) FROM generate_series(1, 100000) a, generate_series(1, 1000000) b \
     WHERE a.value * b.value % 7 = 3",
    "SELECT array_agg(a.value) FROM generate_series(1, 100000) a, generate_series(1, 100000) b",
    "SELECT count(*) FROM generate_series(1, 200000) a JOIN generate_series(1, 200000) b \
     ON a.value % 2 = b.value % 2 AND a.value + b.value < 0",
    "SELECT count(*) FROM (SELECT unnest(range(0, 10000)) FROM generate_series(1, 10000000))",
];

/// Waits until every query that ran has given its place back.
async fn idle(f: &Fixture, places: u32) {
    let all = f.queries.running.clone().acquire_many_owned(places);
    drop(tokio::time::timeout(Duration::from_secs(20), all).await.expect("a query goes on"));
}

#[tokio::test]
async fn a_stubborn_query_ends_with_its_limit_and_hinders_nobody() {
    let f = Fixture::with(|o| {
        o.timeout = Duration::from_secs(1);
        o.running_max = 6;
    });
    let stubborn = STUBBORN.map(|sql| {
        let queries = f.queries.clone();
        tokio::spawn(async move { queries.query("default", sql).await.err().map(|e| e.code()) })
    });
    // None of them has an answer, and one that is asked meanwhile gets its own.
    check(&f, "SELECT 1 AS one", &["1"]).await;
    for (sql, query) in STUBBORN.iter().zip(stubborn) {
        let code = query.await.unwrap();
        assert!(matches!(code, Some("timeout" | "memory")), "{sql}: {code:?}");
    }
    idle(&f, 6).await;
}

#[tokio::test]
async fn a_stubborn_query_ends_with_whoever_asked() {
    let f = Fixture::with(|o| o.running_max = 1);
    for sql in STUBBORN {
        let query = f.queries.query("default", sql);
        // Whoever asks goes away as soon as it runs.
        let asked = tokio::time::timeout(Duration::from_millis(100), query).await;
        assert!(asked.is_err(), "{sql}");
        idle(&f, 1).await;
    }
}

#[tokio::test]
async fn an_answer_that_is_not_whole_says_so() {
    let f = Fixture::with(|o| o.timeout = Duration::from_secs(1));
    let long = "SELECT value FROM generate_series(1, 9000000)";
    let mut answer = f.queries.query("default", long).await.unwrap();
    // Nobody reads until it is too late.
    idle(&f, 8).await;
    let error = answer.collect().await.expect_err("rows are missing");
    assert_eq!(error.code(), "timeout");
}

#[tokio::test]
async fn long_chains_are_answered() {
    let f = Fixture::new();
    check(&f, &format!("SELECT 1{} AS n", "+1".repeat(300)), &["301"]).await;
    let unions = format!("SELECT count(*) FROM (SELECT 1{})", " UNION ALL SELECT 1".repeat(200));
    check(&f, &unions, &["201"]).await;
}

#[tokio::test]
async fn no_value_is_larger_than_memory() {
    let f = Fixture::new();
    for sql in [
        "SELECT length(repeat('x', 2000000000))",
        "SELECT repeat('xy', value) FROM generate_series(9000000, 9000001)",
        "SELECT lpad('x', 2000000000)",
        "SELECT replace(repeat('x', 1000000), 'x', repeat('y', 1000000))",
        "SELECT concat(x, x, x) FROM (SELECT repeat('x', 7000000) AS x)",
        "SELECT range(0, 2000000000)",
        "SELECT generate_series(TIMESTAMP '2000-01-01', TIMESTAMP '2026-01-01', INTERVAL '1 ms')",
        "SELECT array_repeat('x', 2000000000)",
        "SELECT array_resize(make_array(1), 2000000000, 7)",
    ] {
        let error = f.rows(sql).await.expect_err(sql);
        assert!(error.to_string().contains("would make more than"), "{sql}: {error}");
    }
    let sql = "SELECT repeat('ab', 2), lpad('x', 3, '-'), replace('aXb', 'X', ', '), \
               concat('a', NULL, 1), concat_ws('-', 'a', 'b'), range(0, 6, 2), \
               array_repeat(1, 2), array_resize(make_array(1), 2, 7)";
    check(&f, sql, &["abab|--x|a, b|a1|a-b|[0, 2, 4]|[1, 1]|[1, 7]"]).await;
    let days = "SELECT cardinality(generate_series(DATE '2026-01-01', DATE '2026-01-03', \
                INTERVAL '1 day'))";
    check(&f, days, &["3"]).await;
}

#[tokio::test]
async fn too_many_queries_are_refused() {
    let f = Fixture::with(|o| {
        o.running_max = 1;
        o.waiting_max = 0;
    });
    let running = f.queries.query("default", "SELECT * FROM generate_series(1, 100000000)").await;
    assert!(running.is_ok());
    let refused = f.rows("SELECT 1").await.expect_err("one runs already");
    assert_eq!(refused.code(), "busy");
}

#[tokio::test]
async fn widened_columns_and_attributes() {
    let f = Fixture::new();
    let mut first = rows(4);
    let mut second = rows(4);
    for (i, row) in first.iter_mut().enumerate() {
        row.code = Some(fixture::Code::Int(i as i64));
        row.spilled = Some(("rare.key".into(), serde_json::json!(i)));
    }
    for (i, row) in second.iter_mut().enumerate() {
        row.id += 4;
        row.code = Some(fixture::Code::Text(format!("t{i}")));
        row.spilled = Some(("http.code".into(), serde_json::json!("never")));
    }
    f.write("logs", &first, true);
    f.write("logs", &second, false);
    check(
        &f,
        "SELECT http.code FROM logs ORDER BY id",
        &["0", "1", "2", "3", "t0", "t1", "t2", "t3"],
    )
    .await;
    check(&f, "SELECT id FROM logs WHERE http.code = 2", &["2"]).await;
    check(&f, "SELECT id FROM logs WHERE rare.key >= 2 ORDER BY id", &["2", "3"]).await;
    check(&f, "SELECT count(rare.key) FROM logs", &["4"]).await;
}

#[tokio::test]
async fn groups_by_the_time_of_a_zone_are_the_instants_of_their_rows() {
    let f = Fixture::new();
    f.write("logs", &rows(2), true);
    for zone in ["UTC", "Europe/Berlin", "America/New_York", "+05:30"] {
        let sql = format!(
            "SELECT count(*) FROM logs JOIN (SELECT timestamp AT TIME ZONE '{zone}' AS t, count(*) \
             FROM logs GROUP BY t) ON timestamp = t"
        );
        check(&f, &sql, &["2"]).await;
    }
}

#[tokio::test]
async fn integers_past_doubles_stay_what_they_are() {
    let wide = (1_i64 << 53) + 1;
    for (first, second) in [(true, true), (true, false), (false, false)] {
        let f = Fixture::new();
        let mut ints = rows(2);
        ints[0].code = Some(fixture::Code::Int(wide));
        ints[1].code = Some(fixture::Code::Int(7));
        f.write("logs", &ints, first);
        check(&f, "SELECT max(http.code) + 1 FROM logs", &["9007199254740994"]).await;
        let mut doubles = rows(1);
        doubles[0].id = 2;
        doubles[0].code = Some(fixture::Code::Double(0.5));
        f.write("logs", &doubles, second);
        let expect = ["9007199254740993", "7", "0.5"];
        check(&f, "SELECT http.code FROM logs ORDER BY id", &expect).await;
        check(&f, "SELECT id FROM logs WHERE http.code < 1", &["2"]).await;
    }
}

#[tokio::test]
async fn hot_rows_keep_the_column_limit() {
    let f = Fixture::new();
    let names: Vec<String> = (0..1_500).map(|i| format!("w.{i}")).collect();
    for part in names.chunks(100) {
        f.write_names("logs", part, false);
    }
    let columns = |f: &Fixture| {
        let snapshot = f.store.table("default", "logs").unwrap().snapshot();
        snapshot.schema().columns().iter().filter(|c| c.name.starts_with("w.")).count()
    };
    assert_eq!(columns(&f), 1_000);
    // The first have columns, the others stand in `attributes`; both are read by name.
    check(&f, "SELECT w.7, count(*) FROM logs WHERE w.7 = 7 GROUP BY w.7", &["7|1"]).await;
    check(&f, "SELECT w.1499, count(*) FROM logs WHERE w.1499 = 99 GROUP BY 1", &["99|1"]).await;
    let mut answer = f.queries.query("default", "SELECT w.1499 FROM logs").await.unwrap();
    answer.collect().await.unwrap();
    let warnings = answer.warnings().join("\n");
    assert!(warnings.contains("its values in `attributes` are read"), "{warnings}");
    let mut all = f.queries.query("default", "SELECT * FROM logs LIMIT 1").await.unwrap();
    assert!(all.schema().fields().len() < 1_010, "{} columns", all.schema().fields().len());
    assert_eq!(text(&all.collect().await.unwrap()).len(), 1);
}

#[tokio::test]
async fn a_star_of_very_many_columns_leaves_some_out() {
    let f = Fixture::new();
    for part in (0..2_400).map(|i| format!("w.{i:04}")).collect::<Vec<_>>().chunks(800) {
        f.write_names("logs", part, true);
    }
    let mut all = f.queries.query("default", "SELECT * FROM logs LIMIT 1").await.unwrap();
    assert_eq!(all.schema().fields().len(), 2_000);
    all.collect().await.unwrap();
    assert!(all.warnings()[0].contains("leaves out 4"), "{:?}", all.warnings());
    check(&f, "SELECT max(w.2399) FROM logs", &["799"]).await;
}

#[tokio::test]
async fn rows_past_retention_are_not_shown() {
    let f = Fixture::new();
    f.write("logs", &rows(10), true);
    f.write("logs", &rows(10), false);
    f.store.set_retention([("logs".to_owned(), Duration::from_secs(3_600))].into());
    check(&f, "SELECT count(*) FROM logs", &["0"]).await;
    check(&f, "SELECT max(timestamp) FROM logs", &[""]).await;
    f.store.set_retention(Default::default());
    check(&f, "SELECT count(*) FROM logs", &["20"]).await;
}

#[tokio::test]
async fn usual_questions_run() {
    let f = Fixture::new();
    f.write("logs", &rows(60), true);
    f.write("logs", &rows(60), false);
    f.write_metrics(&[("up", 1.0), ("up", 0.0), ("http.requests", 5.0)], true);
    for sql in [
        "SELECT * FROM logs",
        "SELECT * FROM logs ORDER BY timestamp DESC LIMIT 10",
        "SELECT * FROM metrics",
        "SELECT * FROM metrics.up",
        "SELECT count(*) FROM logs WHERE timestamp > now() - INTERVAL '100 years'",
        "SELECT date_bin(INTERVAL '10 seconds', timestamp) AS t, service.name, count(*) FROM logs \
         GROUP BY t, service.name ORDER BY t",
        "SELECT date_trunc('minute', timestamp) AS m, avg(score) FROM logs GROUP BY 1 ORDER BY 1",
        "SELECT service.name, approx_percentile_cont(0.9) WITHIN GROUP (ORDER BY score) FROM logs \
         GROUP BY service.name",
        "SELECT service.name, count(*) FILTER (WHERE http.route IS NOT NULL) FROM logs GROUP BY 1",
        "SELECT id, lag(id) OVER (PARTITION BY service.name ORDER BY timestamp) FROM logs",
        "SELECT DISTINCT host.name FROM logs ORDER BY host.name",
        "SELECT DISTINCT upper(host.name) FROM logs ORDER BY upper(host.name)",
        "SELECT max(score) FROM logs GROUP BY service.name ORDER BY max(score)",
        "SELECT service.name AS s FROM logs GROUP BY s HAVING count(*) > 1 ORDER BY count(*)",
        "WITH a AS (SELECT service.name, count(*) AS n FROM logs GROUP BY service.name) \
         SELECT a.service.name, a.n FROM a JOIN logs l ON l.service.name = a.service.name",
        "SELECT * FROM logs a JOIN logs b ON a.id = b.id LIMIT 3",
        "SELECT l.id FROM logs l WHERE EXISTS (SELECT 1 FROM logs m WHERE m.id = l.id + 1)",
        "SELECT id FROM logs WHERE id = (SELECT max(id) FROM logs)",
        "SELECT id FROM logs WHERE service.name IN (SELECT host.name FROM logs)",
        "SELECT body FROM logs WHERE body ~ '^b1' OR body ILIKE 'B2%'",
        "SELECT 1 AS x UNION ALL SELECT id FROM logs ORDER BY x LIMIT 3",
        "SELECT value > 0.5 AS ok, count(*) FROM metrics.up GROUP BY ok",
        "SELECT * FROM (SELECT http.route, count(*) FROM logs GROUP BY http.route) t",
        "SELECT CASE WHEN score > 1 THEN 'high' ELSE 'low' END AS level, count(*) FROM logs \
         GROUP BY level",
        "SELECT extract(hour FROM timestamp) AS h, count(*) FROM logs GROUP BY h",
        "SELECT count(*) FROM logs.late",
        "EXPLAIN ANALYZE SELECT service.name, count(*) FROM logs GROUP BY service.name",
    ] {
        let got = f.rows(sql).await;
        if sql.contains("logs.late") {
            assert_eq!(got.err().map(|e| e.code()), Some("name"), "there is none yet");
            continue;
        }
        let got = got.unwrap_or_else(|e| panic!("{sql}: {e}"));
        assert!(!got.is_empty() || sql.contains(" IN ("), "{sql}: no row");
    }
}

#[tokio::test]
async fn files_of_several_slices() {
    let f = Fixture::new();
    let n = crate::layout::SLICE_ROWS as i64 * 2 + 1_000;
    let mut all = rows(n);
    all.iter_mut().for_each(|r| r.time = T0 + r.id * 1_000_000);
    f.write("logs", &all, true);
    let snapshot = f.store.table("default", "logs").unwrap().snapshot();
    let slices: usize = snapshot.files().iter().map(|f| f.meta().slices.len()).sum();
    assert!(slices > 2, "{slices} slices");
    check(&f, "SELECT count(*), sum(id) FROM logs", &[&format!("{n}|{}", n * (n - 1) / 2)]).await;
    let carts = (0..n).filter(|i| i % 3 == 0).count();
    let sql = "SELECT count(id), count(body) FROM logs WHERE service.name = 'cart'";
    check(&f, sql, &[&format!("{carts}|{carts}")]).await;
    let sql = "SELECT count(id), min(id), max(id) FROM logs WHERE id BETWEEN 65000 AND 66000 \
               AND host.name = 'h1'";
    let hit: Vec<i64> = (65_000..=66_000).filter(|i| i % 4 != 0 && i % 5 == 1).collect();
    let expect = format!("{}|{}|{}", hit.len(), hit[0], hit[hit.len() - 1]);
    check(&f, sql, &[&expect]).await;
    let last: Vec<String> = (0..3).map(|i| (n - 1 - i).to_string()).collect();
    let last: Vec<&str> = last.iter().map(String::as_str).collect();
    check(&f, "SELECT id FROM logs ORDER BY timestamp DESC LIMIT 3", &last).await;
    check(&f, "SELECT id FROM logs WHERE id >= 100 LIMIT 0", &[]).await;
    let sql = "SELECT count(*) FROM (SELECT id FROM logs WHERE id >= 10 LIMIT 70000)";
    check(&f, sql, &["70000"]).await;
}

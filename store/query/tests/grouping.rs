//! Grouping while scanning: what it reads, remembers and lets go.

use weir_pipeline::signal::Signal;

use super::fixture::{Fixture, HOUR, T0, rows, text};

#[tokio::test]
async fn slices_are_not_asked_the_same_again() {
    let f = Fixture::new();
    let hour = |hour: i64| {
        let mut part = rows(30);
        part.iter_mut().for_each(|row| row.time += hour * HOUR);
        part
    };
    (0..4).for_each(|i| f.write("logs", &hour(i), true));
    let ask = |sql: String| {
        let f = &f;
        async move {
            let mut answer = f.queries.query("default", &sql).await.unwrap();
            let rows = text(&answer.collect().await.unwrap()).join(",");
            (rows, answer.cost().slices_read, answer.cost().slices_known)
        }
    };
    let by_service = |more: &str| {
        format!(
            "SELECT \"service.name\", count(*) FROM logs WHERE true {more} \
             GROUP BY \"service.name\" ORDER BY 1"
        )
    };
    let (all, read, known) = ask(by_service("")).await;
    assert_eq!((read, known), (4, 0), "{all}");
    assert_eq!(ask(by_service("")).await, (all.clone(), 0, 4));
    // Other bounds on time, and within them whole slices.
    let (some, read, known) = ask(by_service("AND timestamp >= '2026-01-01T01:00:10Z'")).await;
    assert_eq!((read, known), (1, 2), "{some}");
    // Another question.
    assert_eq!(ask(by_service("AND id >= 0")).await, (all.clone(), 4, 0));
    // New rows are read, and what was known counts still.
    f.write("logs", &hour(4), true);
    f.write("logs", &hour(5), false);
    let (more, read, known) = ask(by_service("")).await;
    assert_eq!((read, known), (1, 4));
    let total = |rows: &str| -> usize {
        rows.split(',').filter_map(|r| r.rsplit('|').next()?.parse::<usize>().ok()).sum()
    };
    assert_eq!((total(&all), total(&some), total(&more)), (120, 80, 180));
}

#[tokio::test]
async fn of_slices_at_the_edges_only_bins_that_are_cut_are_read_again() {
    let f = Fixture::new();
    // One a second, in one slice.
    f.write_as(Signal::Metrics, "logs", &rows(3000), true);
    let ask = async |from: i64, to: i64, sum: &str| {
        let at = |second: i64| format!("2026-01-01T00:{:02}:{:02}Z", second / 60, second % 60);
        let sql = format!(
            "SELECT date_bin(INTERVAL '10 minutes', timestamp) AS t, count(*), {sum} FROM logs \
             WHERE timestamp >= '{}' AND timestamp < '{}' GROUP BY t ORDER BY t",
            at(from),
            at(to)
        );
        let mut answer = f.queries.query("default", &sql).await.unwrap();
        let expect = (from / 600..=(to - 1) / 600).map(|bin| {
            let ids = (bin * 600).max(from)..(bin * 600 + 600).min(to);
            format!("{}|{}|{}", at(bin * 600), ids.end - ids.start, ids.sum::<i64>())
        });
        let expect: Vec<String> = expect.collect();
        assert_eq!(text(&answer.collect().await.unwrap()), expect);
        (answer.cost().slices_read, answer.cost().slices_known)
    };
    // Most of it is asked for: all is read and remembered, and what is cut is read again.
    assert_eq!(ask(50, 2950, "sum(id)").await, (1, 0));
    assert_eq!(ask(70, 2990, "sum(id)").await, (1, 1));
    assert_eq!(ask(650, 2950, "sum(id)").await, (1, 1));
    assert_eq!(ask(600, 2400, "sum(id)").await, (0, 1));
    // No bin as a whole.
    assert_eq!(ask(610, 700, "sum(id)").await, (1, 0));
    // Of a small part it is remembered that it was asked for.
    assert_eq!(ask(600, 1250, "sum(id + 0)").await, (1, 0));
    assert_eq!(ask(600, 1250, "sum(id + 0)").await, (1, 0));
    let sum = "sum(id) FILTER (WHERE id >= 0)";
    assert_eq!(ask(600, 1250, sum).await, (1, 0));
    assert_eq!(ask(600, 1250, sum).await, (1, 0));
    assert_eq!(ask(590, 1240, sum).await, (1, 1));
    assert_eq!(ask(600, 1200, sum).await, (0, 1));
}

#[tokio::test]
async fn more_groups_than_are_worth_it_are_not_remembered() {
    let f = Fixture::new();
    f.write("logs", &rows(600), true);
    let plan = f.rows("EXPLAIN SELECT timestamp, count(*) FROM logs GROUP BY timestamp").await;
    assert!(plan.unwrap().concat().contains("GroupExec"));
    for _ in 0..2 {
        let sql = "SELECT count(*), sum(n) FROM \
                   (SELECT timestamp, count(*) AS n FROM logs GROUP BY timestamp)";
        let mut answer = f.queries.query("default", sql).await.unwrap();
        assert_eq!(text(&answer.collect().await.unwrap()), ["600|600"]);
        assert_eq!((answer.cost().slices_read, answer.cost().slices_known), (1, 0));
    }
}

#[tokio::test]
async fn more_groups_than_a_partition_holds_are_let_go_and_put_together() {
    let f = Fixture::new();
    let n = 140_000;
    let mut rows = rows(n);
    rows.iter_mut().for_each(|row| row.time = T0 + row.id);
    f.write("logs", &rows, true);
    f.write("logs", &rows, false);
    let sql = "SELECT count(*), min(n), max(n), min(s), max(s) FROM \
               (SELECT timestamp, count(*) AS n, sum(id) - 2 * min(id) AS s FROM logs \
                GROUP BY timestamp)";
    assert_eq!(f.rows(sql).await.unwrap(), [format!("{n}|2|2|0|0")]);
}

#[tokio::test]
async fn of_entities_whose_last_row_counts_only_that_is_read() {
    let f = Fixture::new();
    f.write("logs", &rows(600), true);
    f.write("logs", &rows(300), false);
    let of = async |order: &str, more: &str| {
        let sql = format!(
            "SELECT service.name, last_value(id ORDER BY {order}), last_value(score ORDER BY {order}) \
             FROM logs WHERE true {more} GROUP BY 1 ORDER BY 1"
        );
        let mut answer = f.queries.query("default", &sql).await.unwrap();
        (text(&answer.collect().await.unwrap()), answer.cost().rows_read)
    };
    let all = ["cart|597|298.5", "mail|599|299.5", "shop|598|299.0"];
    let told = |rows: &[&str]| rows.iter().map(|r| (*r).to_owned()).collect::<Vec<_>>();
    // Service and host make eighteen entities.
    assert_eq!(of("timestamp", "").await, (told(&all), 18));
    let late = "AND timestamp >= '2026-01-01T00:09:50Z'";
    assert_eq!(of("timestamp", late).await, (told(&all), 0), "what is remembered is enough");
    let newest = "AND timestamp >= '2026-01-01T00:09:58Z'";
    assert_eq!(of("timestamp", newest).await, (told(&[all[1], all[2]]), 0));
    assert_eq!(of("timestamp", "AND service.name <> 'shop'").await, (told(&all[..2]), 12));
    // All rows may be needed where the bound is in the middle, and where it is another order.
    let early = ["cart|498|249.0", "mail|497|248.5", "shop|499|249.5"];
    let bound = "AND timestamp < '2026-01-01T00:08:20Z'";
    assert_eq!(of("timestamp", bound).await, (told(&early), 600));
    assert_eq!(of("id", "").await, (told(&all), 600));
    let low = ["cart|198|99.0", "mail|197|98.5", "shop|199|99.5"];
    assert_eq!(of("timestamp", "AND score < 100").await, (told(&low), 600));
}

#[tokio::test]
async fn what_is_lost_is_not_remembered() {
    let f = Fixture::new();
    f.write("logs", &rows(12), true);
    let table = f.store.table("default", "logs").unwrap();
    for file in std::fs::read_dir(&table.folders().entities).unwrap() {
        std::fs::remove_file(file.unwrap().path()).unwrap();
    }
    let sql = "SELECT \"service.name\", count(*) FROM logs GROUP BY \"service.name\" ORDER BY 1";
    for _ in 0..2 {
        let mut answer = f.queries.query("default", sql).await.unwrap();
        assert_eq!(text(&answer.collect().await.unwrap()), ["|12"]);
        let warnings = answer.warnings();
        assert!(warnings.iter().any(|w| w.contains("entities")), "{warnings:?}");
        assert_eq!(answer.cost().slices_known, 0);
    }
}

#[tokio::test]
async fn entities_that_are_damaged_after_they_were_read_are_named() {
    type Spoil = fn(&std::path::Path);
    let gone: Spoil = |path| std::fs::remove_file(path).unwrap();
    let zeroed: Spoil = |path| {
        let len = std::fs::metadata(path).unwrap().len();
        std::fs::write(path, vec![0; len as usize]).unwrap();
    };
    let cut: Spoil = |path| std::fs::write(path, b"PAR1").unwrap();
    for (damage, spoil) in [("gone", gone), ("zeroed", zeroed), ("cut", cut)] {
        let f = Fixture::new();
        f.write("logs", &rows(12), true);
        let ask = async |label: &str| {
            let sql = format!("SELECT {label}, count(*) FROM logs GROUP BY 1 ORDER BY 1");
            let mut answer = f.queries.query("default", &sql).await.unwrap();
            (text(&answer.collect().await.unwrap()), answer.warnings())
        };
        let (before, warnings) = ask("service.name").await;
        assert!(before.len() == 3 && warnings.is_empty(), "{warnings:?}");
        let table = f.store.table("default", "logs").unwrap();
        for file in std::fs::read_dir(&table.folders().entities).unwrap() {
            spoil(&file.unwrap().path());
        }
        let (after, warnings) = ask("host.name").await;
        assert_eq!(after, ["|12"], "{damage}");
        assert!(warnings.iter().any(|w| w.contains("entities")), "{damage}: {warnings:?}");
    }
}

#[tokio::test]
async fn chance_is_drawn_for_each_row() {
    let f = Fixture::new();
    f.write("logs", &rows(6000), true);
    let sql = "SELECT service.name, CASE WHEN random() < 0.5 THEN http.route ELSE 'x' END AS r, \
               count(*) FROM logs WHERE http.route = '/r0' GROUP BY 1, 2";
    // Of three services each has rows that were drawn and rows that were not.
    assert_eq!(f.rows(sql).await.unwrap().len(), 6);
}

#[tokio::test]
async fn questions_that_are_written_alike_are_told_apart() {
    let f = Fixture::new();
    f.write("logs", &rows(12), true);
    for _ in 0..2 {
        for (list, expect) in
            [("'cart, shop'", vec![]), ("'cart', 'shop'", vec!["cart|4", "shop|4"])]
        {
            let sql = format!(
                "SELECT service.name, count(*) FROM logs \
                 WHERE array_position(make_array({list}), service.name) IS NOT NULL \
                 GROUP BY 1 ORDER BY 1"
            );
            assert_eq!(f.rows(&sql).await.unwrap(), expect, "{list}");
        }
    }
}

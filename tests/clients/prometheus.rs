//! node_exporter is scraped, Prometheus writes.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use serde_json::{Value, json};

use super::assert_rows;
use crate::harness::{Program, Server, free_port, program, request, wait};

#[test]
fn node_exporter_is_scraped() {
    let dir = tempfile::tempdir().unwrap();
    let target = format!("127.0.0.1:{}", free_port());
    let mut command = Command::new(program("prometheus-node-exporter"));
    command.arg(format!("--web.listen-address={target}"));
    let exporter = Program::start("node_exporter", &mut command, &dir.path().join("out"));
    let page = wait("node_exporter", || {
        let page = request("GET", &format!("http://{target}/metrics"), &[], Vec::new());
        (page.status == 200).then(|| page.text())
    });
    let text = format!(
        r#"
        [sources.node]
        type = "prometheus_scrape"
        targets = ["{target}"]
        interval = "500ms"
        labels = {{ rack = "a1" }}
        [operators.scraped]
        type = "staleness"
        inputs = ["node.metrics"]
        [sinks.metrics]
        type = "store"
        inputs = ["scraped"]
        table = "metrics"
        "#
    );
    let server = Server::start(&[("node", &text)], None);
    let up = server.wait_sql(
        "SELECT value, job, instance, rack FROM metrics.up WHERE value = 1 LIMIT 1",
        |r| r.len() == 1,
    );
    assert_rows(&up, &json!([{ "value": 1.0, "job": "node", "instance": target, "rack": "a1" }]));
    // Series that do not change while it runs are as the exporter shows them to us.
    for name in ["node_memory_MemTotal_bytes", "node_boot_time_seconds"] {
        let line = page.lines().find(|l| l.starts_with(&format!("{name} "))).unwrap();
        let value: f64 = line.split_once(' ').unwrap().1.parse().unwrap();
        let rows = server.sql(&format!("SELECT DISTINCT value FROM metrics.{name}"));
        assert_rows(&rows, &json!([{ "value": value }]));
    }
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let uname = server.sql("SELECT release, value FROM metrics.node_uname_info LIMIT 1");
    assert_rows(&uname, &json!([{ "release": release.trim(), "value": 1.0 }]));
    // As many series of each name as on the page: nothing is folded together.
    let mut series: BTreeMap<&str, u64> = BTreeMap::new();
    for line in page.lines().filter(|l| l.starts_with("node_cpu_seconds_total")) {
        *series.entry(line.split('{').next().unwrap()).or_default() += 1;
    }
    let stored = server.sql(
        "SELECT count(*) AS n FROM (SELECT DISTINCT cpu, mode FROM metrics.node_cpu_seconds_total)",
    );
    assert_rows(&stored, &json!([{ "n": series["node_cpu_seconds_total"] }]));
    // It goes away: `up` says so, and its series end.
    exporter.stop();
    server.wait_sql("SELECT value FROM metrics.up WHERE value = 0", |r| !r.is_empty());
    server
        .wait_sql("SELECT value, stale FROM metrics.node_memory_MemTotal_bytes WHERE stale", |r| {
            r.len() == 1 && r[0]["value"].is_null()
        });
}

#[test]
fn prometheus_writes() {
    let server = Server::start(
        &[(
            "prometheus",
            r#"
            [sources.prometheus]
            type = "prometheus_remote_write"
            listen = "127.0.0.1:0"
            [sinks.metrics]
            type = "store"
            inputs = ["prometheus.metrics"]
            table = "metrics"
            "#,
        )],
        None,
    );
    let dir = tempfile::tempdir().unwrap();
    let port = free_port();
    let config = format!(
        "global: {{scrape_interval: 500ms, external_labels: {{replica: one}}}}\n\
         scrape_configs:\n\
         - job_name: self\n  static_configs: [{{targets: ['127.0.0.1:{port}']}}]\n\
         remote_write:\n- url: http://{}/api/v1/write\n  \
         queue_config: {{batch_send_deadline: 200ms}}\n",
        server.address("prometheus")
    );
    fs::write(dir.path().join("prometheus.yml"), config).unwrap();
    let mut command = Command::new(program("prometheus"));
    command
        .arg(format!("--config.file={}/prometheus.yml", dir.path().display()))
        .arg(format!("--storage.tsdb.path={}/data", dir.path().display()))
        .arg(format!("--web.listen-address=127.0.0.1:{port}"));
    let prometheus = Program::start("prometheus", &mut command, &dir.path().join("out"));
    // A few scrapes, as Prometheus itself has them.
    let name = "prometheus_tsdb_head_samples_appended_total";
    let api = format!("http://127.0.0.1:{port}/api/v1/query?query={name}%5B5m%5D");
    let theirs: Vec<(String, f64)> = wait("three samples in Prometheus", || {
        let reply = request("GET", &api, &[], Vec::new());
        let answer: Value = serde_json::from_slice(&reply.body).ok()?;
        let series = answer["data"]["result"].as_array()?;
        let float = series.iter().find(|s| s["metric"]["type"] != "histogram")?;
        let values = float["values"].as_array()?;
        (values.len() >= 3).then(|| {
            let sample = |v: &Value| {
                let (time, value) = (v[0].as_f64().unwrap(), v[1].as_str().unwrap());
                let millis = format!("{:.0}", time * 1e3);
                (millis, value.parse().unwrap())
            };
            values.iter().map(sample).collect()
        })
    });
    let ours = format!(
        "SELECT CAST(timestamp AS BIGINT) / 1000000 AS millis, value, metric.type, job, instance, \
         replica FROM metrics.{name} WHERE type IS NULL OR type <> 'histogram' ORDER BY timestamp"
    );
    let rows = server.wait_sql(&ours, |r| r.len() >= theirs.len());
    for (row, (millis, value)) in rows.iter().zip(&theirs) {
        assert_eq!(&row["millis"].to_string(), millis);
        assert_rows(
            std::slice::from_ref(row),
            &json!([{
                "value": value, "metric.type": "counter", "job": "self", "replica": "one",
                "instance": format!("127.0.0.1:{port}"),
            }]),
        );
    }
    prometheus.stop();
}

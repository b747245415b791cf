//! ClickHouse has each row once, whoever dies.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

use super::load::{Ledger, ROWS, SOURCES, send_logs};
use crate::harness::{Program, Server, free_port, request, script_of, wait};

/// A real engine behind an HTTP front.
pub(crate) struct ClickHouse {
    folder: PathBuf,
    port: u16,
    program: Option<Program>,
}

impl ClickHouse {
    pub(crate) fn start(folder: &Path) -> Self {
        let mut this = Self { folder: folder.join("data"), port: free_port(), program: None };
        this.restart();
        this
    }

    pub(crate) fn restart(&mut self) {
        let (python, script) = script_of("clickhouse.py");
        let mut command = Command::new(python);
        command.arg(script).arg(&self.folder).arg(self.port.to_string());
        let log = self.folder.with_extension("log");
        self.program = Some(Program::start("clickhouse", &mut command, &log));
        wait("ClickHouse answers", || self.ask("SELECT 1"));
    }

    pub(crate) fn kill(&mut self) {
        drop(self.program.take());
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}/", self.port)
    }

    /// The answer in tab-separated rows; `None` if there is none.
    pub(crate) fn ask(&self, sql: &str) -> Option<String> {
        std::net::TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        let reply = request("POST", &self.url(), &[], sql.as_bytes().to_vec());
        (reply.status == 200).then(|| reply.text())
    }

    fn numbers(&self, sql: &str) -> Vec<i64> {
        let text = self.ask(sql).unwrap_or_default();
        text.lines().map(|n| n.parse().unwrap()).collect()
    }
}

#[test]
fn clickhouse_has_each_row_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut clickhouse = ClickHouse::start(folder.path());
    let text = format!(
        "[sinks.warehouse]\ntype = \"clickhouse\"\ninputs = [\"otlp.logs\"]\n\
         endpoint = \"{}\"\ndatabase = \"weir\"\ntable = \"rows\"\n",
        clickhouse.url()
    );
    let mut server = Server::start(&[("sources", SOURCES), ("work", &text)], None);
    let mut logs = Ledger::default();
    let next = AtomicI64::new(0);
    let send = |server: &Server, logs: &mut Ledger, requests: usize| {
        let to = format!("http://{}/v1/logs", server.address("otlp"));
        for _ in 0..requests {
            let first = next.fetch_add(ROWS, Relaxed);
            assert_eq!(send_logs(&to, first).status, 200);
            logs.acknowledge(first);
        }
    };
    let all = "SELECT n FROM weir.rows ORDER BY n";
    let there = |clickhouse: &ClickHouse, logs: &Ledger| {
        let rows = logs.acknowledged_rows();
        wait("ClickHouse has everything", || (clickhouse.numbers(all).len() >= rows).then_some(()));
        logs.check("clickhouse", clickhouse.numbers(all));
    };
    send(&server, &mut logs, 40);
    there(&clickhouse, &logs);
    // What was sent since the last checkpoint is sent again after a death, under the same names.
    send(&server, &mut logs, 40);
    let some = logs.acknowledged_rows() / 2;
    wait("a block is there", || (clickhouse.numbers(all).len() > some).then_some(()));
    server.kill9();
    server.restart();
    send(&server, &mut logs, 40);
    there(&clickhouse, &logs);
    // Its own death holds up nobody.
    clickhouse.kill();
    send(&server, &mut logs, 40);
    server.kill9();
    server.restart();
    send(&server, &mut logs, 40);
    clickhouse.restart();
    there(&clickhouse, &logs);
    // Columns as they are called everywhere; the key is what people ask for first.
    let types = clickhouse.ask(
        "SELECT name, type FROM system.columns WHERE database = 'weir' AND table = 'rows' \
         AND name IN ('service.name', 'timestamp', 'n', 'body') ORDER BY name",
    );
    let types = types.unwrap();
    let types: Vec<&str> = types.lines().collect();
    assert_eq!(
        types,
        [
            "body\tNullable(String)",
            "n\tNullable(Int64)",
            "service.name\tLowCardinality(String)",
            "timestamp\tDateTime64(9, \\'UTC\\')",
        ]
    );
}

//! One of ten sinks is dead: the others do not notice, and it gets everything in order when it is
//! back.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering::Relaxed};

use axum::http::StatusCode;
use parking_lot::Mutex;
use serde_json::Value;

use super::load::{Ledger, ROWS, SOURCES, send_logs};
use super::{numbers, pass};
use crate::harness::{Server, serve, wait};

/// What an endpoint has got, and whether it takes anything.
#[derive(Default)]
pub(super) struct Endpoint {
    pub(super) dead: AtomicBool,
    pub(super) numbers: Mutex<Vec<i64>>,
}

impl Endpoint {
    fn take(&self, body: &str) -> StatusCode {
        if self.dead.load(Relaxed) {
            return StatusCode::SERVICE_UNAVAILABLE;
        }
        let number = |line: &str| serde_json::from_str::<Value>(line).unwrap()["n"].as_i64();
        self.numbers.lock().extend(body.lines().filter_map(number));
        StatusCode::OK
    }

    /// Serves until the test ends.
    pub(super) fn serve() -> (Arc<Self>, String) {
        let endpoint = Arc::new(Self::default());
        let state = endpoint.clone();
        let app =
            axum::Router::new().fallback(move |body: String| async move { state.take(&body) });
        let url = format!("http://{}/", serve(app));
        (endpoint, url)
    }
}

pub(super) fn detached(server: &Server) -> Vec<Value> {
    let status = server.status();
    let pipelines = status["pipelines"].as_array().unwrap();
    let all = pipelines.iter().flat_map(|p| p["detached"].as_array().unwrap().clone());
    all.collect()
}

#[test]
fn one_of_ten_sinks_is_dead() {
    let endpoints: Vec<_> = (0..9).map(|_| Endpoint::serve()).collect();
    let mut text =
        "[sinks.rows_table]\ntype = \"store\"\ninputs = [\"otlp.logs\"]\ntable = \"rows\"\n"
            .to_owned();
    for (i, (_, url)) in endpoints.iter().enumerate() {
        let _ = write!(
            text,
            "[sinks.out{i}]\ntype = \"http\"\ninputs = [\"otlp.logs\"]\nendpoint = \"{url}\"\n"
        );
    }
    let mut server = Server::start(&[("sources", SOURCES), ("work", &text)], None);
    let next = Arc::new(AtomicI64::new(0));
    let dead = &endpoints[4].0;
    dead.dead.store(true, Relaxed);

    let mut logs = Ledger::default();
    let url = |server: &Server| format!("http://{}/v1/logs", server.address("otlp"));
    let to = url(&server);
    let send = |logs: &mut Ledger, to: &str| {
        let first = next.fetch_add(ROWS, Relaxed);
        assert_eq!(send_logs(to, first).status, 200);
        logs.acknowledge(first);
    };
    wait("the dead sink is detached", || {
        send(&mut logs, &to);
        (!detached(&server).is_empty()).then_some(())
    });
    assert_eq!(detached(&server)[0]["sink"], "out4");
    pass(&server);
    logs.check("rows", numbers(&server, "SELECT n FROM rows"));

    // It stays so over a death, and a reload does not wait for it.
    server.kill9();
    server.restart();
    server.write("work", &format!("# another\n{text}\n"));
    let outcome = server.reload();
    assert_eq!(outcome["ok"], true, "{outcome}");
    assert_eq!(detached(&server).len(), 1);

    dead.dead.store(false, Relaxed);
    let to = url(&server);
    wait("the sink is back", || {
        send(&mut logs, &to);
        detached(&server).is_empty().then_some(())
    });
    pass(&server);
    logs.check("rows", numbers(&server, "SELECT n FROM rows"));
    let all = logs.acknowledged_rows();
    for (i, (endpoint, _)) in endpoints.iter().enumerate() {
        // At least once: what came after the last checkpoint is repeated after a death.
        let got = || {
            let mut numbers = endpoint.numbers.lock().clone();
            numbers.sort_unstable();
            numbers.dedup();
            numbers
        };
        wait(&format!("out{i} has everything"), || (got().len() >= all).then_some(()));
        logs.check(&format!("out{i}"), got());
    }
}

/// One that is removed while it is detached and comes back begins where it comes back; a pipeline
/// that is removed takes its detached sinks with it.
#[test]
fn a_detached_sink_is_removed_and_comes_back() {
    let (endpoint, url) = Endpoint::serve();
    endpoint.dead.store(true, Relaxed);
    let table =
        "[sinks.rows_table]\ntype = \"store\"\ninputs = [\"otlp.logs\"]\ntable = \"rows\"\n";
    let out =
        format!("[sinks.out]\ntype = \"http\"\ninputs = [\"otlp.logs\"]\nendpoint = \"{url}\"\n");
    let both = format!("{table}{out}");
    let server = Server::start(&[("sources", SOURCES), ("work", &both)], None);
    let url = format!("http://{}/v1/logs", server.address("otlp"));
    let mut next = 0;
    let mut send = || {
        assert_eq!(send_logs(&url, next).status, 200);
        next += ROWS;
        next - ROWS
    };
    wait("the sink is detached", || {
        send();
        (!detached(&server).is_empty()).then_some(())
    });
    server.write("work", table);
    let outcome = server.reload();
    assert_eq!(outcome["ok"], true, "{outcome}");
    assert_eq!(detached(&server), Vec::<Value>::new());

    endpoint.dead.store(false, Relaxed);
    server.write("work", &both);
    let outcome = server.reload();
    assert_eq!(outcome["ok"], true, "{outcome}");
    let first = send();
    wait("the sink works", || endpoint.numbers.lock().contains(&(first + ROWS - 1)).then_some(()));
    assert_eq!(*endpoint.numbers.lock(), (first..first + ROWS).collect::<Vec<_>>());

    endpoint.dead.store(true, Relaxed);
    wait("the sink is detached again", || {
        send();
        (!detached(&server).is_empty()).then_some(())
    });
    std::fs::remove_file(server.path().join("pipelines.d/work.toml")).unwrap();
    let outcome = server.reload();
    assert_eq!(outcome["ok"], true, "{outcome}");
    wait("the pipeline is gone", || {
        let status = server.status();
        let gone = |p: &Value| p["name"] != "work";
        status["pipelines"].as_array().unwrap().iter().all(gone).then_some(())
    });
}

/// A pipeline that is renamed takes its detached sink along, and what that has not delivered yet.
#[test]
fn a_detached_sink_is_renamed_with_its_pipeline() {
    let (endpoint, url) = Endpoint::serve();
    endpoint.dead.store(true, Relaxed);
    let text =
        format!("[sinks.out]\ntype = \"http\"\ninputs = [\"otlp.logs\"]\nendpoint = \"{url}\"\n");
    let mut server = Server::start(&[("sources", SOURCES), ("work", &text)], None);
    let to = |server: &Server| format!("http://{}/v1/logs", server.address("otlp"));
    let mut next = 0;
    let mut send = |to: &str| {
        assert_eq!(send_logs(to, next).status, 200);
        next += ROWS;
        next
    };
    let before = to(&server);
    wait("the sink is detached", || {
        send(&before);
        (!detached(&server).is_empty()).then_some(())
    });
    let folder = server.path().join("pipelines.d");
    std::fs::rename(folder.join("work.toml"), folder.join("other.toml")).unwrap();
    let outcome = server.reload();
    assert_eq!(outcome["ok"], true, "{outcome}");
    assert!(outcome["events"].to_string().contains("renamed: it was `work`"), "{outcome}");
    wait("it is detached under the new name", || (detached(&server).len() == 1).then_some(()));
    server.kill9();
    server.restart();
    wait("it is still detached", || (detached(&server).len() == 1).then_some(()));
    endpoint.dead.store(false, Relaxed);
    let all = send(&to(&server));
    wait("it has everything", || {
        let mut numbers = endpoint.numbers.lock().clone();
        numbers.sort_unstable();
        numbers.dedup();
        (numbers == (0..all).collect::<Vec<_>>()).then_some(())
    });
    wait("it is back", || detached(&server).is_empty().then_some(()));
}

/// One that is removed before anybody noticed that it is dead leaves nothing behind that would keep
/// the journal.
#[test]
fn a_dying_sink_is_removed() {
    let (endpoint, url) = Endpoint::serve();
    endpoint.dead.store(true, Relaxed);
    let table =
        "[sinks.rows_table]\ntype = \"store\"\ninputs = [\"otlp.logs\"]\ntable = \"rows\"\n";
    let both = format!(
        "{table}[sinks.out]\ntype = \"http\"\ninputs = [\"otlp.logs\"]\nendpoint = \"{url}\"\n"
    );
    let server = Server::start(&[("sources", SOURCES), ("work", &both)], None);
    let url = format!("http://{}/v1/logs", server.address("otlp"));
    assert_eq!(send_logs(&url, 0).status, 200);
    server.write("work", table);
    server.reload();
    wait("it is let go", || {
        server
            .stderr()
            .contains("sink `out` of pipeline `work` was detached and is removed")
            .then_some(())
    });
    let folder = server.path().join("data/checkpoints/p-work.out");
    assert!(!folder.exists(), "{}", folder.display());
    pass(&server);
    assert_eq!(numbers(&server, "SELECT n FROM rows").len(), usize::try_from(ROWS).unwrap());
}

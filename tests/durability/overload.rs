//! More load than it can carry: what is refused is told and counted, and what is accepted is there.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering::Relaxed};
use std::time::Duration;

use super::load::{Ledger, ROWS, SOURCES, send_logs};
use super::{numbers, pass};
use crate::harness::Server;

/// An eighth of it is for requests on their way: a few of those that are sent at a time.
const WEIR_TOML: &str = "[server]\nmemory = \"8MiB\"\n";
/// So long and by so many senders at a time.
const TIME: Duration = Duration::from_secs(10);
const SENDERS: usize = 24;

/// Work that one core cannot do as fast as the senders send.
const WORK: &str = r#"
[operators.heavy]
type = "vrl"
inputs = ["otlp.logs"]
source = """
.words = length(split(string!(.body), "0")) + length(split(upcase(string!(.body)), "0"))
"""
[sinks.rows_table]
type = "store"
inputs = ["heavy"]
table = "rows"
"#;

#[test]
fn what_is_refused_is_told_and_what_is_accepted_is_there() {
    let server = Server::start(&[("sources", SOURCES), ("work", WORK)], Some(WEIR_TOML));
    let url = Arc::new(format!("http://{}/v1/logs", server.address("otlp")));
    let (next, end) = (Arc::new(AtomicI64::new(0)), Arc::new(AtomicBool::new(false)));
    let senders: Vec<_> = (0..SENDERS)
        .map(|_| {
            let (url, next, end) = (url.clone(), next.clone(), end.clone());
            std::thread::spawn(move || {
                let (mut ledger, mut refused) = (Ledger::default(), 0);
                while !end.load(Relaxed) {
                    let first = next.fetch_add(ROWS, Relaxed);
                    let reply = send_logs(&url, first);
                    match reply.status {
                        200 => ledger.acknowledge(first),
                        429 | 503 => {
                            assert!(reply.headers.contains_key("retry-after"), "{reply:?}");
                            refused += 1;
                        }
                        other => panic!("{other}: {}", reply.text()),
                    }
                }
                (ledger, refused)
            })
        })
        .collect();
    std::thread::sleep(TIME);
    end.store(true, Relaxed);
    let (mut ledger, mut refused) = (Ledger::default(), 0);
    for sender in senders {
        let (sent, not) = sender.join().unwrap();
        ledger.add(sent);
        refused += not;
    }
    eprintln!("{} rows taken, {refused} requests refused", ledger.acknowledged_rows());
    assert!(refused > 0 && ledger.acknowledged_rows() > 0);
    let metrics = server.get("/metrics").text();
    let counted: f64 = metrics
        .lines()
        .filter(|l| l.starts_with("weir_component_rejected_total{") && l.contains("\"otlp\""))
        .filter_map(|l| l.rsplit(' ').next()?.parse::<f64>().ok())
        .sum();
    assert!(counted >= f64::from(refused), "{counted} counted of {refused} refused");
    pass(&server);
    ledger.check("rows", numbers(&server, "SELECT n FROM rows"));
}

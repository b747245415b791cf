//! More load than it can carry: what is refused is told and counted, and what is accepted is there.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering::Relaxed};

use super::load::{Ledger, ROWS, SOURCES, send_logs};
use super::{numbers, pass};
use crate::harness::{Server, wait};

/// An eighth of it is for requests on their way: a few of those that are sent at a time.
const WEIR_TOML: &str = "[server]\nmemory = \"8MiB\"\n";
/// So many at a time, until so many of their requests were taken and as many refused.
const SENDERS: usize = 24;
const REQUESTS: usize = 100;

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
    let (taken, refused) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let senders: Vec<_> = (0..SENDERS)
        .map(|_| {
            let (url, next, end) = (url.clone(), next.clone(), end.clone());
            let (taken, refused) = (taken.clone(), refused.clone());
            std::thread::spawn(move || {
                let mut ledger = Ledger::default();
                while !end.load(Relaxed) {
                    let first = next.fetch_add(ROWS, Relaxed);
                    let reply = send_logs(&url, first);
                    match reply.status {
                        200 => {
                            ledger.acknowledge(first);
                            taken.fetch_add(1, Relaxed);
                        }
                        429 | 503 => {
                            assert!(reply.headers.contains_key("retry-after"), "{reply:?}");
                            refused.fetch_add(1, Relaxed);
                        }
                        other => panic!("{other}: {}", reply.text()),
                    }
                }
                ledger
            })
        })
        .collect();
    wait("requests are taken and refused", || {
        (taken.load(Relaxed).min(refused.load(Relaxed)) >= REQUESTS).then_some(())
    });
    end.store(true, Relaxed);
    let mut ledger = Ledger::default();
    senders.into_iter().for_each(|sender| ledger.add(sender.join().unwrap()));
    let refused = refused.load(Relaxed);
    let metrics = server.get("/metrics").text();
    let counted: usize = metrics
        .lines()
        .filter(|l| l.starts_with("weir_component_rejected_total{") && l.contains("\"otlp\""))
        .filter_map(|l| l.rsplit(' ').next()?.parse::<usize>().ok())
        .sum();
    assert!(counted >= refused, "{counted} counted of {refused} refused");
    pass(&server);
    ledger.check("rows", numbers(&server, "SELECT n FROM rows"));
}

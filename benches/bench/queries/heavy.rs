//! Ten heavy queries at once, while samples come in.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use crate::servers::{MEMORY, Measured, Weir};

/// Queries at a time.
const QUERIES: usize = 10;
/// What comes in, samples a second, and for how long.
const LOAD: [&str; 7] = ["remote-write", "--series", "10000", "--rate", "200000", "--for", "15s"];

/// Sorts, distinct values and medians over all samples of the day: none can be answered from what is
/// known.
const SQL: [&str; 3] = [
    "SELECT instance, mode, median(value) FROM metrics GROUP BY instance, mode ORDER BY 3 LIMIT 5",
    "SELECT count(DISTINCT value), count(DISTINCT timestamp) FROM metrics",
    "SELECT timestamp, value FROM metrics ORDER BY value DESC, timestamp LIMIT 100000",
];

/// Part of the page about it.
pub(super) async fn run(weir: &Weir) -> String {
    let alone = load(weir).await;
    let (stop, answered, refused) =
        (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    let ask = async |i: usize| {
        let mut at = i;
        while !stop.load(Relaxed) {
            match weir.answer(SQL[at % SQL.len()]).await.is_ok() {
                true => answered.fetch_add(1, Relaxed),
                false => refused.fetch_add(1, Relaxed),
            };
            at += 1;
        }
    };
    let queries = futures::future::join_all((0..QUERIES).map(ask));
    let loaded = async {
        let loaded = load(weir).await;
        stop.store(true, Relaxed);
        loaded
    };
    let (_, beside) = tokio::join!(queries, loaded);
    format!(
        "\n## Ten heavy queries at once\n\nWhile 200,000 samples a second come in (counted afterwards \
         by SQL), {QUERIES} clients ask for medians, distinct values and sorts of all samples, each \
         again as soon as it is answered.\n\n| | samples/s | p99 of acknowledgements | queries \
         answered, refused for memory | most memory (of {MEMORY}) |\n|---|---|---|---|---|\n\
         | alone | {:.0} k | {:.0} ms | | {} MiB |\n| beside the queries | {:.0} k | {:.0} ms | {}, {} \
         | {} MiB |\n",
        alone.rows_per_second / 1e3,
        alone.p99_ms,
        alone.peak >> 20,
        beside.rows_per_second / 1e3,
        beside.p99_ms,
        answered.load(Relaxed),
        refused.load(Relaxed),
        beside.peak >> 20,
    )
}

async fn load(weir: &Weir) -> Measured {
    weir.load(&LOAD, "prometheus", "http", "/api/v1/write").await
}

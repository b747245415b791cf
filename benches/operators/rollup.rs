//! The `rollup` operator over scrapes: what takes the samples and what gives the rows, together.

use std::fmt::Write;
use std::hint::black_box;

use weir_pipeline::batch::Batch;
use weir_pipeline::component::{Output, Tick};
use weir_pipeline::signal::Signal;

use crate::series::batches;
use crate::{built, short, timed};

const SERIES: [usize; 2] = [10_000, 100_000];
const ROUNDS: usize = 20;
/// Between two rounds, as [`batches`] has them.
const ROUND_NS: i64 = 15_000_000_000;

/// What is kept, and what samples are.
const ASKED: [(&str, &str); 4] = [
    ("gauges, all labels", ""),
    ("gauges, one label of four values", "keep = [\"mode\"]\n"),
    (
        "the same with a sketch",
        "keep = [\"mode\"]\naggregate = [\"count\", \"sum\", \"min\", \"max\", \"sketch\"]\n",
    ),
    ("counters, one label of four values", "keep = [\"mode\"]\ncounters = [\"*\"]\n"),
];

/// The part of the page about it.
pub(super) fn page() -> String {
    let mut page = format!(
        "## rollup\n\n{ROUNDS} samples of each series, 15 s apart, in steps of a minute that are given as \
         time goes on: what takes the samples and what gives the rows, together. Samples per second \
         of a core.\n\n| series | {} |\n|---|{}\n",
        ASKED.map(|(name, _)| name).join(" | "),
        "---|".repeat(ASKED.len()),
    );
    for series in SERIES {
        let batches = batches(series, 10, ROUNDS);
        let _ = write!(page, "| {series} |");
        for (_, keys) in ASKED {
            let _ = write!(page, " {} |", short(rollup(keys, &batches, series)));
        }
        page.push('\n');
    }
    page
}

fn rollup(keys: &str, batches: &[Batch], series: usize) -> f64 {
    let section = format!("every = \"1m\"\nlateness = \"0s\"\n{keys}");
    let rows = batches.iter().map(Batch::num_rows).sum();
    timed(rows, || {
        let mut running = built("rollup", Signal::Metrics, &section);
        let mut out = Output::default();
        let mut taken = 0;
        for batch in batches {
            running.process(0, batch.clone(), &mut out).unwrap();
            taken += batch.num_rows();
            let time = (taken / series) as i64 * ROUND_NS;
            let tick = Tick { time, watermark: time, elapsed: time, ..Tick::default() };
            running.tick(tick, &mut out).unwrap();
        }
        assert!(out.emitted.iter().all(|(name, _)| name.is_empty()) && !out.emitted.is_empty());
        black_box(out);
    })
}

//! The operators `anomaly` and `changepoint`, which look at each point, with few series that stay in
//! the cache and with many that do not.

use std::fmt::Write;
use std::hint::black_box;

use weir_pipeline::component::Output;
use weir_pipeline::signal::Signal;

use crate::series::batches;
use crate::{built, short, timed};

/// Series and samples of each.
const SIZES: [(usize, usize); 3] = [(100, 4_000), (10_000, 40), (100_000, 20)];

/// The part of the page about `anomaly`.
pub(super) fn page() -> String {
    points("anomaly")
}

/// The part of the page about `changepoint`.
pub(super) fn changepoint() -> String {
    points("changepoint")
}

fn points(kind: &str) -> String {
    let mut page = format!(
        "## {kind}\n\nGauges, one sample of each series after the other, from the first point on. Rows \
         per second of a core, time of a point, and the state that is saved.\n\n| series | samples of \
         each | rows | a point | state of a series |\n|---|---|---|---|---|\n",
    );
    for (series, rounds) in SIZES {
        let batches = batches(series, 10, rounds);
        let mut saved = 0;
        let rate = timed(series * rounds, || {
            let mut running = built(kind, Signal::Metrics, "");
            for batch in &batches {
                let mut out = Output::default();
                running.process(0, batch.clone(), &mut out).unwrap();
                black_box(out);
            }
            if saved == 0 {
                saved = running.snapshot().unwrap().len() / series;
            }
        });
        let (rows, nanos) = (short(rate), 1e9 / rate);
        let _ = writeln!(page, "| {series} | {rounds} | {rows} | {nanos:.0} ns | {saved} B |");
    }
    page
}

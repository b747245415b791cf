//! Conditions and group keys on labels, against how many labels a series has: they cost per entity.

use std::fmt::Write;
use std::hint::black_box;

use weir_pipeline::batch::Batch;
use weir_pipeline::component::Output;
use weir_pipeline::signal::Signal;

use crate::series::batches;
use crate::window::window;
use crate::{built, short, timed};

const SERIES: usize = 10_000;
const ROUNDS: usize = 20;
const LABELS: [usize; 3] = [5, 20, 80];

/// The part of the page about it.
pub(super) fn page() -> String {
    let mut page = format!(
        "## Labels\n\n{SERIES} series of {ROUNDS} samples each. Rows per second of a core, by how many \
         labels a series has.\n\n| | {} labels | {} | {} |\n|---|---|---|---|\n",
        LABELS[0], LABELS[1], LABELS[2]
    );
    let of = LABELS.map(|labels| batches(SERIES, labels, ROUNDS));
    let mut row = |name: &str, rates: [f64; 3]| {
        let [a, b, c] = rates.map(short);
        let _ = writeln!(page, "| {name} | {a} | {b} | {c} |");
    };
    row("`filter` by a label", of.each_ref().map(|batches| filter(batches)));
    row("`window` by a label", of.each_ref().map(|batches| window("n = \"count(*)\"\n", batches)));
    page
}

fn filter(batches: &[Batch]) -> f64 {
    let mut running =
        built("filter", Signal::Metrics, "where = \"mode <> 'idle' AND instance LIKE '10.%'\"\n");
    let rows = batches.iter().map(Batch::num_rows).sum();
    timed(rows, || {
        let mut out = Output::default();
        for batch in batches {
            running.process(0, batch.clone(), &mut out).unwrap();
        }
        black_box(out);
    })
}

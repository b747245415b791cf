//! The `window` operator beside DataFusion's own GROUP BY over the same rows in memory.

use std::fmt::Write;
use std::hint::black_box;
use std::sync::Arc;

use datafusion::catalog::MemTable;
use datafusion::prelude::{SessionConfig, SessionContext};
use weir_pipeline::batch::Batch;
use weir_pipeline::component::{Output, Tick};
use weir_pipeline::signal::Signal;

use crate::series::batches;
use crate::{built, short, timed};

const GROUPS: usize = 100_000;
const ROUNDS: usize = 20;
const HOUR_NS: i64 = 3_600_000_000_000;

/// What is asked of both.
const ASKED: [(&str, &str, &str); 2] = [
    (
        "count, sum and max",
        "n = \"count(*)\"\ns = \"sum(value)\"\nm = \"max(value)\"\n",
        "count(*), sum(value), max(value)",
    ),
    ("a quantile", "q = \"quantile(value, 0.99)\"\n", "approx_percentile_cont(value, 0.99)"),
];

/// The part of the page about it.
pub(super) fn page() -> String {
    let batches = batches(GROUPS, 10, ROUNDS);
    let mut page = format!(
        "## window\n\n{GROUPS} groups (a label) of {ROUNDS} samples each, in one window: what takes the \
         rows and what gives the result, together. DataFusion has the rows with the label as text, in \
         memory. Rows per second of a core.\n\n| | window | GROUP BY | ratio |\n|---|---|---|---|\n"
    );
    for (name, aggregate, sql) in ASKED {
        let window = window(aggregate, &batches);
        let group_by = group_by(sql, &batches);
        let ratio = window / group_by;
        let [window, group_by] = [window, group_by].map(short);
        let _ = writeln!(page, "| {name} | {window} | {group_by} | {ratio:.1} |");
    }
    page
}

pub(super) fn window(aggregate: &str, batches: &[Batch]) -> f64 {
    let section = format!(
        "every = \"1h\"\nlateness = \"0s\"\ngroup_by = [\"instance\"]\n[aggregate]\n{aggregate}"
    );
    let rows = batches.iter().map(Batch::num_rows).sum();
    let groups = batches[0].entities().unwrap().table.len();
    timed(rows, || {
        let mut running = built("window", Signal::Metrics, &section);
        let mut out = Output::default();
        for batch in batches {
            running.process(0, batch.clone(), &mut out).unwrap();
        }
        let tick = Tick { time: HOUR_NS, watermark: HOUR_NS, elapsed: HOUR_NS, ..Tick::default() };
        running.tick(tick, &mut out).unwrap();
        let given: usize = out.emitted.iter().map(|(_, batch)| batch.num_rows()).sum();
        assert_eq!(given, groups);
        black_box(out);
    })
}

fn group_by(sql: &str, batches: &[Batch]) -> f64 {
    let wide: Vec<_> = batches.iter().map(|b| b.wide().unwrap()).collect();
    let rows = wide.iter().map(|b| b.num_rows()).sum();
    let table = MemTable::try_new(wide[0].schema(), vec![wide]).unwrap();
    let context = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(1));
    context.register_table("metrics", Arc::new(table)).unwrap();
    let sql = format!("SELECT instance, {sql} FROM metrics GROUP BY instance");
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    timed(rows, || {
        let answer =
            runtime.block_on(async { context.sql(&sql).await.unwrap().collect().await.unwrap() });
        assert_eq!(answer.iter().map(|b| b.num_rows()).sum::<usize>(), GROUPS);
        black_box(answer);
    })
}

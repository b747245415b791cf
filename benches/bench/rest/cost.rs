//! What flushes and merges cost: CPU, bytes written, and how it goes with ten thousand files. In this
//! process, by the store alone.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Instant;

use arrow::array::{ArrayRef, Float64Array, RecordBatch, TimestampNanosecondArray, UInt32Array};
use weir_pipeline::batch::{Batch, Keys, Run, TENANT};
use weir_pipeline::entity::{Attribute, Entity, EntityTable, Origin, Value};
use weir_pipeline::signal::Signal;
use weir_store::{Store, StoreOptions, TableWriter, WriterId};

use super::scrapes::WriteRequest;
use crate::servers::folder_bytes;

/// Machines that the two targets stand for: each sends the recording from another place on.
const MACHINES: usize = 16;
/// Requests of a flush, of each machine: one every ten seconds, as by default.
const FLUSH: usize = 10;
/// Commits that each make a file.
const COMMITS: usize = 10_000;
const HOUR_NS: i64 = 3_600_000_000_000;

pub(super) fn run(requests: &[WriteRequest], page: &mut String) {
    page.push_str("\n## What it costs\n\n| | |\n|---|---|\n");
    long(requests, page);
    many(&requests[0], page);
    println!("{page}");
}

fn open(dir: &std::path::Path) -> Arc<Store> {
    let grace = std::time::Duration::ZERO;
    Store::open(dir, StoreOptions { grace, ..StoreOptions::default() }).unwrap()
}

fn writer(store: &Arc<Store>) -> TableWriter {
    let id = WriterId { journal: 1, pipeline: "p".into(), sink: "s".into() };
    store.writer(TENANT, "metrics", id).unwrap()
}

/// Flushes and merges as they come with time, until the day is over.
fn long(requests: &[WriteRequest], page: &mut String) {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut writer = writer(&store);
    let entities = Arc::new(EntityTable::default());
    let (mut flush, mut merge) = (Spent::default(), Spent::default());
    let (mut mark, mut now) = (0, 0);
    // All before: what they cost is not asked.
    let mut batches = Vec::with_capacity(requests.len() * MACHINES);
    for n in 0..requests.len() {
        now = requests[n].timeseries[0].samples[0].timestamp * 1_000_000;
        for machine in 0..MACHINES {
            // An even distance: the two targets take turns.
            let from = (n + machine * ((requests.len() / MACHINES) & !1)) % requests.len();
            mark += 1;
            batches.push(batch(&requests[from], machine, now, mark, &entities));
        }
    }
    let rows: usize = batches.iter().map(Batch::num_rows).sum();
    for batches in batches.chunks(FLUSH * MACHINES) {
        for batch in batches {
            let run = &batch.runs()[0];
            (mark, now) = (run.offset, run.received);
            writer.append(batch).unwrap();
        }
        flush.during(|| {
            let staged = writer.stage(mark, false).unwrap();
            if !staged.work.is_empty() {
                writer.commit(mark, &staged.work).unwrap();
            }
        });
        merge.during(|| store.maintain_all(now));
    }
    flush.during(|| {
        let staged = writer.stage(mark, true).unwrap();
        writer.commit(mark, &staged.work).unwrap();
    });
    for later in [0, 2, 30] {
        merge.during(|| store.maintain_all(now + later * HOUR_NS));
    }
    let kept = folder_bytes(dir.path());
    let _ =
        writeln!(page, "| samples, of {MACHINES} times two targets | {:.1} M |", rows as f64 / 1e6);
    let each = |spent: &Spent| spent.cpu_ns as f64 / rows as f64;
    let _ = writeln!(page, "| CPU of flushes, ns a sample | {:.0} |", each(&flush));
    let _ = writeln!(page, "| CPU of merges, ns a sample | {:.0} |", each(&merge));
    let _ = writeln!(
        page,
        "| bytes written / bytes kept | {:.1} |",
        (flush.written + merge.written) as f64 / kept as f64
    );
    let _ = writeln!(page, "| of them by flushes | {:.1} |", flush.written as f64 / kept as f64);
    let _ = writeln!(page, "| bytes kept, a sample | {:.2} |", kept as f64 / rows as f64);
}

/// Ten thousand commits without a merge, and a start with their files.
fn many(request: &WriteRequest, page: &mut String) {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut writer = writer(&store);
    let entities = Arc::new(EntityTable::default());
    let mut times = Vec::with_capacity(COMMITS);
    for n in 0..COMMITS {
        let mark = n as u64 + 1;
        let now = (request.timeseries[0].samples[0].timestamp + n as i64 * 2_000) * 1_000_000;
        writer.append(&batch(request, 0, now, mark, &entities)).unwrap();
        let began = Instant::now();
        let staged = writer.stage(mark, true).unwrap();
        writer.commit(mark, &staged.work).unwrap();
        times.push(began.elapsed().as_secs_f64() * 1e3);
    }
    let median = |part: &mut [f64]| {
        part.sort_by(f64::total_cmp);
        part[part.len() / 2]
    };
    let (first, last) = (median(&mut times[..1_000]), median(&mut times[COMMITS - 1_000..]));
    let _ = writeln!(
        page,
        "| a commit of {} rows: the first thousand, the last of {COMMITS} | \
        {first:.1} ms, {last:.1} ms |",
        request.timeseries.len()
    );
    drop((writer, store));
    let began = Instant::now();
    let store = open(dir.path());
    let took = began.elapsed().as_secs_f64();
    assert_eq!(store.tables(TENANT)[0].snapshot().files().len(), COMMITS);
    let _ = writeln!(page, "| start with {COMMITS} files | {took:.2} s |");
}

/// What this thread took.
#[derive(Default)]
struct Spent {
    cpu_ns: u64,
    written: u64,
}

impl Spent {
    fn during(&mut self, work: impl FnOnce()) {
        let before = (cpu_ns(), written());
        work();
        self.cpu_ns += cpu_ns() - before.0;
        self.written += written() - before.1;
    }
}

fn cpu_ns() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    text.split(' ').next().unwrap().parse().unwrap()
}

fn written() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/io").unwrap();
    let line = text.lines().find_map(|l| l.strip_prefix("wchar: ")).unwrap();
    line.parse().unwrap()
}

/// A request as the source decodes it, from another machine and at `now`.
fn batch(
    request: &WriteRequest,
    machine: usize,
    now: i64,
    offset: u64,
    table: &Arc<EntityTable>,
) -> Batch {
    let key = |series: &super::scrapes::Series| {
        let attribute = |label: &super::scrapes::Label| {
            let (name, value, origin) = match label.name.as_str() {
                "__name__" => ("metric.name", label.value.clone(), Origin::Metric),
                "instance" => ("instance", format!("{machine}-{}", label.value), Origin::Label),
                name => (name, label.value.clone(), Origin::Label),
            };
            Attribute { name: name.into(), value: Value::Text(value.as_str().into()), origin }
        };
        table.intern(Entity::new(series.labels.iter().map(attribute).collect())).unwrap()
    };
    let keys: Vec<u32> = request.timeseries.iter().map(key).collect();
    let values: Vec<f64> = request.timeseries.iter().map(|s| s.samples[0].value).collect();
    let times = TimestampNanosecondArray::from(vec![now; keys.len()]).with_timezone("UTC");
    let columns: [(&str, ArrayRef); 2] =
        [("timestamp", Arc::new(times)), ("value", Arc::new(Float64Array::from(values)))];
    let rows = RecordBatch::try_from_iter(columns).unwrap();
    let run = Run { offset, received: now, source: "bench".into(), rows: rows.num_rows() };
    let keys = Keys { keys: UInt32Array::from(keys), table: table.clone() };
    Batch::new(Signal::Metrics, TENANT.into(), rows, Some(keys), Arc::new([run])).unwrap()
}

//! What every component reports of itself, alike for all: rows and bytes in and out, errors,
//! rejected rows by reason, batch time, queue depth, lag, watermark. Served at `/metrics`,
//! read by `weir status` and the API.
//!
//! Cardinality is bounded: labels are pipeline, component, kind and type, all of which come from
//! files; reasons are static words. Components that are gone lose their series.

mod way;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;

use self::way::{Recent, WAYS_MAX};
pub use self::way::{Rejections, Way};

/// What identifies a component in metrics.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ComponentLabels {
    /// Pipeline name; empty for sources, which belong to no pipeline.
    pub pipeline: Arc<str>,
    /// Component id.
    pub component: Arc<str>,
    /// `source`, `operator`, `alert`, `sink`.
    pub class: &'static str,
    /// `type` in TOML.
    pub kind: &'static str,
}

/// Upper bounds of the batch time histogram, in microseconds.
const BATCH_BOUNDS_US: [u64; 10] =
    [10, 50, 100, 500, 1_000, 5_000, 10_000, 100_000, 1_000_000, 10_000_000];

/// Samples of the last error or rejection kept for `weir status`, in characters.
const SAMPLE_CHARS_MAX: usize = 400;

/// The counters of one component. All methods may be called from any thread.
#[derive(Debug, Default)]
pub struct ComponentMetrics {
    rows_in: AtomicU64,
    rows_out: AtomicU64,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    errors: AtomicU64,
    dropped: AtomicU64,
    late: AtomicU64,
    repeated: AtomicU64,
    queue: AtomicU64,
    lag_ns: AtomicI64,
    watermark: AtomicI64,
    last_activity: AtomicI64,
    batch_us_sum: AtomicU64,
    batches: [AtomicU64; BATCH_BOUNDS_US.len() + 1],
    rejected: Mutex<BTreeMap<&'static str, u64>>,
    last_error: Mutex<Option<LastError>>,
    samples: Mutex<BTreeMap<&'static str, String>>,
    recent: Mutex<Recent>,
    unseen: Mutex<Vec<UnseenColumn>>,
    committed: Mutex<Option<Committed>>,
    ways: Mutex<BTreeMap<String, Way>>,
}

/// The newest error of a component.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct LastError {
    /// When, UTC nanoseconds.
    pub time: i64,
    /// A short word.
    pub reason: String,
    /// What was wrong, cut to a readable length.
    pub message: String,
}

/// A column that a component reads and that no row has had so far.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct UnseenColumn {
    /// Its name.
    pub name: String,
    /// The name most like it among those that rows have.
    pub nearest: Option<String>,
}

/// The last commit of a sink.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Committed {
    /// Position of the checkpoint.
    pub position: u64,
    /// When, UTC nanoseconds.
    pub time: i64,
}

/// A reading of [`ComponentMetrics`].
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct ComponentReading {
    /// Rows taken in.
    pub rows_in: u64,
    /// Rows given out.
    pub rows_out: u64,
    /// Bytes taken in.
    pub bytes_in: u64,
    /// Bytes given out.
    pub bytes_out: u64,
    /// Rows or batches that failed.
    pub errors: u64,
    /// Rows dropped on purpose.
    pub dropped: u64,
    /// Rows that came after their window had closed.
    pub late: u64,
    /// Requests that repeat one that was taken, and were answered like it.
    pub repeated: u64,
    /// Batches waiting in front of it.
    pub queue: u64,
    /// How far behind the journal's head it is, nanoseconds of receive time.
    pub lag_ns: i64,
    /// Event time up to which its output is complete, UTC nanoseconds; 0 if unknown.
    pub watermark: i64,
    /// When it last took something in, UTC nanoseconds; 0 if never.
    pub last_activity: i64,
    /// Refused rows or requests by reason.
    pub rejected: BTreeMap<&'static str, u64>,
    /// The newest message of each reason.
    pub samples: BTreeMap<&'static str, String>,
    /// The newest error.
    pub last_error: Option<LastError>,
    /// Rows taken in during the last minute or two.
    pub recent_rows: u64,
    /// Failures in the same time.
    pub recent_errors: u64,
    /// For sources: what came which way, by endpoint or target.
    pub ways: BTreeMap<String, Way>,
    /// Columns that it reads and that no row has had.
    pub unseen: Vec<UnseenColumn>,
    /// For sinks: the last commit.
    pub committed: Option<Committed>,
}

impl ComponentMetrics {
    /// Counts rows and bytes taken in at `now` (UTC nanoseconds).
    pub fn input(&self, rows: u64, bytes: u64, now: i64) {
        self.rows_in.fetch_add(rows, Relaxed);
        self.bytes_in.fetch_add(bytes, Relaxed);
        self.last_activity.fetch_max(now, Relaxed);
        self.recent.lock().add(rows, 0, now);
    }

    /// Counts rows and bytes given out.
    pub fn output(&self, rows: u64, bytes: u64) {
        self.rows_out.fetch_add(rows, Relaxed);
        self.bytes_out.fetch_add(bytes, Relaxed);
    }

    /// Sets which of the columns that it reads no row has had.
    pub fn unseen(&self, columns: Vec<UnseenColumn>) {
        *self.unseen.lock() = columns;
    }

    /// Notes that everything up to a checkpoint's position is committed.
    pub fn committed(&self, position: u64, time: i64) {
        *self.committed.lock() = Some(Committed { position, time });
    }

    /// Counts rows dropped on purpose.
    pub fn dropped(&self, rows: u64) {
        self.dropped.fetch_add(rows, Relaxed);
    }

    /// Counts a request that repeats one that was taken.
    pub fn repeated(&self, now: i64) {
        self.repeated.fetch_add(1, Relaxed);
        self.last_activity.fetch_max(now, Relaxed);
    }

    /// Counts rows that came too late.
    pub fn late(&self, rows: u64) {
        self.late.fetch_add(rows, Relaxed);
    }

    /// Counts `rows` failures and keeps the newest message.
    pub fn error(&self, rows: u64, reason: &str, message: &str, now: i64) {
        self.errors.fetch_add(rows, Relaxed);
        self.recent.lock().add(0, rows, now);
        self.note(reason, message, now);
    }

    /// Counts `rows` refused rows or requests under `reason`.
    pub fn rejected(&self, rows: u64, reason: &'static str, message: &str, now: i64) {
        *self.rejected.lock().entry(reason).or_default() += rows;
        self.samples.lock().insert(reason, sample(message));
        self.note(reason, message, now);
    }

    /// Changes what is known of a way into a source. Further ways than can be told apart are not.
    pub(crate) fn way(&self, name: &str, change: impl FnOnce(&mut Way)) {
        let mut ways = self.ways.lock();
        if !ways.contains_key(name) && ways.len() >= WAYS_MAX {
            return;
        }
        change(ways.entry(name.to_owned()).or_default());
    }

    /// Whether a way that a source asks gives something at present.
    pub fn way_answers(&self, name: &str, error: Option<&str>, now: i64) {
        self.way(name, |way| {
            way.error = error.map(|message| LastError {
                time: now,
                reason: "no_answer".to_owned(),
                message: sample(message),
            });
        });
    }

    /// Sets how many records wait to be read at a way.
    pub fn way_behind(&self, name: &str, records: u64) {
        self.way(name, |way| way.behind = Some(records));
    }

    /// Forgets a way that is used no more.
    pub fn way_gone(&self, name: &str) {
        self.ways.lock().remove(name);
    }

    fn note(&self, reason: &str, message: &str, time: i64) {
        let message = sample(message);
        *self.last_error.lock() = Some(LastError { time, reason: reason.to_owned(), message });
    }

    /// Records the time that one batch took.
    pub fn batch_time(&self, time: std::time::Duration) {
        let us = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let bucket = BATCH_BOUNDS_US.iter().position(|&b| us <= b).unwrap_or(BATCH_BOUNDS_US.len());
        self.batches[bucket].fetch_add(1, Relaxed);
        self.batch_us_sum.fetch_add(us, Relaxed);
    }

    /// Sets the number of batches waiting.
    pub fn queue(&self, batches: u64) {
        self.queue.store(batches, Relaxed);
    }

    /// Sets how far behind the head of the journal it is.
    pub fn lag(&self, ns: i64) {
        self.lag_ns.store(ns, Relaxed);
    }

    /// Sets the watermark of the outputs, UTC nanoseconds.
    pub fn watermark(&self, time: i64) {
        self.watermark.store(time, Relaxed);
    }

    /// Everything at this moment.
    pub fn read(&self) -> ComponentReading {
        let (recent_rows, recent_errors) = self.recent.lock().read(crate::intake::now());
        ComponentReading {
            rows_in: self.rows_in.load(Relaxed),
            rows_out: self.rows_out.load(Relaxed),
            bytes_in: self.bytes_in.load(Relaxed),
            bytes_out: self.bytes_out.load(Relaxed),
            errors: self.errors.load(Relaxed),
            dropped: self.dropped.load(Relaxed),
            late: self.late.load(Relaxed),
            repeated: self.repeated.load(Relaxed),
            queue: self.queue.load(Relaxed),
            lag_ns: self.lag_ns.load(Relaxed),
            watermark: self.watermark.load(Relaxed),
            last_activity: self.last_activity.load(Relaxed),
            rejected: self.rejected.lock().clone(),
            samples: self.samples.lock().clone(),
            last_error: self.last_error.lock().clone(),
            recent_rows,
            recent_errors,
            ways: self.ways.lock().clone(),
            unseen: self.unseen.lock().clone(),
            committed: *self.committed.lock(),
        }
    }
}

/// A message cut to a readable length.
fn sample(message: &str) -> String {
    message.chars().take(SAMPLE_CHARS_MAX).collect()
}

/// A single number about the process or a part of it (journal bytes, `weir_config_ok`).
#[derive(Clone, Debug)]
struct Gauge {
    help: &'static str,
    counter: bool,
    value: f64,
}

/// The registry behind `/metrics`.
#[derive(Debug, Default)]
pub struct Telemetry {
    components: Mutex<BTreeMap<ComponentLabels, Arc<ComponentMetrics>>>,
    gauges: Mutex<BTreeMap<String, Gauge>>,
}

impl Telemetry {
    /// The counters of a component, the same ones as long as it exists.
    pub fn component(&self, labels: ComponentLabels) -> Arc<ComponentMetrics> {
        self.components.lock().entry(labels).or_default().clone()
    }

    /// Forgets the components for which `keep` is false.
    pub fn retain(&self, keep: impl Fn(&ComponentLabels) -> bool) {
        self.components.lock().retain(|labels, _| keep(labels));
    }

    /// Sets a gauge. `series` is a metric name, or one with labels from a small fixed set
    /// (`weir_table_rows{table="logs"}`).
    pub fn gauge(&self, series: &str, help: &'static str, value: f64) {
        let gauge = Gauge { help, counter: false, value };
        self.gauges.lock().insert(series.to_owned(), gauge);
    }

    /// Adds to a counter; `series` as in [`Telemetry::gauge`].
    pub fn count(&self, series: &str, help: &'static str, add: f64) {
        let mut gauges = self.gauges.lock();
        gauges
            .entry(series.to_owned())
            .or_insert(Gauge { help, counter: true, value: 0.0 })
            .value += add;
    }

    /// Every component and its reading, sorted.
    pub fn read(&self) -> Vec<(ComponentLabels, ComponentReading)> {
        self.components.lock().iter().map(|(l, m)| (l.clone(), m.read())).collect()
    }

    /// Prometheus text format 0.0.4.
    pub fn render(&self) -> String {
        let mut out = String::new();
        self.render_gauges(&mut out);
        let components: Vec<_> =
            self.components.lock().iter().map(|(l, m)| (l.clone(), m.clone())).collect();
        let readings: Vec<_> = components.iter().map(|(l, m)| (label_text(l), m.read())).collect();
        type Read = fn(&ComponentReading) -> f64;
        let columns: [(&str, &str, &str, Read); 12] = [
            ("rows_in_total", "counter", "Rows taken in", |r| r.rows_in as f64),
            ("rows_out_total", "counter", "Rows given out", |r| r.rows_out as f64),
            ("bytes_in_total", "counter", "Bytes taken in", |r| r.bytes_in as f64),
            ("bytes_out_total", "counter", "Bytes given out", |r| r.bytes_out as f64),
            ("errors_total", "counter", "Rows or batches that failed", |r| r.errors as f64),
            ("rows_dropped_total", "counter", "Rows dropped on purpose", |r| r.dropped as f64),
            ("rows_late_total", "counter", "Rows after their window closed", |r| r.late as f64),
            ("repeated_total", "counter", "Requests that repeat one that was taken", |r| {
                r.repeated as f64
            }),
            ("queue_batches", "gauge", "Batches waiting", |r| r.queue as f64),
            ("lag_seconds", "gauge", "Receive time behind the journal's head", |r| {
                r.lag_ns as f64 / 1e9
            }),
            ("watermark_seconds", "gauge", "Event time held to be complete", |r| {
                r.watermark as f64 / 1e9
            }),
            ("last_activity_seconds", "gauge", "When it last took something in", |r| {
                r.last_activity as f64 / 1e9
            }),
        ];
        for (name, kind, help, read) in columns {
            let _ = writeln!(out, "# HELP weir_component_{name} {help}.");
            let _ = writeln!(out, "# TYPE weir_component_{name} {kind}");
            for (labels, reading) in &readings {
                let _ = writeln!(out, "weir_component_{name}{{{labels}}} {}", read(reading));
            }
        }
        let _ = writeln!(out, "# HELP weir_component_rejected_total Refused, by reason.");
        let _ = writeln!(out, "# TYPE weir_component_rejected_total counter");
        for (labels, reading) in &readings {
            for (reason, n) in &reading.rejected {
                let _ = writeln!(
                    out,
                    "weir_component_rejected_total{{{labels},reason=\"{reason}\"}} {n}"
                );
            }
        }
        let _ = writeln!(out, "# HELP weir_component_batch_seconds Time per batch.");
        let _ = writeln!(out, "# TYPE weir_component_batch_seconds histogram");
        for ((_, metrics), (labels, _)) in components.iter().zip(&readings) {
            render_histogram(&mut out, labels, metrics);
        }
        out
    }

    fn render_gauges(&self, out: &mut String) {
        let mut last = String::new();
        for (series, gauge) in &*self.gauges.lock() {
            let name = series.split('{').next().unwrap_or(series);
            if name != last {
                let kind = if gauge.counter { "counter" } else { "gauge" };
                let _ = writeln!(out, "# HELP {name} {}.", gauge.help);
                let _ = writeln!(out, "# TYPE {name} {kind}");
                last = name.to_owned();
            }
            let _ = writeln!(out, "{series} {}", gauge.value);
        }
    }
}

fn label_text(l: &ComponentLabels) -> String {
    format!(
        "pipeline=\"{}\",component=\"{}\",class=\"{}\",type=\"{}\"",
        l.pipeline, l.component, l.class, l.kind
    )
}

fn render_histogram(out: &mut String, labels: &str, metrics: &ComponentMetrics) {
    let mut total = 0;
    for (i, bucket) in metrics.batches.iter().enumerate() {
        total += bucket.load(Relaxed);
        let bound =
            BATCH_BOUNDS_US.get(i).map_or("+Inf".to_owned(), |us| format!("{}", *us as f64 / 1e6));
        let _ =
            writeln!(out, "weir_component_batch_seconds_bucket{{{labels},le=\"{bound}\"}} {total}");
    }
    let sum = metrics.batch_us_sum.load(Relaxed) as f64 / 1e6;
    let _ = writeln!(out, "weir_component_batch_seconds_sum{{{labels}}} {sum}");
    let _ = writeln!(out, "weir_component_batch_seconds_count{{{labels}}} {total}");
}

//! The files of NAB, and what is scored of them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Float64Array, RecordBatch, TimestampNanosecondArray};
use arrow::datatypes::{DataType, Field, Float64Type, Schema};
use weir_pipeline::batch::{Batch, Run};
use weir_pipeline::component::Output;
use weir_pipeline::config::{Input, Scope, Section};
use weir_pipeline::edge::Edge;
use weir_pipeline::signal::{Signal, timestamp};

/// One file.
pub(super) struct File {
    /// `category/name.csv`.
    pub(super) name: String,
    /// UTC seconds.
    times: Vec<i64>,
    values: Vec<f64>,
    /// First and last row of each labelled window.
    pub(super) windows: Vec<(usize, usize)>,
}

impl File {
    pub(super) fn category(&self) -> &str {
        self.name.split('/').next().unwrap()
    }

    pub(super) fn rows(&self) -> usize {
        self.times.len()
    }
}

/// Every file that has an entry among the labels, by name.
pub(super) fn read(folder: &Path) -> Vec<File> {
    let labels = fs::read_to_string(folder.join("labels/combined_windows.json")).unwrap();
    let labels: BTreeMap<String, Vec<[String; 2]>> = serde_json::from_str(&labels).unwrap();
    let read = |(name, windows): (String, Vec<[String; 2]>)| {
        let text = fs::read_to_string(folder.join("data").join(&name)).unwrap();
        let rows = text.lines().skip(1).map(|line| line.split_once(',').unwrap());
        let (times, values): (Vec<i64>, Vec<f64>) =
            rows.map(|(time, value)| (seconds(time), value.trim().parse::<f64>().unwrap())).unzip();
        // Some times come twice: the first row counts.
        let row = |time: &String| times.iter().position(|t| *t == seconds(time)).unwrap();
        let windows = windows.iter().map(|[start, end]| (row(start), row(end))).collect();
        File { name, times, values, windows }
    };
    labels.into_iter().map(read).collect()
}

fn seconds(text: &str) -> i64 {
    let text = text.split('.').next().unwrap();
    let time = chrono::NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S").unwrap();
    time.and_utc().timestamp()
}

/// What the operator says of each row, as it is configured by default.
pub(super) fn scored(file: &File) -> Vec<f64> {
    let kind = weir_operators::ALL.iter().find(|k| k.name == "anomaly").unwrap();
    let input = Input { name: "in".into(), edge: Edge::open(Signal::Metrics) };
    let scope = Scope::new(vec![input], ".".into());
    let mut operator = (kind.plan)(&Section::parse_for_tests("t", ""), &scope).unwrap().build();
    let times = file.times.iter().map(|t| t * 1_000_000_000);
    let times = TimestampNanosecondArray::from_iter_values(times).with_timezone("UTC");
    let columns: Vec<ArrayRef> =
        vec![Arc::new(times), Arc::new(Float64Array::from(file.values.clone()))];
    let fields = [("timestamp", timestamp()), ("value", DataType::Float64)]
        .map(|(n, t)| Field::new(n, t, true));
    let rows = RecordBatch::try_new(Arc::new(Schema::new(fields.to_vec())), columns).unwrap();
    let run = Run { offset: 1, received: i64::MAX, source: "nab".into(), rows: file.rows() };
    let batch = Batch::new(Signal::Metrics, "default".into(), rows, None, [run].into()).unwrap();
    let mut out = Output::default();
    operator.process(0, batch, &mut out).unwrap();
    let scores = out.emitted[0].1.array("anomaly.score").unwrap();
    scores.as_primitive::<Float64Type>().iter().map(|s| s.unwrap_or(0.0)).collect()
}

/// What another detector gave, from the results of NAB.
pub(super) fn published(folder: &Path, detector: &str, file: &File) -> Vec<f64> {
    let (category, name) = file.name.split_once('/').unwrap();
    let path = folder.join(format!("results/{detector}/{category}/{detector}_{name}"));
    let text = fs::read_to_string(path).unwrap();
    text.lines().skip(1).map(|l| l.split(',').nth(2).unwrap().parse().unwrap()).collect()
}
